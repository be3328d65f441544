"""Checks: what must hold every second of a siege, what is allowed while what is running, and what a violation says."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio

from tests.held import Held, count_descriptors, count_maps
from tests.hostile.attack import MIB
from tests.hostile.watch import Watch, resident_bytes
from tests.siege.assaults import Assault

HISTORY: Final = 256
"""Assaults that have ended and are kept: those of the last seconds, however short they are."""
JUST_ENDED_S: Final = 0.1
"""How long before a violation an assault may have ended and be told of: what it left may be why."""


@dataclass(frozen=True)
class Bounds:
    """What is promised, and what the process may hold meanwhile.

    Attributes:
        gap_s: how long the event loop may stand still, starvation taken off.
        answer_s: how long a neighbour's short run may take beside at most four hostile guests ...
        crowd_answer_s: ... and beside more.
        end_s: how long after it was ended a guest may go on: the grace of a second, and what interrupting takes.
        grown_bytes: resident memory beyond what the running attacks may take.
        threads, descriptors, maps, tasks: beyond those of the beginning, for each sandbox that is alive.
        left_bytes, left_maps: what may be left after a round: the allocator's, and the pools'.
    """

    gap_s: float = 0.05
    answer_s: float = 0.5
    crowd_answer_s: float = 3.0
    end_s: float = 2.0
    grown_bytes: int = 400 * MIB
    threads: int = 2
    descriptors: int = 140
    maps: int = 24
    tasks: int = 1100
    left_bytes: int = 192 * MIB
    left_maps: int = 120


@dataclass(frozen=True)
class Violation:
    """A check that failed.

    Attributes:
        kind: which check.
        text: by how much, and what was running.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass
class Running:
    """An assault under way, or over.

    Attributes:
        actor: whose it is.
        began: by ``time.monotonic``.
        over_at: when nothing of it was left; zero before.
        complained: whether it was found not to end.
    """

    assault: Assault
    actor: int
    began: float = field(default_factory=time.monotonic)
    over_at: float = 0.0
    complained: bool = False

    @property
    def late_s(self) -> float:
        """How long it has gone on after it was to end; negative before."""
        return (self.over_at or time.monotonic()) - self.began - self.assault.after_s

    def __str__(self) -> str:
        now = time.monotonic()
        when = f"over for {now - self.over_at:.2f} s" if self.over_at else f"running for {now - self.began:.2f} s"
        return f"actor {self.actor}, {when}: {self.assault}"


class Ledger:
    """What is running, what came of it, and what is wrong.

    Attributes:
        violations: what failed.
        worst: the worst figure of each kind, and what ran then.
        counts: how many assaults, guests, answers and endings there were.
    """

    def __init__(self, bounds: Bounds, slots: int, complain: Callable[[Violation], None]) -> None:
        self.bounds = bounds
        self.violations: list[Violation] = []
        self.worst: dict[str, tuple[float, str]] = {}
        self.counts: dict[str, int] = {}
        self.running: dict[int, Running] = {}
        self.pulse = time.monotonic()
        """When the event loop last went round; a watchdog on a thread of its own looks at it."""
        self._recent: deque[Running] = deque(maxlen=HISTORY)
        self._complain = complain
        self._slots = slots

    @contextmanager
    def noting(self, actor: int, assault: Assault) -> Generator[Running]:
        """Keep an assault among what is running."""
        running = self.running[actor] = Running(assault, actor)
        self.count("assaults")
        self.count("guests", assault.sandboxes)
        try:
            yield running
        finally:
            del self.running[actor]
            running.over_at = time.monotonic()
            self._recent.append(running)
            if running.late_s > 0:
                self.count(f"ended by {assault.ending}", assault.sandboxes)
                self.measure_end(running)
            else:
                self.count("ended by themselves", assault.sandboxes)

    def count(self, what: str, by: int = 1) -> None:
        """Add to a count."""
        self.counts[what] = self.counts.get(what, 0) + by

    def measure(
        self, kind: str, value: float, bound: float, text: str, during: tuple[float, float] | None = None
    ) -> None:
        """Note a figure, and complain if it is over its bound; ``during`` says when it was so, if not right now."""
        if value > self.worst.get(kind, (0.0, ""))[0]:
            self.worst[kind] = (value, "; ".join(repr(each.assault.name) for each in self.suspects(during)))
        if value > bound:
            self.violate(kind, text.format(value=value, bound=bound), during)

    def measure_end(self, running: Running) -> None:
        """Note how long after its end an assault went on."""
        if running.complained:
            return
        # Those that unwind take turns: as many as there are slots at a time.
        bound = self.bounds.end_s * max(1.0, self.sandboxes / self._slots)
        text = "not over {value:.2f} s after it was to end, {bound:.1f} are allowed: " + str(running).replace(
            "{", "{{"
        ).replace("}", "}}")
        running.complained = running.late_s > bound
        self.measure("end", running.late_s, bound, text)

    def violate(self, kind: str, text: str, during: tuple[float, float] | None = None) -> None:
        """Complain, with what was running."""
        violation = Violation(kind, text + "".join(f"\n  {each}" for each in self.suspects(during)))
        self.violations.append(violation)
        self._complain(violation)

    def suspects(self, during: tuple[float, float] | None = None) -> list[Running]:
        """Return what ran at a time, or in the last second; what had just ended may be why."""
        now = time.monotonic()
        start, end = during or (now - 1.0, now)
        return [
            each
            for each in (*self._recent, *self.running.values())
            if each.began < end and (not each.over_at or each.over_at > start - JUST_ENDED_S)
        ]

    @property
    def sandboxes(self) -> int:
        """Sandboxes of all assaults that are running."""
        return sum(each.assault.sandboxes for each in self.running.values())

    @property
    def memory(self) -> int:
        """Bytes that guests of the running assaults may have."""
        return sum(each.assault.memory for each in self.running.values())


class Inspector:
    """Looks at everything, every second.

    Args:
        ledger: what is running; told of what is wrong.
        loop: its event loop's watch.
        neighbours: watches of the neighbours, by name.
        slots: how many guests compute at once.
        hostile: how many hostile guests there are at most.
    """

    def __init__(self, ledger: Ledger, loop: Watch, neighbours: dict[str, Watch], slots: int, hostile: int) -> None:
        self._ledger = ledger
        self._loop = loop
        self._neighbours = neighbours
        self._slots = slots
        self._answer_s = ledger.bounds.answer_s if hostile <= 4 else ledger.bounds.crowd_answer_s
        self._before = Held.now()
        self._rss = resident_bytes()
        self._tasks = len(anyio.get_running_tasks())
        self._allowed = (ledger.bounds.gap_s, 0)

    async def run(self, every_s: float = 1.0) -> None:
        """Look, for ever."""
        while True:
            await anyio.sleep(every_s)
            self.look()

    def look(self) -> None:
        """Look once."""
        ledger, bounds = self._ledger, self._ledger.bounds
        suspects = ledger.suspects()
        at_the_gap = ledger.suspects(self._loop.gap_at)
        gap_s = max((each.assault.attack.max_gap_s for each in at_the_gap), default=0.0)
        text = "the event loop stood still for {value:.3f} s"
        ledger.measure("gap", self._loop.max_gap_s, max(bounds.gap_s, gap_s), text, during=self._loop.gap_at)
        self._loop.max_gap_s = 0.0
        for name, watch in self._neighbours.items():
            watch.note_answer()
            ledger.measure("answer", watch.max_answer_s, self._answer_s, f"{name} waited {{value:.2f}} s for an answer")
            watch.max_answer_s = 0.0
        for each in list(ledger.running.values()):
            ledger.measure_end(each)
        alive = sum(each.assault.sandboxes for each in suspects) + len(self._neighbours) + 2
        grown = self._loop.peak_rss - self._rss
        self._loop.peak_rss = 0
        taken = sum(each.assault.attack.max_grown_bytes * each.assault.sandboxes for each in suspects)
        ledger.measure(
            "memory",
            grown / MIB,
            (taken + bounds.grown_bytes) / MIB,
            "{value:.0f} MiB more than at first, {bound:.0f} are allowed",
        )
        for kind, count, before, for_each in (
            ("threads", threading.active_count(), self._before.threads + self._slots + 8, bounds.threads),
            ("descriptors", count_descriptors(), self._before.descriptors + 8, bounds.descriptors),
            ("maps", count_maps(), self._before.maps + 200, bounds.maps),
            ("tasks", len(anyio.get_running_tasks()), self._tasks + 20, bounds.tasks),
        ):
            ledger.measure(kind, count, before + alive * for_each, f"{{value:.0f}} {kind}, {{bound:.0f}} are allowed")
