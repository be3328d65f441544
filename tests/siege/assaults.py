"""Assaults: what a hostile actor of the siege does next, drawn from a seeded generator.

An assault is an attack of the tables in surroundings of its own: which engine, how many sandboxes and runs at once,
which limits, which handlers, and how and when it is ended. The same seed draws the same assaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

import anyio
import anyio.lowlevel

from isola_anyio import Sandbox
from tests.hostile.attack import MIB, Attack
from tests.hostile.harness import HANDLERS, MEMORY

Ending = Literal["scope", "native", "impatient", "close", "leave"]
ENDINGS: Final[Sequence[Ending]] = ("scope", "scope", "scope", "native", "impatient", "close", "leave")
"""A cancel scope; the event loop's own way; that again and again; ``aclose`` from another task; leaving the body."""
MOST_TOGETHER: Final = 12
LONGEST_LINE: Final = 300


@dataclass(frozen=True)
class Assault:
    """One attack and its surroundings.

    Attributes:
        name: the attack's, in the tables.
        metered: on the engine that counts fuel.
        sandboxes: how many attack together, and are cancelled together.
        runs: calls at once in each sandbox; all but the first wait in line.
        stream: whether its events are read: ``dropped`` after the first.
        options: of ``create``, handlers excepted.
        misbehaving: whether the handlers are the ones below.
        ending: how it is ended, if it does not end by itself.
        after_s: when.
        seed: of what is random in the handlers.
    """

    name: str
    attack: Attack
    metered: bool
    sandboxes: int
    runs: int
    stream: Literal["", "read", "slowly", "dropped"]
    options: Mapping[str, Any]
    misbehaving: bool
    ending: Ending
    after_s: float
    seed: int

    @property
    def memory(self) -> int:
        """Bytes of linear memory that all its guests may have."""
        return int(self.options["max_memory"]) * self.sandboxes

    def __str__(self) -> str:
        options = {key: value for key, value in self.options.items() if key != "max_memory"}
        parts = [
            repr(self.name),
            f"{self.sandboxes} sandboxes" * (self.sandboxes > 1),
            f"{self.runs} runs in line" * (self.runs > 1),
            "metered" * self.metered,
            f"stream {self.stream}" * bool(self.stream),
            "misbehaving handlers" * self.misbehaving,
            str(options) if options else "",
            f"ended after {self.after_s:.3f} s by {self.ending}",
        ]
        return ", ".join(filter(None, parts))


def draw(random: Random, attacks: Mapping[str, Attack], *, crowds: bool) -> Assault:
    """Draw the next assault.

    Args:
        random: decides everything.
        attacks: to choose from.
        crowds: whether one assault may take several sandboxes.
    """
    name = random.choice(list(attacks))
    attack = attacks[name]
    metered = attack.metered or random.random() < 0.3
    options = {"max_memory": MEMORY[attack.runtime], **attack.options}
    options |= {key: value for key, value in _limits(random, metered=metered).items() if key not in options}
    sandboxes = random.choice((1, 1, 2, 4, MOST_TOGETHER)) if crowds else 1
    # Either many sandboxes or many runs in line: thousands of tasks cost the loop its time whatever they wait for.
    in_line = sandboxes == 1 and random.random() < 0.2
    return Assault(
        name=name,
        attack=attack,
        metered=metered,
        sandboxes=sandboxes,
        runs=random.choice((2, 10, LONGEST_LINE)) if in_line else 1,
        stream=random.choice(("read", "slowly", "dropped")) if attack.stream or random.random() < 0.2 else "",
        options=options,
        misbehaving=random.random() < 0.3,
        ending=random.choice(ENDINGS),
        after_s=random.choice((random.uniform(0, 0.02), random.uniform(0, 0.3), random.uniform(0.3, 1.5))),
        seed=random.getrandbits(32),
    )


def _limits(random: Random, *, metered: bool) -> dict[str, Any]:
    drawn = {
        "max_cpu": random.choice((0.02, 0.1, 0.5)),
        "max_output": random.choice((0, 1000, MIB)),
        "max_payload": random.choice((100, 10_000, MIB)),
        "max_hostcalls": random.choice((1, 3, 100)),
        "max_total_hostcalls": random.choice((1, 20, 1000)),
        "seed": random.getrandbits(32),
    }
    if metered:
        drawn["max_fuel"] = random.choice((1_000_000, 100_000_000))
    return {key: value for key, value in drawn.items() if random.random() < 0.12}


def misbehaving(random: Random, own: Callable[[], Sandbox]) -> dict[str, Any]:
    """Handlers under the usual names that do, by turns, what handlers ought not to.

    None blocks the event loop: that is what no library can defend against.

    Args:
        random: decides what each call does.
        own: gives the guest's own sandbox, which handlers may not call.
    """

    async def refuse(payload: Any) -> Any:
        raise random.choice((ValueError("no"), KeyError("no"), StopIteration(), TimeoutError(), RecursionError()))

    async def shield(payload: Any) -> Any:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)
        return payload

    async def swallow(payload: Any) -> Any:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            raise

    async def cancel_itself(payload: Any) -> Any:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        return payload

    async def call_back(payload: Any) -> Any:
        return await own().run("ping", 1)

    async def answer_late(payload: Any) -> Any:
        await anyio.sleep(random.random() * 0.2)
        return payload

    async def answer_oddly(payload: Any) -> Any:
        return random.choice((object(), {1: 2}, float("nan"), b"x" * 100_000, [[]] * 100_000, "\ud800", 1 << 9000))

    kinds = (refuse, shield, swallow, cancel_itself, call_back, answer_late, answer_oddly)

    async def any_of_them(payload: Any) -> Any:
        return await random.choice(kinds)(payload)

    def plain(payload: Any) -> Any:
        if random.random() < 0.3:
            raise random.choice((ValueError("no"), StopIteration(), OSError("no")))
        return random.choice((payload, object(), b"x" * 1000, None))

    return {name: plain if name in {"plain", "big"} else any_of_them for name in HANDLERS}
