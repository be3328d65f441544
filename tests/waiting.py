"""Order by events: tests wait until something is so, and then go on, however busy the machine is."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WITHIN_S: Final = 30.0
"""When a test gives up; it says that something never happened, not that it was slow."""
POLL_S: Final = 0.001


class Signal:
    """An event that a guest sets: a handler for the hostcall ``ready``."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    async def __call__(self, payload: object = None) -> None:
        """Be the handler."""
        self._event.set()

    def set(self) -> None:
        """Say that it is so, from the event loop."""
        self._event.set()

    def is_set(self) -> bool:
        """Tell whether the guest got there."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the guest gets there."""
        with anyio.fail_after(WITHIN_S):
            await self._event.wait()

    async def next(self) -> None:
        """Wait until a guest gets there after the last such call."""
        await self.wait()
        self._event = anyio.Event()


class Never:
    """A handler, or a producer, that never comes back by itself; counts how often it is at it."""

    def __init__(self) -> None:
        self.entered = Signal()
        self.inside = 0

    async def __call__(self, payload: object) -> None:
        """Be the handler."""
        with self:
            await anyio.sleep_forever()

    def __enter__(self) -> None:
        self.inside += 1
        self.entered.set()

    def __exit__(self, *exc_info: object) -> None:
        self.inside -= 1


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that nothing tells of."""
    with anyio.fail_after(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(POLL_S)


def guest_cpu_s() -> float:
    """Return the seconds of CPU that all guest threads of this process have used."""
    guests = [thread for thread in threading.enumerate() if thread.name.startswith("isola-guest")]
    if sys.platform != "linux":  # the clock of a thread is not to be had everywhere
        return time.process_time()
    return sum(time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) for thread in guests if thread.ident)


async def computing(used_s: float = 0.03) -> None:
    """Wait until guests have computed for longer than they need to get anywhere else."""
    before = guest_cpu_s()
    await until(lambda: guest_cpu_s() - before > used_s)


async def expire_when(
    ready: Callable[[], Awaitable[object]], expire: Callable[[], None], work: Callable[[], Awaitable[object]]
) -> None:
    """Run ``work``, and call ``expire``, which lets a deadline pass, when ``ready`` has returned."""

    async def watch() -> None:
        await ready()
        expire()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            await work()
        finally:
            group.cancel_scope.cancel()


async def cancel_when(ready: Callable[[], Awaitable[object]], work: Callable[[], Awaitable[object]]) -> float:
    """Run ``work`` and cancel it when ``ready`` has returned; return the time of that (``time.perf_counter``)."""
    cancelled_at = 0.0

    def cancel() -> None:
        nonlocal cancelled_at
        cancelled_at = time.perf_counter()
        scope.cancel()

    with anyio.CancelScope() as scope:
        await expire_when(ready, cancel, work)
    assert scope.cancelled_caught, "it ended before it could be cancelled"
    return cancelled_at
