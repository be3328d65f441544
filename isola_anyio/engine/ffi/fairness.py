"""Let the event loop have the interpreter's lock in time, whatever guests make the host do.

CPython's lock is not fair to who waits for it. A thread that gives it up and takes it again at once, as one does that
comes back from a host call and makes the next, has it before another has woken up; each such try also restarts the
other's patience, after which it could insist. A guest whose calls are long and close together (60 kB of output, again
and again) kept an event loop waiting for a second. So a thread that has held the lock for a while in such calls sleeps,
for as long as it takes others to wake up.
"""

from __future__ import annotations

__all__ = ["LONG_CALL_S", "give_way", "host_call_took", "rested"]

import threading
from time import perf_counter, sleep
from typing import Final

LONG_CALL_S: Final = 0.0001
"""Host calls that are shorter leave others enough room: the guest computes in between."""
_HOLD_S: Final = 0.002
"""For how long the lock may be held, all in all, before others have their turn; half the interpreter's own patience."""
_SLEEP_S: Final = 0.0001
"""Long enough for a thread to wake up and take the lock; it then has it until it waits or was asked for it."""


class _Thread(threading.local):
    held_s = 0.0
    rested_at = 0.0


_thread = _Thread()


def rested() -> None:
    """Note that the calling thread has been waiting, without the lock."""
    _thread.held_s = 0.0
    _thread.rested_at = perf_counter()


def give_way() -> None:
    """Let others have the lock if it is long since the calling thread did; for the middle of long work."""
    if perf_counter() - _thread.rested_at > _HOLD_S:
        sleep(_SLEEP_S)
        rested()


def host_call_took(began: float, ended: float) -> None:
    """Let others have the lock if long host calls, of which this was one, have held it for long."""
    thread = _thread
    thread.held_s += ended - max(began, thread.rested_at)
    if thread.held_s > _HOLD_S:
        sleep(_SLEEP_S)
        rested()
