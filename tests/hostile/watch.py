"""Watch: how long the event loop stands still, how long a neighbour waits, how much memory the process takes.

What the machine does is told from what an attack does by the kernel's own account: for each thread it counts the time
in which the thread could have run and had no processor (``/proc/self/task/*/schedstat``). A standstill is counted less
what the most starved thread waited meanwhile, for that thread may have held the interpreter's lock; an answer less what
the event loop's own thread waited.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from isola_anyio import Sandbox

TICK_S: Final = 0.005
ASK_S: Final = 0.02
"""Between two questions to a neighbour."""


class Watch:
    """Looks at the event loop and the neighbour while an attack goes on.

    Attributes:
        max_gap_s: the longest standstill of the loop, starvation taken off.
        gap_at: when that was, from and to, by ``time.monotonic``.
        answers: what the neighbour answered.
        max_answer_s: the longest it took to, starvation taken off.
        peak_rss: the most bytes that were resident.
    """

    def __init__(self, neighbour: Sandbox, tick_s: float = TICK_S) -> None:
        self.neighbour = neighbour
        self.max_gap_s = 0.0
        self.gap_at = (0.0, 0.0)
        self.answers = 0
        self.max_answer_s = 0.0
        self.peak_rss = 0
        self._tick_s = tick_s
        self._before = time.monotonic()
        self._starved: dict[str, float] = {}
        self._asks_on = ""
        self._asked = self._asked_starved = 0.0

    async def tick(self) -> None:
        self._before, self._starved = time.monotonic(), starved_s()
        try:
            while True:
                await anyio.sleep(self._tick_s)
                self._note_gap()
                self._before, self._starved = time.monotonic(), starved_s()
        finally:
            self._note_gap()  # the loop may stand still in its last moment

    def _note_gap(self) -> None:
        gap = time.monotonic() - self._before - self._tick_s
        if gap > self.max_gap_s:
            gap -= most_starved_s(self._starved, starved_s())
            if gap > self.max_gap_s:
                self.max_gap_s = gap
                self.gap_at = (self._before, time.monotonic())
        self.peak_rss = max(self.peak_rss, resident_bytes())

    async def ask(self) -> None:
        self._asks_on = str(threading.get_native_id())
        while True:
            self._asked, self._asked_starved = time.monotonic(), thread_starved_s(self._asks_on)
            try:
                answer = await self.neighbour.run("ping", self.answers)
            finally:  # also of the question that nobody answered until the end
                self.note_answer()
                self._asked = 0.0
            assert answer == self.answers
            self.answers += 1
            await anyio.sleep(ASK_S)

    def note_answer(self) -> None:
        """Note how long the question under way has waited, if there is one."""
        if self._asked:
            starved = thread_starved_s(self._asks_on) - self._asked_starved
            self.max_answer_s = max(self.max_answer_s, time.monotonic() - self._asked - starved)


@asynccontextmanager
async def watching(neighbour: Sandbox) -> AsyncGenerator[Watch]:
    watch = Watch(neighbour)
    async with anyio.create_task_group() as group:
        group.start_soon(watch.tick)
        group.start_soon(watch.ask)
        try:
            yield watch
        finally:
            group.cancel_scope.cancel()


def resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Memory that the machine can give without taking it from somebody, this container's limit considered."""
    with open("/proc/meminfo", "rb") as file:
        fields = dict(line.split(b":") for line in file.read().splitlines())
    available = int(fields[b"MemAvailable"].split()[0]) * 1024
    with suppress(OSError, ValueError):  # no container, or no limit
        with open("/sys/fs/cgroup/memory.max", "rb") as file:
            limit = int(file.read())
        with open("/sys/fs/cgroup/memory.current", "rb") as file:
            available = min(available, limit - int(file.read()))
    return available


def thread_starved_s(thread: str) -> float:
    """Seconds for which a thread could have run and had no processor; zero where the kernel does not tell."""
    with suppress(OSError), open(f"/proc/self/task/{thread}/schedstat", "rb") as file:
        return int(file.read().split()[1]) / 1e9
    return 0.0


def starved_s() -> dict[str, float]:
    """Seconds for which each thread could have run and had no processor: not the attack's doing."""
    return {thread: thread_starved_s(thread) for thread in os.listdir("/proc/self/task")}


def most_starved_s(before: dict[str, float], after: dict[str, float]) -> float:
    """How long the thread that had to wait longest for a processor waited; it may have held the interpreter's lock."""
    return max((seconds - before.get(thread, 0.0) for thread, seconds in after.items()), default=0.0)
