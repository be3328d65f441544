"""BuildConversation: what a guest may say while its template is built, before there are runs."""

from __future__ import annotations

__all__ = ["BuildConversation"]

from typing import TYPE_CHECKING, Final

from isola_anyio import codec
from isola_anyio.guests import protocol
from isola_anyio.guests.protocol import ProtocolError, ToHost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_REHEARSED: Final = {"__rehearse_now__": b"\0null", "__rehearse_later__": b""}
"""What a guest's rehearsal before its image is taken asks for: an answer at once, and one that comes later."""
_KEPT_WRITES: Final = 64
_KEPT_BYTES: Final = 4096
"""How much of the output is kept, to be shown should the guest die."""
_NOTHING_TO_SAY: Final = frozenset({ToHost.DONE, ToHost.PARK, ToHost.DROP, ToHost.STOP})


class BuildConversation:
    """Answers the door while a template is built: the prelude may wait for timers, nothing else.

    All of it happens on the guest thread that builds.

    Attributes:
        failure: the body of the last FAIL frame since :meth:`forget_failure`, ``None`` for success.
    """

    def __init__(self, sleep: Callable[[float | None], None]) -> None:
        self.sleep = sleep
        self.failure: bytes | None = None
        self._output: list[bytes] = []

    def forget_failure(self) -> None:
        """Begin a message: no failure so far."""
        self.failure = None

    def answer(self, kind: int, number: int, untrusted_body: memoryview) -> bytes:  # noqa: ARG002 - the interface
        """Answer a door call; see :class:`~isola_anyio.guests.Conversation`."""
        if kind == ToHost.FAIL:
            self.failure = bytes(untrusted_body)
            return b""
        if kind == ToHost.WAIT:
            delay, _ = protocol.split_park(untrusted_body)
            self.sleep(delay)
            return b"\0"
        if kind in (ToHost.LOG, ToHost.EMIT):
            return b"\1"
        if kind == ToHost.HOSTCALL:
            name, _ = protocol.split_hostcall(untrusted_body)
            if name in _REHEARSED:
                return _REHEARSED[name]
            text = "hostcalls are not available while a template is built"
            return b"\1" + codec.encode({"name": "", "type": "LookupError", "message": text})
        if kind in _NOTHING_TO_SAY:
            return b""
        raise ProtocolError(f"door call {kind:#x} outside a run")

    def write(self, fd: int, untrusted_chunks: Sequence[memoryview]) -> None:  # noqa: ARG002 - the interface
        """Keep the beginning of what the guest writes."""
        if len(self._output) < _KEPT_WRITES:
            self._output.append(b"".join(untrusted_chunks)[:_KEPT_BYTES])

    def output_tail(self, size: int) -> str:
        """Return the last ``size`` bytes of what was kept, as text."""
        return b"".join(self._output)[-size:].decode(errors="replace")
