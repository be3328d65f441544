"""Guest threads: a bounded pool with stacks large enough for guests, and the way back into the event loop.

The one module that hands work between an event loop and threads. A *slot* is the right to compute; a
:class:`ThreadPool` has ``max_parallel`` of them. Whoever wants one (:class:`Work`, a guest that comes back from
waiting) gets it first come first served; work may be withdrawn while it waits. A guest that blocks keeps its thread
and gives its slot back while it waits, so there are as many threads as slots and blocked guests; idle threads end after
a while.

A guest that computes for ever would keep its slot for ever. So when somebody has waited for a slot for
``PATIENCE_S``, the epoch is incremented and computing guests are preempted: each yields its slot to the next in line
and queues again, ``SLICE_S`` at a time, until nobody waits.

Invariants, under ``_lock``: ``_active`` is the number of slots taken; work is in ``_queue`` or has a thread, never
both; ``_queue`` is empty whenever a slot is free. Under the lock nothing of anybody else's is called that takes a lock.

The way back is a :class:`Wakeup`: a level, not a queue. Data is put somewhere first, then :meth:`Wakeup.set` is called;
any number of sets before the task looks is one wake-up, and costs one crossing.
"""

from __future__ import annotations

__all__ = ["SlotWaiter", "ThreadPool", "Wakeup", "Work", "WorkItem", "current_loop", "loop_caller", "loop_finder"]

import os
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import sniffio

if TYPE_CHECKING:
    from collections.abc import Callable

STACK_BYTES: Final = 20 << 20
"""A guest's own 8 MiB of wasm stack, what native code under it needs, and room for Python's frames on top."""
IDLE_S: Final = 10.0
"""How long a thread without work stays; long enough to bridge the gaps of a busy program, a guess otherwise."""
EXTRA_SLOTS: Final = 2
"""Slots beyond the number of cores: guests also wait for the GIL."""
PATIENCE_S: Final = 2.0
"""How long somebody waits for a slot before computing guests must take turns; most runs are long over by then."""
SLICE_S: Final = 0.05
"""How long a guest computes before it gives its slot away, once they take turns."""
MAX_PREEMPTED: Final = 64
"""Guests that may stand aside in the middle of a computation at once; each holds a thread and its stack."""

_stack_size_lock: Final = threading.Lock()


class Work(Protocol):
    """What a guest thread can be given.

    Attributes:
        since: when it began to wait for a slot, by ``time.monotonic``; written by the pool.
    """

    since: float

    def run(self) -> None:
        """Do it, on a guest thread; must not raise."""


class WorkItem:
    """Work that is one call of a function, which must not raise."""

    __slots__ = ("run", "since")

    def __init__(self, run: Callable[[], None]) -> None:
        self.run = run
        self.since = 0.0


class SlotWaiter:
    """A guest thread's place in the queue for a slot; one a guest, used again and again.

    The lock is held except for the moment between :meth:`grant` and the end of :meth:`wait`: acquiring it a second time
    is what blocks the thread, and whoever grants the slot releases it from another thread. A plain lock, because a
    condition or a semaphore costs several times as much, and there is one waiter.
    """

    __slots__ = ("_granted", "since")

    def __init__(self) -> None:
        self._granted = threading.Lock()
        self._granted.acquire()
        self.since = 0.0

    def wait(self) -> None:
        """Block until the slot is there."""
        self._granted.acquire()

    def grant(self) -> None:
        """Let the thread compute."""
        self._granted.release()


class _Thread:
    """One guest thread and its inbox."""

    def __init__(self, pool: ThreadPool, number: int) -> None:
        self._pool = pool
        self.inbox: SimpleQueue[Work | None] = SimpleQueue()
        self.ending = False
        thread = threading.Thread(target=self._work, name=f"isola-guest-{number}", daemon=True)
        with _stack_size_lock:
            before = threading.stack_size(STACK_BYTES)
            try:
                thread.start()
            finally:
                threading.stack_size(before)

    def _work(self) -> None:
        pool = self._pool
        while True:
            try:
                work = self.inbox.get(timeout=IDLE_S)
            except Empty:
                if pool._retire_idle(self):  # noqa: SLF001 - same module
                    return
                work = self.inbox.get()
            if work is None:
                return
            while work is not None:
                work.run()
                work = pool._next(self)  # noqa: SLF001 - same module
                # `work` was rebound before the thread parks, so what the last one referred to can die.
            if self.ending:
                return


class ThreadPool:
    """The guest threads of one context.

    Attributes:
        increment_epoch: called to make computing guests look whether they should take turns; the context sets it.
    """

    def __init__(self, max_parallel: int | None = None) -> None:
        self.max_parallel: Final = max_parallel or (os.cpu_count() or 1) + EXTRA_SLOTS
        self.retired = False
        self.increment_epoch: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._queue: deque[Work | SlotWaiter] = deque()
        self._idle: list[_Thread] = []
        self._active = 0
        self._started = 0
        self._preempted = 0
        self._ticking = False
        self._slice = PATIENCE_S

    def submit(self, run: Callable[[], None], *, urgent: bool = False) -> WorkItem:
        """:meth:`put` a function's call."""
        item = WorkItem(run)
        self.put(item, urgent=urgent)
        return item

    def put(self, work: Work, *, urgent: bool = False) -> None:
        """Have ``work.run()`` called on a guest thread when a slot is free, or at once when it is ``urgent``.

        Urgent is a turn in which a cancelled guest unwinds: it is short, and must not wait for other guests.
        """
        with self._lock:
            if urgent or self._active < self.max_parallel:
                self._active += 1
                if self._idle:
                    self._idle.pop().inbox.put(work)
                else:
                    self._start_thread(work)
            else:
                self._enqueue(work)

    def _enqueue(self, waiting: Work | SlotWaiter) -> None:
        waiting.since = time.monotonic()
        self._queue.append(waiting)
        if not self._ticking:
            self._ticking = True
            threading.Thread(target=self._tick, name="isola-slices", daemon=True).start()

    def _start_thread(self, work: Work) -> None:
        self._started += 1
        _Thread(self, self._started).inbox.put(work)

    def withdraw(self, work: Work) -> bool:
        """Take work back if no thread has it yet; tell whether that worked."""
        with self._lock:
            try:
                self._queue.remove(work)
            except ValueError:
                return False
            return True

    def _next(self, thread: _Thread) -> Work | None:
        """Give the thread's slot to whoever waits longest, and the thread its next work if that is work."""
        with self._lock:
            if self._queue:
                if self._active <= self.max_parallel and not isinstance(first := self._queue[0], SlotWaiter):
                    self._queue.popleft()
                    return first
                self._free_slot()
            else:
                self._active -= 1
            if self.retired:
                thread.ending = True
            else:
                self._idle.append(thread)
            return None

    def _free_slot(self) -> None:
        self._active -= 1
        if self._active >= self.max_parallel or not self._queue:  # the former after urgent work
            return
        self._active += 1
        first = self._queue.popleft()
        if isinstance(first, SlotWaiter):
            first.grant()
        elif self._idle:
            self._idle.pop().inbox.put(first)
        else:
            self._start_thread(first)

    def _retire_idle(self, thread: _Thread) -> bool:
        with self._lock:
            try:
                self._idle.remove(thread)
            except ValueError:
                return False  # work is on its way to the inbox
            return True

    # --- guests that stand aside

    def pause(self) -> None:
        """Give the calling guest thread's slot back, before it blocks."""
        with self._lock:
            self._free_slot()

    def resume(self, turn: SlotWaiter, expedited: Callable[[], bool]) -> None:
        """Take a slot again, before the guest computes on.

        A guest that is ``expedited()``, about to be stopped, does not queue; see also :meth:`expedite`.
        """
        with self._lock:
            if expedited() or self._active < self.max_parallel:
                self._active += 1
                return
            self._enqueue(turn)
        turn.wait()

    def expedite(self, turn: SlotWaiter) -> None:
        """Let a guest that queues for a slot go on at once: it is being stopped, and ``expedited()`` is true."""
        with self._lock:
            try:
                self._queue.remove(turn)
            except ValueError:
                return
            self._active += 1
        turn.grant()

    def preempt(self, turn: SlotWaiter, expedited: Callable[[], bool]) -> None:
        """Called by a computing guest at an epoch: give the slot to somebody who waited too long, and queue again."""
        with self._lock:
            if not self._is_overdue() or self._preempted >= MAX_PREEMPTED:
                return
            self._preempted += 1
        self.pause()
        try:
            self.resume(turn, expedited)
        finally:
            with self._lock:
                self._preempted -= 1

    def _is_overdue(self) -> bool:
        return bool(self._queue) and time.monotonic() - self._queue[0].since >= self._slice

    def _tick(self) -> None:
        """Watch the queue until it is found empty; looks once in ``PATIENCE_S`` as long as nobody waits that long."""
        pause = threading.Event()
        self._slice = PATIENCE_S
        while True:
            pause.wait(self._slice)
            with self._lock:
                if not self._queue:
                    self._ticking = False
                    return
                overdue = self._is_overdue()
                self._slice = SLICE_S if overdue else PATIENCE_S
            if overdue:
                self.increment_epoch()

    # --- state

    @property
    def busy(self) -> int:
        """Slots taken right now."""
        return self._active

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


# --- the way back into an event loop


def current_loop() -> object:
    """Return what stands for the running event loop and no other; ``None`` where none runs."""
    try:
        if sniffio.current_async_library() == "trio":
            import trio  # noqa: PLC0415 - only where it is running

            return trio.lowlevel.current_trio_token()
        import asyncio  # noqa: PLC0415 - only where it is running

        return asyncio.get_running_loop()
    except RuntimeError:  # a thread, which may have a loop's context all the same
        return None


def loop_finder() -> Callable[[], object]:
    """Return a function that gives what :func:`current_loop` does as long as a loop of this kind runs.

    Cheaper, for who asks at every call: asyncio's is one call into C. It raises ``RuntimeError`` where no loop of this
    kind is running.
    """
    if sniffio.current_async_library() == "trio":
        import trio  # noqa: PLC0415 - only where it is running

        return trio.lowlevel.current_trio_token
    import asyncio  # noqa: PLC0415 - only where it is running

    return asyncio.get_running_loop


def loop_caller() -> Callable[[Callable[[], Any]], None]:
    """Return a function that any thread may use to call something soon in the running event loop.

    Once that loop has ended the call is dropped: nobody is left to be woken.
    """
    if sniffio.current_async_library() == "trio":
        import trio  # noqa: PLC0415 - only where it is running

        token = trio.lowlevel.current_trio_token()

        def call_trio(function: Callable[[], Any]) -> None:
            try:
                token.run_sync_soon(function)
            except trio.RunFinishedError:
                return

        return call_trio

    import asyncio  # noqa: PLC0415 - only where it is running

    loop = asyncio.get_running_loop()

    def call_asyncio(function: Callable[[], Any]) -> None:
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed
            return

    return call_asyncio


class Wakeup:
    """A flag that any thread raises and one task waits for; made inside the task's event loop."""

    __slots__ = ("_call", "_event", "_raised", "_scheduled")

    def __init__(self) -> None:
        self._call = loop_caller()
        self._scheduled = False
        self._raised = False
        self._event: anyio.Event | None = None

    def set(self) -> None:
        """Wake the task; from any thread."""
        # `_scheduled` is cleared before the flag is raised, so a set that finds it still up belongs to a wake-up that
        # has yet to happen, and what was put before that set is seen. So it is when the flag is up and not yet lowered.
        if not self._scheduled and not self._raised:
            self._scheduled = True
            self._call(self._raise)

    def _raise(self) -> None:
        self._scheduled = False
        self._raised = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Wait for the flag and lower it. Cancelling leaves it as it was."""
        if not self._raised:
            self._event = anyio.Event()
            try:
                await self._event.wait()
            finally:
                self._event = None
        self._raised = False
