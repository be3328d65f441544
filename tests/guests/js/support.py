"""Ready: a hostcall by which a guest says where it is, so that tests are ordered by events and not by time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TIMEOUT_S = 60.0
"""No guest takes so long to begin; one that does fails its test instead of hanging it."""


class Ready:
    """Give ``{"ready": ready}`` as hostcalls; the guest calls ``hostcall('ready')`` and goes on.

    It is a plain handler, called on the guest's thread inside the guest's call: a guest that computes for ever after
    it is known to have begun, and one that waits after it waits within microseconds.
    """

    def __init__(self) -> None:
        self._called = threading.Event()

    def __call__(self, _payload: object) -> None:
        self._called.set()

    async def wait(self) -> None:
        """Wait for the guest's next call."""
        assert await anyio.to_thread.run_sync(self._called.wait, TIMEOUT_S, abandon_on_cancel=True), "not ready"
        self._called.clear()

    async def cancel(self, run: Callable[..., Awaitable[object]], *arguments: object) -> float:
        """Cancel a run when its guest is ready; return the seconds from then until the run has ended."""
        ended = False
        start = 0.0

        async def running() -> None:
            nonlocal ended
            await run(*arguments)
            ended = True

        async with anyio.create_task_group() as group:
            group.start_soon(running)
            await self.wait()
            start = time.monotonic()
            group.cancel_scope.cancel()
        end = time.monotonic()
        assert not ended
        return end - start
