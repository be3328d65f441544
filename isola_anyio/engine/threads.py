"""Threads: a bounded pool of guest threads with stacks large enough for guests.

The one module that hands work to threads. A *slot* is the right to compute (``slots.py`` has the order in which slots
change hands). Whoever wants one (:class:`~isola_anyio.engine.slots.Work`, a guest that comes back from waiting) queues
for it; work may be withdrawn while it waits. A guest that blocks keeps its thread and gives its slot back while it
waits, so there are as many threads as slots and blocked guests; idle threads end after a while.

A guest that computes for ever would keep its slot for ever. So when somebody has waited for a slot for ``PATIENCE_S``,
the epoch is incremented and computing guests are preempted: each yields its slot to the next in line and queues again,
``SLICE_S`` at a time, until nobody waits. A preempted guest keeps its thread too.

Threads are started by a thread, the *manager*, which also watches the queue: never by an event loop, which would stand
still for as long as a thread takes to begin, nor under the lock. (The manager itself is started without waiting for it,
by whoever finds that there is none.) The operating system may refuse a thread, for a moment or for good. The manager
tries again for ``THREAD_PATIENCE_S``; work for which a slot is free and no thread can be had is refused after that.
Guests that only want to go on have their threads, which come free, and pass such work.

Invariants, under ``_lock``: ``_slots.active`` is the number of slots taken; work is in the queue or has a thread, never
both; a thread is in ``_idle`` or has work. Nobody waits who could have a slot, unless it is a thread that is missing,
and then the manager knows. Under the lock nothing of anybody else's is called that takes a lock.
"""

from __future__ import annotations

__all__ = ["ThreadPool", "WorkItem"]

import os
import threading
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from isola_anyio.engine.guest_thread import GuestThread
from isola_anyio.engine.slots import Rank, SlotQueue, SlotWaiter
from isola_anyio.errors import IsolaError
from isola_anyio.fairness import baton, note_gil_released

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.engine.guest_thread import Start
    from isola_anyio.engine.slots import Work

STACK_BYTES: Final = 20 << 20
"""A guest's own 8 MiB of wasm stack, what native code under it needs, and room for Python's frames on top."""
_MANAGER_STACK_BYTES: Final = 1 << 20
IDLE_S: Final = 10.0
"""How long a thread without work stays; long enough to bridge the gaps of a busy program, a guess otherwise."""
SLOTS_BEYOND_CORES: Final = 2
"""Slots beyond the number of cores: guests also wait for the GIL."""
PATIENCE_S: Final = 0.2
"""How long somebody waits for a slot before computing guests must take turns; most runs are long over by then."""
SLICE_S: Final = 0.05
"""How long a guest computes before it gives its slot away, once they take turns."""
THREAD_PATIENCE_S: Final = 1.0
"""For how long the operating system is asked for a thread again and again before work is refused."""
_RETRY_S: Final = 0.02


class WorkItem:
    """Work that is one call of a function, which must not raise.

    Args:
        function: called on a guest thread.
        done: called when the function has returned and the slot was given back.
        refused: called instead of both when no thread can be had.
    """

    __slots__ = ("_done", "_function", "_refused", "since")
    long = False

    def __init__(
        self,
        function: Callable[[], None],
        done: Callable[[], None] | None = None,
        refused: Callable[[IsolaError], None] | None = None,
    ) -> None:
        self._function = function
        self._done = done
        self._refused = refused
        self.since = 0.0

    def run(self) -> None:
        """Call it, on a guest thread."""
        self._function()

    def report(self) -> None:
        """Say that it was called."""
        if self._done is not None:
            self._done()

    def refuse(self, error: IsolaError) -> None:
        """Say that it will not be called."""
        if self._refused is not None:
            self._refused(error)


class _Thread:
    """One guest thread and its inbox; made by the manager, which waits until it runs.

    Raises:
        IsolaError: the system refuses another thread.
    """

    def __init__(self, pool: ThreadPool, number: int) -> None:
        self._pool = pool
        self.inbox: SimpleQueue[Work | None] = SimpleQueue()
        self.ending = False
        GuestThread(self._work, name=f"isola-guest-{number}", stack_bytes=STACK_BYTES).start()

    def _work(self) -> None:
        pool = self._pool
        while True:
            try:
                work = self.inbox.get(timeout=IDLE_S)
            except Empty:
                if pool._retire_idle(self):  # noqa: SLF001 - same module
                    return
                # Somebody took this thread from the idle ones a moment ago: what it was taken for is on its way.
                work = self.inbox.get()
            if work is None:
                return
            while work is not None:
                work.run()
                done, work = work, pool._next(self)  # noqa: SLF001 - same module
                done.report()
                del done  # what the last one referred to can die before the thread parks, or works on
            if self.ending:
                return


class ThreadPool:
    """The guest threads of one context.

    Attributes:
        increment_epoch: called to make computing guests look whether they should take turns; the context sets it.
    """

    def __init__(self, max_parallel: int | None = None) -> None:
        self.max_parallel: Final = max_parallel or (os.cpu_count() or 1) + SLOTS_BEYOND_CORES
        self.retired = False
        self.increment_epoch: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        # All below: under the lock.
        self._slots: Final = SlotQueue(self.max_parallel)
        self._idle: list[_Thread] = []
        self._started = 0
        self._slice = PATIENCE_S
        # The manager: reports of its start, until somebody looks; whether there is one, whether it watches the queue,
        # and whether it was rung for and has yet to look.
        self._manager_starts: Final[SimpleQueue[Start]] = SimpleQueue()
        self._is_managed = False
        self._is_watched = False
        self._is_rung = False
        self._bell: Final[SimpleQueue[None]] = SimpleQueue()

    def submit(
        self,
        run: Callable[[], None],
        *,
        done: Callable[[], None] | None = None,
        refused: Callable[[IsolaError], None] | None = None,
        rank: Rank = Rank.FRESH,
    ) -> WorkItem:
        """:meth:`put` a function's call; see :class:`WorkItem` for the others."""
        item = WorkItem(run, done, refused)
        self.put(item, rank)
        return item

    def put(self, work: Work, rank: Rank = Rank.FRESH) -> None:
        """Have ``work.run()`` called on a guest thread when there is a slot; or else ``work.refuse()``.

        Raises:
            IsolaError: no thread can be started, not even the one that starts threads; the work will not be done.
        """
        with self._lock:
            slots, idle = self._slots, self._idle
            # The usual case in line: nobody waits, so that a wanted run may have any free slot of the usual ones.
            most = slots.max_parallel if rank is Rank.FRESH else slots.limit(rank)
            if idle and not slots.waiting and slots.active < most:
                slots.active += 1
                idle.pop().inbox.put(work)
                return
            slots.add(work, Rank.LONG if rank is Rank.FRESH and work.long else rank, time.monotonic())
            failure = self._serve()
            if failure is not None and slots.remove(work):
                raise failure

    def withdraw(self, work: Work) -> bool:
        """Take work back if no thread has it yet; tell whether that worked."""
        with self._lock:
            return self._slots.remove(work)

    def _next(self, thread: _Thread) -> Work | None:
        """Give the thread's slot to whoever is next, and the thread its next work if that is work."""
        with self._lock:
            slots = self._slots
            slots.active -= 1
            if slots.waiting:
                granted = slots.take(has_thread=True)
                if granted is not None and not isinstance(granted, SlotWaiter):
                    return granted
            else:
                granted = None
            if self.retired:
                thread.ending = True
            else:
                self._idle.append(thread)  # before the queue is served, which may have work for it
            if granted is not None:
                granted.grant()
            if slots.waiting:
                self._serve()
            return None

    def _serve(self) -> IsolaError | None:
        """Give free slots, of which there is one at most as a rule, to those who are next; under the lock.

        Returns:
            why nobody sees to the threads that are missing.
        """
        slots = self._slots
        while (granted := slots.take(has_thread=bool(self._idle))) is not None:
            self._hand_over(granted)
        # Rung for already, unless the manager's start has something to report: it may have died before it looked.
        is_rung = self._is_rung and self._manager_starts.empty()
        if slots.waiting and not is_rung and (not self._is_watched or slots.without_thread()):
            return self._ring()
        return None

    def _hand_over(self, granted: Work | SlotWaiter) -> None:
        if isinstance(granted, SlotWaiter):
            granted.grant()
        else:
            self._idle.pop().inbox.put(granted)

    def _retire_idle(self, thread: _Thread) -> bool:
        with self._lock:
            try:
                self._idle.remove(thread)
            except ValueError:
                return False  # work is on its way to the inbox
            return True

    # --- guests that block or are preempted -------------------------------------------------------------------------

    def pause(self) -> None:
        """Give the calling guest thread's slot back, before it blocks."""
        with self._lock:
            self._slots.active -= 1
            if self._slots.waiting:
                self._serve()

    def resume(self, turn: SlotWaiter) -> None:
        """Take a slot again, before the guest computes on; see also :meth:`expedite`."""
        # The rank is looked at under the lock, under which `expedite` looks for the guest in the queue: it is found
        # there, or its urgency was raised before this.
        with self._lock:
            slots = self._slots
            if not slots.waiting and slots.active < slots.limit(turn.rank):
                slots.active += 1
                turn.began = time.monotonic()
                return
            slots.add(turn, turn.rank, time.monotonic())
            self._serve()
        # Outside the lock: whoever grants the slot needs it.
        turn.wait()
        turn.began = time.monotonic()

    def expedite(self, turn: SlotWaiter) -> None:
        """Let a guest go first that queues for a slot: it is being stopped, and its ``urgency`` says so by now."""
        with self._lock:
            slots = self._slots
            if slots.waiting and slots.remove(turn):
                slots.add(turn, turn.rank, time.monotonic())
                self._serve()

    def preempt(self, turn: SlotWaiter) -> None:
        """Called by a computing guest at an epoch: give the slot to somebody who waited too long, and queue again."""
        with self._lock:
            slots, now = self._slots, time.monotonic()
            # One that has just begun is not the one to give way.
            if not slots.waiting or now - turn.began < SLICE_S / 2 or not slots.is_overdue(self._slice, now):
                return
            granted = slots.swap(has_thread=bool(self._idle))
            if granted is None:  # work without a thread, which the manager is about to start
                return
            turn.long = True
            slots.add(turn, turn.rank, now)
            self._hand_over(granted)
        turn.wait()
        turn.began = time.monotonic()

    def stand_aside(self, turn: SlotWaiter) -> None:
        """As :meth:`preempt`, in the middle of long work of the host's: called where its thread holds no lock."""
        if self._slots.waiting:
            baton.give_up()
            self.preempt(turn)
            baton.take(None)  # the work goes on as it was when it stood aside
            note_gil_released()

    # --- the manager -------------------------------------------------------------------------------------------------

    def _ring(self) -> IsolaError | None:
        """Make the manager look, and start one if there is none; under the lock.

        Returns:
            why there is none. Slots go on changing hands as guests end or block, and with the next that queues it is
            tried again.
        """
        self._is_rung = True
        self._bell.put(None)
        self._check_manager()  # the one there is may have died on its first steps
        if self._is_managed:
            return None
        manager = GuestThread(self._manage, name="isola-manager", stack_bytes=_MANAGER_STACK_BYTES)
        # Without waiting for it: this may be an event loop.
        manager.start_soon(self._manager_starts.put)
        self._is_managed = self._is_rung = True
        return self._check_manager()  # a refusal is reported by now

    def _check_manager(self) -> IsolaError | None:
        """Look at the reports of its start; return why there is none after all."""
        with suppress(Empty):
            try:
                self._manager_starts.get_nowait().check()
            except IsolaError as exc:
                self._is_managed = self._is_rung = False
                return exc
        return None

    def _manage(self) -> None:
        try:
            self._watch()
        except BaseException:
            with self._lock:
                self._is_managed = self._is_rung = self._is_watched = False  # the next that queues starts another
            raise

    def _watch(self) -> None:
        """Start threads that are missing and watch the queue, until there is nothing to do for a while."""
        failing_since: float | None = None
        pause = 0.0
        while True:
            heard = pause == 0.0
            if pause:
                with suppress(Empty):
                    self._bell.get(timeout=pause)
                    heard = True
            with self._lock:
                slots, now = self._slots, time.monotonic()
                # Whoever rings from here on finds this thread, or none, under the lock.
                self._is_rung = False
                self._is_watched = slots.waiting > 0
                if not slots.waiting:
                    self._slice = PATIENCE_S
                    if self.retired or not heard:
                        self._is_managed = False
                        return
                    failing_since, pause = None, IDLE_S
                    continue
                self._serve()
                works = slots.without_thread()
                is_overdue = slots.waiting > 0 and slots.is_overdue(self._slice, now)
                if is_overdue:
                    self._slice = SLICE_S
                missing = len(works) or (is_overdue and slots.overdue_work(self._slice, now) - len(self._idle))
                pause = self._slice
            if missing > 0:
                error = self._start_thread()
                if error is None:
                    failing_since, pause = None, 0.0
                    continue
                failing_since, pause = failing_since or now, _RETRY_S
                if now - failing_since >= THREAD_PATIENCE_S:
                    failing_since = None
                    self._refuse(works, error)
            # After the threads that are to take over are there.
            if is_overdue:
                self.increment_epoch()

    def _start_thread(self) -> IsolaError | None:
        """Start a thread and give it to whoever is next; return why there is none."""
        self._started += 1
        try:
            thread = _Thread(self, self._started)
        except IsolaError as exc:
            return exc
        except MemoryError as exc:
            return IsolaError(
                f"no thread can be started for a guest: the process is out of memory ({exc}); close sandboxes, or try "
                "again when there is some"
            )
        with self._lock:
            self._idle.append(thread)
            self._serve()
        return None

    def _refuse(self, works: list[Work], error: IsolaError) -> None:
        """Refuse work that a slot is free for, and that still lacks a thread."""
        with self._lock:
            works = [work for work in works if self._slots.remove(work)]
        # Without the lock: the run's own lock is taken, inside which runs take this one.
        for work in works:
            # One each: it is raised in several tasks, and an exception that is raised collects its raisers' frames.
            own = IsolaError(*error.args)
            own.__cause__ = error.__cause__
            work.refuse(own)

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> int:
        """Slots taken right now."""
        return self._slots.active

    @property
    def idle(self) -> int:
        """Threads that wait for work right now."""
        return len(self._idle)

    def retire(self) -> None:
        """Let threads end as soon as they have no work; guests that live still get theirs, from new threads."""
        with self._lock:
            self.retired = True
            idle, self._idle = self._idle, []
            for thread in idle:
                thread.inbox.put(None)
            if self._is_managed:
                self._bell.put(None)
