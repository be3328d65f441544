"""One run of a guest, from its first message to its last.

A run is a conversation in turns. Its task, in the caller's event loop, hands the guest messages and waits; the guest's
turns happen on guest threads; what the guest asks for during a turn lands in deques, and a :class:`Wakeup` tells the
task to look. The straight line::

    message -> a CPU slot -> turn on a guest thread -> PARK or DONE -> the task
                 ^                                       |
                 +---- completions, room, a timer <------+

Where the guest is (:class:`Phase`) changes under ``_lock``, because a cancellation has to know: a parked guest is sent
CANCEL and unwinds, a waiting one is told in its reply, a computing one is interrupted and its instance is lost.
"""

from __future__ import annotations

__all__ = ["GRACE_S", "Run", "RunOptions"]

import math
import threading
import time
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from isola_anyio import codec
from isola_anyio.concurrency import open_task_group, outlast
from isola_anyio.engine import ffi
from isola_anyio.engine.wakeup import Wakeup
from isola_anyio.errors import (
    CpuLimitError,
    FuelExhaustedError,
    GuestError,
    InternalError,
    IsolaError,
    MemoryLimitError,
    OutputLimitError,
    PayloadLimitError,
    SandboxClosedError,
)
from isola_anyio.events import LogEvent, LogLevel, ResultEvent
from isola_anyio.feeds import Feed
from isola_anyio.guests import protocol
from isola_anyio.guests.protocol import FRAME_OVERHEAD_BYTES, Call, Door, ProtocolError, Status
from isola_anyio.hostcalls import Handlers, HostcallDesk
from isola_anyio.limits import Usage
from isola_anyio.wasi.system import GuestExit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyio.abc import TaskGroup

    from isola_anyio.codec import Dialect
    from isola_anyio.events import Event, EventQueue
    from isola_anyio.guest import Guest
    from isola_anyio.limits import Limits
    from isola_anyio.values import JsonValue, StreamSource

GRACE_S: Final = 1.0
"""How long a cancelled guest may unwind before it is stopped for good."""
COURTESY_S: Final = 0.002
"""A guest that computes when it is cancelled is interrupted when it has used this much CPU without coming to a place
where it can be told, so that one that mostly waits, or mostly talks, stays usable; well below the 5 ms in which a
spinning guest has to be stopped. It is the guest's own CPU time: one that merely waits for a core is not to blame."""
PATIENCE_S: Final = 0.05
"""... and after this much time on the clock whatever it used, so that a busy machine does not keep its caller waiting;
a guess."""
_LEVELS: Final[tuple[LogLevel, ...]] = ("debug", "info", "warning", "error")

active_runs: ContextVar[tuple[Run, ...]] = ContextVar("isola_anyio_active_runs", default=())
"""The runs whose handlers the current code is called from, outermost first."""


class Phase(Enum):
    """Where the guest is during a run."""

    QUEUED = "queued"  # a turn is wanted and no thread has it yet
    COMPUTING = "computing"  # inside a turn
    WAITING = "waiting"  # inside a turn, blocked where it can be told of a cancellation
    PARKED = "parked"  # between turns
    ENDED = "ended"


class Stop(Enum):
    """Why a guest is being stopped."""

    CANCELLED = "cancelled"
    CPU = "cpu"
    CLOSED = "closed"


class _Halt(BaseException):
    """Ends a turn from inside a host function with an error of ours; WASI lets only a BaseException through."""

    def __init__(self, error: IsolaError) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run is made of: its first message, its streams, and whom it tells."""

    call: Call
    body: bytes
    streams: Sequence[StreamSource] = ()


class Run:
    """One run; made and awaited in one event loop. ``outcome`` is the value, or the exception to raise."""

    def __init__(
        self, guest: Guest, number: int, options: RunOptions, handlers: Handlers, *, queue: EventQueue | None = None
    ) -> None:
        self.guest = guest
        self.number = number
        self.limits: Limits = guest.limits
        self.dialect: Dialect = guest.driver.dialect
        self._options = options
        self._news = Wakeup()
        self._lock = threading.Lock()
        self.phase = Phase.QUEUED
        self._verdict: Phase | None = None  # what the turn under way has come to; the phase follows when it is over
        self._stop: Stop | None = None
        self._started = False
        self._delivered = False  # the guest knows of this run
        self._cancel_sent = False
        self._asleep = False  # inside plain code's own sleep
        self._told = False  # the guest knows of its cancellation: it is left alone until the grace is over
        self._timer: float | None = None
        self._needs_room = False
        self._room_came = False
        self.outcome: JsonValue | BaseException = None
        self.queue = queue
        if queue is not None:
            queue.on_room = self._on_room
        token = active_runs.set((*active_runs.get(), self))
        try:
            self._context = copy_context()
            self.desk = HostcallDesk(
                handlers,
                dialect=self.dialect,
                max_payload=self.limits.max_payload,
                max_in_flight=self.limits.max_hostcalls,
                pause=_let_others_run,
                on_request=self._news.set,
                on_news=self._on_news,
            )
        finally:
            active_runs.reset(token)
        self._feeds = [
            Feed(source, dialect=self.dialect, max_payload=self.limits.max_payload, on_news=self._on_news)
            for source in options.streams
        ]
        self._cpu_s = 0.0
        self._turn_began = 0.0
        self._silent_since_cpu = 0.0  # seconds of the guest's CPU at which it last came where it could be told
        self._turn_began_cpu: float | None = None
        self._thread_clock: int | None = None
        self._began = 0.0
        self._busy_s = 0.0
        self.output_bytes = 0

    # --- the run's own task ------------------------------------------------------------------------------------

    async def complete(self) -> JsonValue:
        """Drive the run to its end and return its value.

        Raises:
            GuestError, LimitError, SandboxClosedError: as the run ended.
        """
        await self._drive()
        outcome = self.outcome
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del outcome
                self.outcome = None
        return outcome

    async def _drive(self) -> None:
        self._began = time.monotonic()
        try:
            if self._feeds:
                await self._drive_with_tasks()
            else:
                await self._drive_alone()
        finally:
            self.guest.finish_run(self)
            self.desk.abandon()
        producer_failure = next((feed.failure for feed in self._feeds if feed.failure is not None), None)
        if producer_failure is None:
            return
        # Whatever the guest made of it; only a limit or a closed sandbox is the better reason.
        if isinstance(self.outcome, GuestError) or not isinstance(self.outcome, IsolaError):
            self.outcome = producer_failure

    async def _drive_alone(self) -> None:
        """Drive without a task group, for as long as nothing needs one."""
        try:
            self._submit_first()
            while self.phase is not Phase.ENDED:
                await self._wait_for_news()
                if self.desk.has_news:
                    break
                self._resume_if_due()
        except BaseException:
            self._stop_nowait(Stop.CANCELLED)
            await self._unwind()
            raise
        if self.phase is not Phase.ENDED:
            await self._drive_with_tasks()

    async def _drive_with_tasks(self) -> None:
        async with open_task_group() as group:
            try:
                for number, feed in enumerate(self._feeds):
                    group.start_soon(feed.produce, name=f"stream argument {number}")
                if not self._started:
                    self._submit_first()
                await self._converse(group)
            except BaseException:
                self._stop_nowait(Stop.CANCELLED)
                group.cancel_scope.cancel()
                await self._unwind()
                raise
            group.cancel_scope.cancel()

    async def _converse(self, group: TaskGroup) -> None:
        """Serve the guest until the run has ended."""
        while True:
            self._context.run(self.desk.start, group)
            for feed in self._feeds:
                if feed.stopped:
                    feed.scope.cancel()
            self._resume_if_due()
            if self.phase is Phase.ENDED:
                return
            await self._wait_for_news()

    async def _wait_for_news(self) -> None:
        """Wait until the guest's turn or an op ends, a timer is due, or the CPU budget may be used up."""
        limit = self._seconds_to_look()
        if limit is None:
            await self._news.wait()
            return
        with anyio.move_on_after(limit):
            await self._news.wait()
        self._check_cpu()

    def _seconds_to_look(self) -> float | None:
        if self.phase is Phase.PARKED:
            return None if self._timer is None else max(0.0, self._timer - time.monotonic())
        if self.limits.max_cpu is not None and self.phase is not Phase.ENDED:
            return max(0.005, self.limits.max_cpu - self._cpu_now())
        return None

    def _resume_if_due(self) -> None:
        """Give a parked guest its next turn if there is anything for it, and end one that is being stopped."""
        if self.phase is not Phase.PARKED:
            return
        if self._stop is Stop.CLOSED or self._stop is Stop.CPU:
            self.guest.abandoned = True
            self._end_with(ffi.StoreInterrupted())
            return
        if self._stop is Stop.CANCELLED and not self._cancel_sent:
            self._send_cancel()
            return
        timer_due = self._timer is not None and time.monotonic() >= self._timer
        if timer_due or self._room_came or self.desk.completions or any(feed.has_news for feed in self._feeds):
            self._submit(self._resume_frame, urgent=self._stop is not None)

    def _send_cancel(self) -> None:
        """Tell a parked guest that it is cancelled; one that never heard of the run need not know."""
        if not self._delivered:
            self.phase = Phase.ENDED
            return
        self._cancel_sent = True
        self.guest.instance.forget_interrupt()  # it came when the guest had just parked
        self.guest.instance.hurry()
        self._submit(self._cancel_frame, urgent=True)

    def _submit_first(self) -> None:
        self._started = True
        self._submit(self._first_frame)

    def _submit(self, make_frame: Callable[[], bytes], *, urgent: bool = False) -> None:
        self.phase = Phase.QUEUED
        self._timer = None
        self._room_came = False
        self._ticket = self.guest.crew.submit(partial(self._turn, make_frame), urgent=urgent)

    def _on_news(self) -> None:
        """Something happened that the run's task, or a guest that waits inside its turn, has to look at."""
        self._news.set()
        # Whether it waits yet or not: one that has looked and is about to wait must not miss it.
        self.guest.instance.wake()

    def _on_room(self) -> None:
        self._room_came = True
        self._on_news()

    # --- stopping ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the run because its sandbox is being closed; its task raises ``SandboxClosedError``."""
        self._stop_nowait(Stop.CLOSED)
        self.guest.instance.interrupt()
        self._news.set()

    def _stop_nowait(self, reason: Stop) -> None:
        """Begin to stop: everything that needs no waiting."""
        with self._lock:
            if self._stop is None:
                self._stop = reason
            phase = self.phase
        if phase is Phase.QUEUED and self._started and self._ticket.withdraw():
            self.phase = Phase.PARKED
        elif phase is Phase.WAITING:
            self.guest.instance.hurry()

    async def _unwind(self) -> None:
        """Bring a cancelled run to its end: let the guest unwind within the grace, stop it for good after that.

        Shielded, and bounded by the grace plus the time an interrupted guest thread takes to come back.
        """
        if not self._started or (not self._delivered and self.phase is Phase.PARKED):
            self.phase = Phase.ENDED
            return
        try:
            with anyio.CancelScope(shield=True):
                await self._let_unwind()
        finally:
            if self.phase is not Phase.ENDED:
                self._stop_for_good()
                await outlast(lambda: self.phase in (Phase.PARKED, Phase.ENDED), self._news.wait)
                self.phase = Phase.ENDED
            self.guest.instance.forget_interrupt()

    async def _let_unwind(self) -> None:
        """Give the guest its courtesy and its grace."""
        async with open_task_group() as group:
            with anyio.move_on_after(GRACE_S):
                await self._await_turn()
                await self._converse(group)
            group.cancel_scope.cancel()

    async def _await_turn(self) -> None:
        """Wait until the guest's turn is over, or it knows of its cancellation; interrupt one that computes on."""
        end = time.monotonic() + PATIENCE_S
        while self.phase in (Phase.QUEUED, Phase.COMPUTING, Phase.WAITING) and not self._told:
            courtesy = self._courtesy_s() if time.monotonic() < end else 0.0
            if courtesy > 0 or self.phase is not Phase.COMPUTING:
                with anyio.move_on_after(courtesy or COURTESY_S):
                    await self._news.wait()
                continue
            with self._lock:
                if self.phase is Phase.COMPUTING and not self._told:
                    self.guest.instance.interrupt()
                    return

    def _courtesy_s(self) -> float:
        """How much longer a computing guest may take until it can be told.

        One that sleeps in plain code cannot be told; one that has parked is on its way out.
        """
        if self._asleep:
            return 0.0
        if self.phase is Phase.COMPUTING and self._verdict is None:
            return max(0.0, COURTESY_S - (self._cpu_now() - self._silent_since_cpu))
        return COURTESY_S

    def _stop_for_good(self) -> None:
        """The grace is over: whatever still runs is interrupted; a guest that did not unwind is not trusted again."""
        self.guest.abandoned = True
        self.guest.instance.interrupt()
        if self.phase is Phase.QUEUED and self._ticket.withdraw():
            self.phase = Phase.PARKED

    def _check_cpu(self) -> None:
        budget = self.limits.max_cpu
        if budget is not None and self.phase is not Phase.ENDED and self._cpu_now() >= budget:
            with self._lock:
                if self._stop is None:
                    self._stop = Stop.CPU
            self.guest.instance.interrupt()

    def _cpu_now(self) -> float:
        """Seconds of CPU the guest has computed so far, its turn under way included."""
        began, clock = self._turn_began_cpu, self._thread_clock
        if began is None:
            return self._cpu_s
        if clock is None:
            return self._cpu_s + time.monotonic() - self._turn_began
        with suppress(OSError):  # the thread has just ended
            return self._cpu_s + max(0.0, time.clock_gettime(clock) - began)
        return self._cpu_s

    # --- on the guest's thread ---------------------------------------------------------------------------------

    def _turn(self, make_frame: Callable[[], bytes]) -> None:
        """Run one turn; whatever happens, the run's task is told."""
        self._turn_began = time.monotonic()
        self._thread_clock = _thread_clock()
        self._turn_began_cpu = time.thread_time()
        with self._lock:
            # A turn that was asked for before the run was stopped is not begun any more.
            wanted = self._stop is None or self._cancel_sent
            self._silent_since_cpu = self._cpu_s
            self.phase = Phase.COMPUTING if wanted else Phase.PARKED
        if not wanted:
            self._turn_began_cpu = None
            self._news.set()
            return
        try:
            self.guest.instance.enter(partial(self._deliver, make_frame))
            if self._verdict is None:
                raise ProtocolError("the guest ended its turn without a word")
        except BaseException as exc:  # noqa: BLE001 - nothing may end a guest thread
            self._end_with(exc)
        self._cpu_s += time.thread_time() - self._turn_began_cpu
        self._turn_began_cpu = None
        self._busy_s += time.monotonic() - self._turn_began
        if self._verdict is Phase.PARKED:
            self._check_cpu()
        # Only now, with no wasm frame left on this thread, may others enter the guest or free it.
        with self._lock:
            assert self._verdict is not None
            self.phase, self._verdict = self._verdict, None
        self._news.set()

    def _deliver(self, make_frame: Callable[[], bytes]) -> None:
        frame = make_frame()
        guest = self.guest
        guest.prepare(self)
        try:
            guest.port.deliver(frame)
        except MemoryError as exc:
            if make_frame != self._resume_frame:
                self.guest.abandoned = make_frame != self._first_frame  # it does not know that it was cancelled
                raise MemoryLimitError("MemoryError", str(exc)) from None
            guest.port.deliver(self._no_room_frame(str(exc)))

    def _first_frame(self) -> bytes:
        self._delivered = True
        return protocol.message(self._options.call, self.number, self._options.body)

    def _cancel_frame(self) -> bytes:
        self._told = True
        return protocol.message(Call.CANCEL, self.number)

    def _resume_frame(self) -> bytes:
        self._resuming = records = self._collect()
        return protocol.message(Call.RESUME, self.number, b"".join(records))

    _resuming: Sequence[bytes] = ()

    def _no_room_frame(self, text: str) -> bytes:
        """Completions that the guest has no memory for, as small failures."""
        failed = codec.encode({"name": "", "type": "MemoryError", "message": text})
        ops = [int.from_bytes(record[:4], "little") for record in self._resuming]
        return protocol.message(
            Call.RESUME, self.number, b"".join(protocol.completion(op, Status.FAILED, failed) for op in ops)
        )

    def _collect(self) -> list[bytes]:
        """Take the completions that have come."""
        records = self.desk.take_completions()
        for feed in self._feeds:
            record = feed.completion()
            if record is not None:
                records.append(record)
        return records

    def _end_with(self, exc: BaseException) -> None:
        """Note how a turn ended that did not end by itself."""
        stop = self._stop
        if isinstance(exc, ffi.StoreInterrupted):
            if stop is Stop.CPU:
                budget = self.limits.max_cpu
                exc = CpuLimitError(f"the run used up max_cpu={budget} seconds of CPU; raise it, or do less")
            elif stop is Stop.CLOSED:
                exc = SandboxClosedError("the sandbox was closed while this was running")
        elif isinstance(exc, _Halt):
            exc = exc.error
        elif isinstance(exc, ffi.FuelExhausted):
            exc = FuelExhaustedError(f"the run used up max_fuel={self.limits.max_fuel}; raise it, or do less")
        elif isinstance(exc, ffi.GuestTrap):
            exc = _trap_error(exc)
        elif isinstance(exc, GuestExit):
            exc = GuestError("SystemExit", f"the guest ended its process with status {exc.code}")
        elif isinstance(exc, ProtocolError):
            self.guest.abandoned = True
            exc = GuestError("ProtocolError", f"{exc}: the guest's own runtime was tampered with")
        elif not isinstance(exc, (IsolaError, MemoryError)):
            self.guest.abandoned = True
            if isinstance(exc, Exception):
                exc = _internal(exc)  # any other is a plain handler's, meant for the program and not for its guest
        self._end(exc)

    def _end(self, outcome: JsonValue | BaseException) -> None:
        self.outcome = outcome
        if self.phase is Phase.COMPUTING or self.phase is Phase.WAITING:
            self._verdict = Phase.ENDED
        else:
            self.phase = Phase.ENDED

    def answer(self, kind: int, number: int, untrusted_body: memoryview) -> bytes:
        """Answer a door call of this run; on the guest's thread, inside a turn."""
        if self._verdict is not None:
            raise ProtocolError(f"a door call of kind {kind:#x} after the turn's end")
        if kind == Door.EMIT:
            return self._on_emit(number, untrusted_body)
        if kind == Door.HOSTCALL:
            while self.desk.crowded:
                if self._stop is Stop.CANCELLED and not self._told:
                    return b""  # never answered: the guest hears of its cancellation next
                self._block()
            return self._on_hostcall(number, untrusted_body)
        if kind == Door.PARK:
            self._on_park(number, untrusted_body)
            return b""
        if kind == Door.DONE:
            self._check_number(number)
            self._check_payload(untrusted_body)
            self._end(self._decode(untrusted_body))
            return b""
        return self._answer_rarer(kind, number, untrusted_body)

    def _answer_rarer(self, kind: int, number: int, untrusted_body: memoryview) -> bytes:
        if kind == Door.READ:
            return self._feed(int.from_bytes(untrusted_body[:4], "little")).read(number)
        if kind == Door.LOG:
            return self._on_log(untrusted_body)
        if kind == Door.FAIL:
            self._check_number(number)
            self._end(self._failure(untrusted_body))
            return b""
        if kind == Door.DROP:
            self.desk.drop(number)
            return b""
        if kind == Door.STOP:
            self._feed(number).stop()
            return b""
        if kind == Door.WAIT:
            self._check_number(number)
            return self._on_wait(untrusted_body)
        raise ProtocolError(f"an unknown door call {kind:#x}")

    def _on_hostcall(self, op: int, untrusted_body: memoryview) -> bytes:
        began = time.thread_time()
        try:
            return self.desk.request(op, *protocol.split_hostcall(untrusted_body))
        finally:
            # A plain handler's own work is not the guest's.
            assert self._turn_began_cpu is not None
            self._turn_began_cpu += time.thread_time() - began

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
            value: JsonValue = codec.decode(untrusted_body, pause=_let_others_run)
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
        text = str(untrusted_body[1:], "utf-8", "replace")
        self.count_output(len(untrusted_body))
        return b"\1" if self.emit(LogEvent(data=text, level=_LEVELS[level]), len(untrusted_body)) else b"\2"

    def count_output(self, size: int) -> None:
        """Count output bytes; the run ends when they are more than it may write."""
        self.output_bytes += size
        if self.output_bytes > self.limits.max_output:
            raise _Halt(
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

    @property
    def _must_tell(self) -> bool:
        """Whether the guest is to be told of its cancellation, asked where the reply can say so.

        A guest that comes here often is not interrupted: it is told the next time, and unwinds.
        """
        self._silent_since_cpu = self._cpu_own()
        return self._stop is Stop.CANCELLED and not self._told

    def _cpu_own(self) -> float:
        """Seconds of CPU the guest has computed so far; on the guest's own thread, inside a turn."""
        assert self._turn_began_cpu is not None
        return self._cpu_s + time.thread_time() - self._turn_began_cpu

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

    def _block(self, seconds: float | None = None) -> None:
        """Stand still inside the turn until there is news or the run is being cancelled."""
        with self._lock:
            self.phase = Phase.WAITING
            stopping = self._stop is Stop.CANCELLED and not self._told
        began = time.monotonic()
        try:
            self._news.set()
            if not stopping:
                self.guest.instance.wait(seconds)
        finally:
            self._busy_s -= time.monotonic() - began
            with self._lock:
                self._silent_since_cpu = self._cpu_own()
                self.phase = Phase.COMPUTING

    def sleep(self, seconds: float | None) -> None:
        """Sleep as plain code asked; a cancellation ends it, and the instance with it."""
        began = time.monotonic()
        self._asleep = True
        try:
            self.guest.instance.sleep(seconds)
        finally:
            self._asleep = False
            self._busy_s -= time.monotonic() - began

    def _on_wait(self, untrusted_body: memoryview) -> bytes:
        """WAIT: block until there are completions, the timer is due, or the run is being cancelled."""
        delay, _ = protocol.split_park(untrusted_body)
        end = math.inf if delay is None else time.monotonic() + delay
        while True:
            if self._stop is Stop.CANCELLED and not self._told:
                self._told = True
                return b"\1"
            records = self._collect()
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
        type_name, text, traceback = (str(fields.get(key, ""))[: 1 << 16] for key in ("type", "message", "traceback"))
        limit = fields.get("limit")
        if limit == "payload":
            return PayloadLimitError(f"{text} (max_payload={self.limits.max_payload}); raise it, or send less")
        if limit == "memory":
            return MemoryLimitError(type_name, text or f"max_memory={self.limits.max_memory} is used up", traceback)
        return GuestError(type_name, text, traceback)

    # --- afterwards --------------------------------------------------------------------------------------------

    def usage(self, fuel: int | None, peak_memory: int) -> Usage:
        """What the run used."""
        wall = time.monotonic() - self._began
        return Usage(
            cpu_s=self._cpu_s,
            wall_s=wall,
            waiting_s=max(0.0, wall - self._busy_s),
            fuel=fuel,
            hostcalls=self.desk.count,
            output_bytes=self.output_bytes,
            peak_memory=peak_memory,
            runs=1,
        )


def _thread_clock() -> int | None:
    if hasattr(time, "pthread_getcpuclockid"):
        return time.pthread_getcpuclockid(threading.get_ident())
    return None


def _let_others_run() -> None:
    """Give the GIL away for a moment: a large value is decoded in pieces so that the event loop goes on."""
    time.sleep(0)


def _trap_error(trap: ffi.GuestTrap) -> GuestError:
    text = str(trap)
    if text == "stack overflow":
        return GuestError("RecursionError", "the guest's wasm stack is used up")
    return GuestError("Trap", text)


def _internal(exc: BaseException) -> InternalError:
    error = InternalError(f"a fault of isola_anyio itself, please report it: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error
