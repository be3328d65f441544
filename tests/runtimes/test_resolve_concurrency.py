"""Two builds of the same runtime do the work once, whoever they are."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio.errors import RuntimeUnavailableError
from isola_anyio.runtimes import fetch as fetch_module
from isola_anyio.runtimes.resolve import find_runtime

from .conftest import PIN, PINS, has_runtime, use_tool

if TYPE_CHECKING:
    from isola_anyio.cache import Cache
    from isola_anyio.runtimes.progress import Progress
    from isola_anyio.runtimes.resolve import RuntimeBundle

    from .conftest import QuickTool

pytestmark = pytest.mark.slow  # each starts the real tool

CHILD_SCRIPT = """
import pickle, sys, anyio
from isola_anyio.cache import open_cache
from isola_anyio.runtimes import fetch
from isola_anyio.runtimes.resolve import find_runtime
pin, command = pickle.loads(sys.stdin.buffer.read())
fetch.find_tool = lambda: fetch.Tool("the quick tool", command, unpacks=False)
async def main():
    with open_cache(sys.argv[1]) as cache:
        return await find_runtime("python", cache, pins={"python": {pin.version: pin}})
print(anyio.run(main, backend=sys.argv[2]).path)
"""


async def test_two_tasks_fetch_once(cache: Cache, quick_tool: QuickTool) -> None:
    bundles: list[RuntimeBundle] = []

    async def build() -> None:
        bundles.append(await find_runtime("python", cache, pins=PINS))

    async with anyio.create_task_group() as group:
        group.start_soon(build)
        group.start_soon(build)
    assert bundles[0] == bundles[1]
    assert quick_tool.fetched == 1


def test_threads_with_loops_of_their_own_fetch_once(cache: Cache, quick_tool: QuickTool) -> None:
    bundles: list[RuntimeBundle] = []

    async def build() -> None:
        bundles.append(await find_runtime("python", cache, pins=PINS))

    threads = [
        threading.Thread(target=anyio.run, args=(build,), kwargs={"backend": backend})
        for backend in ("trio", "asyncio", "trio", "asyncio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bundles) == 4
    assert len(set(bundles)) == 1
    assert quick_tool.fetched == 1


def test_two_processes_fetch_once(cache: Cache, quick_tool: QuickTool) -> None:
    tool = fetch_module.find_tool()
    assert tool is not None
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD_SCRIPT, str(cache.root), backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for backend in ("trio", "asyncio")
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(pickle.dumps((PIN, tool.command)))
        child.stdin.flush()
        child.stdin.close()
        child.stdin = None
    outputs = [child.communicate(timeout=60)[0] for child in children]
    assert outputs[0] == outputs[1] != b""
    assert quick_tool.fetched == 1
    assert has_runtime(cache.root)


async def test_a_waiting_build_goes_on_when_the_one_before_it_fails(
    cache: Cache, quick_tool: QuickTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[RuntimeUnavailableError] = []
    find_good_tool = fetch_module.find_tool

    async def build() -> None:
        try:
            await find_runtime("python", cache, pins=PINS)
        except RuntimeUnavailableError as exc:
            failures.append(exc)
            monkeypatch.setattr(fetch_module, "find_tool", find_good_tool)

    use_tool(monkeypatch, "raise SystemExit('broken')")
    async with anyio.create_task_group() as group:
        group.start_soon(build)
        group.start_soon(build)
    assert len(failures) == 1
    assert "broken" in str(failures[0])
    assert quick_tool.fetched == 1
    assert has_runtime(cache.root)


async def test_a_waiting_build_goes_on_when_the_one_before_it_is_cancelled(cache: Cache, quick_tool: QuickTool) -> None:
    second: list[RuntimeBundle] = []

    async def build() -> None:
        second.append(await find_runtime("python", cache, pins=PINS))

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:

            def on_progress(progress: Progress) -> None:
                if progress.done:
                    scope.cancel()
                else:
                    group.start_soon(build)  # while the turn is ours

            await find_runtime("python", cache, pins=PINS, on_progress=on_progress)
        assert scope.cancelled_caught
        assert not second
    assert len(second) == 1
    assert has_runtime(cache.root)
