"""Budgets and figures: fuel, CPU, output; how much a sandbox costs, how fast a template is built."""

from __future__ import annotations

import gc
import re
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from isola_anyio import (
    CpuLimitError,
    FuelExhaustedError,
    OutputLimitError,
    Sandbox,
    SandboxContext,
    SandboxTemplate,
)

MAX_PRIVATE_KB = 512


async def test_fuel_runs_out(context: SandboxContext) -> None:
    template = await context.build_template("js", metered=True)
    async with template.create(max_fuel=20_000_000) as sandbox:
        await sandbox.load_script("const few: number = 10; const loop = n => { for (let i = 0; i < n; i++); return n }")
        assert await sandbox.run("loop", 10) == 10
        assert 0 < (sandbox.usage.fuel or 0) < 1_000_000
        with pytest.raises(FuelExhaustedError):
            await sandbox.run("loop", 1e9)
        assert sandbox.broken
    template.close()


@pytest.mark.slow
async def test_a_timer_costs_the_same_however_many_there_are(context: SandboxContext) -> None:
    template = await context.build_template("js", metered=True)
    async with template.create() as sandbox:
        await sandbox.load_script(
            """
            const sleep = n => Promise.all(Array.from({ length: n }, (_, i) => new Promise(r => setTimeout(r, 1 + i % 7))));
            const clear = n => Array.from({ length: n }, () => setTimeout(() => {}, 1e6)).forEach(clearTimeout);
            """
        )
        for name in ("sleep", "clear"):
            spent: list[int] = []
            for count in (500, 8000):
                await sandbox.run(name, count)
                spent.append(sandbox.usage.fuel or 0)
            assert spent[1] < 2 * 16 * spent[0], name
    template.close()


@pytest.mark.slow
async def test_cpu_runs_out_and_waiting_does_not_count(template: SandboxTemplate) -> None:
    async with template.create(max_cpu=0.1) as sandbox:
        await sandbox.load_script(
            "const wait = () => new Promise(r => setTimeout(r, 300)); const spin = () => { for (;;); }"
        )
        await sandbox.run("wait")
        with pytest.raises(CpuLimitError):
            await sandbox.run("spin")


async def test_output_runs_out(template: SandboxTemplate) -> None:
    async with template.create(max_output=100_000) as sandbox:
        await sandbox.load_script("const talk = () => { for (;;) console.log('x'.repeat(1000)) }")
        with pytest.raises(OutputLimitError):
            await sandbox.run("talk")


@pytest.mark.slow
async def test_a_template_is_built_quickly_with_an_empty_cache(tmp_path: Path) -> None:
    began = time.monotonic()
    async with SandboxContext(cache_dir=tmp_path) as context:
        await context.build_template("js")
    assert time.monotonic() - began < 15  # 1 s on an idle machine of two cores


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
async def test_a_sandbox_that_has_run_costs_little_memory(template: SandboxTemplate) -> None:
    async with AsyncExitStack() as sandboxes:
        for _ in range(20):  # what the process allocates once
            sandboxes.push_async_callback((await used(template)).aclose)
        gc.collect()
        before = private_kb()
        for _ in range(200):
            sandboxes.push_async_callback((await used(template)).aclose)
        gc.collect()
        assert (private_kb() - before) / 200 < MAX_PRIVATE_KB


async def used(template: SandboxTemplate) -> Sandbox:
    sandbox = await template.instantiate(hostcalls={"echo": lambda payload: payload})
    await sandbox.start()
    await sandbox.load_script("const f = async (x) => [await hostcall('echo', x), new URL('http://a/b').host]")
    assert await sandbox.run("f", {"a": 1}) == [{"a": 1}, "a"]
    return sandbox


def private_kb() -> int:
    text = Path("/proc/self/smaps_rollup").read_text("ascii")
    return sum(int(found) for found in re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE))
