"""What a test must not leave behind: guests that were made and not closed, guest threads that are still at work."""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio.engine.threads import ThreadPool
from isola_anyio.machine import GuestMachine

if TYPE_CHECKING:
    from collections.abc import Generator

SETTLE_S = 5.0
"""A thread tells the event loop of a turn's end before it is idle itself; on a busy machine that takes a while."""
POLL_S = 0.005


class Leftovers:
    """Watches guests and guest threads of this process."""

    def __init__(self) -> None:
        self._guests: set[int] = set()
        self._pools: weakref.WeakSet[ThreadPool] = weakref.WeakSet()

    @contextmanager
    def watching(self) -> Generator[None]:
        """Note every guest and every pool that is made meanwhile."""
        guests, pools = self._guests, self._pools
        make_pool, make_guest, close_guest = ThreadPool.__init__, GuestMachine.__init__, GuestMachine.close

        def pool_init(self: ThreadPool, *args: Any, **options: Any) -> None:
            make_pool(self, *args, **options)
            pools.add(self)

        def guest_init(self: GuestMachine, *args: Any, **options: Any) -> None:
            make_guest(self, *args, **options)
            guests.add(id(self))

        def guest_close(self: GuestMachine) -> None:
            close_guest(self)
            guests.discard(id(self))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ThreadPool, "__init__", pool_init)
            patch.setattr(GuestMachine, "__init__", guest_init)
            patch.setattr(GuestMachine, "close", guest_close)
            yield

    def forget(self) -> None:
        """Blame the next test for nothing that is there already."""
        self._guests.clear()

    def settle(self) -> str:
        """Wait until nothing is left; return what is left all the same, or an empty text."""
        deadline = time.monotonic() + SETTLE_S
        while self._guests or self._busy_threads() > 0:
            if time.monotonic() > deadline:
                return f"{len(self._guests)} guests and {self._busy_threads()} busy guest threads are left"
            time.sleep(POLL_S)
        return ""

    def _busy_threads(self) -> int:
        """Count the guest threads that are not waiting for work."""
        alive = [thread for thread in threading.enumerate() if thread.name.startswith("isola-guest")]
        return len(alive) - sum(pool.idle for pool in self._pools)
