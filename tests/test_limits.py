"""Does each run have its own budget, and is what it used kept however it ended?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio import GuestError, OutputLimitError, StdoutEvent
from tests.waiting import Signal, cancel_when

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

FLOOD = "from sandbox import logging\ndef flood():\n    while True: print('x' * 100)\n"


@pytest.mark.slow
async def test_usage_is_kept_on_success_failure_and_cancellation(template: SandboxTemplate) -> None:
    ready = Signal()

    async def a_while_later() -> None:
        await ready.wait()
        await anyio.sleep(0.1)  # so long the guest waits

    async with template.create(hostcalls={"ready": ready}) as sandbox:
        await sandbox.load_script("""
import asyncio
from sandbox.asyncio import hostcall
def work(n):
    total = 0
    for i in range(n): total += i
    return total
def fail():
    work(200_000); 1/0
async def sleep():
    work(200_000)
    await hostcall("ready")
    await asyncio.sleep(100)
""")
        before = sandbox.usage.total
        await sandbox.run("work", 2_000_000)
        usage = sandbox.usage
        assert 0.01 < usage.cpu_s <= usage.wall_s + 0.05
        assert usage.runs == 1
        assert usage.peak_memory >= template.image_size
        assert usage.total is not None
        assert before is not None
        assert usage.total.runs == before.runs + 1
        with pytest.raises(GuestError):
            await sandbox.run("fail")
        assert sandbox.usage.cpu_s > 0.001
        await cancel_when(a_while_later, lambda: sandbox.run("sleep"))
        assert sandbox.usage.waiting_s > 0.05
        assert sandbox.usage.cpu_s > 0.001
        total = sandbox.usage.total
    assert sandbox.usage.total == total


async def test_each_run_has_its_own_output_budget(template: SandboxTemplate) -> None:
    async with template.create(max_output=1000) as sandbox:
        await sandbox.load_script("def say(): print('x' * 600)")
        for _ in range(5):
            await sandbox.run("say")
        assert sandbox.usage.output_bytes == 601
        assert sandbox.usage.total is not None
        assert sandbox.usage.total.output_bytes == 5 * 601


async def test_output_over_its_limit_stops_the_run_and_breaks_the_sandbox(template: SandboxTemplate) -> None:
    for name in ("flood", "logs"):
        async with template.create(max_output=10_000) as sandbox:
            await sandbox.load_script(FLOOD + "\ndef logs():\n    while True: logging.info('x' * 100)\n")
            with pytest.raises(OutputLimitError, match="max_output=10000") as caught:
                await sandbox.run(name)
            assert caught.value.limit == "output"
            assert sandbox.broken
        async with template.create(max_output=10_000) as sandbox:
            await sandbox.load_script(FLOOD)
            with pytest.raises(OutputLimitError):
                async with sandbox.run_stream("flood") as events:
                    async for event in events:
                        assert isinstance(event, StdoutEvent)
