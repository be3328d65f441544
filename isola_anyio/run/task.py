"""One run of a guest, from its first message to its last.

A run is a conversation in turns. Its task, in the caller's event loop, hands the guest messages and waits; the guest's
turns happen on guest threads; what the guest asks for during a turn lands in deques, and a :class:`Wakeup` tells the
task to look. The straight line::

    message -> a CPU slot -> turn on a guest thread -> PARK or DONE -> the task
                 ^                                       |
                 +---- completions, room, a timer <------+

This module is the run's own task; ``turns.py`` is what happens on the guest's thread, ``door.py`` what a guest may say
there.
"""

from __future__ import annotations

__all__ = ["GRACE_S", "Run"]

import time
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from isola_anyio.concurrency import open_task_group, outlast
from isola_anyio.engine import ffi
from isola_anyio.errors import (
    GuestError,
    IsolaError,
)
from isola_anyio.run.frames import DoorKeeper
from isola_anyio.run.turns import Phase, Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from isola_anyio.values import JsonValue

GRACE_S: Final = 1.0
"""How long a cancelled guest may unwind before it is stopped for good."""
COURTESY_S: Final = 0.002
"""A guest that computes when it is cancelled is interrupted when it has used this much CPU without coming to a place
where it can be told, so that one that mostly waits, or mostly talks, stays usable; well below the 5 ms in which a
spinning guest has to be stopped. It is the guest's own CPU time: one that merely waits for a core is not to blame."""
PATIENCE_S: Final = 0.05
"""... and after this much time on the clock whatever it used, so that a busy machine does not keep its caller waiting;
a guess."""


class Run(DoorKeeper):
    """One run; made and awaited in one event loop."""

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
            return max(0.005, self.limits.max_cpu - self._cpu.now())
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
        self.guest.instance.expedite()
        self._submit(self._cancel_frame, urgent=True)

    def _submit_first(self) -> None:
        self._started = True
        self._submit(self._first_frame)

    def _submit(self, make_frame: Callable[[], bytes], *, urgent: bool = False) -> None:
        self.phase = Phase.QUEUED
        self._timer = None
        self._room_came = False
        self._work_item = self.guest.pool.submit(partial(self._turn, make_frame), urgent=urgent)

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
        if phase is Phase.QUEUED and self._started and self._work_item.withdraw():
            self.phase = Phase.PARKED
        elif phase is Phase.WAITING:
            self.guest.instance.expedite()

    async def _unwind(self) -> None:
        """Bring a cancelled run to its end: let the guest unwind within the grace, stop it for good after that.

        Shielded, and bounded by the grace plus the time an interrupted guest thread takes to come back.
        """
        if not self._started or (not self._delivered and self.phase is Phase.PARKED):
            self.phase = Phase.ENDED
            return
        end = time.monotonic() + GRACE_S
        try:
            await outlast(lambda: self.phase is Phase.ENDED or time.monotonic() >= end, partial(self._let_unwind, end))
        finally:
            if self.phase is not Phase.ENDED:
                self._stop_for_good()
                await outlast(lambda: self.phase in (Phase.PARKED, Phase.ENDED), self._news.wait)
                self.phase = Phase.ENDED
            self.guest.instance.forget_interrupt()

    async def _let_unwind(self, end: float) -> None:
        """Give the guest its courtesy and its grace, which is over at ``end``."""
        async with open_task_group() as group:
            with anyio.move_on_after(end - time.monotonic()):
                await self._await_turn()
                await self._converse(group)
            group.cancel_scope.cancel()

    async def _await_turn(self) -> None:
        """Wait until the guest's turn is over, or it knows of its cancellation; interrupt one that computes on."""
        end = time.monotonic() + PATIENCE_S
        while self.phase in (Phase.QUEUED, Phase.COMPUTING, Phase.WAITING) and not self._told:
            if self._in_handler:
                end = time.monotonic() + PATIENCE_S
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

        One that sleeps in plain code cannot be told; one that has parked is on its way out, and one whose plain
        handler is at work is told when that returns.
        """
        if self._asleep:
            return 0.0
        if self._in_handler:
            return COURTESY_S
        if self.phase is Phase.COMPUTING and self._verdict is None and self._cpu.paused:
            return 0.0  # the host makes an answer for it, and stops at once
        if self.phase is Phase.COMPUTING and self._verdict is None:
            return max(0.0, COURTESY_S - (self._cpu.now() - self._silent_since_cpu))
        return COURTESY_S

    @property
    def _in_handler(self) -> bool:
        """Whether a plain handler has the guest's thread: the guest waits for it and is told when it returns."""
        return self.phase is Phase.COMPUTING and self.desk.in_handler

    def _stop_for_good(self) -> None:
        """The grace is over: whatever still runs is interrupted; a guest that did not unwind is not trusted again."""
        self.guest.abandoned = True
        self.guest.instance.interrupt()
        if self.phase is Phase.QUEUED and self._work_item.withdraw():
            self.phase = Phase.PARKED
