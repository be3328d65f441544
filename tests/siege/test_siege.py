"""The siege itself: a few seconds of it find nothing, and what is planted is found."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

import anyio
import pytest

from tests.hostile.attack import Attack, contained, js
from tests.hostile.harness import HANDLERS, SECRET
from tests.hostile.tables import ATTACKS
from tests.siege.assaults import Assault, draw
from tests.siege.checks import Bounds
from tests.siege.siege import Plan, Siege, summary
from tests.timing import SLACK

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc"),
    pytest.mark.slow,
]

SEED: Final = 20_261_130
BOUNDS: Final = Bounds(gap_s=0.05 * SLACK, answer_s=0.5 * SLACK, crowd_answer_s=1.0 * SLACK)
CALLS: Final = {"calls": js("calls", "async function attack() { for (;;) await hostcall('echo', 1) }", contained)}
QUICK: Final = {name: attack for name, attack in ATTACKS.items() if attack.max_gap_s <= 0.05}


def besieging(loop: str, attacks: dict[str, Attack], *, seconds: float, hostile: int) -> Siege:
    return Siege(Plan(SEED, seconds, (loop,), attacks=attacks, hostile=(hostile,), bounds=BOUNDS))


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_few_seconds_find_nothing(loop: str) -> None:
    siege = besieging(loop, QUICK, seconds=4, hostile=3)
    assert siege.run() == []
    assert siege.ledger.counts["assaults"] > 3
    assert siege.ledger.counts["answers"] > 10
    assert "0 violations" in summary(siege.ledger, 4)


def test_the_same_seed_draws_the_same_assaults() -> None:
    def some(seed: int) -> list[Assault]:
        random = Random(seed)
        return [draw(random, ATTACKS, crowds=True) for _ in range(50)]

    assert some(SEED) == some(SEED)
    assert some(SEED) != some(SEED + 1)


# --- what is planted


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """Give a list of descriptors, which are closed afterwards."""
    left: list[int] = []
    yield left
    for fd in left:
        os.close(fd)


def block_the_loop(descriptors: list[int]) -> None:
    time.sleep(0.06 * SLACK)


def leave_descriptors(descriptors: list[int]) -> None:
    if not descriptors:
        descriptors += (os.dup(0) for _ in range(BOUNDS.descriptors * 10))


def tell_a_secret(descriptors: list[int]) -> None:
    raise ValueError(SECRET)


async def outlive_the_grace() -> None:
    with anyio.CancelScope(shield=True):
        await anyio.sleep(BOUNDS.end_s + 2)


@pytest.mark.parametrize(
    ("fault", "kind", "loop"),
    [
        (block_the_loop, "gap", "asyncio"),
        (block_the_loop, "gap", "trio"),
        (leave_descriptors, "descriptors", "asyncio"),
        (tell_a_secret, "secret", "trio"),
        (outlive_the_grace, "end", "asyncio"),
    ],
)
def test_what_is_planted_is_found(
    fault: Callable[..., Any], kind: str, loop: str, descriptors: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler is at fault, which is the program's own doing: the checks cannot tell, and must see it."""

    async def handle(payload: Any) -> Any:
        if fault is outlive_the_grace:
            await fault()
        else:
            fault(descriptors)
        await anyio.sleep(0.01)
        return payload

    monkeypatch.setitem(HANDLERS, "echo", handle)
    violations = besieging(loop, CALLS, seconds=20, hostile=1).run()
    assert [violation.kind for violation in violations][:1] == [kind]
    assert "'calls'" in violations[0].text, "it does not say what was running"
