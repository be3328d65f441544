"""One run of a guest, on the event loop's side: its task, from its place in the queue to its outcome.

A run is a conversation in turns. Its task hands the guest messages and waits; the guest's turns happen on guest
threads (``turns.py``); what the guest asks for during a turn is answered there or left to services (``frames.py``),
and a wake-up tells the task to look. The straight line::

    message -> a CPU slot -> a turn on a guest thread -> PARKED or ENDED -> the task
                 ^                                           |
                 +---- completions, room for events, a timer <

What follows from what is decided by ``state.py`` alone. Longer than other modules, because driving a run and bringing
a cancelled one to its end are the same few loops.
"""

from __future__ import annotations

__all__ = ["Run"]

import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio

from isola_anyio.codec.chunked.garbage import no_full_collections
from isola_anyio.concurrency import open_task_group, outlast, pace
from isola_anyio.disposal import dispose
from isola_anyio.engine import ffi
from isola_anyio.engine.run_sync import run_sync
from isola_anyio.engine.slots import Rank, SlotWaiter
from isola_anyio.errors import GuestError, IsolaError
from isola_anyio.guests.silence import SILENCE
from isola_anyio.run.frames import Frames
from isola_anyio.run.services import DELIVERED, GivenUp, Message
from isola_anyio.run.state import IN_TURN, STARTED, Action, Event, Interrupt, Notice, Phase
from isola_anyio.run.streams import Streams
from isola_anyio.run.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

    from isola_anyio.events import EventQueue
    from isola_anyio.run.queue import RunQueue
    from isola_anyio.run.services import Service
    from isola_anyio.values import JsonValue

_QUEUES = frozenset({Phase.QUEUED, Phase.PARKED, Phase.BLOCKED})
"""Where a guest that is to be told of its cancellation waits for a slot or a thread, or is about to."""
_SHORTEST_LOOK_S = 0.005
"""Between two looks at a computing guest's CPU, however little of its budget is left."""


class Run:
    """One run; made and awaited in one event loop. Its fields are the loop's.

    Attributes:
        turns: the guest thread's side; made when the run has its turn in the queue.
        turn, is_over: see :class:`~isola_anyio.run.queue.Queued`.
    """

    turns: Turns

    def __init__(self, runs: RunQueue, message: Message, events: EventQueue | None = None) -> None:
        self._runs = runs
        self._message = message
        self._events = events
        self._begun = False  # `turns` is there
        self.turn: anyio.Event | None = None
        self._ended: anyio.Event | None = None
        self.is_over = False
        self._in_line = False
        self._encoding: anyio.CancelScope | None = None  # while a large message is being encoded

    # --- its place in the queue -------------------------------------------------------------------------------------

    def enter_line(self) -> None:
        """Take a place in the line, now; else :meth:`complete` does."""
        self._runs.line.append(self)
        self._in_line = True

    def leave_line(self) -> None:
        """Give the place up: :meth:`complete` will not be called any more."""
        self.is_over = True
        self._message = DELIVERED  # the line may keep the run for a while
        if self._ended is not None:
            self._ended.set()
        self._runs.leave(self)

    def close(self) -> None:
        """Stop the run because its sandbox is being closed; its task raises ``SandboxClosedError``."""
        # On the loop, by whoever closes the sandbox; the run's own task is somewhere in an await.
        if self._begun:
            self._act(Event.CLOSE)
            # For a parked guest: its task waits for news, and nobody else would bring any.
            self._runs.news.set()
        # Not first in line yet: it wakes up, and finds the queue closed. One whose task has not begun finds that by
        # itself.
        elif self.turn is not None:
            self.turn.set()
        elif self._encoding is not None:
            self._encoding.cancel()

    async def join(self) -> None:
        """Wait until nothing of the run is left in the queue."""
        if not self.is_over:
            if self._ended is None:
                self._ended = anyio.Event()
            await self._ended.wait()

    # --- the whole of it --------------------------------------------------------------------------------------------

    async def complete(self) -> JsonValue:
        """Wait for the run's turn in the queue, drive it to its end, and return its value.

        Raises:
            GuestError, LimitError, SandboxClosedError, SandboxBrokenError: as the run ended.
        """
        runs, machine = self._runs, self._runs.machine
        line = runs.line
        if not self._in_line:
            line.append(self)
        try:
            if self._message.encode is not None:
                await self._encode_message()
            # A task begins a while after its run has taken its place: the guest may have broken meanwhile.
            if line[0] is not self or runs.closed or machine.abandoned or machine.store.dead:
                await runs.wait_for_turn(self)
            # From here until this run leaves the line, the guest is this run's.
            self.turns = turns = Turns(runs, self._message, self._events, owner=self)
            self._message = DELIVERED
            self._begun = True
            began = time.monotonic()
            try:
                if turns.message.streams:
                    turns.frames = Frames(turns)
                    turns.frames.open(Streams)
                    await self._drive_with_tasks()
                else:
                    await self._drive_alone()
            except BaseException:
                # Nobody is given the value that the guest may have ended with.
                held, turns.outcome = [turns.outcome], None
                dispose(held)
                raise
            finally:
                # The phase is ENDED: no guest thread has the run any more, and all of its fields are this task's.
                self._end(time.monotonic() - began)
                # Whoever still has the run, or its event stream, keeps nothing alive that belonged to it; and without
                # these circles there is nothing of a run that only the collector could free.
                outcome, turns.outcome = turns.outcome, None
                turns.owner = turns.frames = turns.events = None
        finally:
            # Last, because the next run enters the guest as soon as this one has left.
            if len(line) == 1 and self._ended is None:
                self.is_over = True
                line.clear()
            else:
                self.leave_line()
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del outcome
        return outcome

    async def _encode_message(self) -> None:
        """Encode a large message on a guest thread, whether the run is first in line or not.

        Raises:
            InvalidArgumentError: it cannot cross.
        """
        message = self._message
        assert message.encode is not None
        pool = self._runs.machine.pool
        stopped: list[bool] = []
        waiter = SlotWaiter()

        def check() -> None:
            if stopped:
                raise GivenUp

        def pause() -> None:
            if ffi.yield_gil(check):
                pool.stand_aside(waiter)
            check()

        def stop() -> None:
            stopped.append(True)
            waiter.urgency = Rank.FINAL
            pool.expedite(waiter)

        try:
            with anyio.CancelScope() as self._encoding:
                encode = partial(message.encode, pause)
                body = await run_sync(pool, encode, stop=stop)
                self._message = Message(message.kind, body, message.streams)
        finally:
            self._encoding = None
            # Not encoded: the caller may have given its arguments away.
            if message.held:
                dispose(message.held)

    async def _drive_alone(self) -> None:
        """Drive the run without a task group, for as long as nothing needs one."""
        turns, news = self.turns, self._runs.news
        try:
            turns.state = STARTED  # START, without the lock: no guest thread has seen the run yet
            try:
                self._runs.machine.pool.put(turns)
            except IsolaError as exc:
                turns.refuse(exc)
            except BaseException:
                self._take_back()
                raise
            # The phase may change between any two lines, on the guest's thread. No change is missed: whoever makes one
            # sets the news afterwards, and the flag stays up until it is seen.
            while turns.state.phase is not Phase.ENDED:
                if turns.timer is None and turns.limits.max_cpu is None and not turns.state.stop:
                    await news.wait()
                else:
                    await self._wait_for_news()
                if turns.frames is not None and self._has_work(turns.frames):
                    break
                if turns.state.phase is Phase.PARKED:
                    self._look_after()
        # A cancellation, an interrupt key, no thread: the guest must be out of its turn before anybody goes on, and the
        # run must not be left before that.
        except BaseException:
            self._act(Event.CANCEL)
            await self._unwind()
            raise
        if turns.state.phase is not Phase.ENDED:
            await self._drive_with_tasks()

    async def _drive_with_tasks(self) -> None:
        """Drive the run with a task group for what its services start."""
        async with self._open_services() as group:
            try:
                self._start_services(group)
                if self.turns.state.phase is Phase.NEW:
                    self._act(Event.START)
                await self._converse(group)
            except BaseException:
                self._act(Event.CANCEL)
                await self._unwind(group)
                raise
            # The guest is done. Handlers that it never waited for are cancelled, and the run ends when they have.
            await self._cancel_services(group)

    @asynccontextmanager
    async def _open_services(self) -> AsyncGenerator[TaskGroup]:
        """Open a task group for what services start; none of it is left behind, however the block is left."""
        async with open_task_group() as group:
            try:
                yield group
            finally:
                # Shielded tasks too, which the group does not cancel when it is left by an exception. As a rule they
                # have been cancelled in slices, and there is nothing to be done.
                for service in self._services:
                    while service.cancel():
                        pass
                self._cancel_group(group)

    @property
    def _services(self) -> tuple[Service, ...]:
        frames = self.turns.frames
        return () if frames is None else frames.services

    async def _cancel_services(self, group: TaskGroup) -> None:
        """Cancel the tasks of all services, a slice of them in each step of the event loop."""
        for service in self._services:
            while service.cancel():
                await anyio.lowlevel.checkpoint()
        self._cancel_group(group)

    def _cancel_group(self, group: TaskGroup) -> None:
        # Asked first: on asyncio a scope's cancellation costs as much as a small run.
        if any(service.has_tasks for service in self._services):
            group.cancel_scope.cancel()

    async def _converse(self, group: TaskGroup) -> None:
        """Serve the guest until the run has ended."""
        while True:
            # Both look at everything there is, because one wake-up may stand for many reasons.
            self._start_services(group)
            self._look_after()
            if self.turns.state.phase is Phase.ENDED:
                return
            await self._wait_for_news()

    def _end(self, wall_s: float) -> None:
        """The run has ended: end its services, and add up what it used."""
        runs, turns, machine = self._runs, self.turns, self._runs.machine
        machine.conversation = SILENCE
        frames = turns.frames
        if frames is not None:
            self._end_services(frames)
        if not turns.state.delivered:  # a run that no guest has heard of used nothing
            return
        last, total = runs.last, runs.total
        last.wall_s = wall_s
        last.waiting_s = max(0.0, wall_s - turns.busy_s)
        last.cpu_s = turns.cpu.used_s - turns.cpu_before_s
        last.peak_memory = turns.memory_size
        last.hostcalls = 0 if frames is None else sum(service.count for service in frames.services)
        last.output_bytes = 0 if frames is None else frames.output.size_bytes
        if machine.metered:
            last.fuel = machine.fuel_used() if turns.has_fuel else 0
            total.fuel = (total.fuel or 0) + (last.fuel or 0)
        last.runs = 1
        total.runs += 1
        total.cpu_s += last.cpu_s
        total.wall_s += last.wall_s
        total.waiting_s += last.waiting_s
        total.hostcalls += last.hostcalls
        total.output_bytes += last.output_bytes
        total.peak_memory = max(total.peak_memory, last.peak_memory)

    def _end_services(self, frames: Frames) -> None:
        """Show what is left to be shown, drop what was never started."""
        frames.output.flush()
        for service in frames.services:
            service.abandon()
            if service.failure is not None and self._gives_way_to_producer():
                held, self.turns.outcome = [self.turns.outcome], service.failure
                dispose(held)

    def _gives_way_to_producer(self) -> bool:
        """Whether a producer's failure is the better reason: over all that a guest can make of it, not over a limit."""
        outcome = self.turns.outcome
        return isinstance(outcome, GuestError) or not isinstance(outcome, IsolaError)

    # --- looking after the guest ------------------------------------------------------------------------------------

    def _act(self, event: Event) -> None:
        """Report an event of the task's, and do what follows."""
        # Outside the lock: the pool may hand the turn to a thread at once, whose first step is to take it.
        for action in self.turns.step(event):
            if action is Action.SUBMIT:
                self._submit()
            elif action is Action.WITHDRAW_WORK and self._runs.machine.pool.withdraw(self.turns):
                self._act(Event.WITHDRAWN)

    def _submit(self) -> None:
        """Ask for a turn, which begins when there is a slot; guests that unwind go first."""
        turns, pool = self.turns, self._runs.machine.pool
        # Before the work is put: from then on both are the guest thread's.
        turns.timer = None
        turns.has_room = False
        try:
            pool.put(turns, Rank.UNWINDING if turns.state.stop else Rank.FRESH)
        except IsolaError as exc:
            turns.refuse(exc)
        except BaseException:
            self._take_back()
            raise

    def _take_back(self) -> None:
        """Take back a turn for which there is no thread, or that an interrupt key came between.

        The pool may have had it by then or not. A turn that begins all the same is refused.
        """
        self._runs.machine.pool.withdraw(self.turns)
        self._act(Event.WITHDRAWN)

    def _look_after(self) -> None:
        """Give a parked guest its next turn if there is anything for it, and end one that is being stopped."""
        turns = self.turns
        # Parked: no thread has the turn, and only this task can ask for one. So what is seen here stays so.
        if turns.state.phase is not Phase.PARKED:
            return
        refusal, turns.refusal = turns.refusal, None
        if refusal is not None:
            if not turns.state.stop:
                raise refusal
            # A guest that is being stopped could not unwind without a thread: one is asked for again, until it is given
            # up.
            turns.timer = time.monotonic() + self._runs.patience.reminder_s
            return
        if turns.state.stop:
            # Before DUE: a cancelled guest is sent CANCEL first, and gets what it waited for after that.
            self._act(Event.LOOK)
        if (
            turns.has_room
            or (turns.timer is not None and time.monotonic() >= turns.timer)
            or (turns.frames is not None and any(service.has_completions for service in turns.frames.services))
        ):
            self._act(Event.DUE)

    @staticmethod
    def _has_work(frames: Frames) -> bool:
        return any(service.has_work for service in frames.services)

    def _start_services(self, group: TaskGroup) -> None:
        frames = self.turns.frames
        if frames is not None:
            for service in frames.services:
                if service.has_work:
                    service.start(group)

    async def _wait_for_news(self) -> None:
        """Wait until a turn or an op ends, a timer is due, or it is time to look at the guest again."""
        limit = self._seconds_to_look()
        if limit is None:
            await self._runs.news.wait()
            return
        # Time running out leaves the flag as it is: news that comes at that very moment is seen the next time.
        with anyio.move_on_after(limit):
            await self._runs.news.wait()
        self.turns.remind()
        self.turns.check_cpu()

    def _seconds_to_look(self) -> float | None:
        turns = self.turns
        phase = turns.state.phase
        if phase is Phase.PARKED:
            return None if turns.timer is None else max(0.0, turns.timer - time.monotonic())
        if phase is Phase.ENDED:
            return None
        if turns.state.interrupt in (Interrupt.RAISED, Interrupt.FINAL):
            # Whoever was interrupted comes back within microseconds as a rule, and then there is news; this is for the
            # others.
            return self._runs.patience.reminder_s
        if turns.limits.max_cpu is not None:
            return max(_SHORTEST_LOOK_S, turns.limits.max_cpu - turns.cpu_s)
        return None

    # --- being cancelled --------------------------------------------------------------------------------------------

    async def _unwind(self, tasks: TaskGroup | None = None) -> None:
        """Bring a cancelled run to its end: let the guest unwind within the grace, stop it for good after that.

        Shielded, and bounded by the time until the guest is told, its grace, and the time an interrupted guest thread
        takes to come back.

        Args:
            tasks: those of the run's services, if there are any, to be cancelled too.
        """
        turns = self.turns
        if turns.state.phase is Phase.ENDED:
            return
        # From the first moment on: for a crowd that is cancelled at once, each with its exceptions, the loop would look
        # for garbage in all that the crowd holds, which takes a tenth of a second or more, and finds it still in use.
        with no_full_collections(is_due=False):
            await self._stop(tasks)

    async def _stop(self, tasks: TaskGroup | None) -> None:
        began = time.monotonic()
        # A group of its own, because the run's is cancelled: a guest may make hostcalls while it unwinds, and is
        # answered. It is left when the guest is out: handlers that are slow to end must not keep the guest from being
        # stopped.
        with anyio.CancelScope(shield=True):
            async with self._open_services() as group:
                await self._unwind_beside(group, tasks, began)

    async def _unwind_beside(self, group: TaskGroup, tasks: TaskGroup | None, began: float) -> None:
        turns = self.turns
        # By the clock and not by a scope alone: asyncio's own `Task.cancel` ends `_let_unwind` early, as often as it is
        # called, and each time what is left of the grace is begun again.
        try:
            await outlast(
                lambda: turns.state.phase is Phase.ENDED or self._grace_left(began) <= 0,
                partial(self._let_unwind, began, group, tasks),
            )
        finally:
            # However that ended. From here on interrupts are final, and the guest, if it is not out, is broken.
            self._act(Event.GRACE_OVER)  # nothing follows from that for a run that has ended
            # A thread that is inside the guest cannot be left behind: the next run, or whoever frees the memory, would
            # meet it there. It comes back at its next epoch check, or when the plain handler that has it returns.
            await outlast(lambda: turns.state.phase in (Phase.PARKED, Phase.ENDED), self._wait_for_news)
            # A turn that was withdrawn too late was refused, and has parked: that is the end of it.
            self._act(Event.GRACE_OVER)
        await self._cancel_services(group)

    def _grace_left(self, began: float) -> float:
        """Return for how many seconds a guest that is cancelled since ``began`` may go on, as things are."""
        turns, patience = self.turns, self._runs.patience
        # The state first: when its thread had its slot was noted before the phase changed.
        state = turns.state
        since, limit = began, patience.grace_s
        if turns.told_at is not None:
            since = turns.told_at
        # SENT: its thread is about to note when.
        elif state.phase in _QUEUES or state.notice is Notice.SENT:
            limit = patience.queued_s
        # One that queued until now had no moment in which it could be told.
        else:
            since = max(began, min(turns.machine.instance.waiter.began, began + patience.queued_s))
        return since + limit - time.monotonic()

    async def _let_unwind(self, began: float, group: TaskGroup, tasks: TaskGroup | None) -> None:
        """Give the guest its courtesy and its grace; hostcalls that it makes meanwhile are tasks of ``group``."""
        await pace()
        # Handlers first, and without waiting for them: what they answer while they are cancelled reaches the guest.
        if tasks is not None:
            await self._cancel_services(tasks)
        while (left := self._grace_left(began)) > 0:
            # Looked at again after a grace: one that is told meanwhile has no less than that left.
            with anyio.move_on_after(min(left, self._runs.patience.grace_s)):
                await self._wait_until_told()
                await self._converse(group)
                break

    async def _wait_until_told(self) -> None:
        """Wait until the guest has parked, or knows of its cancellation; interrupt one that computes on."""
        turns, patience = self.turns, self._runs.patience
        # Two budgets: the guest's own CPU, and the clock for a guest whose thread is never scheduled.
        end = time.monotonic() + patience.patience_s
        withheld_at_cpu_s: float | None = None  # the guest got no reply, and ought to park
        while True:
            state = turns.state
            if state.phase is not Phase.QUEUED and state.phase not in IN_TURN:
                return
            # Told, or interrupted for good.
            if state.notice is not Notice.NONE or state.interrupt is Interrupt.FINAL:
                return
            left = patience.courtesy_s
            if state.phase is Phase.COMPUTING:
                cpu_now_s = turns.cpu.now()
                if state.interrupt is not Interrupt.SPENT:
                    left -= cpu_now_s - turns.tellable_at_cpu_s
                else:
                    # It was, so to speak, shown the way out: further door calls do not begin its courtesy anew.
                    if withheld_at_cpu_s is None:
                        withheld_at_cpu_s = cpu_now_s
                    left = patience.withheld_s - (cpu_now_s - withheld_at_cpu_s)
                if left <= 0 or time.monotonic() >= end:
                    self._act(Event.PATIENCE_OVER)
                    left = patience.reminder_s
            with anyio.move_on_after(left):
                await self._runs.news.wait()
            turns.remind()
