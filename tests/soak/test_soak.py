"""Run for a long time what programs do all day, a tenth of it ending badly: nothing grows, hangs or disturbs another.

Deselected by default; ``nox -s soak`` or ``pytest -m soak tests/soak`` runs it. ``ISOLA_SOAK_RUNS`` sets how many runs
each backend makes.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from random import Random

import anyio
import pytest

from isola_anyio import (
    CpuLimitError,
    GuestError,
    LimitError,
    SandboxContext,
    SandboxTemplate,
)
from tests.held import Held

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(3600)]

RUNS = int(os.environ.get("ISOLA_SOAK_RUNS", "100000"))
GROUPS = 4
RUNS_A_SANDBOX = 20
ALLOWED_GROWTH_BYTES = 64 << 20
"""What allocators keep; a leak of a kilobyte a run would be a hundred megabytes."""

PYTHON = """
import asyncio, os
from sandbox.asyncio import hostcall
def add(a, b):
    return a + b
async def ask(n):
    return await hostcall("echo", n)
def items(n):
    for i in range(n):
        print(i)
        yield i
async def nap(s):
    await asyncio.sleep(s)
def spin():
    while True:
        pass
def flood():
    while True:
        print("x" * 1000)
def die():
    os._exit(3)
def fail():
    raise ValueError("on purpose")
"""
JS = """
function add(a, b) { return a + b }
async function ask(n) { return await hostcall("echo", n) }
function* items(n) { for (let i = 0; i < n; i++) { console.log(i); yield i } }
async function nap(s) { await new Promise(r => setTimeout(r, s * 1000)) }
function spin() { for (;;); }
function flood() { for (;;) console.log("x".repeat(1000)) }
function die() { const deep = () => deep() + 1; return deep() }
function fail() { throw new RangeError("on purpose") }
"""


async def echo(payload: object) -> object:
    return payload


async def work(template: SandboxTemplate, runs: int, random: Random, done: Counter[str]) -> None:
    """Make sandboxes and use each a few times, until ``runs`` runs were made."""
    while runs > 0:
        async with template.create(hostcalls={"echo": echo}, max_output=1 << 16, max_cpu=0.3) as sandbox:
            for _ in range(min(RUNS_A_SANDBOX, runs)):
                runs -= 1
                kind = await one_run(sandbox, random)
                done[kind] += 1
                if sandbox.broken:
                    break


async def one_run(sandbox: object, random: Random) -> str:
    """Make one run of a random kind and check how it ends."""
    run, stream = sandbox.run, sandbox.run_stream  # type: ignore[attr-defined]
    bad = random.random() < 0.1
    kind = random.choice(["cancel", "cpu", "output", "die", "fail"] if bad else ["add", "ask", "items"])
    if kind == "add":
        number = random.randrange(1 << 40)
        assert await run("add", number, 1) == number + 1
    elif kind == "ask":
        number = random.randrange(1 << 40)
        assert await run("ask", number) == number
    elif kind == "items":
        async with stream("items", 3) as events:
            assert [event.data async for event in events if event.type == "result"] == [0, 1, 2]
    elif kind == "cancel":
        with anyio.move_on_after(random.random() * 0.01), suppress(CpuLimitError):
            await (run("nap", 10) if random.random() < 0.5 else run("spin"))
    elif kind == "cpu":
        with pytest.raises(CpuLimitError):
            await run("spin")
    elif kind == "output":
        with pytest.raises(LimitError):  # a busy machine may find the CPU used up first
            await run("flood")
    else:
        with pytest.raises((GuestError, LimitError)):
            await run(kind)
    return kind


async def watch(gaps: list[float], stop: anyio.Event) -> None:
    """Note how long the event loop stood still at the most."""
    while not stop.is_set():
        before = time.monotonic()
        await anyio.sleep(0.01)
        gaps.append(time.monotonic() - before - 0.01)


@pytest.mark.parametrize("runtime", ["python", "js"])
async def test_a_day_of_runs_leaves_nothing_behind(runtime: str, anyio_backend: str) -> None:
    done: Counter[str] = Counter()
    gaps: list[float] = []
    runs = RUNS // 2  # half of them in each kind of guest
    async with SandboxContext() as context:
        template = await context.build_template(runtime, prelude=PYTHON if runtime == "python" else JS)
        async with anyio.create_task_group() as group:
            for number in range(GROUPS):
                group.start_soon(work, template, runs // 20 // GROUPS, Random(number), done)
        warm, stop, start = Held.now(), anyio.Event(), time.monotonic()
        async with template.create() as neighbour, anyio.create_task_group() as watching:
            assert await neighbour.run("add", 1, 2) == 3
            watching.start_soon(watch, gaps, stop)
            async with anyio.create_task_group() as group:
                for number in range(GROUPS):
                    group.start_soon(work, template, runs // GROUPS, Random(100 + number), done)
            assert await neighbour.run("add", 3, 4) == 7
            stop.set()
        took, cold = time.monotonic() - start, Held.now()
        template.close()
    print(f"\n{anyio_backend} {runtime}: {runs} runs in {took:.0f} s, {dict(done)}")
    print(f"  before {warm}\n  after  {cold}\n  longest standstill of the loop {max(gaps) * 1000:.0f} ms")
    assert cold.private_bytes - warm.private_bytes < ALLOWED_GROWTH_BYTES
    assert cold.threads <= warm.threads + 2
    assert cold.descriptors <= warm.descriptors + 2
    assert cold.maps <= warm.maps + 40
