"""One piece of work on a guest thread, awaited: its result, its failure, and its end when it is cancelled."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import anyio
import pytest

from isola_anyio.engine.run_sync import run_sync
from isola_anyio.engine.threads import ThreadPool


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(max_parallel=1)
    yield pool
    pool.retire()


def never() -> None:
    raise AssertionError("work was stopped that nobody cancelled")


async def test_what_the_work_returns_is_returned(pool: ThreadPool) -> None:
    assert await run_sync(pool, threading.get_ident, stop=never) != threading.get_ident()


@pytest.mark.slow
async def test_what_the_work_raises_is_raised_and_leaves_nothing_for_the_collector(pool: ThreadPool) -> None:
    class Failure(Exception):
        pass

    def fail() -> None:
        raise Failure

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Failure) as caught:
            await run_sync(pool, fail, stop=never)
        gone = weakref.ref(caught.value)
        del caught
        for _ in range(100):
            if gone() is None:
                break
            await anyio.sleep(0.001)  # the guest thread lets go a moment later
        assert gone() is None
    finally:
        gc.enable()


async def test_cancelled_work_that_misses_being_stopped_is_stopped_again_and_awaited(pool: ThreadPool) -> None:
    began, stopped = threading.Event(), threading.Semaphore(0)
    ended = False

    def work() -> None:
        nonlocal ended
        began.set()
        for _ in range(3):  # the first two are missed
            assert stopped.acquire(timeout=10)
        ended = True

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run_sync(pool, work, stop=stopped.release))
        await anyio.to_thread.run_sync(began.wait)
        group.cancel_scope.cancel()
    assert ended


async def test_cancelled_work_that_has_not_begun_never_does(pool: ThreadPool) -> None:
    gate, began = threading.Event(), threading.Event()

    def hold_the_slot() -> None:
        gate.wait(10)

    pool.submit(hold_the_slot)
    with anyio.move_on_after(0.02):
        await run_sync(pool, began.set, stop=never)
    gate.set()
    assert not began.wait(0.05)
