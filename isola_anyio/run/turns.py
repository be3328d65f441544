"""Turns: one run on the guest's thread, from a message's delivery until the guest has nothing more to do.

Two threads meet here: the guest thread that has the turn, and the event loop's, where the run's task waits. What they
share is :attr:`Turns.state`, which changes under a lock and by ``state.transition`` alone; everything else belongs to
one side at a time, as :class:`Turns` says field by field. What a turn has come to is noted while it goes on, and
becomes the phase only when no WebAssembly frame is left on the thread, for from then on others may enter the guest or
free it. Longer than other modules by a few lines, because the two threads' parts are read together.
"""

from __future__ import annotations

__all__ = ["Turns"]

import threading
import time
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from isola_anyio import codec
from isola_anyio.disposal import dispose
from isola_anyio.engine import ffi
from isola_anyio.engine.cpu import Running, guest_thread, read_clock
from isola_anyio.engine.threads import SLICE_S
from isola_anyio.errors import MemoryLimitError, PayloadLimitError
from isola_anyio.guests.protocol import (
    FRAME_OVERHEAD_BYTES,
    HEAD,
    ProtocolError,
    Status,
    ToGuest,
    ToHost,
    completion,
    split_park,
)
from isola_anyio.run.failures import FAILURE_BYTES, described, is_fatal, outcome_of, stopped
from isola_anyio.run.frames import Frames
from isola_anyio.run.services import DELIVERED, GivenUp
from isola_anyio.run.state import IN_TURN, NEW_RUN, Action, Event, Interrupt, Notice, Pending, Phase, Stop, transition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isola_anyio.codec import Dialect
    from isola_anyio.errors import IsolaError
    from isola_anyio.events import EventQueue
    from isola_anyio.run.queue import RunQueue
    from isola_anyio.run.services import Message
    from isola_anyio.run.state import State
    from isola_anyio.values import JsonValue

_DONE: Final = int(ToHost.DONE)
_FAIL: Final = int(ToHost.FAIL)
_PARK: Final = int(ToHost.PARK)


class Turns:
    """The turns of one run: work for the thread pool, and the guest's :class:`~isola_anyio.guests.Conversation`.

    Made by the run's task when the run has its turn in the sandbox's queue.

    Attributes, by who writes them. Both sides, under ``_lock``, by :meth:`step` alone; anybody reads it:
        state: where the run is.

    The run's task, when it is made:
        number: the run's number.
        cpu_before_s: seconds of CPU that the sandbox's runs before it have used.
        message, handlers, limits, dialect, context, cancelled_class, cpu, events, owner: see
            :class:`~isola_anyio.run.services.ServedRun`.

    The guest's thread, inside a turn; the task reads them once the phase is PARKED or ENDED:
        outcome: the value, or the exception to raise, once the phase is ENDED. (A stop that ends a parked guest writes
            it on the task's side, when no turn can be under way.)
        timer: when a parked guest wants to go on, by ``time.monotonic``; ``None`` for no timer.
        busy_s: seconds in turns, less those in which the thread waited.
        memory_size: bytes of linear memory after the last turn.
        frames: what answers the rarer frames; made with the first of them.
        has_fuel: a metered guest was given this run's fuel, and what is left of it is this run's.

    The guest's thread, read by the task at any time:
        told_at: when the guest was first told that it is cancelled, by ``time.monotonic``; its grace begins then.
        tellable_at_cpu_s: what the guest's CPU showed when its turn began, or when it last made a door call in which it
            can be told that it is cancelled. One that does so often is not interrupted.

    Either side, a flag that is only ever raised by one and lowered by the other:
        has_room: a parked guest waits for room for events, and there is some. Raised by the consumer's loop, or on the
            guest's thread when there is room already; lowered by the task, before it asks for the next turn.

    The thread pool:
        since: when the turn began to wait for a slot.

    The thread pool's manager, when no thread could be had for the turn that the task asked for; lowered by the task:
        refusal: says so. The turn was taken back.
    """

    def __init__(self, runs: RunQueue, message: Message, events: EventQueue | None, owner: object) -> None:
        machine = runs.machine
        self.state: State = NEW_RUN
        self.number = next(runs.numbers)
        self.message = message
        self.handlers = runs.handlers
        self.limits = machine.limits
        self.dialect: Dialect = machine.driver.dialect
        # In the task that asked for the run: handlers see its context variables, as if they had been called there.
        self.context = copy_context()
        self.cancelled_class = runs.cancelled_class
        self.cpu = runs.cpu
        self.events = events
        self.owner = owner
        self.machine = machine
        self.outcome: JsonValue | BaseException = None
        self.timer: float | None = None
        self.has_room = False
        self.busy_s = 0.0
        self.memory_size = 0
        self.tellable_at_cpu_s = 0.0
        self.frames: Frames | None = None
        self.has_fuel = False
        self.since = 0.0
        self.told_at: float | None = None
        self.refusal: IsolaError | None = None
        self.cpu_before_s = runs.cpu.used_s
        self._news = runs.news
        self._lock = threading.Lock()
        # Before the first turn: the guest cannot have waited for room that nobody told it of.
        if events is not None:
            events.on_room = self._on_room

    # --- both sides ------------------------------------------------------------------------------------------------

    def step(self, event: Event) -> tuple[Action, ...]:
        """Report an event, change the state, do at once what must not come too late, give the rest to the caller.

        What acts on the instance is done under the lock: the guest's thread reports LEAVE under it, and from then on
        an interrupt would hit whoever enters the instance next. The thread pool's own lock is taken inside this one,
        never the other way round.
        """
        with self._lock:
            # The new state is there before anything acts on the instance: a guest thread that an action wakes looks at
            # it first.
            self.state, actions = transition(self.state, event)
            for action in actions:
                if action is Action.INTERRUPT:
                    self.machine.instance.interrupt()
                elif action is Action.CLEAR:
                    self.machine.instance.clear_interrupt()
                elif action is Action.EXPEDITE:
                    self.machine.instance.expedite()
                elif action is Action.LET_UNWIND:
                    self.machine.instance.let_unwind()
                    if self.state.notice is Notice.IN_REPLY:
                        self.told_at = time.monotonic()
                elif action is Action.BREAK:
                    self.machine.abandoned = True
                elif action is Action.STOPPED:
                    self.outcome = stopped(self.state.stop, self.limits)
        return actions

    def remind(self) -> None:
        """Interrupt the guest again if it has not come back: it may have missed it; see ``Instance.interrupt``.

        Looked at and done under the lock, for the reason that :meth:`step` has.
        """
        with self._lock:
            state = self.state
            if state.phase in IN_TURN and (state.interrupt is Interrupt.RAISED or state.interrupt is Interrupt.FINAL):
                self.machine.instance.interrupt()

    def notify_task(self) -> None:
        """Make the run's task look; from any thread."""
        self._news.set()

    def notify(self) -> None:
        """Make the run's task look, or the guest if it waits inside its turn; from any thread."""
        self._news.set()
        # Whether it waits yet or not: a guest thread that has looked and is about to wait must not miss it.
        self.machine.instance.wake()

    def _on_room(self) -> None:
        """The consumer has made room; called in its loop, or by whoever discards the queue."""
        # Raised before the wake-up; the task lowers it before the turn that makes use of it. So none is lost.
        self.has_room = True
        self.notify()

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that the run's guest has used; from any thread."""
        return self.cpu.now() - self.cpu_before_s

    def check_cpu(self) -> None:
        """Stop the run if ``max_cpu`` is used up."""
        budget = self.limits.max_cpu
        if budget is not None and self.cpu_s >= budget:
            self.step(Event.CPU_OUT)

    # --- work for the thread pool ------------------------------------------------------------------------------------

    @property
    def long(self) -> bool:
        """Whether the run has computed for so long that it goes after others."""
        return self.cpu.used_s - self.cpu_before_s > SLICE_S

    def refuse(self, error: IsolaError) -> None:
        """Take the turn back, for which no thread could be had; called by the thread pool's manager."""
        # The turn is in no thread, and no longer in the pool's queue. In this order: the task looks at the refusal when
        # the phase has changed; for a guest that has heard of the run that is PARKED, else the run has ended.
        self.refusal = error
        if not self.state.delivered:
            self.outcome = error
        self.step(Event.WITHDRAWN)
        self._news.set()

    # --- the guest's thread: a turn ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Run one turn; whatever happens, :meth:`report` follows. Called by the thread pool; raises nothing."""
        # A guest thread, which has a CPU slot, and whose stack has no WebAssembly on it.
        before = self.state  # only the task changed it, and that before it asked for this turn, or to stop it
        # Refused, when the run was stopped while the turn was queued: the task is told, and decides what follows.
        if not self.step(Event.ENTER):
            return
        machine = self.machine
        if not before.delivered:
            machine.conversation = self
        began = machine.instance.waiter.began = time.monotonic()
        thread, cpu, store = guest_thread, self.cpu, machine.store
        # Begins to count: the meter first shows what it showed when the last turn ended, on whatever thread that was.
        thread.meter = cpu
        self.tellable_at_cpu_s = cpu.used_s
        cpu.running = Running(thread.clock, read_clock(thread.clock) - cpu.used_s)
        try:
            # Raises if the guest is being stopped: an interrupt that came while the turn was queued.
            previous = store.enter()
            try:
                if before.delivered:
                    self._deliver_more()
                else:
                    try:
                        if machine.fresh or machine.metered:
                            machine.prepare()
                            self.has_fuel = machine.metered
                        # Joined, not added: for a large body that gives the GIL up.
                        first_frame = b"".join((HEAD.pack(self.message.kind, self.number), self.message.body))
                        # The turn may block for hours inside plain code: the frame is its own, the message nobody's.
                        self.message = DELIVERED
                        machine.port.deliver(first_frame, self)
                    except MemoryError as exc:
                        raise MemoryLimitError("MemoryError", str(exc)) from None
            finally:
                store.leave(previous)
                self.memory_size = store.memory_size()
            if not self.state.pending:
                raise ProtocolError("the guest ended its turn without a word")
        except BaseException as exc:  # noqa: BLE001 - nothing may end a guest thread
            self._end_with(exc)
        # Never `None` here: whoever pauses the meter in a turn resumes it, whatever is raised. `used_s` before
        # `running`, because a reader on another thread takes the one when it finds the other gone.
        running = cpu.running
        cpu.used_s = read_clock(running.clock) - running.zero
        cpu.running = None
        thread.meter = None
        self.busy_s += time.monotonic() - began
        # A guest that parks often is looked at by nobody else while it computes.
        if self.limits.max_cpu is not None and self.state.pending is Pending.PARKED:
            self.check_cpu()
        # Only now, with no WebAssembly frame left on this thread, may others enter the guest or free it.
        # The task may already be closing the machine when this returns: nothing of it is touched after LEAVE.
        self.step(Event.LEAVE)

    def report(self) -> None:
        """Make the task look: the turn has ended. Called by the thread pool."""
        self._news.set()

    def _deliver_more(self) -> None:
        """Deliver CANCEL, or the completions that have come: any message but the first."""
        machine = self.machine
        if self.state.notice is Notice.SENT and not self._was_sent_cancel:
            # Before it is delivered: a second CANCEL would be raised into the guest's unwinding.
            self._was_sent_cancel = True
            if self.told_at is None:
                self.told_at = time.monotonic()
            try:
                machine.port.deliver(HEAD.pack(ToGuest.CANCEL, self.number), self)
            except MemoryError as exc:
                machine.abandoned = True  # it lives, and does not know that it was cancelled
                raise MemoryLimitError("MemoryError", str(exc)) from None
        else:
            self._deliver_completions()

    _was_sent_cancel = False  # the guest's thread: the one CANCEL of a run

    def _deliver_completions(self) -> None:
        try:
            records = [] if self.frames is None else self.frames.take_completions()
        except GivenUp:
            self.step(Event.PARK)  # it waits for what was being made, and hears of its cancellation instead
            return
        port = self.machine.port
        try:
            port.deliver(b"".join((HEAD.pack(ToGuest.RESUME, self.number), *records)), self)
        except MemoryError as exc:  # the guest has no room for them: as small failures
            failed = codec.encode({"name": "", "type": "MemoryError", "message": str(exc)})
            # They were taken and are nowhere else now; an op that is never answered would be waited for for ever.
            small = [completion(int.from_bytes(record[:4], "little"), Status.FAILED, failed) for record in records]
            try:
                port.deliver(HEAD.pack(ToGuest.RESUME, self.number) + b"".join(small), self)
            except MemoryError as exc_again:
                self.machine.abandoned = True  # it lives, and waits for what it has no room for
                raise MemoryLimitError("MemoryError", str(exc_again)) from None

    def _end_with(self, exc: BaseException) -> None:
        """Note how a turn ended that did not end by itself."""
        if is_fatal(exc):
            self.machine.abandoned = True
        held = [self.outcome]  # what it had said last, perhaps
        self.outcome = outcome_of(exc, self.state.stop, self.limits)
        dispose(held)
        # After the outcome, which the task reads once the phase is ENDED.
        self.step(Event.END)

    # --- the guest's thread: what the guest says (Conversation) ------------------------------------------------------

    def answer(self, kind: int, number: int, untrusted_body: memoryview) -> bytes:
        """Answer a door call; see :class:`~isola_anyio.guests.Conversation`."""
        # Its last word was believed; what it says after that could only change it.
        if self.state.pending:
            raise ProtocolError(f"a door call of kind {kind:#x} after the turn's end")
        # The usual end first: an `add` makes no other door call.
        if kind == _DONE:
            if number != self.number or len(untrusted_body) > self.limits.max_payload:
                self.check_number(number)
                self.check_payload(untrusted_body)
            try:
                self.outcome = codec.decode(untrusted_body, pause=self.yield_gil)
            except codec.CodecError as exc:
                raise ProtocolError(f"a value that cannot be read ({exc})") from None
            # CANCEL is not needed any more either: the guest is at its end.
            except GivenUp:
                self.outcome = None  # the caller is cancelled, and nobody asks for the value
            self.step(Event.END)
            return b""
        if kind == _PARK:
            self._on_park(number, untrusted_body)
            return b""
        if kind == _FAIL:
            self.check_number(number)
            # Before it is decoded: of anything longer only a few texts would be kept, and the rest would have to go.
            if len(untrusted_body) > FAILURE_BYTES:
                raise ProtocolError(f"a failure that is described in {len(untrusted_body)} bytes")
            try:
                self.outcome = described(self.decode(untrusted_body), self.limits)
            except GivenUp:
                self.outcome = None
            self.step(Event.END)
            return b""
        return self._all_frames().answer(kind, number, untrusted_body)

    def write(self, fd: int, untrusted_chunks: Sequence[memoryview]) -> None:
        """Take what the guest writes to standard output or error."""
        self._all_frames().output.write(fd, untrusted_chunks)

    def sleep(self, seconds: float | None) -> None:
        """Sleep as plain code asked; a cancellation ends it, and the instance with it."""
        if seconds is not None and seconds <= 0:  # it only asks whether it is being stopped, and will soon be told
            self.machine.instance.sleep(seconds)
            return
        began = time.monotonic()
        self._note_long()
        # If it was cancelled before this, SLEEP interrupts the instance, and the sleep ends where it begins.
        self.step(Event.SLEEP)
        try:
            self.machine.instance.sleep(seconds)
        finally:
            self.step(Event.WAKE)
            self.busy_s -= time.monotonic() - began

    def _all_frames(self) -> Frames:
        frames = self.frames
        if frames is None:
            frames = self.frames = Frames(self)
        return frames

    def _on_park(self, number: int, untrusted_body: memoryview) -> None:
        self.check_number(number)
        delay, needs_room = split_park(untrusted_body)
        self.timer = None if delay is None else time.monotonic() + delay
        events = self.events
        # A queue that was marked as stalled tells when there is room; any other has some now.
        # Not lost if the consumer makes room between the look and PARK: it calls `_on_room`, whose flag outlives the
        # turn.
        if needs_room and (events is None or not events.stalled):
            self.has_room = True
        self.step(Event.PARK)

    # --- the guest's thread: what a service may ask (ServedRun) ------------------------------------------------------

    def must_tell(self, event: Event) -> bool:
        """See :class:`~isola_anyio.run.services.ServedRun`."""
        running = self.cpu.running
        if running is not None:
            self.tellable_at_cpu_s = read_clock(running.clock) - running.zero
        # The look without the lock is for the thousands of calls that find nothing. A stop that comes right after it is
        # seen the next time, or wakes the guest: `block` looks again under the lock.
        return self.state.stop is not Stop.NONE and Action.TELL in self.step(event)

    def yield_gil(self) -> None:
        """See :class:`~isola_anyio.run.services.ServedRun`."""
        if ffi.yield_gil(self._check_stopped):
            self._stand_aside()
        self._check_stopped()

    def give_way(self) -> None:
        """See :class:`~isola_anyio.run.services.ServedRun`."""
        if ffi.yield_gil():
            self._stand_aside()

    def _stand_aside(self) -> None:
        # Others that wait for a slot must not wait until a value of many megabytes has been decoded: several guests
        # that send nothing else have all the slots.
        instance = self.machine.instance
        instance.pool.stand_aside(instance.waiter)
        ffi.trap_handlers.guard()  # other threads had time to replace them, and the turn goes on

    def _check_stopped(self) -> None:
        # Given up as soon as there is a reason; not after a final interrupt, when there is nobody to be told any more.
        state = self.state
        if state.stop is Stop.CANCELLED and state.notice is Notice.NONE and state.interrupt is not Interrupt.FINAL:
            raise GivenUp
        if self.machine.store.interrupted:
            raise ffi.StoreInterrupted

    def block(self, seconds: float | None = None) -> None:
        """See :class:`~isola_anyio.run.services.ServedRun`."""
        self.step(Event.BLOCK)
        if self.state.phase is not Phase.BLOCKED:
            return
        self._note_long()
        began = time.monotonic()
        try:
            # What it waits for may be waiting for the task: handlers to be started, a stream to be pumped.
            self._news.set()
            self.machine.instance.wait(seconds)
        finally:
            self.busy_s -= time.monotonic() - began
            self.step(Event.UNBLOCK)

    def _note_long(self) -> None:
        """Before the guest waits inside its turn: whether others go first when it wants a slot again."""
        self.machine.instance.waiter.long = self.cpu_s > SLICE_S

    def check_number(self, number: int) -> None:
        """See :class:`~isola_anyio.run.services.ServedRun`."""
        if number != self.number:
            raise ProtocolError(f"a frame of run {number} during run {self.number}")

    def check_payload(self, untrusted_body: memoryview) -> None:
        """See :class:`~isola_anyio.run.services.ServedRun`."""
        if len(untrusted_body) > self.limits.max_payload + FRAME_OVERHEAD_BYTES:
            raise PayloadLimitError(
                f"a value of {len(untrusted_body)} bytes is over max_payload={self.limits.max_payload}; raise it, or "
                "send the value in pieces"
            )

    def decode(self, untrusted_body: memoryview) -> Any:
        """See :class:`~isola_anyio.run.services.ServedRun`."""
        try:
            return codec.decode(untrusted_body, pause=self.yield_gil)
        except codec.CodecError as exc:
            raise ProtocolError(f"a value that cannot be read ({exc})") from None
