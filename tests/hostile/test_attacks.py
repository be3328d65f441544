"""Every attack of the tables; what must hold is in ``harness`` and beside each attack.

Each is run by one guest: what an event loop does for a guest is attacked on both loops, the rest on one of them in turn.
By four and by 32 guests at once, and on the engine that counts fuel, a part of them is run, another on each loop. All
the others are marked ``matrix``, and run by the nox session ``hostile``: every attack, on both loops, by one, four and
32 guests, metered and not. Where the machine has no memory for so many guests there are as many as it has memory for.

``ISOLA_HOSTILE_FIGURES`` names a file to which every attack's figures are written.
"""

from __future__ import annotations

import sys
from itertools import product
from typing import TYPE_CHECKING, Final

import pytest

from tests.hostile.harness import World, guests_that_fit, run_attack
from tests.hostile.tables import ATTACKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hostile.conftest import Neighbours, Templates

LOOPS: Final = ("asyncio", "trio")
THEMES_OF_THE_LOOP: Final = ("cpu", "output", "hostcalls", "protocol", "clocks")
CELLS: Final = {(1, False): 2, (4, False): 24, (32, False): 240, (1, True): 24, (4, True): 120, (32, True): 600}
"""Guests at once, and whether metered: every how manieth attack is part of the default run, on each loop."""

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc, and makes a fifo"),
    pytest.mark.slow,
    pytest.mark.timing,
]


def runs() -> Iterator[object]:
    """Choose the loops of each attack, and how many guests attack at once."""
    for loop, (guests, metered), (number, name) in product(LOOPS, CELLS, enumerate(ATTACKS)):
        # The other loop has another part: a cell has twice its share of the attacks, each on one loop.
        share = CELLS[guests, metered]
        if share == CELLS[1, False] and name.partition("-")[0] in THEMES_OF_THE_LOOP:
            share = 1
        default = (number + share // 2 * LOOPS.index(loop)) % share == 0
        yield pytest.param(
            loop,
            name,
            guests,
            metered,
            id=f"{loop}-{guests}{'-metered' if metered else ''}-{name}",
            marks=() if default else pytest.mark.matrix,
        )


@pytest.mark.parametrize(
    ("anyio_backend", "name", "guests", "metered"), list(runs()), indirect=["anyio_backend"], scope="module"
)
async def test_attack(
    name: str, guests: int, metered: bool, templates: Templates, neighbours: Neighbours, world: World
) -> None:
    attack = ATTACKS[name]
    template = templates(attack.runtime, metered or attack.metered)
    await run_attack(attack, template, world, await neighbours(template), guests=min(guests, guests_that_fit(attack)))
