"""Fairness of the interpreter's lock: how guest threads yield the GIL to the event loop in time.

CPython's GIL is not fair to who waits for it. A thread that releases it and takes it again at once, as one does that
comes back from a host call and makes the next, has it before another has woken up; each such try also restarts the
waiter's switch interval, after which it could insist. A guest whose host calls were long and close together (60 kB of
output, again and again) kept an event loop waiting for 1.1 s. So a thread that has held the GIL for a while in such
calls sleeps for as long as it takes other threads to wake up.
"""

from __future__ import annotations

__all__ = ["LONG_CALL_S", "host_call_took", "note_gil_released", "yield_gil"]

import threading
from time import perf_counter, sleep
from typing import Final

LONG_CALL_S: Final = 0.0001
"""Host calls that are shorter leave others enough room: the guest computes in between, without the GIL."""
_HOLD_S: Final = 0.002
"""For how long the GIL may be held, all in all, before others get it; less than half the interpreter's own interval."""
_SLEEP_S: Final = 0.0001
"""Long enough for a thread to wake up and take the GIL; it then has it until it waits or was asked for it."""


# A thread's own account; no lock, because nobody else looks at it.
class _Thread(threading.local):
    held_s = 0.0
    released_at = 0.0


_thread = _Thread()


def note_gil_released() -> None:
    """Note that the calling thread has just waited without the GIL, so that others could have it."""
    _thread.held_s = 0.0
    _thread.released_at = perf_counter()


def yield_gil() -> None:
    """Let others have the GIL if the calling thread has not released it for long; for the middle of long work."""
    if perf_counter() - _thread.released_at > _HOLD_S:
        # `sleep(0)` would not do: it gives the GIL up and asks for it again at once, before anybody has woken up.
        sleep(_SLEEP_S)
        note_gil_released()


def host_call_took(began: float, ended: float) -> None:
    """Let others have the GIL if long host calls, of which this was one, have held it for long."""
    thread = _thread
    # Less what came before a pause inside this very call, in which others had it.
    thread.held_s += ended - max(began, thread.released_at)
    if thread.held_s > _HOLD_S:
        sleep(_SLEEP_S)
        note_gil_released()
