"""SILENCE: the conversation of a guest that nobody talks to; whatever it says is a fault of the guest's."""

from __future__ import annotations

__all__ = ["SILENCE"]

from typing import TYPE_CHECKING, Final

from isola_anyio.guests.protocol import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isola_anyio.guests import Conversation


class _Silence:
    """Answers nothing: outside a turn there is nobody to ask."""

    def answer(self, kind: int, number: int, untrusted_body: memoryview) -> bytes:  # noqa: ARG002 - the interface
        """Refuse a door call."""
        raise ProtocolError(f"door call {kind:#x} outside a turn")

    def write(self, fd: int, untrusted_chunks: Sequence[memoryview]) -> None:
        """Drop output."""

    def sleep(self, seconds: float | None) -> None:  # noqa: ARG002 - the interface
        """Refuse to sleep."""
        raise ProtocolError("a sleep outside a turn")


SILENCE: Final[Conversation] = _Silence()
