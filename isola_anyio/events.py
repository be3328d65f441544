"""Events: what a run says while it goes on, and the stream from which a consumer reads it.

Between the guest's thread and the consumer's task stands an :class:`EventQueue`, bounded in events and in bytes. A
guest that is ahead of its consumer blocks (back pressure): a generator between two items, anything else inside the
write.
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
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Protocol, TypeAlias, final

import anyio
from anyio.abc import ObjectReceiveStream

from isola_anyio.construction import made_by
from isola_anyio.disposal import dispose
from isola_anyio.engine.wakeup import Wakeup
from isola_anyio.errors import GuestError, SandboxBusyError, StreamClosedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from isola_anyio.values import JsonValue

CAPACITY_EVENTS: Final = 256
"""Events a stream holds before the guest blocks; enough to cross threads in batches."""
CAPACITY_BYTES: Final = 4 << 20
"""Bytes a stream holds before the guest blocks: of text, and of values as they are decoded; one event may be larger."""
BURST_S: Final = 0.002
"""A consumer that comes back for more within this time is in a burst; see :meth:`EventQueue.wait`."""
POLL_S: Final = 0.001
"""How long such a consumer waits before it looks again; a busy guest puts some tens of events meanwhile."""

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
"""How serious a :class:`LogEvent` is; JavaScript's ``console.log`` is ``"info"``."""


@final
@dataclass(frozen=True, slots=True)
class ResultEvent:
    """A partial result: an item a generator yielded."""

    type: Literal["result"] = "result"
    data: JsonValue = None


@final
@dataclass(frozen=True, slots=True)
class EndEvent:
    """The last event of a run that succeeded: its final value."""

    type: Literal["end"] = "end"
    data: JsonValue = None


@final
@dataclass(frozen=True, slots=True)
class StdoutEvent:
    """Text the guest wrote to standard output; multi-byte characters are never split between events."""

    type: Literal["stdout"] = "stdout"
    data: str = ""


@final
@dataclass(frozen=True, slots=True)
class StderrEvent:
    """Text the guest wrote to standard error."""

    type: Literal["stderr"] = "stderr"
    data: str = ""


@final
@dataclass(frozen=True, slots=True)
class LogEvent:
    """A log message of the guest's, or a warning about it: ``data`` is the text, ``level`` how serious it is."""

    type: Literal["log"] = "log"
    data: str = ""
    level: LogLevel = "info"


@final
@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """The last event of a run whose guest code failed.

    ``data`` is the error's type and text on one line, ``exception`` the :class:`GuestError` with its traceback, which
    :meth:`EventStream.result` raises.
    """

    type: Literal["error"] = "error"
    data: str = ""
    exception: GuestError = field(default_factory=lambda: GuestError("Error", ""), compare=False)


Event: TypeAlias = ResultEvent | EndEvent | StdoutEvent | StderrEvent | LogEvent | ErrorEvent
"""Anything an :class:`EventStream` gives; each has ``type`` and ``data``, for ``match`` statements and for JSON."""


def _no_run_yet() -> None:
    """Stand for ``on_room`` until a run has the queue."""


class ClosedStreamError(StreamClosedError, anyio.ClosedResourceError):
    """What a closed :class:`EventStream` raises: anyio's own error for that, and this library's."""


def _closed_error() -> ClosedStreamError:
    return ClosedStreamError("the event stream is closed; start another run to receive more events")


class StreamedRun(Protocol):
    """The run behind an :class:`EventStream`."""

    queue: EventQueue

    def cancel(self) -> None:
        """Cancel the run."""

    def abandon(self, *, cancel: bool) -> None:
        """Nobody reads the events any more: cancel the run, or let it go on and drop them. From any thread."""

    def refuse_own_handlers(self) -> None:
        """Refuse to wait for the run when called from inside one of its handlers."""

    async def join(self) -> None:
        """Wait until nothing of the run is left; not cancelled by anything."""


class EventQueue:
    """A bounded queue from one guest thread to one consuming task, without a lock.

    Two sides use it. The *guest's side* puts: the guest's thread during a turn and, once no turn is under way, the
    run's own task; never both at once. The *consumer's side* takes, in the event loop. Every field is written by one
    side and read by the other in one step (an attribute, or one call of the deque's); exceptions are said at the field.
    What comes while the consumer waits it is woken for. What room comes while the guest's side gives up it finds by
    looking a second time, after it has raised the flag that the consumer looks at.
    """

    def __init__(self) -> None:
        # Guest's side appends, consumer's side pops and clears; both are atomic.
        self._events: deque[tuple[Event, int]] = deque()
        # Added to before an event is appended and after one is popped: for a moment the difference is too large, which
        # lets a guest wait and be woken, and never too small, which would break the bound.
        self._put_bytes = 0  # guest's side
        self._taken_bytes = 0  # consumer's side
        # Set once, by the run, before its first turn. Called in the consumer's loop; a call too many does no harm.
        self.on_room: Callable[[], None] = _no_run_yet
        self._wakeup = Wakeup()  # raised by the guest's side, lowered by the consumer's
        self._last_wait = 0.0  # consumer's side
        self._polling = False  # consumer's side; see `wait`
        # Whether the guest waits for room. Raised by the guest's side, which then looks at `has_room` once more: a
        # consumer that took the last event before the flag was up has not seen it. Lowered by whoever sees it and acts:
        # the consumer's side calls `on_room` first thing after, the guest's side goes on by itself. Both may, which is
        # one wake-up too many.
        self.stalled = False
        # Written once by the run's task, the error first: who sees `ended` sees the error that belongs to it. The
        # consumer's side takes the error out when it raises it.
        self.ended = False
        self.error: BaseException | None = None
        self._unwanted = False  # consumer's side, and never lowered

    @property
    def has_room(self) -> bool:
        """Whether another event may be put."""
        if self._unwanted:
            return True
        return len(self._events) < CAPACITY_EVENTS and self._put_bytes - self._taken_bytes < CAPACITY_BYTES

    def put(self, event: Event, size: int) -> None:
        """Add an event that takes ``size`` bytes. Guest's side, which looks at :attr:`has_room` before the next."""
        # `discard` may come between this line and the append: one event then stays until the queue goes.
        if self._unwanted:
            held: list[object] = [event.data]
            del event  # often the last reference
            dispose(held)
            return
        self._put_bytes += size
        self._events.append((event, size))
        if not self._polling:  # after the append; see `wait`
            self._wakeup.set()

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end: the consumer reads what is left, then ``error`` is raised or the stream ends. Run's task."""
        self.error = error
        self.ended = True
        self._wakeup.set()

    def discard(self) -> None:
        """Forget what is there and what comes: nobody is left to read it. Consumer's side."""
        self._unwanted = True  # first: a guest that stalls from here on finds room when it looks again
        self._dispose()
        if self.stalled:
            self.stalled = False
            self.on_room()

    def _dispose(self) -> None:
        """Let go of the events that are here, whose values may be large; as many as there are now."""
        held: list[object] = []
        with suppress(IndexError):
            while True:
                held.append(self._events.popleft()[0].data)
        dispose(held)

    def __del__(self) -> None:
        # On whichever thread the collector runs, or where the program drops a stream: nobody has the queue any more.
        if self._events:
            self._dispose()

    def get_nowait(self) -> Event | None:
        """Take the oldest event, or ``None``; lets a stalled guest go on once half of the queue is free."""
        try:
            event, size = self._events.popleft()
        except IndexError:
            return None
        self._taken_bytes += size
        # Not at the first free place: guest and consumer would take turns at every event.
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
            # The guest's side appends before it looks at `_polling`: an event whose put saw the flag up, and so woke
            # nobody, is in the queue by the time the flag is down and this looks.
            if self._events or self.ended:
                self._last_wait = time.monotonic()
                return
        await self._wakeup.wait()
        self._last_wait = time.monotonic()


@final
@made_by("sandbox.run_stream() or sandbox.load_stream()")
class EventStream(ObjectReceiveStream["Event"]):
    """The events of one run, in the guest's order.

    ``async for``, :meth:`receive`, ``async with``, :meth:`aclose`. The last event is an :class:`EndEvent` or an
    :class:`ErrorEvent`; failures that are not the guest's (a closed or broken sandbox, a limit) are raised instead.
    It holds at most 256 events and 4 MiB of them; a guest that is ahead of its reader waits.

    Leaving the ``async with``, or :meth:`aclose`, cancels the run; so does cancelling an ``async for`` while it waits,
    and dropping a stream that was read, as ``break`` does with one that has no other name. A stream that is dropped
    unread lets its run go on, with nobody to read its events. Cancelling a :meth:`receive` loses no event and cancels
    nothing else.
    """

    _run: StreamedRun
    _queue: EventQueue
    _closed: bool
    _receiving: bool
    _finished: bool  # the run's own task was waited for
    _was_read: bool
    _last: EndEvent | ErrorEvent | None

    @classmethod
    def _create(cls, run: StreamedRun) -> Self:
        """Make the stream of a run that has begun."""
        self = object.__new__(cls)
        self._run = run
        self._queue = run.queue
        self._closed = False
        self._receiving = False
        self._finished = False
        self._was_read = False
        self._last = None
        return self

    def __del__(self) -> None:
        # On whichever thread the collector runs. A run whose events nobody wanted ends with its sandbox, like others.
        if not getattr(self, "_closed", True) and not self._queue.ended:
            self._run.abandon(cancel=self._was_read)

    async def receive(self) -> Event:
        """Return the next event.

        Cancelling it loses no event and leaves the run as it is.

        Raises:
            anyio.EndOfStream: the run is over.
            StreamClosedError: the stream was closed.
            anyio.BusyResourceError: another task is receiving.
            LimitError: a limit of the host's stopped the run.
            SandboxClosedError, SandboxBrokenError: the sandbox was closed or stopped under the run.
            IsolaError: the run ended by anything else that is not the guest's doing.
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
                elif (event := queue.get_nowait()) is not None:  # put between the first look and the end
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
            # Whoever is cancelled here leaves the loop, and often has no other name for the stream.
            with suppress(SandboxBusyError):  # a handler that reads the events of its own run: it cannot wait for it
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

        Cancelling it cancels the run and closes the stream.

        Raises:
            GuestError: the guest failed.
            StreamClosedError: the stream was closed before its end, or its end was an error that was raised already.
            IsolaError: as :meth:`receive`.
        """
        if self._last is None:
            async with self:
                async for event in self:
                    if isinstance(event, ResultEvent):
                        held: list[object] = [event.data]
                        del event  # the last reference
                        dispose(held)
        else:
            await self.aclose()
        if self._last is None:
            raise StreamClosedError("the event stream has no final value: it ended with an error, raised before")
        if isinstance(self._last, ErrorEvent):
            raise self._last.exception
        return self._last.data

    async def aclose(self) -> None:
        """Cancel the run if it still goes on, and wait until nothing of it is left. A second call does nothing.

        A guest that waits unwinds, for a second at most; one that computes is interrupted, and its sandbox is broken.
        Cancelling this call does not shorten the wait; the cancellation is raised after it.

        Raises:
            SandboxBusyError: called by a handler of that very run, which it would wait for.
        """
        if not self._closed:
            self._run.refuse_own_handlers()
            self._closed = True
            self._run.cancel()
            await self._run.join()
            self._queue.discard()  # the program may keep the stream
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
