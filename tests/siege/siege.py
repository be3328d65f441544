"""Siege: rounds of assaults beside well-behaved neighbours, on either event loop by turns, until the time is over.

Each round runs on one event loop with some hostile actors, each of which carries out one assault after the other, and
neighbours that ask for short runs all the while. Everything is drawn from the seed, the number of the round and the
actor's: the same seed draws the same assaults in the same order for each actor, however they fall together in time.
"""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import anyio

from isola_anyio import Sandbox, SandboxContext, SandboxTemplate
from tests.held import Held
from tests.hostile.attack import MIB, Attack
from tests.hostile.harness import CANARY, CANARY_NAME, GUEST, World
from tests.hostile.tables import ATTACKS
from tests.hostile.watch import Watch, available_bytes
from tests.siege.assaults import draw
from tests.siege.checks import Bounds, Inspector, Ledger, Violation
from tests.siege.conductor import Conductor
from tests.templates import built_template
from tests.waiting import until

TICK_S: Final = 0.01
HANG_S: Final = 30.0
SETTLE_S: Final = 5.0
WARM_ROUNDS: Final = 2
"""Rounds after which the process holds what it will: growth is counted from there."""
HOSTILE: Final = (1, 2, 4, 4, 4, 8, 16)
NEIGHBOURS: Final = {
    "the neighbour in Python": ("python", GUEST["python"]),
    "the neighbour in JavaScript": ("js", GUEST["js"]),
    "the neighbour that makes hostcalls": (
        "python",
        "from sandbox.asyncio import hostcall\nasync def ping(n): return await hostcall('echo', n)\n",
    ),
}
FRESH: Final = "a fresh sandbox"


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        seed: decides what is tried.
        seconds: how long.
        loops: the event loops, by turns.
        round_s: how long each round is.
        first: the number of the first round.
        hostile: how many actors there may be; drawn for each round.
        attacks: what is drawn from.
        bounds: what is asked for.
        keep_going: whether violations are counted only.
    """

    seed: int
    seconds: float
    loops: Sequence[str] = ("asyncio", "trio")
    round_s: float = 15.0
    first: int = 0
    hostile: Sequence[int] = HOSTILE
    attacks: Mapping[str, Attack] = field(default_factory=lambda: ATTACKS)
    bounds: Bounds = field(default_factory=Bounds)
    keep_going: bool = False


class Siege:
    """One siege.

    Args:
        plan: what is to be done.
        say: told what goes on, line by line.
        hung: called, on another thread, when the event loop has not gone round for `HANG_S`.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None] = print, hung: Callable[[], None] | None = None) -> None:
        self._plan = plan
        self._say = say
        self._hung = hung
        self._context = SandboxContext()
        self._built: dict[tuple[str, bool], SandboxTemplate] = {}
        self._warm: Held | None = None
        self._scope: anyio.CancelScope | None = None
        self.ledger = Ledger(plan.bounds, self._context._pool.max_parallel, self._complain)

    def run(self) -> list[Violation]:
        """Run it; return what was violated."""
        plan, began = self._plan, time.monotonic()
        with ExitStack() as stack:
            stack.callback(self._context.close)
            for runtime in ("python", "js"):
                for metered in (False, True):
                    built = built_template(runtime, context=self._context, metered=metered)
                    self._built[runtime, metered] = stack.enter_context(built)
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isola-siege-")))
            os.environ[CANARY_NAME] = CANARY
            stack.callback(os.environ.pop, CANARY_NAME)
            world = World(root)
            stop = threading.Event()
            stack.callback(stop.set)
            threading.Thread(target=self._watchdog, args=(stop,), name="siege-watchdog", daemon=True).start()
            gc.collect()
            gc.freeze()  # what this module and the tables hold is not the attacks': collections need not look at it
            stack.callback(gc.unfreeze)
            number = plan.first
            while (left := plan.seconds - (time.monotonic() - began)) > 0 and self._goes_on:
                loop = plan.loops[number % len(plan.loops)]
                anyio.run(self._round, number, min(left, plan.round_s), world, backend=loop)
                if self._goes_on:
                    self._check_left(number)
                number += 1
        return self.ledger.violations

    @property
    def _goes_on(self) -> bool:
        return self._plan.keep_going or not self.ledger.violations

    def _complain(self, violation: Violation) -> None:
        self._say(f"VIOLATION of {violation}")
        if not self._plan.keep_going and self._scope is not None:
            self._scope.cancel()

    def _watchdog(self, stop: threading.Event) -> None:
        self.ledger.pulse = time.monotonic()
        while not stop.wait(1.0):
            if time.monotonic() - self.ledger.pulse > HANG_S:
                self.ledger.violate("hang", f"nothing has happened for {HANG_S:.0f} s")
                if self._hung is not None:
                    self._hung()
                return

    async def _round(self, number: int, seconds: float, world: World) -> None:
        plan, ledger = self._plan, self.ledger
        random = Random(f"{plan.seed}:{number}")
        hostile = random.choice(list(plan.hostile))
        self._say(f"round {number} on {plan.loops[number % len(plan.loops)]}: {hostile} hostile actors")
        conductor = Conductor(lambda runtime, metered: self._built[runtime, metered], ledger, world)
        async with self._neighbours() as neighbours:
            loop = Watch(next(iter(neighbours.values())).neighbour, TICK_S)
            inspector = Inspector(ledger, loop, neighbours, self._context._pool.max_parallel, hostile)
            async with anyio.create_task_group() as group:
                self._scope = group.cancel_scope
                group.start_soon(self._beat)
                group.start_soon(loop.tick)
                group.start_soon(inspector.run)
                for watch in neighbours.values():
                    group.start_soon(watch.ask)
                group.start_soon(self._make_fresh_ones)
                async with anyio.create_task_group() as actors:
                    end = anyio.current_time() + seconds
                    for actor in range(hostile):
                        actors.start_soon(self._act, conductor, number, actor, hostile > 4, end)
                inspector.look()
                group.cancel_scope.cancel()
            self._scope = None
        for watch in neighbours.values():
            ledger.count("answers", watch.answers)

    async def _beat(self) -> None:
        while True:
            self.ledger.pulse = time.monotonic()
            await anyio.sleep(0.1)

    @asynccontextmanager
    async def _neighbours(self) -> AsyncGenerator[dict[str, Watch]]:
        watches: dict[str, Watch] = {}
        sandboxes: list[Sandbox] = []
        try:
            for name, (runtime, script) in NEIGHBOURS.items():
                sandbox = await self._built[runtime, False].instantiate(hostcalls={"echo": _echo})
                sandboxes.append(sandbox)
                await sandbox.start()
                await sandbox.load_script(script)
                await sandbox.run("ping", 0)
                watches[name] = Watch(sandbox)
            yield watches
        finally:
            for sandbox in sandboxes:
                await sandbox.aclose()

    async def _make_fresh_ones(self) -> None:
        """Make, use and close a sandbox of each kind, again and again."""
        while True:
            for runtime in ("python", "js"):
                async with self._built[runtime, False].create() as sandbox:
                    await sandbox.load_script(GUEST[runtime])
                    assert await sandbox.run("ping", 1) == 1
                self.ledger.count("fresh sandboxes")
                await anyio.sleep(0.25)

    async def _act(self, conductor: Conductor, number: int, actor: int, crowds: bool, end: float) -> None:
        random = Random(f"{self._plan.seed}:{number}:{actor}")
        while anyio.current_time() < end:
            assault = draw(random, self._plan.attacks, crowds=crowds)
            await until(partial(self._has_room, assault.memory))
            await conductor.conduct(actor, assault)

    def _has_room(self, memory: int) -> bool:
        return not self.ledger.running or self.ledger.memory + memory <= available_bytes() // 3

    def _check_left(self, number: int) -> None:
        """Check, between two rounds, that nothing is left of the last."""
        plan, pool = self._plan, self._context._pool
        deadline = time.monotonic() + SETTLE_S
        while pool.busy and time.monotonic() < deadline:
            time.sleep(0.01)
        if pool.busy:
            self.ledger.violate("left", f"{pool.busy} guest threads are busy after round {number}")
        held = Held.now()
        if self._warm is None:
            if number - plan.first + 1 >= WARM_ROUNDS:
                self._warm = held
            return
        warm, bounds = self._warm, plan.bounds
        for kind, value, before, allowed in (
            ("memory left (MiB)", held.private_bytes / MIB, warm.private_bytes / MIB, bounds.left_bytes / MIB),
            ("threads left", held.threads, warm.threads, pool.max_parallel + 64),
            ("descriptors left", held.descriptors, warm.descriptors, 2),
            ("maps left", held.maps, warm.maps, bounds.left_maps),
        ):
            text = (
                f"after round {number}: {{value:.0f}} more than after the first two rounds, {{bound:.0f}} are allowed"
            )
            self.ledger.measure(kind, value - before, allowed, text)


async def _echo(payload: object) -> object:
    return payload


def summary(ledger: Ledger, seconds: float) -> str:
    """Say what was done, and the worst of it."""
    counts = ", ".join(f"{count} {what}" for what, count in sorted(ledger.counts.items()))
    lines = [f"{seconds:.0f} s: {counts}"]
    lines += [
        f"  worst {kind}: {value:.3f}  ({text or 'nothing ran'})"[:400] for kind, (value, text) in ledger.worst.items()
    ]
    lines.append(f"{len(ledger.violations)} violations")
    return "\n".join(lines)
