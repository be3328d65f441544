"""CPU time of guests: the clock of the thread that has the turn, less what that thread did for the host.

What is the host's own: the work of plain handlers, which run on the guest's thread, and garbage collections of the
host's objects, which happen on whichever thread makes one object too many. A program with millions of objects needs
tenths of a second for one; a guest must not pay for it.

A side effect of the import on the whole program: a function in ``gc.callbacks``, which tells collections from guests'
work. On a thread that runs no guest it returns at once.
"""

from __future__ import annotations

__all__ = ["CpuMeter", "Running", "guest_thread", "read_clock"]

import gc
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_HAS_THREAD_CLOCKS: Final = hasattr(time, "pthread_getcpuclockid")


def _read_nothing(_clock: int) -> float:
    """Where threads have no clocks that others may read, time stands for CPU."""
    return time.monotonic()


read_clock: Final[Callable[[int], float]] = time.clock_gettime if _HAS_THREAD_CLOCKS else _read_nothing
"""Seconds of CPU that a thread has used, by its clock; :class:`OSError` once the thread has ended."""


class Running(NamedTuple):
    """The turn that is being counted: the thread's clock, and what it showed when the meter stood at zero."""

    clock: int
    zero: float


class CpuMeter:
    """The CPU of one sandbox's guest, in seconds; its turns are on any threads, one at a time.

    A turn begins and ends with three lines that stand in ``Turns.run``, because every turn of every guest comes there:
    ``guest_thread.meter`` says whom a garbage collection on this thread would be charged to.

    Attributes:
        running: ``None`` while nothing counts. Written by the thread that has the turn; one object, so that whoever
            reads it on another thread never takes one turn's clock for another's.
        used_s: what was used up to the last time the meter stopped; written by that thread too, before ``running``.
    """

    __slots__ = ("_collecting", "running", "used_s")

    def __init__(self) -> None:
        self.used_s = 0.0
        self.running: Running | None = None
        self._collecting = False

    def pause(self) -> None:
        """What the calling thread, which has the turn, does until :meth:`resume` is the host's own."""
        running = self.running
        assert running is not None
        # In this order, and `now` reads in the other: who finds nothing running finds what was used.
        self.used_s = read_clock(running.clock) - running.zero
        self.running = None

    def resume(self) -> None:
        """Count again, on the calling thread."""
        clock = guest_thread.clock
        self.running = Running(clock, read_clock(clock) - self.used_s)

    def now(self) -> float:
        """Seconds used so far, a turn under way included; from any thread."""
        while (running := self.running) is not None:
            with suppress(OSError):  # the thread has just ended
                used = read_clock(running.clock) - running.zero
                if self.running is running:  # the turn was still going on when the clock was read
                    return used
        return self.used_s

    def on_collection(self, phase: str) -> None:
        """Called on the thread that has the turn, before and after a collection."""
        # On the thread that has the turn, between any two of its bytecodes; `running` is `None` while the host's own
        # work is not counted anyway.
        if phase == "start" and self.running is not None:
            self._collecting = True
            self.pause()
        elif self._collecting:
            self._collecting = False
            self.resume()


class _GuestThread(threading.local):
    """What a thread knows of itself: its clock, and whose turn it has."""

    meter: CpuMeter | None = None

    def __init__(self) -> None:
        self.clock = time.pthread_getcpuclockid(threading.get_ident()) if _HAS_THREAD_CLOCKS else 0


guest_thread: Final = _GuestThread()


def _on_collection(phase: str, _info: dict[str, int], thread: _GuestThread = guest_thread) -> None:
    # On every thread of the program, whenever it collects: no lock, and nothing that another thread writes.
    meter = thread.meter  # not by its global name, which is gone at the interpreter's end
    if meter is not None:
        meter.on_collection(phase)


gc.callbacks.append(_on_collection)
