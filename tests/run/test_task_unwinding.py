"""What may a guest do when it is cancelled? Unwind within its grace; what it does after that is stopped for good."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tests.run.places import Place
from tests.templates import short_grace
from tests.timing import SLACK
from tests.waiting import Signal, cancel_when, until

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate


@pytest.mark.slow
async def test_a_guest_may_take_its_time_to_unwind_within_the_grace(template: SandboxTemplate) -> None:
    place = Place(template, "slow_to_unwind")
    async with place.create() as sandbox:
        await place.load(sandbox)
        await cancel_when(place.settled, lambda: place.go(sandbox, 0.3))
        assert await sandbox.run("look") == ["unwound"]
        assert not sandbox.broken


@pytest.mark.slow
@pytest.mark.timing
async def test_the_grace_is_a_second(template: SandboxTemplate) -> None:
    place = Place(template, "slow_to_unwind")
    async with place.create() as sandbox:
        await place.load(sandbox)
        cancelled_at = await cancel_when(place.settled, lambda: place.go(sandbox, 30))
        assert 0.9 < time.perf_counter() - cancelled_at < 2.5 * SLACK
        assert sandbox.broken


async def test_a_guest_may_clean_up_with_a_hostcall(template: SandboxTemplate) -> None:
    async def clean(_: Any) -> str:
        await anyio.lowlevel.checkpoint()
        return "cleaned"

    place = Place(template, "cleans_up_with_a_hostcall")
    async with template.create(hostcalls={**place.handlers, "clean": clean}) as sandbox:
        await place.load(sandbox)
        await cancel_when(place.settled, lambda: place.go(sandbox))
        assert await sandbox.run("look") == ["cleaned"]


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("name", ["swallows", "swallows_plain", "swallows_prints"])
async def test_a_guest_that_ignores_its_cancellation_is_stopped_after_the_grace(
    template: SandboxTemplate, name: str
) -> None:
    place = Place(template, name)
    with short_grace(template):
        created = place.create()
    async with created as sandbox:
        await place.load(sandbox)
        cancelled_at = await cancel_when(place.settled, lambda: place.go(sandbox))
        assert time.perf_counter() - cancelled_at < 1.5 * SLACK
        assert sandbox.broken
        assert place.never.inside == 0


@pytest.mark.parametrize("told_again", [0, 2], ids=["", "told_again"])
async def test_a_handler_that_is_slow_to_end_does_not_lengthen_the_grace(
    template: SandboxTemplate, anyio_backend_name: str, told_again: int
) -> None:
    ready, stubborn, may_end = Signal(), Signal(), anyio.Event()

    async def slow(payload: Any) -> None:
        with anyio.CancelScope(shield=True):
            await stubborn(payload)
            await may_end.wait()

    with short_grace(template):
        created = template.create(hostcalls={"ready": ready, "slow": slow})
    async with created as sandbox:
        await sandbox.load_script(
            "import asyncio\nfrom sandbox.asyncio import hostcall\n"
            "async def spin():\n"
            "    try:\n        await hostcall('ready')\n        await asyncio.sleep(60)\n"
            "    finally:\n"
            "        call = asyncio.ensure_future(hostcall('slow'))\n"
            "        await asyncio.sleep(0)\n        await asyncio.sleep(0)\n"
            "        while True: pass\n"
        )
        async with anyio.create_task_group() as group, anyio.create_task_group() as runs:
            tasks: list[asyncio.Task[Any]] = []

            async def go() -> None:
                if anyio_backend_name == "asyncio":
                    task = asyncio.current_task()
                    assert task is not None
                    tasks.append(task)
                await sandbox.run("spin")

            runs.start_soon(go)
            await ready.wait()
            runs.cancel_scope.cancel()

            async def let_end() -> None:
                await stubborn.wait()
                for _ in range(told_again):
                    for task in tasks:
                        task.cancel()
                    await anyio.sleep(0.001)
                try:
                    with anyio.fail_after(20):
                        await until(lambda: not template._context._pool.busy)
                finally:
                    may_end.set()

            group.start_soon(let_end)
        assert sandbox.broken


async def test_a_guest_that_finishes_all_the_same_is_cancelled_for_the_host(template: SandboxTemplate) -> None:
    place = Place(template, "suppresses_once")
    async with place.create() as sandbox:
        await place.load(sandbox)
        await cancel_when(place.settled, lambda: place.go(sandbox))
        assert not sandbox.broken


@pytest.mark.slow
@pytest.mark.parametrize("how", ["call", "call_plain"])
async def test_cancelled_in_a_plain_handler_the_guest_unwinds_when_that_returns(
    template: SandboxTemplate, how: str
) -> None:
    entered = threading.Event()

    def handler(seconds: float) -> float:
        entered.set()
        time.sleep(seconds)  # longer than a guest may go on computing without being told
        return seconds

    async with template.create(hostcalls={"handler": handler}) as sandbox:
        await sandbox.load_script(
            "from sandbox.asyncio import hostcall, run\nseen = []\n"
            "async def call(seconds):\n"
            "    try: return await hostcall('handler', seconds)\n"
            "    finally: seen.append('unwound')\n"
            "def call_plain(seconds):\n    return run(call(seconds))\n"
            "def told(): return seen"
        )
        await cancel_when(lambda: anyio.to_thread.run_sync(entered.wait), lambda: sandbox.run(how, 0.3))
        assert not sandbox.broken
        assert await sandbox.run("told") == ["unwound"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_second_cancellation_of_the_task_leaves_the_guest_its_grace(template: SandboxTemplate) -> None:
    ready, unwinding = Signal(), Signal()
    async with template.create(hostcalls={"ready": ready, "unwinding": unwinding}) as sandbox:
        await sandbox.load_script(
            "import asyncio\nfrom sandbox.asyncio import hostcall\nseen = []\n"
            "async def nap():\n"
            "    try:\n        await hostcall('ready')\n        await asyncio.sleep(60)\n"
            "    finally:\n"
            "        await hostcall('unwinding')\n"
            "        seen.append('unwinding')\n        await asyncio.sleep(0.1)\n        seen.append('unwound')\n"
            "def told(): return seen"
        )
        task = asyncio.create_task(sandbox.run("nap"))
        await ready.wait()
        task.cancel()
        await unwinding.wait()
        for _ in range(2):
            task.cancel()
            await anyio.wait_all_tasks_blocked()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not sandbox.broken
        assert await sandbox.run("told") == ["unwinding", "unwound"]
