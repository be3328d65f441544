"""Who may build: one at a time, over tasks, threads and processes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from functools import partial

import anyio
import pytest

from isola_anyio.cache import Cache, open_cache
from tests.cache.support import store
from tests.timing import SLACK
from tests.waiting import cancel_when


@pytest.mark.slow
async def test_one_builds_at_a_time_and_the_next_one_follows(cache: Cache) -> None:
    inside = 0
    turns = 0

    async def build() -> None:
        nonlocal inside, turns
        async with cache.building("code", "key"):
            inside += 1
            assert inside == 1
            await anyio.lowlevel.checkpoint()
            inside -= 1
            turns += 1

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(build)
        async with cache.building("code", "other"):
            pass
    assert turns == 5


@pytest.mark.timing
async def test_waiting_for_a_turn_is_cancelled_at_once_and_leaves_the_turn_free(cache: Cache) -> None:
    async with cache.building("code", "key"):
        cancelled_at = await cancel_when(anyio.wait_all_tasks_blocked, partial(build_again, cache))
        assert time.perf_counter() - cancelled_at < 1 * SLACK
    with anyio.fail_after(5):
        async with cache.building("code", "key"):
            pass


async def build_again(cache: Cache) -> None:
    async with cache.building("code", "key"):
        pytest.fail("two at a time")


async def test_the_turn_is_given_up_when_the_builder_is_cancelled_or_fails(cache: Cache) -> None:
    with anyio.CancelScope() as scope:
        async with cache.building("code", "key"):
            scope.cancel()
            await anyio.sleep_forever()
    with pytest.raises(ZeroDivisionError):
        async with cache.building("code", "key"):
            raise ZeroDivisionError
    with anyio.fail_after(5):
        async with cache.building("code", "key"):
            pass


async def test_a_cancelled_call_never_takes_the_turn(cache: Cache) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with cache.building("code", "key"):
            pytest.fail("took it")
    assert scope.cancelled_caught


@pytest.mark.slow
async def test_a_turn_held_by_another_process_is_waited_for_and_freed_by_its_death(cache: Cache) -> None:
    script = """
import sys, anyio
from isola_anyio.cache import open_cache
async def main():
    async with open_cache(sys.argv[1]).building("code", "key"):
        print("held", flush=True)
        sys.stdin.read()
anyio.run(main)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(cache.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert await anyio.to_thread.run_sync(child.stdout.readline) == f"held{os.linesep}".encode()
        await cancel_when(anyio.wait_all_tasks_blocked, partial(build_again, cache))
        child.kill()
        with anyio.fail_after(10):
            async with cache.building("code", "key"):
                pass


def test_threads_with_loops_of_their_own_take_turns(cache: Cache) -> None:
    inside: list[int] = []
    most: list[int] = []

    async def build() -> None:
        for _ in range(3):
            async with cache.building("code", "key"):
                inside.append(1)
                most.append(len(inside))
                await anyio.lowlevel.checkpoint()
                inside.pop()

    threads = [
        threading.Thread(target=anyio.run, args=(build,), kwargs={"backend": backend})
        for backend in ("asyncio", "trio", "asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 12


def _take_a_turn(root: str) -> None:
    async def build() -> None:
        with open_cache(root) as cache:
            async with cache.building("code", "key"):
                store(cache, b"from the child")

    anyio.run(build)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_a_thread_holds_the_turn_waits_for_it(cache: Cache) -> None:
    held, release = threading.Event(), threading.Event()

    async def hold() -> None:
        async with cache.building("code", "key"):
            held.set()
            await anyio.to_thread.run_sync(release.wait)
            store(cache, b"from the parent")

    holder = threading.Thread(target=anyio.run, args=(hold,))
    holder.start()
    held.wait()
    child = multiprocessing.get_context("fork").Process(target=_take_a_turn, args=(str(cache.root),))
    child.start()
    release.set()
    holder.join()
    child.join(60)
    assert child.exitcode == 0
    assert cache.read_verified("code", "key", ".bin") == b"from the child"
