"""Run guests on a bounded number of threads that have stacks large enough for them.

A *slot* is the right to compute; a :class:`Crew` has ``max_parallel`` of them. A :class:`Ticket` waits for a slot first
come first served and may be withdrawn while it waits. A guest that blocks (a plain ``time.sleep``, a wait for the
host) keeps its thread but gives its slot back while it waits, so threads are as many as slots plus blocked guests,
and idle ones end after a while.

Invariants, under ``_lock``: ``_active`` is the number of slots taken; a ticket is in ``_queue`` or has a thread, never
both; ``_queue`` and ``_returning`` are empty whenever a slot is free.
"""

from __future__ import annotations

__all__ = ["Crew", "Ticket"]

import os
import threading
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

STACK_BYTES: Final = 20 << 20
"""A guest's own 8 MiB of wasm stack, what native code under it needs, and room for Python's frames on top."""
IDLE_S: Final = 10.0
"""How long a thread without work stays; long enough to bridge the gaps of a busy program, a guess otherwise."""
EXTRA_SLOTS: Final = 2
"""Slots beyond the number of cores: guests also wait for the GIL."""

_stack_size_lock: Final = threading.Lock()


class Ticket:
    """One piece of guest work; ``run`` must not raise."""

    __slots__ = ("_crew", "run")

    def __init__(self, crew: Crew, run: Callable[[], None]) -> None:
        self._crew = crew
        self.run = run

    def withdraw(self) -> bool:
        """Take the ticket back if no thread has it yet; tell whether that worked."""
        return self._crew._withdraw(self)  # noqa: SLF001 - same module


class _Thread:
    """One guest thread and its inbox."""

    def __init__(self, crew: Crew, number: int) -> None:
        self._crew = crew
        self.inbox: SimpleQueue[Ticket | None] = SimpleQueue()
        self.ending = False
        thread = threading.Thread(target=self._work, name=f"isola-guest-{number}", daemon=True)
        with _stack_size_lock:
            before = threading.stack_size(STACK_BYTES)
            try:
                thread.start()
            finally:
                threading.stack_size(before)

    def _work(self) -> None:
        crew = self._crew
        while True:
            try:
                ticket = self.inbox.get(timeout=IDLE_S)
            except Empty:
                if crew._retire(self):  # noqa: SLF001 - same module
                    return
                ticket = self.inbox.get()
            if ticket is None:
                return
            while ticket is not None:
                ticket.run()
                ticket = crew._next(self)  # noqa: SLF001 - same module
                # `ticket` was rebound before the thread parks, so what the last one referred to can die.
            if self.ending:
                return


class Crew:
    """The guest threads of one context."""

    def __init__(self, max_parallel: int | None = None) -> None:
        self.max_parallel: Final = max_parallel or (os.cpu_count() or 1) + EXTRA_SLOTS
        self.retired = False
        self._lock = threading.Lock()
        self._queue: deque[Ticket] = deque()
        self._returning: deque[threading.Lock] = deque()
        self._idle: list[_Thread] = []
        self._active = 0
        self._started = 0

    def submit(self, run: Callable[[], None], *, urgent: bool = False) -> Ticket:
        """Have ``run`` called on a guest thread when a slot is free, or at once when it is ``urgent``.

        Urgent is a turn in which a cancelled guest unwinds: it is short, and must not wait for other guests.
        """
        ticket = Ticket(self, run)
        with self._lock:
            if urgent or self._active < self.max_parallel:
                self._active += 1
                self._hand_over(ticket)
            else:
                self._queue.append(ticket)
        return ticket

    def _hand_over(self, ticket: Ticket) -> None:
        if self._idle:
            thread = self._idle.pop()
        else:
            self._started += 1
            thread = _Thread(self, self._started)
        thread.inbox.put(ticket)

    def _withdraw(self, ticket: Ticket) -> bool:
        with self._lock:
            try:
                self._queue.remove(ticket)
            except ValueError:
                return False
            return True

    def _next(self, thread: _Thread) -> Ticket | None:
        """Give the thread's slot to whoever waits longest, and the thread its next work if that is a ticket."""
        with self._lock:
            if not self._returning and self._queue and self._active <= self.max_parallel:
                return self._queue.popleft()
            self._free_slot()
            if self.retired:
                thread.ending = True
            else:
                self._idle.append(thread)
            return None

    def _free_slot(self) -> None:
        self._active -= 1
        if self._active >= self.max_parallel:  # a returning guest had jumped the queue
            return
        if self._returning:
            self._active += 1
            self._returning.popleft().release()
        elif self._queue:
            self._active += 1
            self._hand_over(self._queue.popleft())

    def _retire(self, thread: _Thread) -> bool:
        with self._lock:
            try:
                self._idle.remove(thread)
            except ValueError:
                return False  # work is on its way to the inbox
            return True

    def pause(self) -> None:
        """Give the calling guest thread's slot back, before it blocks."""
        with self._lock:
            self._free_slot()

    def resume(self, *, at_once: bool) -> None:
        """Take a slot again, before the guest computes on.

        ``at_once`` jumps the queue: for a guest that is about to be stopped, so that stopping it never waits for
        other guests.
        """
        with self._lock:
            if at_once or self._active < self.max_parallel:
                self._active += 1
                return
            turn = threading.Lock()
            turn.acquire()
            self._returning.append(turn)
        turn.acquire()

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
