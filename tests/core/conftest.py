"""The Python template that all of these tests fork from, and what must be true after each of them."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio import build_template
from isola_anyio.engine import ffi

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


def busy_guest_threads(template: SandboxTemplate) -> int:
    """Count the guest threads that are not waiting for work."""
    alive = [thread for thread in threading.enumerate() if thread.name.startswith("isola-guest")]
    return len(alive) - template._context.crew.idle


@pytest.fixture(autouse=True)
def nothing_is_left(template: SandboxTemplate) -> Iterator[None]:
    """Check after every test that no guest lives on and no guest thread is busy."""
    before = len(ffi._stores)
    yield
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if len(ffi._stores) <= before and busy_guest_threads(template) <= 0:
            return
        gc.collect()
        time.sleep(0.01)
    pytest.fail(f"{len(ffi._stores) - before} guests and {busy_guest_threads(template)} busy guest threads are left")
