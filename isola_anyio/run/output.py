"""Output: what a run's guest writes, logs and yields, on its way to the consumer's queue, with back pressure.

All of it happens on the guest's thread, except :meth:`Output.flush`, which the run's task calls after the last turn. A
queue without room blocks the guest's thread where the guest cannot be asked to wait by itself; a generator is asked
first, by the reply to EMIT, and parks.
"""

from __future__ import annotations

__all__ = ["Output"]

import codecs
from typing import TYPE_CHECKING, Final

from isola_anyio import codec
from isola_anyio.errors import OutputLimitError
from isola_anyio.events import CAPACITY_BYTES, LogEvent, LogLevel, ResultEvent, StderrEvent, StdoutEvent
from isola_anyio.guests.protocol import TEXT_PIECE_BYTES, ProtocolError
from isola_anyio.run.failures import Halt
from isola_anyio.run.services import GivenUp
from isola_anyio.run.state import Event, Notice, Stop
from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from isola_anyio.events import Event as RunEvent
    from isola_anyio.run.services import ServedRun

_STDOUT: Final = 1
_LEVELS: Final[tuple[LogLevel, ...]] = ("debug", "info", "warning", "error")
WEIGHED_BYTES: Final = 4096
"""A partial result of more counts what it takes decoded; as many shorter ones as a queue holds take 30 MiB at most."""
_MORE: Final = b"\1"
"""EMIT's and LOG's reply: go on."""
_PARK_FIRST: Final = b"\0"
"""EMIT's reply: there is no room, park before the next; CANCEL may come meanwhile."""
_CANCELLED: Final = b"\2"
"""LOG's reply: the run is being cancelled, raise it here."""


class Output:
    """The output of one run.

    Attributes:
        size_bytes: bytes of output and logs so far; written on the guest's thread.
    """

    def __init__(self, run: ServedRun) -> None:
        self._run = run
        self.size_bytes = 0
        # By descriptor: characters are never split between two events. Made when something is written.
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}

    def write(self, fd: int, untrusted_chunks: Sequence[memoryview]) -> None:
        """Take what the guest writes to standard output or error; blocks while the consumer has no room.

        Raises:
            WasiError: ``CANCELED``: the guest hears of its cancellation here.
        """
        size = sum(map(len, untrusted_chunks))
        self._count(size)  # before anything is copied
        # Copied before this returns: the memory is the guest's, and its next step may be to write there.
        if size <= TEXT_PIECE_BYTES:
            self._write_piece(fd, b"".join(untrusted_chunks))
            return
        try:
            for chunk in untrusted_chunks:
                for start in range(0, len(chunk), TEXT_PIECE_BYTES):
                    self._write_piece(fd, bytes(chunk[start : start + TEXT_PIECE_BYTES]))
                    self._run.yield_gil()
        except GivenUp:
            if self._run.must_tell(Event.TELLABLE):
                raise WasiError(Errno.CANCELED) from None

    def _write_piece(self, fd: int, data: bytes) -> None:
        decoder = self._decoders.get(fd)
        if decoder is None:
            decoder = self._decoders[fd] = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data)
        if text and not self._put(_output_event(fd, text), len(data)):
            raise WasiError(Errno.CANCELED)

    def flush(self) -> None:
        """At the run's end: an unfinished character is shown as U+FFFD, and does not reach into the next run."""
        for fd, decoder in self._decoders.items():
            text = decoder.decode(b"", final=True)
            if text and self._run.events is not None:
                self._run.events.put(_output_event(fd, text), 0)  # after the last turn nothing may wait for room

    def on_log(self, number: int, untrusted_body: memoryview) -> bytes:
        """Answer LOG."""
        self._run.check_number(number)
        level = untrusted_body[0] if len(untrusted_body) else 1
        if level >= len(_LEVELS):
            raise ProtocolError(f"log level {level} does not exist")
        self._count(len(untrusted_body))
        try:
            text = _decode_text(untrusted_body[1:], self._run.yield_gil)
        except GivenUp:
            return _CANCELLED if self._run.must_tell(Event.TELLABLE) else _MORE
        told = not self._put(LogEvent(data=text, level=_LEVELS[level]), len(untrusted_body))
        return _CANCELLED if told else _MORE

    def on_emit(self, number: int, untrusted_body: memoryview) -> bytes:
        """Answer EMIT: a partial result."""
        run = self._run
        run.check_number(number)
        run.check_payload(untrusted_body)
        queue = run.events
        # Before the value is decoded, for nobody will read it.
        if run.must_tell(Event.DEFERRABLE):
            return _PARK_FIRST  # and is sent CANCEL
        if queue is None or self._nobody_reads_on():
            return _MORE
        size = len(untrusted_body)
        try:
            if size > WEIGHED_BYTES:
                size = codec.decoded_size(untrusted_body, CAPACITY_BYTES, run.yield_gil)
            event = ResultEvent(data=run.decode(untrusted_body))
        except GivenUp:  # it parks, and is sent CANCEL
            run.must_tell(Event.DEFERRABLE)
            return _PARK_FIRST
        # Put although there may be no room: the guest cannot take the item back. It is at most one more than fit.
        queue.put(event, size)
        del event  # the queue's alone, should it be dropped
        if queue.has_room:
            return _MORE
        if queue.stalled:  # it was asked to park and did not: its thread is made to wait
            self._wait_for_room()
            return _PARK_FIRST
        # The flag, then the look: a consumer lowers it and tells, if it finds it up when it has taken one.
        queue.stalled = True
        # The consumer may have taken some before the flag was up, and then tells nobody that there is room.
        if queue.has_room:
            queue.stalled = False
            return _MORE
        return _PARK_FIRST

    def _count(self, size: int) -> None:
        """Count output bytes; the run ends when they are more than it may write."""
        self.size_bytes += size
        allowed = self._run.limits.max_output
        if self.size_bytes > allowed:
            raise Halt(OutputLimitError(f"the run wrote more than max_output={allowed} bytes; raise it, or write less"))

    def _put(self, event: RunEvent, size: int) -> bool:
        """Put an event, blocking while there is no room; ``False``: the guest is told now that it is cancelled."""
        run = self._run
        queue = run.events
        if run.must_tell(Event.TELLABLE):
            return False
        if queue is None or self._nobody_reads_on():
            return True
        # As in `on_emit`: put first, and then wait for room for the next.
        queue.put(event, size)
        if queue.has_room or self._wait_for_room():
            return True
        return not run.must_tell(Event.TELLABLE)

    def _nobody_reads_on(self) -> bool:
        """Whether what a cancelled guest says at its end has no room any more, and is dropped."""
        queue = self._run.events
        return self._run.state.notice is not Notice.NONE and queue is not None and not queue.has_room

    def _wait_for_room(self) -> bool:
        """Block until there is room; ``False`` when the run was cancelled meanwhile and the guest was not told."""
        run = self._run
        queue = run.events
        assert queue is not None
        while not queue.has_room:
            if run.state.stop is Stop.CANCELLED:
                return run.state.notice is not Notice.NONE
            queue.stalled = True
            if queue.has_room:  # as in `on_emit`
                break
            # Woken for any news at all; the loop looks whether it was this.
            run.block()
        queue.stalled = False
        return True


def _output_event(fd: int, text: str) -> StdoutEvent | StderrEvent:
    return StdoutEvent(data=text) if fd == _STDOUT else StderrEvent(data=text)


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
