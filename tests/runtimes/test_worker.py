"""Threads that stop when nobody waits for them any more."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio.runtimes.progress import Progress
from isola_anyio.runtimes.worker import run_stoppable
from tests.timing import SLACK

if TYPE_CHECKING:
    from isola_anyio.runtimes.worker import Meter


class Endless:
    """Work that goes on until it is stopped."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.left = False

    def __call__(self, meter: Meter) -> None:
        try:
            while True:
                meter.advance(1)
                self.running.set()
        finally:
            self.left = True


async def test_the_result_and_the_errors_of_the_work_come_out() -> None:
    assert await run_stoppable(lambda meter: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await run_stoppable(lambda meter: 1 // 0)


async def test_cancelled_work_has_been_left_when_the_cancelled_call_returns() -> None:
    work = Endless()
    async with anyio.create_task_group() as group:
        group.start_soon(run_stoppable, work)
        await anyio.to_thread.run_sync(work.running.wait)
        group.cancel_scope.cancel()
    assert work.left


@pytest.mark.timing
async def test_work_that_never_began_is_not_waited_for() -> None:
    begun = time.monotonic()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run_stoppable(lambda meter: None)
    assert scope.cancelled_caught
    assert time.monotonic() - begun < 0.5 * SLACK


@pytest.mark.slow
@pytest.mark.timing
async def test_work_that_cannot_stop_is_given_up_after_the_grace() -> None:
    release = threading.Event()
    running = threading.Event()

    def stuck(meter: Meter) -> None:
        running.set()
        release.wait(30)

    begun = time.monotonic()
    async with anyio.create_task_group() as group:
        group.start_soon(run_stoppable, stuck)
        await anyio.to_thread.run_sync(running.wait)
        group.cancel_scope.cancel()
    assert time.monotonic() - begun < 2 * SLACK
    release.set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancel_stops_the_work_too(anyio_backend: str) -> None:
    work = Endless()
    task = asyncio.ensure_future(run_stoppable(work))
    await anyio.to_thread.run_sync(work.running.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.left


async def test_progress_is_told_on_the_callers_thread_at_the_ends_and_seldom_between() -> None:
    seen: list[tuple[Progress, int]] = []

    def work(meter: Meter) -> None:
        meter.begin("verify", 100_000)
        for _ in range(100_000):
            meter.advance(1)
        meter.finish()

    await run_stoppable(work, lambda progress: seen.append((progress, threading.get_ident())))
    assert {thread for _, thread in seen} == {threading.get_ident()}
    assert seen[0][0] == Progress("verify", 0, 100_000)
    assert seen[-1][0] == Progress("verify", 100_000, 100_000)
    assert len(seen) < 100


async def test_a_progress_callback_that_raises_ends_the_work() -> None:
    def refuse(progress: Progress) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        await run_stoppable(lambda meter: meter.begin("verify", 1), refuse)
