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
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Protocol, TypeAlias

import anyio
from anyio.abc import ObjectReceiveStream

from isola_anyio.engine.threads import Wakeup
from isola_anyio.errors import GuestError, SandboxBusyError, StreamClosedError

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

    def cancel(self) -> None:
        """Cancel the run."""

    def abandon(self, *, cancel: bool) -> None:
        """Nobody reads the events any more: cancel the run, or let it go on without telling. From any thread."""

    def refuse_own_handlers(self) -> None:
        """Refuse to wait for the run when called from inside one of its handlers."""

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
        self._unwanted = False

    @property
    def has_room(self) -> bool:
        """Whether another event may be put."""
        if self._unwanted:
            return True
        return len(self._events) < CAPACITY_EVENTS and self._put_bytes - self._taken_bytes < CAPACITY_BYTES

    def put(self, event: Event, size: int) -> None:
        """Add an event of ``size`` encoded bytes; the caller looks at :attr:`has_room` before the next."""
        if self._unwanted:
            return
        self._put_bytes += size
        self._events.append((event, size))
        if not self._polling:
            self._wakeup.set()

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end: the consumer reads what is left, then ``error`` is raised or the stream ends."""
        self.error = error
        self.ended = True
        self._wakeup.set()

    def discard(self) -> None:
        """Forget what is there and what comes: nobody is left to read it."""
        self._unwanted = True
        self._events.clear()
        if self.stalled:
            self.stalled = False
            self.on_room()

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
    Leaving the ``async with``, or :meth:`aclose`, cancels the run; so does cancelling an ``async for`` while it waits,
    and dropping a stream that was read, as ``break`` does with one that has no other name. One dropped unread goes on
    without telling anybody. Cancelling a :meth:`receive` loses no event and cancels nothing else.
    """

    def __init__(self, run: StreamedRun) -> None:
        self._run = run
        self._queue = run.queue
        self._closed = False
        self._receiving = False
        self._finished = False
        self._was_read = False
        self._last: EndEvent | ErrorEvent | None = None

    def __del__(self) -> None:
        # One that was never read is a run whose events nobody wanted; like others it ends with its sandbox.
        if not getattr(self, "_closed", True) and not self._queue.ended:
            self._run.abandon(cancel=self._was_read)

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
        self._receiving = self._was_read = True
        try:
            queue = self._queue
            while (event := queue.get_nowait()) is None:
                if not queue.ended:
                    await queue.wait()
                elif (event := queue.get_nowait()) is not None:  # put before the end was marked
                    break
                else:
                    await self._finish()
            if isinstance(event, (EndEvent, ErrorEvent)):
                self._last = event
            return event
        finally:
            self._receiving = False

    async def __anext__(self) -> Event:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None
        except anyio.get_cancelled_exc_class():
            # Who is cancelled here leaves the loop, and often has no other name for the stream.
            with suppress(SandboxBusyError):  # a handler that reads the events of its own run, which it cannot end
                await self.aclose()
            raise

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
        """Read what is left of the stream, close it, and return the final value; again, if it was read before.

        Raises:
            GuestError: the guest failed.
            IsolaError: as :meth:`receive`.
        """
        if self._last is None:
            async with self:
                async for _ in self:
                    pass
        else:
            await self.aclose()
        if self._last is None:
            raise StreamClosedError("the event stream has no final value: it ended with an error, raised before")
        if isinstance(self._last, ErrorEvent):
            raise self._last.exception
        return self._last.data

    async def aclose(self) -> None:
        """Cancel the run if it still goes on, and wait until nothing of it is left. A second call does nothing.

        Raises:
            SandboxBusyError: called by a handler of that very run, which it would wait for.
        """
        if not self._closed:
            self._run.refuse_own_handlers()
            self._closed = True
            self._run.cancel()
            await self._run.join()
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
