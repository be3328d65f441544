"""Errors: every exception that the library raises on purpose, by who caused it.

The tree is flat: ``InvalidArgumentError`` is the caller's, ``GuestError`` the guest's, ``LimitError`` a budget that the
host set, ``RuntimeUnavailableError`` the machine's, ``InternalError`` ours. Every message says what was wrong, with the
value, and what would be right.
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

from isola_anyio.clipping import clip
from isola_anyio.printable import printable, printable_line


class IsolaError(Exception):
    """Base of everything this library raises on purpose."""


class InvalidArgumentError(IsolaError, ValueError):
    """An argument has the wrong type or value; the message names it and the remedy."""


class RuntimeUnavailableError(IsolaError):
    """The runtime could not be found, downloaded, unpacked or compiled; the message says what was tried."""


class DigestMismatchError(RuntimeUnavailableError):
    """A runtime's file is not the one whose SHA-256 the package pins, or the caller gave."""


class GuestError(IsolaError):
    """Guest code raised, or ended in a way that is the guest's own doing.

    Its texts are the guest's, who may write anything: control characters except newline and tab, bidirectional
    overrides and lone surrogates are shown as escapes, so that they can be logged, printed and encoded.

    Attributes:
        type: the guest's class name, such as ``"ValueError"`` or ``"TypeError"``.
        message: the guest exception's text.
        traceback: the guest's frames only, with the user's file names; empty when there are none.
    """

    def __init__(self, type: str, message: str, traceback: str = "") -> None:
        # Here, and not where they are made, so that none is forgotten.
        type, message, traceback = printable_line(type), printable(message), printable(traceback)
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
    """The call would wait for itself, or for another event loop.

    A run, or an end of one, asked for by a handler or producer of the same sandbox's own run; or any use of a sandbox
    from a loop that it was not started in.
    """


class StreamFullError(IsolaError):
    """A bounded stream has no room, and its sender does not wait for any. Reserved: nothing raises it in this release.

    Every stream between host and guest waits for room: a producer of a :class:`StreamArg` is not pulled from while the
    guest is behind, and a guest blocks while the reader of its :class:`EventStream` is. The name is for senders that do
    not wait, as ``anyio.WouldBlock`` is for anyio's.
    """


class StreamClosedError(IsolaError):
    """A stream was used after it was closed.

    What a closed :class:`EventStream` raises is an ``anyio.ClosedResourceError`` as well.
    """


class InternalError(IsolaError):
    """A fault of this library's own; please report it."""
