"""Every exception the library raises on purpose, and who caused it.

The tree is flat on purpose: ``InvalidArgumentError`` is the caller's, ``GuestError`` the guest's, ``LimitError`` a
budget the host set, ``RuntimeUnavailableError`` the machine's, ``InternalError`` ours. Every message says what was
wrong, with the value, and what would be right.
"""

from __future__ import annotations

__all__ = [
    "CpuLimitError",
    "DigestMismatchError",
    "FuelExhaustedError",
    "GuestError",
    "InternalError",
    "InvalidArgumentError",
    "IsolaError",
    "LimitError",
    "MemoryLimitError",
    "OutputLimitError",
    "PayloadLimitError",
    "RuntimeUnavailableError",
    "SandboxBrokenError",
    "SandboxBusyError",
    "SandboxClosedError",
    "StreamClosedError",
    "StreamFullError",
    "clip",
]

from typing import Final

CLIP_CHARS: Final = 120
"""How much of a value's ``repr`` an error message quotes; a guess that keeps a message on two lines."""


def clip(value: object, limit: int = CLIP_CHARS) -> str:
    """Return ``repr(value)`` cut to ``limit`` characters, for quoting in a message.

    A ``repr`` that itself fails is replaced by the type's name, so that building a message never raises.
    """
    if isinstance(value, (str, bytes, bytearray)) and len(value) > limit:
        value = value[:limit]
        return f"{value!r}..."
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - the value is a stranger's and so is its __repr__
        return f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[:limit]}..."


class IsolaError(Exception):
    """Base of everything this library raises on purpose."""


class InvalidArgumentError(IsolaError, ValueError):
    """An argument has the wrong type or value; the message names it and the remedy."""


class RuntimeUnavailableError(IsolaError):
    """The runtime could not be found, downloaded or unpacked."""


class DigestMismatchError(RuntimeUnavailableError):
    """What was fetched or installed is not the file whose SHA-256 the package pins."""


class GuestError(IsolaError):
    """Guest code raised, or ended in a way that is the guest's own doing.

    Attributes:
        type: the guest's class name, such as ``"ValueError"`` or ``"TypeError"``.
        message: the guest exception's text.
        traceback: the guest's frames only, with the user's file names; empty when there are none.
    """

    def __init__(self, type: str, message: str, traceback: str = "") -> None:
        super().__init__(type, message, traceback)
        self.type = type
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        head = f"{self.type}: {self.message}" if self.message else self.type
        return f"{head}\n{self.traceback}" if self.traceback else head


class MemoryLimitError(GuestError):
    """The guest asked for more memory than ``max_memory``; the sandbox stays usable."""


class LimitError(IsolaError):
    """A limit of the host's stopped the run.

    Attributes:
        limit: the name of the limit: ``"fuel"``, ``"cpu"``, ``"output"``, ``"payload"`` or ``"hostcalls"``.
    """

    limit: str = ""

    def __init__(self, message: str, *, limit: str | None = None) -> None:
        super().__init__(message)
        if limit is not None:  # one that has no class of its own
            self.limit = limit


class FuelExhaustedError(LimitError):
    """The run used up ``max_fuel``; the sandbox is broken."""

    limit = "fuel"


class CpuLimitError(LimitError):
    """The run used up ``max_cpu``; the sandbox is broken."""

    limit = "cpu"


class OutputLimitError(LimitError):
    """The run wrote more than ``max_output``; the sandbox is broken."""

    limit = "output"


class PayloadLimitError(LimitError):
    """A result or event was larger than ``max_payload``; the sandbox stays usable."""

    limit = "payload"


class SandboxClosedError(IsolaError):
    """The sandbox, template or context is closed, or the sandbox was never started."""


class SandboxBrokenError(IsolaError):
    """The sandbox was stopped in the middle of a computation and can run nothing more; create a new one."""


class SandboxBusyError(IsolaError):
    """A run was started from inside a handler of the same sandbox's own run and would wait for itself."""


class StreamFullError(IsolaError):
    """A bounded stream has no room."""


class StreamClosedError(IsolaError):
    """A stream was used after it was closed."""


class InternalError(IsolaError):
    """A fault of this library's own; please report it."""
