"""Clocks: the host's time as guests see it."""

from __future__ import annotations

__all__ = ["MONOTONIC", "REALTIME", "Clock", "SystemClock", "read_clock"]

import time
from typing import Final, Protocol

from isola_anyio.wasi.errno import Errno, WasiError

REALTIME: Final = 0
MONOTONIC: Final = 1
_CPU_CLOCKS: Final = (2, 3)  # of the process and the thread; served by the monotonic clock, as guest libcs do


class Clock(Protocol):
    """The host's clocks, in nanoseconds.

    Attributes:
        resolution_ns: smallest step of either.
    """

    resolution_ns: int

    def realtime_ns(self) -> int:
        """Return the time since 1970."""
        ...

    def monotonic_ns(self) -> int:
        """Return the time since an origin that a template and its forks share; never less than before."""
        ...


class SystemClock:
    """The host's real clocks. Share one object between a template and its forks, and time never goes backwards."""

    def __init__(self) -> None:
        self._origin_ns = time.monotonic_ns()
        self.resolution_ns = max(1, int(time.get_clock_info("monotonic").resolution * 1e9))

    def realtime_ns(self) -> int:
        """Return the time since 1970."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return the time since the clock was made, plus one: guests take 0 for "not known"."""
        return time.monotonic_ns() - self._origin_ns + 1


def read_clock(clock: Clock, clock_id: int) -> int:
    """Return the nanoseconds a preview 1 clock shows; ``INVAL`` for an unknown one."""
    if clock_id == REALTIME:
        return clock.realtime_ns()
    if clock_id == MONOTONIC or clock_id in _CPU_CLOCKS:
        return clock.monotonic_ns()
    raise WasiError(Errno.INVAL)
