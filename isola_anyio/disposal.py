"""Disposal: large values that the library is last to hold, let go on a thread of their own.

A value that a guest sent and the program never gets (an event nobody reads, the payload of a hostcall that was never
started, a result in whose place an error is raised) is freed by whoever drops it last, often in the event loop, which
would stand still meanwhile: 0.2 s for 27 MB of empty lists. Guest threads call ``codec.let_go`` themselves; the loop,
and a collector that may be on any thread, leave it to :func:`dispose`.

The thread lives as long as there is something to let go. It keeps up with any number of guests: decoding a value takes
several times as long as freeing it, and both need the interpreter's lock.
"""

from __future__ import annotations

__all__ = ["dispose"]

import _thread
import os
from collections import deque
from time import sleep
from typing import Any, Final

from isola_anyio import codec
from isola_anyio.codec.chunked.garbage import full_collections
from isola_anyio.fairness import in_pieces, yield_gil

_TRIES: Final = 10
_PAUSE_S: Final = 0.005
"""Between two looks whether somebody else still has a value: longer than most threads wait for the GIL."""


class _Disposal:
    """What waits to be let go, and the thread that does it.

    No lock is waited for: a collector may call :meth:`put` on any thread in the middle of anything.
    """

    def __init__(self) -> None:
        self._waiting: deque[list[Any]] = deque()
        # Held while the thread lives; only ever tried, never waited for.
        self._working = _thread.allocate_lock()

    @property
    def busy(self) -> bool:
        """Whether something is still to be let go."""
        return bool(self._waiting) or self._working.locked()

    def put(self, held: list[Any]) -> None:
        # The items before the look whether there is a thread: one that is about to end looks for items once more.
        self._waiting.append(held)
        if self._working.acquire(blocking=False):
            try:
                _thread.start_new_thread(self._work_in_pieces, ())  # `threading.Thread` would wait for its first step
            except RuntimeError:  # no thread to be had, or the interpreter ends: here then
                self._work()

    def _work_in_pieces(self) -> None:
        with in_pieces(), full_collections.put_off(is_due=False):
            self._work()

    def _work(self) -> None:
        waiting = self._waiting
        # By how often they were looked at: what somebody else had each time.
        shared: deque[list[Any]] = deque()
        while True:
            while waiting or shared:
                fresh: list[Any] = []
                while waiting:
                    held = waiting.popleft()
                    fresh += held
                    held.clear()  # whoever gave it away may still have the list
                shared.appendleft(fresh)
                del fresh
                # All of it, before anything is waited for: values that the program keeps must not hold up others.
                for held in shared:
                    self._let_go_alone(held)
                if len(shared) > _TRIES:
                    codec.let_go(shared.pop(), yield_gil)
                while shared and not shared[-1]:
                    shared.pop()
                if shared:
                    sleep(_PAUSE_S)
            self._working.release()
            # Whoever put something since the last look found the lock taken.
            if not waiting or not self._working.acquire(blocking=False):
                return

    @staticmethod
    def _let_go_alone(held: list[Any]) -> None:
        """Let the items go that nobody else has.

        Whoever dropped one, or handed it over from another thread, may still have it in a frame that is about to end,
        and would be the one to free it.
        """
        others: list[Any] = []
        while held:
            one = [held.pop()]
            if codec.is_alone(one):
                codec.let_go(one, yield_gil)
            else:
                others += one
        held += others


_of_process = _Disposal()


def _begin_anew() -> None:
    """A forked child has none of its parent's threads."""
    global _of_process  # noqa: PLW0603 - one for a process
    _of_process = _Disposal()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def dispose(held: list[Any]) -> None:
    """Let the items of ``held`` go; from any thread, at once.

    As ``codec.let_go``: the list is the caller's own and given away, the caller has no other reference to the items,
    and what the program still refers to stays as it is.
    """
    if not codec.is_small(held):
        _of_process.put(held)
