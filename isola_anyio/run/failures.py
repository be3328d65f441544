"""Failures: what a run raises for the ways in which a turn, or the guest itself, can fail.

Pure: exceptions in, exceptions out.
"""

from __future__ import annotations

__all__ = ["FAILURE_BYTES", "Halt", "described", "is_fatal", "outcome_of", "stopped"]

from typing import TYPE_CHECKING, Final

from isola_anyio.engine import ffi
from isola_anyio.errors import (
    CpuLimitError,
    FuelExhaustedError,
    GuestError,
    InternalError,
    IsolaError,
    MemoryLimitError,
    PayloadLimitError,
    SandboxClosedError,
)
from isola_anyio.guests.protocol import ProtocolError
from isola_anyio.printable import printable
from isola_anyio.run.state import Stop
from isola_anyio.wasi.system import GuestExit

if TYPE_CHECKING:
    from isola_anyio.limits import Limits
    from isola_anyio.values import JsonValue

_FIELD_CHARACTERS: Final = 1 << 16
"""A longer type name, message or traceback of a guest's error is cut; the guests' own runtimes send no longer ones."""
FAILURE_BYTES: Final = 3 * 12 * _FIELD_CHARACTERS + 4096
"""The longest description of a failure: three such fields, of whose characters each takes twelve bytes at most."""


class Halt(BaseException):
    """Ends a turn from inside a host function with an error of ours; WASI lets only a BaseException through."""

    def __init__(self, error: IsolaError) -> None:
        super().__init__(error)
        self.error = error


def stopped(stop: Stop, limits: Limits) -> BaseException:
    """Return what a run raises that was stopped; a cancelled one raises its own cancellation instead."""
    if stop is Stop.CPU:
        return CpuLimitError(f"the run used up max_cpu={limits.max_cpu} seconds of CPU; raise it, or do less")
    if stop is Stop.CLOSED:
        return SandboxClosedError("the sandbox was closed while this was running")
    return ffi.StoreInterrupted()


def is_fatal(exc: BaseException) -> bool:
    """Whether a guest whose turn ended with this exception is not to be trusted again, although it may be alive.

    A trap kills the instance by itself. What is left: a guest that was interrupted while its message was being made,
    which lives on and waits for that message; one whose runtime was tampered with; and faults of our own.
    """
    return not isinstance(exc, (IsolaError, MemoryError, Halt, GuestExit, ffi.FuelExhausted, ffi.GuestTrap))


def outcome_of(exc: BaseException, stop: Stop, limits: Limits) -> BaseException:
    """Return what a run raises whose turn ended with ``exc``."""
    # Most particular first: what stopped the guest is a better reason than what it died of.
    if isinstance(exc, ffi.StoreInterrupted):
        return stopped(stop, limits)
    if isinstance(exc, Halt):
        return exc.error
    if isinstance(exc, ffi.FuelExhausted):
        return FuelExhaustedError(f"the run used up max_fuel={limits.max_fuel}; raise it, or do less")
    if isinstance(exc, ffi.GuestTrap):
        if str(exc) == "stack overflow":
            return GuestError("RecursionError", "the guest's wasm stack is used up")
        return GuestError("Trap", str(exc))
    if isinstance(exc, GuestExit):
        return GuestError("SystemExit", f"the guest ended its process with status {exc.code}")
    if isinstance(exc, ProtocolError):
        return GuestError("ProtocolError", f"{exc}: the guest's own runtime was tampered with")
    # Last: what is left of `Exception`s is ours to explain.
    if isinstance(exc, Exception) and is_fatal(exc):
        text = printable(str(exc))
        error = InternalError(f"a fault of isola_anyio itself, please report it: {type(exc).__name__}: {text}")
        error.__cause__ = exc
        return error
    return exc  # ours already; or, no Exception, a plain handler's, meant for the program and not for its guest


def described(untrusted_fields: JsonValue, limits: Limits) -> BaseException:
    """Make the exception that a FAIL frame describes.

    Raises:
        ProtocolError: it describes none.
    """
    if not isinstance(untrusted_fields, dict):
        raise ProtocolError("a failure that is not described")
    type_name, text, traceback = (_short(untrusted_fields.get(key)) for key in ("type", "message", "traceback"))
    limit = untrusted_fields.get("limit")
    if limit == "payload":
        return PayloadLimitError(f"{printable(text)} (max_payload={limits.max_payload}); raise it, or send less")
    if limit == "memory":
        return MemoryLimitError(type_name, text or f"max_memory={limits.max_memory} is used up", traceback)
    return GuestError(type_name, text, traceback)


def _short(untrusted_field: JsonValue) -> str:
    """Return a failure's field; anything but a str is taken for nothing, for it may take long to show."""
    return untrusted_field[:_FIELD_CHARACTERS] if isinstance(untrusted_field, str) else ""
