"""How to measure: repeat, take the middle, print what stands beside what."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass
class Samples:
    """Durations in seconds."""

    values: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        self.values.append(seconds)

    def at(self, quantile: float) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def timed(work: Callable[[], object], times: int, *, warm: int = 3) -> Samples:
    """Time a plain call."""
    samples = Samples()
    for number in range(times + warm):
        start = time.perf_counter()
        work()
        if number >= warm:
            samples.add(time.perf_counter() - start)
    return samples


async def timed_async(work: Callable[[], Awaitable[object]], times: int, *, warm: int = 3) -> Samples:
    """Time an awaited call."""
    samples = Samples()
    for number in range(times + warm):
        start = time.perf_counter()
        await work()
        if number >= warm:
            samples.add(time.perf_counter() - start)
    return samples


def human(seconds: float) -> str:
    """Write a duration with a unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


class Table:
    """Rows of a figure, its floor, and their ratio."""

    def __init__(self, title: str) -> None:
        print(f"\n## {title}\n")
        print("| what | median | p99 | floor | median / floor | floor is |")
        print("|---|---|---|---|---|---|")

    def row(self, what: str, samples: Samples, floor: Samples | None = None, floor_is: str = "") -> None:
        beside = human(floor.median) if floor else ""
        ratio = f"{samples.median / floor.median:.1f}" if floor else ""
        print(
            f"| {what} | {human(samples.median)} | {human(samples.at(0.99))} | {beside} | {ratio} | {floor_is} |",
            flush=True,
        )

    def note(self, what: str, text: str) -> None:
        print(f"| {what} | {text} | | | | |", flush=True)


def heading() -> None:
    """Say where and when this ran."""
    cpu = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line), cpu
        )
    print(f"# {time.strftime('%Y-%m-%d')} · {cpu} · {platform.platform(terse=True)} · Python {sys.version.split()[0]}")


def private_bytes() -> int:
    """Private dirty memory of this process."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty"):
            return int(line.split()[1]) * 1024
    return 0
