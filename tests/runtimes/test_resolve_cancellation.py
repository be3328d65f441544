"""A cancelled build stops within a second, wherever it is, and leaves nothing: no file, no process, no turn held."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio.runtimes.resolve import find_runtime
from tests.timing import SLACK
from tests.waiting import cancel_when

from .conftest import PIN, PINS, entries, has_runtime, use_tool

if TYPE_CHECKING:
    from anyio.abc import Process

    from isola_anyio.cache import Cache
    from isola_anyio.runtimes.progress import Progress

    from .conftest import Index, QuickTool

pytestmark = pytest.mark.slow  # each starts the real tool

GRANDCHILD_SCRIPT = """
import os, socket, time
held = socket.create_connection(("127.0.0.1", int(os.environ["TEST_PORT"])))
with open(os.path.join(os.environ["TMPDIR"], "part"), "wb") as file:
    file.write(bytes(1000))
time.sleep(600)
"""
STUCK_SCRIPT = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", {GRANDCHILD_SCRIPT!r}])
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """The child processes that were started."""
    processes: list[Process] = []
    start = anyio.open_process

    async def open_process(*args: object, **kwargs: object) -> Process:
        process = await start(*args, **kwargs)  # type: ignore[arg-type]
        processes.append(process)
        return process

    monkeypatch.setattr(anyio, "open_process", open_process)
    return processes


def assert_gone(processes: list[Process]) -> None:
    assert processes
    for process in processes:
        assert process.returncode is not None
        if sys.platform != "win32":
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)


@pytest.mark.timing
async def test_cancelling_a_hung_transfer_kills_the_tool_and_leaves_nothing(
    cache: Cache, index: Index, started: list[Process]
) -> None:
    index.fault = "hang"
    cancelled_at = 0.0
    async with anyio.create_task_group() as group:

        async def cancel() -> None:
            nonlocal cancelled_at
            await anyio.to_thread.run_sync(index.half_sent.wait, 30)
            cancelled_at = time.monotonic()
            group.cancel_scope.cancel()

        group.start_soon(cancel)
        await find_runtime("python", cache, pins=PINS)
    assert time.monotonic() - cancelled_at < 1 * SLACK
    assert_gone(started)
    assert entries(cache.root) == []
    index.fault = None
    index.release.set()
    await find_runtime("python", cache, pins=PINS)
    assert has_runtime(cache.root)


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX's")
@pytest.mark.parametrize("ending", ["child.wait()", "os._exit(0)"])
async def test_what_the_tool_started_is_killed_with_it_or_after_it(
    cache: Cache, started: list[Process], monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    use_tool(monkeypatch, STUCK_SCRIPT + ending)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        monkeypatch.setenv("TEST_PORT", str(server.getsockname()[1]))
        with anyio.CancelScope() as scope:

            def on_progress(progress: Progress) -> None:
                if progress.done:
                    scope.cancel()

            await find_runtime("python", cache, pins=PINS, on_progress=on_progress)
        assert scope.cancelled_caught
        assert started[0].returncode is not None
        held, _ = server.accept()
        with held:
            held.settimeout(10)
            assert held.recv(1) == b""  # its end is closed: the grandchild is no more
    assert entries(cache.root) == []


async def test_a_build_can_be_cancelled_at_every_report(cache: Cache, quick_tool: QuickTool) -> None:
    reports: list[Progress] = []
    await find_runtime("python", cache, pins=PINS, on_progress=reports.append)
    stages = [report.stage for report in reports]
    assert set(stages) == {"download", "verify"}
    for file in PIN.files:
        cache.discard("runtimes", f"{PIN.key}/{file.name}")
    for last in range(len(stages)):
        with anyio.CancelScope() as scope:
            count = 0

            def on_progress(progress: Progress, last: int = last, scope: anyio.CancelScope = scope) -> None:
                nonlocal count
                count += 1
                if count > last:
                    scope.cancel()

            await find_runtime("python", cache, pins=PINS, on_progress=on_progress)
        # The last report is made when all is in place: then the build is whole, and otherwise there is nothing.
        assert has_runtime(cache.root) if entries(cache.root) else scope.cancelled_caught
        for file in PIN.files:
            cache.discard("runtimes", f"{PIN.key}/{file.name}")
    assert entries(cache.root) == []


@pytest.mark.timing
async def test_a_build_cancelled_before_it_began_does_nothing(cache: Cache, quick_tool: QuickTool) -> None:
    begun = time.monotonic()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await find_runtime("python", cache, pins=PINS)
    assert scope.cancelled_caught
    assert time.monotonic() - begun < 0.5 * SLACK
    assert quick_tool.fetched == 0


async def test_waiting_for_the_turn_can_be_cancelled(cache: Cache, quick_tool: QuickTool) -> None:
    async with cache.building("runtimes", PIN.key):
        await cancel_when(anyio.wait_all_tasks_blocked, lambda: find_runtime("python", cache, pins=PINS))
    await find_runtime("python", cache, pins=PINS)
    assert quick_tool.fetched == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancel_leaves_nothing_either(
    cache: Cache, index: Index, started: list[Process], anyio_backend: str
) -> None:
    index.fault = "hang"
    task = asyncio.ensure_future(find_runtime("python", cache, pins=PINS))
    await anyio.to_thread.run_sync(index.half_sent.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_gone(started)
    assert entries(cache.root) == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_timeout_while_unpacking_leaves_nothing(
    cache: Cache, quick_tool: QuickTool, anyio_backend: str
) -> None:
    task: asyncio.Task[object]

    def on_progress(progress: Progress) -> None:
        if progress.stage == "verify":
            task.cancel()

    task = asyncio.ensure_future(find_runtime("python", cache, pins=PINS, on_progress=on_progress))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert entries(cache.root) == []


def test_what_a_killed_process_left_is_swept_by_the_next_build(cache: Cache) -> None:
    script = """
import os, pathlib, signal, sys
from isola_anyio.cache import open_cache
with open_cache(sys.argv[1]) as cache:
    def writer(file):
        file.write(b"half")
        file.flush()
        cache.scratch("runtimes").path.joinpath("part").write_bytes(b"x")
        os.kill(os.getpid(), signal.SIGKILL)
    cache.store_file("runtimes", "entry", ".bin", writer)
"""
    subprocess.run([sys.executable, "-c", script, str(cache.root)], check=False, timeout=60)
    left = entries(cache.root)
    assert len([name for name in left if name.endswith(".lock")]) == 2
    assert len(left) == 4
    cache.sweep()
    assert entries(cache.root) == []
