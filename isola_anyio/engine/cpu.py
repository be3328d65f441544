"""How much CPU has a guest used? The clock of the thread that has its turn, less what the thread did for the host.

What is the host's own: the work of plain handlers, which run on the guest's thread, and garbage collections of the
host's objects, which happen on whichever thread makes one object too many. A program with millions of objects needs
tenths of a second for one; a guest must not pay for it.

A side effect of the import on the whole program: a function in ``gc.callbacks``, which tells collections from guests'
work. On a thread that runs no guest it returns at once.
"""

from __future__ import annotations

__all__ = ["CpuMeter"]

import gc
import threading
import time
from contextlib import suppress


class CpuMeter:
    """The CPU of one run, in seconds; its turns are on any threads, one at a time."""

    def __init__(self) -> None:
        self._used_s = 0.0
        # The clock of the thread that has the turn, and what it showed when the run had used nothing. One object, so
        # that whoever asks from another thread never takes one turn's clock for another's. None while nothing counts.
        self._running: tuple[int | None, float] | None = None
        self._collecting = False

    def begin(self) -> None:
        """The calling thread has the turn from now on."""
        _turn.meter = self
        self.resume()

    def end(self) -> None:
        """The calling thread's turn is over."""
        self.pause()
        _turn.meter = None

    def pause(self) -> None:
        """What the calling thread, which has the turn, does until :meth:`resume` is the host's own."""
        self._used_s = self.own()
        self._running = None

    def resume(self) -> None:
        """Undo :meth:`pause`."""
        clock = _thread_clock()
        self._running = (clock, _read(clock) - self._used_s)

    @property
    def paused(self) -> bool:
        """Whether the thread that has the turn works for the host, or nobody has it."""
        return self._running is None

    def now(self) -> float:
        """Seconds used so far, a turn under way included; from any thread."""
        while (running := self._running) is not None:
            clock, zero = running
            with suppress(OSError):  # the thread has just ended
                used = _read(clock) - zero
                if self._running is running:  # the turn was still going on when the clock was read
                    return used
        return self._used_s

    def own(self) -> float:
        """Seconds used so far; on the thread that has the turn, while it counts."""
        assert self._running is not None
        clock, zero = self._running
        return _read(clock) - zero

    def on_collection(self, phase: str) -> None:
        """Called on the thread that has the turn, before and after a collection."""
        if phase == "start" and self._running is not None:
            self._collecting = True
            self.pause()
        elif self._collecting:
            self._collecting = False
            self.resume()


class _Turn(threading.local):
    meter: CpuMeter | None = None


_turn = _Turn()


def _on_collection(phase: str, _info: dict[str, int], turn: _Turn = _turn) -> None:
    meter = turn.meter  # not by its global name, which is gone at the interpreter's end
    if meter is not None:
        meter.on_collection(phase)


gc.callbacks.append(_on_collection)


def _thread_clock() -> int | None:
    if hasattr(time, "pthread_getcpuclockid"):
        return time.pthread_getcpuclockid(threading.get_ident())
    return None


def _read(clock: int | None) -> float:
    """Read a thread's clock; where threads have none, time stands for it."""
    return time.monotonic() if clock is None else time.clock_gettime(clock)
