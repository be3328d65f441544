"""Order by events: tests wait until something is so, and then go on, however busy the machine is."""

from __future__ import annotations

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


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that nothing tells of."""
    with anyio.fail_after(WITHIN_S):
        while not condition():
            await anyio.sleep(POLL_S)


async def cancel_when(ready: Callable[[], Awaitable[object]], work: Callable[[], Awaitable[object]]) -> float:
    """Run ``work`` and cancel it when ``ready`` has returned; return the time of that (``time.perf_counter``)."""
    cancelled_at = 0.0

    async def cancel() -> None:
        nonlocal cancelled_at
        await ready()
        cancelled_at = time.perf_counter()
        scope.cancel()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(cancel)
            await work()
        group.cancel_scope.cancel()
    assert scope.cancelled_caught, "it ended before it could be cancelled"
    return cancelled_at
