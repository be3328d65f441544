"""A hundred thousand short runs, a tenth of which end badly: nothing grows, nothing hangs, no neighbour is disturbed.

Deselected unless asked for: ``pytest -m soak tests/soak``; ``ISOLA_SOAK_RUNS`` says how many runs.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import anyio
import pytest

from isola_anyio import (
    CpuLimitError,
    GuestError,
    OutputLimitError,
    PayloadLimitError,
    SandboxContext,
    SandboxTemplate,
)

RUNS: Final = int(os.environ.get("ISOLA_SOAK_RUNS", "100000"))
GROUPS: Final = 4
RUNS_EACH_SANDBOX: Final = 5
BAD_EVERY: Final = 10
SAMPLES: Final = 40
STUCK_S: Final = 30.0
MIB: Final = 1 << 20
MAX_GROWTH_BYTES: Final = 48 * MIB
"""What the second half may add to resident memory; a leak of half a kilobyte a run would be as much."""

Runtime = Literal["python", "js"]

SCRIPTS: Final[dict[Runtime, str]] = {
    "python": """
import asyncio
from sandbox.asyncio import hostcall
def good(n): return {"n": n, "text": "x" * 100}
async def asks(n): return await hostcall("echo", n)
def spin():
    while True: pass
async def waits():
    await asyncio.sleep(1e6)
def fails(): raise ValueError("no")
def exits():
    import os
    os._exit(3)
def crashes():
    import faulthandler
    faulthandler._sigsegv()
def floods():
    while True: print("x" * 1000)
def huge(): return "x" * 100000
def lies():
    import _host
    _host.call(bytes([0x13, 255, 255, 255, 255]) + b"1")
""",
    "js": """
function good(n) { return { n, text: "x".repeat(100) } }
async function asks(n) { return await hostcall("echo", n) }
function spin() { for (;;); }
function waits() { return new Promise(() => {}) }
function fails() { throw new TypeError("no") }
function exits() { null.x }
function crashes() { return crashes() + 1 }
function floods() { for (;;) console.log("x".repeat(1000)) }
function huge() { return "x".repeat(100000) }
function lies() { return { toJSON() { throw 1 } } }
""",
}
BAD: Final = ("spin", "waits", "fails", "exits", "crashes", "floods", "huge", "lies", "cpu")
ENDINGS: Final = (GuestError, CpuLimitError, OutputLimitError, PayloadLimitError)


async def echo(payload: object) -> object:
    await anyio.sleep(0)
    return payload


@dataclass
class Figures:
    """What was counted, and what the process held now and then."""

    good: int = 0
    bad: int = 0
    moved: float = field(default_factory=time.monotonic)
    slowest_s: float = 0.0
    samples: list[dict[str, int]] = field(default_factory=list)

    def sample(self) -> None:
        gc.collect()
        status = Path("/proc/self/status").read_text("ascii").split("VmRSS:")[1]
        self.samples.append(
            {
                "rss": int(status.split()[0]) * 1024,
                "threads": threading.active_count(),
                "fds": len(os.listdir("/proc/self/fd")),
                "maps": Path("/proc/self/maps").read_text("ascii").count("\n"),
            }
        )


async def _worker(template: SandboxTemplate, figures: Figures, numbers: range) -> None:
    """Run and run again, in a new sandbox every few runs or when one was broken."""
    left = iter(numbers)
    number = next(left, None)
    while number is not None:
        async with template.create(
            hostcalls={"echo": echo}, max_cpu=0.05 if number % 2 else None, max_output=10_000, max_payload=50_000
        ) as sandbox:
            await sandbox.load_script(SCRIPTS[template.runtime])  # type: ignore[index]
            for _ in range(RUNS_EACH_SANDBOX):
                if number is None or sandbox.broken:
                    break
                start = time.monotonic()
                if number % BAD_EVERY == 0:
                    await _bad_run(sandbox, BAD[number // BAD_EVERY % len(BAD)], number)
                    figures.bad += 1
                elif number % 3:
                    assert await sandbox.run("good", number) == {"n": number, "text": "x" * 100}
                    figures.good += 1
                else:
                    assert await sandbox.run("asks", number) == number
                    figures.good += 1
                figures.moved = time.monotonic()
                figures.slowest_s = max(figures.slowest_s, figures.moved - start)
                number = next(left, None)


async def _bad_run(sandbox: object, kind: str, number: int) -> None:
    run = sandbox.run  # type: ignore[attr-defined]
    if kind == "cpu":
        kind = "spin"
    try:
        with anyio.move_on_after(0.01 if kind in ("spin", "waits") else math.inf):
            await run(kind)
    except ENDINGS:
        return


async def _watch(figures: Figures, every: int) -> None:
    """Take samples as the runs go on, and complain when they do not."""
    due = 0
    while True:
        await anyio.sleep(0.1)
        done = figures.good + figures.bad
        assert time.monotonic() - figures.moved < STUCK_S, f"nothing moved for {STUCK_S} s after {done} runs"
        if done >= due:
            figures.sample()
            due += every


async def soak(runtime: Runtime, runs: int, *, context: SandboxContext | None = None) -> Figures:
    """Do the runs and return the figures."""
    figures = Figures()
    async with context or SandboxContext() as own:
        template = await own.build_template(runtime)
        async with template.create() as neighbour:
            await neighbour.load_script(SCRIPTS[runtime])
            figures.moved = time.monotonic()
            async with anyio.create_task_group() as watching:
                watching.start_soon(_watch, figures, max(1, runs // SAMPLES))
                async with anyio.create_task_group() as outer:
                    for group in range(GROUPS):
                        outer.start_soon(_group, template, figures, range(group, runs, GROUPS))
                watching.cancel_scope.cancel()
            assert await neighbour.run("good", 1) == {"n": 1, "text": "x" * 100}
        with anyio.move_on_after(5):
            while own._crew.busy:
                await anyio.sleep(0.01)
        assert own._crew.busy == 0
        figures.sample()
        template.close()
    return figures


async def _group(template: SandboxTemplate, figures: Figures, numbers: range) -> None:
    """One task group with two workers of its own."""
    async with anyio.create_task_group() as group:
        for part in range(2):
            group.start_soon(_worker, template, figures, numbers[part::2])


def check(figures: Figures) -> None:
    """Nothing grew from the middle to the end; the first half warms caches up."""
    middle = figures.samples[len(figures.samples) // 2 :]
    first, last = middle[: len(middle) // 2 or 1], middle[-(len(middle) // 4 or 1) :]
    for what, slack in (("rss", MAX_GROWTH_BYTES), ("threads", 3), ("fds", 4), ("maps", 60)):
        before = min(sample[what] for sample in first)
        after = min(sample[what] for sample in last)
        assert after <= before + slack, f"{what} grew from {before} to {after}"


def report(title: str, figures: Figures, seconds: float) -> str:
    """Say it in one line."""
    first, last = figures.samples[len(figures.samples) // 4], figures.samples[-1]
    changes = ", ".join(f"{name} {first[name]:,} -> {last[name]:,}" for name in first)
    done = figures.good + figures.bad
    return (
        f"{title}: {done:,} runs, {figures.bad:,} of them bad, in {seconds:.0f} s ({done / seconds:.0f}/s), "
        f"slowest {figures.slowest_s * 1000:.0f} ms; {changes}"
    )


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("runtime", ["python", "js"])
async def test_nothing_grows(runtime: Runtime, anyio_backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    figures = await soak(runtime, RUNS)
    with capsys.disabled():
        print("\n" + report(f"{runtime} on {anyio_backend}", figures, time.monotonic() - start))
    assert figures.good + figures.bad == RUNS
    check(figures)


@pytest.mark.parametrize("runtime", ["python", "js"])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
async def test_a_short_soak_ends_well(runtime: Runtime) -> None:
    figures = await soak(runtime, 400)
    assert figures.good + figures.bad == 400
    assert figures.bad == 40
