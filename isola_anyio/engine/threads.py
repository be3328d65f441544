"""Threads: a bounded pool of guest threads with stacks large enough for guests, and the way back into the event loop.

The one module that hands work between an event loop and threads. A *slot* is the right to compute; a
:class:`ThreadPool` has ``max_parallel`` of them. Whoever wants one (:class:`Work`, a guest that comes back from
waiting) gets it first come first served; work may be withdrawn while it waits. A guest that blocks keeps its thread
and gives its slot back while it waits, so there are as many threads as slots and blocked guests; idle threads end after
a while.

A guest that computes for ever would keep its slot for ever. So when somebody has waited for a slot for
``PATIENCE_S``, the epoch is incremented and computing guests are preempted: each yields its slot to the next in line
and queues again, ``SLICE_S`` at a time, until nobody waits.

Invariants, under ``_lock``: ``_active`` is the number of slots taken; work is in ``_queue`` or has a thread, never
both; ``_queue`` is empty whenever a slot is free and a thread can be had. Under the lock nothing of anybody else's is
called that takes a lock.

The operating system may refuse a thread, for a moment or for good. Whoever brings work is told; work that was queued
already stays first in line, and has the next thread that comes free, or that can be started: the ticker tries again.

Longer than other modules, because slots and threads change hands under one lock.

The way back is a :class:`Wakeup`: a level, not a queue. Data is put somewhere first, then :meth:`Wakeup.set` is called;
any number of sets before the task looks is one wake-up, and costs one crossing.
"""

from __future__ import annotations

__all__ = ["SlotWaiter", "ThreadPool", "Wakeup", "Work", "WorkItem", "current_loop", "loop_caller", "loop_finder"]

import os
import threading
import time
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import sniffio

from isola_anyio.errors import IsolaError

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

_NO_THREAD: Final = (RuntimeError, MemoryError)
"""What ``Thread.start`` raises where the system refuses a thread."""

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

    __slots__ = ("_function", "since")

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self.since = 0.0

    def run(self) -> None:
        """Call it, on a guest thread."""
        self._function()


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
    """One guest thread and its inbox.

    Raises:
        RuntimeError, MemoryError: the system refuses another thread.
    """

    def __init__(self, pool: ThreadPool, number: int) -> None:
        self._pool = pool
        self.inbox: SimpleQueue[Work | None] = SimpleQueue()
        self.ending = False
        thread = threading.Thread(target=self._work, name=f"isola-guest-{number}", daemon=True)
        # The size of the next thread's stack is the interpreter's, one for all: nobody else may start one meanwhile.
        with _stack_size_lock:
            before = threading.stack_size(STACK_BYTES)
            try:
                thread.start()
            except BaseException:
                # After an interrupt key, while `start` waited for it, the thread lives. Nobody will know it: it ends.
                self.inbox.put(None)
                raise
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
                # Somebody took this thread from the idle ones a moment ago: what it was taken for is on its way.
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

        Raises:
            IsolaError: a slot is free, and no thread can be started; the work will not be done.
        """
        with self._lock:
            if urgent or (self._active < self.max_parallel and not self._queue):
                self._active += 1
                if self._idle:
                    self._idle.pop().inbox.put(work)
                else:
                    self._start_first(work)
            else:
                self._enqueue(work)
                self._serve_queue()  # in vain, but for a queue that stands before a free slot for want of a thread

    def _start_first(self, work: Work) -> None:
        """Start a thread for work that was just brought, and has its slot; give the slot back if that fails."""
        try:
            self._start_thread(work)
        except _NO_THREAD as exc:
            self._active -= 1
            raise IsolaError(
                f"no thread can be started for a guest ({exc}): the process is at the limit of its threads or of its "
                f"memory, with {threading.active_count()} threads now; close sandboxes that wait inside plain guest "
                "code, raise the limit (ulimit -u, a container's pids limit), or try again"
            ) from exc
        except BaseException:
            self._active -= 1
            raise

    def _enqueue(self, waiting: Work | SlotWaiter) -> None:
        waiting.since = time.monotonic()
        self._queue.append(waiting)
        self._start_ticking()

    def _start_ticking(self) -> None:
        if not self._ticking:
            # Refused a thread, the queue goes on without a ticker: slots still change hands when guests end or block.
            # It is tried again with the next that queues.
            with suppress(*_NO_THREAD):
                threading.Thread(target=self._tick, name="isola-slices", daemon=True).start()
                self._ticking = True  # the ticker looks at it under the lock, which is held here

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
            queue = self._queue
            # After urgent work there may be more slots taken than there are: then this one is not handed on.
            if queue and self._active <= self.max_parallel and not isinstance(first := queue[0], SlotWaiter):
                queue.popleft()
                return first
            if self.retired:
                thread.ending = True
            else:
                self._idle.append(thread)  # before the queue is served, which may have work for it
            self._active -= 1
            if queue:
                self._serve_queue()
            return None

    def _serve_queue(self) -> None:
        """Give free slots, of which there is one at most as a rule, to those who wait longest; under the lock."""
        queue = self._queue
        while queue and self._active < self.max_parallel:
            first = queue[0]
            if not isinstance(first, SlotWaiter) and self._give_thread(first):
                queue.popleft()
                self._active += 1
                continue
            # Where work finds no thread, guests that only want to go on pass it: they have theirs, which come free.
            waiter = next((waiting for waiting in queue if isinstance(waiting, SlotWaiter)), None)
            if waiter is None:
                self._start_ticking()
                return
            queue.remove(waiter)
            self._active += 1
            waiter.grant()

    def _give_thread(self, work: Work) -> bool:
        """Hand queued work to a thread; ``False``: none can be had now, and on this thread there is nobody to tell."""
        if self._idle:
            self._idle.pop().inbox.put(work)
            return True
        try:
            self._start_thread(work)
        except _NO_THREAD:
            return False
        return True

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
            self._active -= 1
            if self._queue:
                self._serve_queue()

    def resume(self, turn: SlotWaiter, expedited: Callable[[], bool]) -> None:
        """Take a slot again, before the guest computes on.

        A guest that is ``expedited()``, about to be stopped, does not queue; see also :meth:`expedite`.
        """
        # Asked under the lock, under which `expedite` looks for it in the queue: it is found there, or was asked after.
        with self._lock:
            if expedited() or self._active < self.max_parallel:
                self._active += 1
                return
            self._enqueue(turn)
        # Outside the lock: whoever grants the slot needs it.
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
                self._serve_queue()  # where no thread could be started before
                if not self._queue:
                    self._ticking = False
                    return
                overdue = self._is_overdue()
                self._slice = SLICE_S if overdue else PATIENCE_S
                is_full = self._active >= self.max_parallel  # else it is a thread that is missing, and not a slot
            if overdue and is_full:
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
