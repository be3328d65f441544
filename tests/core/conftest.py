"""The Python template that all of these tests fork from, and what must be true after each of them."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import build_template
from isola_anyio.engine.threads import ThreadPool
from isola_anyio.machine import GuestMachine as Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio import SandboxTemplate


@pytest.fixture(scope="session")
def template() -> Iterator[SandboxTemplate]:
    """Build the Python template once; it belongs to no event loop."""
    built: list[SandboxTemplate] = []

    async def build() -> None:
        built.append(await build_template("python"))

    thread = threading.Thread(target=anyio.run, args=(build,))
    thread.start()
    thread.join()
    yield built[0]
    built[0].close()


_crews: weakref.WeakSet[ThreadPool] = weakref.WeakSet()
_crew_init = ThreadPool.__init__


def _remembering_init(self: ThreadPool, *args: Any, **options: Any) -> None:
    _crew_init(self, *args, **options)
    _crews.add(self)


ThreadPool.__init__ = _remembering_init  # type: ignore[method-assign]


def busy_guest_threads() -> int:
    """Count the guest threads that are not waiting for work."""
    alive = [thread for thread in threading.enumerate() if thread.name.startswith("isola-guest")]
    return len(alive) - sum(pool.idle for pool in _crews)


@pytest.fixture(scope="session")
def open_guests() -> Iterator[set[int]]:
    """Keep the set of guests that were made and not closed."""
    alive: set[int] = set()
    original_init, original_close = Guest.__init__, Guest.close

    def init(self: Guest, *args: Any, **options: Any) -> None:
        original_init(self, *args, **options)
        alive.add(id(self))

    def close(self: Guest) -> None:
        original_close(self)
        alive.discard(id(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guest, "__init__", init)
        patch.setattr(Guest, "close", close)
        yield alive


@pytest.fixture(autouse=True)
def nothing_is_left(open_guests: set[int]) -> Iterator[None]:
    """Check after every test that no guest is left open and no guest thread is busy."""
    open_guests.clear()
    yield
    deadline = time.monotonic() + 5
    while open_guests or busy_guest_threads() > 0:
        if time.monotonic() > deadline:
            pytest.fail(f"{len(open_guests)} guests and {busy_guest_threads()} busy guest threads are left")
        time.sleep(0.005)
