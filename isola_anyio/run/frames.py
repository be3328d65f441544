"""Answer the door: what a guest may say during a turn, each frame checked before it is believed.

The kinds are those of ``docs/protocol.md``; everything here happens on the guest's thread, inside a turn.
"""

from __future__ import annotations

__all__ = ["DoorKeeper"]

import codecs
import math
import time
from typing import TYPE_CHECKING, Final

from isola_anyio import codec
from isola_anyio.engine import ffi
from isola_anyio.errors import (
    GuestError,
    LimitError,
    MemoryLimitError,
    OutputLimitError,
    PayloadLimitError,
)
from isola_anyio.events import LogEvent, LogLevel, ResultEvent
from isola_anyio.guests import protocol
from isola_anyio.guests.protocol import FRAME_OVERHEAD_BYTES, TEXT_PIECE_BYTES, ProtocolError, ToHost
from isola_anyio.run.turns import Halt, Phase, Stop, Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.events import Event
    from isola_anyio.run.streams import Feed
    from isola_anyio.values import JsonValue

_LEVELS: Final[tuple[LogLevel, ...]] = ("debug", "info", "warning", "error")


def _short_text(untrusted_field: JsonValue) -> str:
    """Return a failure's field; anything but a str is taken for nothing, for it may take long to show."""
    return untrusted_field[: 1 << 16] if isinstance(untrusted_field, str) else ""


def _decode_text(untrusted_text: memoryview, pause: Callable[[], object]) -> str:
    """Decode text of any length and quality; ``pause`` is called now and then."""
    if len(untrusted_text) <= TEXT_PIECE_BYTES:
        return str(untrusted_text, "utf-8", "replace")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces: list[str] = []
    for start in range(0, len(untrusted_text), TEXT_PIECE_BYTES):
        pieces.append(decoder.decode(bytes(untrusted_text[start : start + TEXT_PIECE_BYTES])))
        pause()
    return "".join([*pieces, decoder.decode(b"", final=True)])


class DoorKeeper(Turns):
    """The turns of one run, with a door in them."""

    def answer(self, kind: int, number: int, untrusted_body: memoryview) -> bytes:
        """Answer a door call of this run; on the guest's thread, inside a turn."""
        if self._verdict is not None:
            raise ProtocolError(f"a door call of kind {kind:#x} after the turn's end")
        if kind == ToHost.EMIT:
            return self._on_emit(number, untrusted_body)
        if kind == ToHost.HOSTCALL:
            while self.desk.crowded:
                if self._stop is Stop.CANCELLED and not self._told:
                    return b""  # never answered: the guest hears of its cancellation next
                self._block()
            return self._on_hostcall_told(number, untrusted_body)
        if kind == ToHost.PARK:
            self._on_park(number, untrusted_body)
            return b""
        if kind == ToHost.DONE:
            self._check_number(number)
            self._check_payload(untrusted_body)
            self._end(self._decode(untrusted_body))
            return b""
        return self._answer_rarer(kind, number, untrusted_body)

    def _answer_rarer(self, kind: int, number: int, untrusted_body: memoryview) -> bytes:
        if kind == ToHost.READ:
            return self._feed(int.from_bytes(untrusted_body[:4], "little")).read(number)
        if kind == ToHost.LOG:
            return self._on_log(untrusted_body)
        if kind == ToHost.FAIL:
            self._check_number(number)
            self._end(self._failure(untrusted_body))
            return b""
        if kind == ToHost.DROP:
            self.desk.drop(number)
            return b""
        if kind == ToHost.STOP:
            self._feed(number).stop()
            return b""
        if kind == ToHost.WAIT:
            self._check_number(number)
            return self._on_wait(untrusted_body)
        raise ProtocolError(f"an unknown door call {kind:#x}")

    def _on_hostcall_told(self, op: int, untrusted_body: memoryview) -> bytes:
        """Answer a hostcall, and let a guest that was cancelled meanwhile hear of that before the answer."""
        reply: bytes | None
        try:
            reply = self._on_hostcall(op, untrusted_body)
        except ffi.StoreInterrupted:
            if self._stop is not Stop.CANCELLED or self._told:
                raise
            self.guest.instance.forget_interrupt()  # its answer was being made: it waits, and can be told
            reply = None
        if reply == b"" or (reply is not None and not self._must_tell):
            return reply
        self.desk.defer(op, reply)
        return b""

    def _on_hostcall(self, op: int, untrusted_body: memoryview) -> bytes:
        allowed = self.limits.max_total_hostcalls
        if allowed is not None and self.desk.count >= allowed:
            raise Halt(
                LimitError(
                    f"the run made more than max_total_hostcalls={allowed} hostcalls; raise it, or ask for less",
                    limit="hostcalls",
                )
            )
        return self.desk.request(op, *protocol.split_hostcall(untrusted_body))

    def _check_number(self, number: int) -> None:
        if number != self.number:
            raise ProtocolError(f"a frame of run {number} during run {self.number}")

    def _check_payload(self, untrusted_body: memoryview) -> None:
        if len(untrusted_body) > self.limits.max_payload + FRAME_OVERHEAD_BYTES:
            raise PayloadLimitError(
                f"a value of {len(untrusted_body)} bytes is over max_payload={self.limits.max_payload}; raise it, or "
                "send the value in pieces"
            )

    def _decode(self, untrusted_body: memoryview) -> JsonValue:
        try:
            value: JsonValue = codec.decode(untrusted_body, pause=self.yield_gil)
        except codec.CodecError as exc:
            raise ProtocolError(f"a value that cannot be read ({exc})") from None
        return value

    def _feed(self, number: int) -> Feed:
        if number >= len(self._feeds):
            raise ProtocolError(f"stream {number} does not exist")
        return self._feeds[number]

    def _on_emit(self, number: int, untrusted_body: memoryview) -> bytes:
        self._check_number(number)
        self._check_payload(untrusted_body)
        queue = self.queue
        if self._must_tell:
            return b"\0"  # it parks, and is sent CANCEL
        if queue is None or (self._told and not queue.has_room):
            return b"\1"
        queue.put(ResultEvent(data=self._decode(untrusted_body)), len(untrusted_body))
        if queue.has_room:
            return b"\1"
        # A guest that goes on although it was told to stand still is made to.
        if queue.stalled:
            self._wait_for_room()
            return b"\0"
        queue.stalled = True
        if queue.has_room:  # the consumer took some before the flag was up
            queue.stalled = False
            return b"\1"
        return b"\0"

    def _on_log(self, untrusted_body: memoryview) -> bytes:
        level = untrusted_body[0] if len(untrusted_body) else 1
        if level >= len(_LEVELS):
            raise ProtocolError(f"log level {level} does not exist")
        self.count_output(len(untrusted_body))
        text = _decode_text(untrusted_body[1:], self.yield_gil)
        return b"\1" if self.emit(LogEvent(data=text, level=_LEVELS[level]), len(untrusted_body)) else b"\2"

    def count_output(self, size: int) -> None:
        """Count output bytes; the run ends when they are more than it may write."""
        self.output_bytes += size
        if self.output_bytes > self.limits.max_output:
            raise Halt(
                OutputLimitError(
                    f"the run wrote more than max_output={self.limits.max_output} bytes; raise it, or write less"
                )
            )

    def emit(self, event: Event, size: int) -> bool:
        """Put an event that cannot be refused, standing still while there is no room.

        Returns:
            ``False`` when the guest is to be told, now, that it is being cancelled.
        """
        queue = self.queue
        if self._must_tell:
            self._told = True
            return False
        if queue is None:
            return True
        if self._told and not queue.has_room:  # nobody reads on; what a cancelled guest says at its end is dropped
            return True
        queue.put(event, size)
        if queue.has_room or self._wait_for_room():
            return True
        self._told = True
        return False

    def _wait_for_room(self) -> bool:
        """Stand still until there is room; ``False`` when the run was cancelled meanwhile."""
        queue = self.queue
        assert queue is not None
        while not queue.has_room:
            if self._stop is Stop.CANCELLED:
                return self._told
            queue.stalled = True
            if queue.has_room:
                break
            self._block()
        queue.stalled = False
        return True

    def emit_last(self, event: Event) -> None:
        """Put an event after the guest's last turn, when nobody may stand still."""
        if self.queue is not None:
            self.queue.put(event, 0)

    def _on_wait(self, untrusted_body: memoryview) -> bytes:
        """WAIT: block until there are completions, the timer is due, or the run is being cancelled."""
        delay, _ = protocol.split_park(untrusted_body)
        end = math.inf if delay is None else time.monotonic() + delay
        while True:
            if self._must_tell:
                self._told = True
                return b"\1"
            try:
                records = self._collect()
            except ffi.StoreInterrupted:
                if self._stop is not Stop.CANCELLED or self._told:
                    raise
                self.guest.instance.forget_interrupt()  # it waits, and can be told
                continue
            left = end - time.monotonic()
            if records or left <= 0:
                return b"\0" + b"".join(records)
            self._block(None if left == math.inf else left)

    def _on_park(self, number: int, untrusted_body: memoryview) -> None:
        self._check_number(number)
        delay, self._needs_room = protocol.split_park(untrusted_body)
        self._timer = None if delay is None else time.monotonic() + delay
        queue = self.queue
        if self._needs_room and (queue is None or not queue.stalled):
            self._room_came = True
        self._verdict = Phase.PARKED

    def _failure(self, untrusted_body: memoryview) -> BaseException:
        """Make the exception that a FAIL frame describes."""
        fields = self._decode(untrusted_body)
        if not isinstance(fields, dict):
            raise ProtocolError("a failure that is not described")
        type_name, text, traceback = (_short_text(fields.get(key)) for key in ("type", "message", "traceback"))
        limit = fields.get("limit")
        if limit == "payload":
            return PayloadLimitError(f"{text} (max_payload={self.limits.max_payload}); raise it, or send less")
        if limit == "memory":
            return MemoryLimitError(type_name, text or f"max_memory={self.limits.max_memory} is used up", traceback)
        return GuestError(type_name, text, traceback)
