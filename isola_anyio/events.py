"""What a run tells while it goes on: event types, and the stream a consumer reads them from.

Between the guest's thread and the consumer's task stands an :class:`EventQueue`, bounded in events and in bytes. A
guest that is ahead of its consumer stands still: a generator between two items, anything else inside the write.
"""

from __future__ import annotations

__all__ = [
    "EndEvent",
    "ErrorEvent",
    "Event",
    "EventQueue",
    "EventStream",
    "LogEvent",
    "LogLevel",
    "ResultEvent",
    "StderrEvent",
    "StdoutEvent",
]

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Protocol, TypeAlias

import anyio
from anyio.abc import ObjectReceiveStream

from isola_anyio.engine.wakeup import Wakeup
from isola_anyio.errors import GuestError, InternalError, StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from isola_anyio.values import JsonValue

CAPACITY_EVENTS: Final = 256
"""Events a stream holds before the guest stands still; enough to cross threads in batches."""
BURST_S: Final = 0.002
POLL_S: Final = 0.001
"""See :meth:`EventQueue.wait`; in a millisecond a busy guest puts some tens of events."""
CAPACITY_BYTES: Final = 4 << 20
"""Encoded bytes a stream holds before the guest stands still (one event may be larger)."""

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class ResultEvent:
    """A partial result: an item a generator yielded."""

    type: Literal["result"] = "result"
    data: JsonValue = None


@dataclass(frozen=True, slots=True)
class EndEvent:
    """The last event of a run that succeeded: its final value."""

    type: Literal["end"] = "end"
    data: JsonValue = None


@dataclass(frozen=True, slots=True)
class StdoutEvent:
    """Text the guest wrote to standard output; multi-byte characters are never split between events."""

    type: Literal["stdout"] = "stdout"
    data: str = ""


@dataclass(frozen=True, slots=True)
class StderrEvent:
    """Text the guest wrote to standard error."""

    type: Literal["stderr"] = "stderr"
    data: str = ""


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A log message of the guest's."""

    type: Literal["log"] = "log"
    data: str = ""
    level: LogLevel = "info"


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """The last event of a run whose guest code failed: the error's text, and the exception itself."""

    type: Literal["error"] = "error"
    data: str = ""
    exception: GuestError = field(default_factory=lambda: GuestError("Error", ""), compare=False)


Event: TypeAlias = ResultEvent | EndEvent | StdoutEvent | StderrEvent | LogEvent | ErrorEvent


def _nobody() -> None:
    """Nobody waits for room."""


class ClosedStreamError(StreamClosedError, anyio.ClosedResourceError):
    """What :class:`EventStream` raises once it is closed: anyio's own name for it holds, too."""


def _closed_error() -> ClosedStreamError:
    return ClosedStreamError("the event stream is closed; start another run to receive more events")


class StreamedRun(Protocol):
    """The run behind an :class:`EventStream`."""

    queue: EventQueue

    async def start(self) -> None:
        """Make sure that the run is started."""

    def cancel(self) -> None:
        """Cancel the run."""

    async def join(self) -> None:
        """Wait until nothing of the run is left; not cancelled by anything."""


class EventQueue:
    """A bounded queue from one guest thread to one consuming task.

    ``put`` is called on the guest's thread (or by the run's own task), everything else in the consumer's loop. The
    deque's own append and popleft are atomic; the counters are each written by one side only.
    """

    def __init__(self) -> None:
        self._events: deque[tuple[Event, int]] = deque()
        self._put_bytes = 0
        self._taken_bytes = 0
        self.on_room: Callable[[], None] = _nobody
        """Called in the consumer's loop when a stalled guest may go on."""
        self._wakeup = Wakeup()
        self._last_wait = 0.0
        self._polling = False
        self.stalled = False
        """Set by the guest's side when it stands still for want of room."""
        self.ended = False
        self.error: BaseException | None = None

    @property
    def has_room(self) -> bool:
        """Whether another event may be put."""
        return len(self._events) < CAPACITY_EVENTS and self._put_bytes - self._taken_bytes < CAPACITY_BYTES

    def put(self, event: Event, size: int) -> None:
        """Add an event of ``size`` encoded bytes; the caller looks at :attr:`has_room` before the next."""
        self._put_bytes += size
        self._events.append((event, size))
        if not self._polling:
            self._wakeup.set()

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end: the consumer reads what is left, then ``error`` is raised or the stream ends."""
        self.error = error
        self.ended = True
        self._wakeup.set()

    def get_nowait(self) -> Event | None:
        """Take the oldest event, or ``None``; lets a stalled guest go on once half of the queue is free."""
        try:
            event, size = self._events.popleft()
        except IndexError:
            return None
        self._taken_bytes += size
        if self.stalled and len(self._events) <= CAPACITY_EVENTS // 2 and self.has_room:
            self.stalled = False
            self.on_room()
        return event

    async def wait(self) -> None:
        """Wait for an event or the end.

        In a burst a wake-up for each event would cost both sides more than the event. So a consumer that comes back
        within ``BURST_S`` looks again after ``POLL_S``, and is not woken meanwhile; only then it waits to be woken.
        """
        if time.monotonic() - self._last_wait < BURST_S:
            self._polling = True
            try:
                await anyio.sleep(POLL_S)
            finally:
                self._polling = False
            # An event put while `_polling` was up woke nobody, and is seen here: it was appended before that look.
            if self._events or self.ended:
                self._last_wait = time.monotonic()
                return
        await self._wakeup.wait()
        self._last_wait = time.monotonic()


class EventStream(ObjectReceiveStream["Event"]):
    """The events of one run, in the guest's order.

    ``async for``, :meth:`receive`, ``async with``, :meth:`aclose`. The last event is an :class:`EndEvent` or an
    :class:`ErrorEvent`; failures that are not the guest's (a closed or broken sandbox, a limit) are raised instead.
    Cancelling a :meth:`receive` loses no event. Leaving the ``async with``, or :meth:`aclose`, cancels the run.
    """

    def __init__(self, run: StreamedRun) -> None:
        self._run = run
        self._queue = run.queue
        self._closed = False
        self._receiving = False
        self._finished = False

    async def receive(self) -> Event:
        """Return the next event.

        Raises:
            anyio.EndOfStream: the run is over.
            StreamClosedError: the stream was closed.
            anyio.BusyResourceError: another task is receiving.
            IsolaError: the run ended by other than the guest's doing.
        """
        await anyio.lowlevel.checkpoint()
        if self._closed:
            raise _closed_error()
        if self._receiving:
            raise anyio.BusyResourceError("receiving from")
        self._receiving = True
        try:
            await self._run.start()
            queue = self._queue
            while (event := queue.get_nowait()) is None:
                if not queue.ended:
                    await queue.wait()
                elif (event := queue.get_nowait()) is not None:  # put before the end was marked
                    break
                else:
                    await self._finish()
            return event
        finally:
            self._receiving = False

    async def _finish(self) -> NoReturn:
        """Everything was read: let the run's own task end, then say how it ended."""
        if not self._finished:
            self._finished = True
            await self._run.join()
        if self._closed:  # by another task, while this one waited
            raise _closed_error()
        error, self._queue.error = self._queue.error, None
        if error is not None:
            raise error
        raise anyio.EndOfStream

    async def result(self) -> JsonValue:
        """Read the stream to its end and return the final value.

        Raises:
            GuestError: the guest failed.
            IsolaError: as :meth:`receive`.
        """
        async with self:
            async for event in self:
                if isinstance(event, EndEvent):
                    return event.data
                if isinstance(event, ErrorEvent):
                    raise event.exception
        raise InternalError("an event stream ended without a last event")

    async def aclose(self) -> None:
        """Cancel the run if it still goes on, and wait until nothing of it is left. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._run.cancel()
            await self._run.join()
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        await self._run.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
