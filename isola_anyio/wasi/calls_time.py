"""The functions about time: clocks, waiting for descriptors and timeouts, and yielding."""

# ruff: noqa: ARG002 - preview 1 decides which arguments there are

from __future__ import annotations

__all__ = ["TimeCalls"]

from typing import TYPE_CHECKING

from isola_anyio.wasi.abi import SUBSCRIPTION_BYTES
from isola_anyio.wasi.answering import answers_errno
from isola_anyio.wasi.clock import read_clock
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.poll import poll

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.wasi.answering import CallContext
    from isola_anyio.wasi.clock import Clock


class TimeCalls:
    """Calls that read a clock or wait. ``sleep`` blocks the guest's thread and may raise to interrupt the run."""

    __slots__ = ("_clock", "_sleep", "context", "memory")

    def __init__(self, context: CallContext, *, clock: Clock, sleep: Callable[[float | None], None]) -> None:
        self.context = context
        self.memory = context.memory
        self._clock = clock
        self._sleep = sleep

    @answers_errno
    def clock_res_get(self, clock_id: int, out: int) -> None:
        """Write a clock's resolution."""
        read_clock(self._clock, clock_id)
        self.memory.write_u64(out, self._clock.resolution_ns)

    @answers_errno
    def clock_time_get(self, clock_id: int, precision: int, out: int) -> None:
        """Write a clock's time."""
        self.memory.write_u64(out, read_clock(self._clock, clock_id))

    @answers_errno
    def sched_yield(self) -> None:
        """Sleep for no time, which lets the host interrupt the run."""
        self._sleep(0)

    @answers_errno
    def poll_oneoff(self, subscriptions: int, events: int, count: int, out: int) -> None:
        """Wait until at least one of the subscriptions has an event."""
        count &= 0xFFFF_FFFF
        if not 0 < count <= self.context.limits.max_subscriptions:
            raise WasiError(Errno.INVAL)
        memory = self.memory
        # Checked before the wait, so that a bad pointer is FAULT at once.
        memory.check(events, count * 32)
        memory.check(out, 4)
        packed = memory.read(subscriptions, count * SUBSCRIPTION_BYTES)
        happened = poll(packed, self.context.table, self._clock, self._sleep)
        memory.write(events, b"".join(happened))
        memory.write_u32(out, len(happened))
