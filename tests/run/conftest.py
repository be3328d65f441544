"""The thread pool of these tests, and that no slot of it is lost or left taken."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from isola_anyio.engine.threads import ThreadPool

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    """Two slots; after the test all of them are free."""
    pool = ThreadPool(max_parallel=2)
    yield pool
    deadline = time.monotonic() + 5
    while pool.busy and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    assert pool.busy == 0
    pool.retire()
