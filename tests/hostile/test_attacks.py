"""Every attack of the tables; what must hold is in ``harness`` and beside each attack.

Attacks on what an event loop does for a guest run on both loops. The others run on one each, in turn: so either loop
sees half of every theme.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.hostile.attack import Attack
from tests.hostile.harness import World, run_attack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hostile.conftest import Neighbours, Templates

LOOPS: Final = ("asyncio", "trio")
THEMES_OF_THE_LOOP: Final = ("cpu", "output", "hostcalls", "protocol", "clocks")
THEMES: Final = (
    *THEMES_OF_THE_LOOP,
    "files",
    "memory",
    "values",
    "introspection",
    "randomness",
    "environment",
    "dispatcher",
)
ATTACKS: Final[dict[str, Attack]] = {
    f"{theme}-{attack.runtime}-{attack.name}": attack
    for theme in THEMES
    for attack in importlib.import_module(f"tests.hostile.{theme}").ATTACKS
}

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc, and makes a fifo"),
    pytest.mark.slow,
    pytest.mark.timing,
]


def runs() -> Iterator[tuple[str, str]]:
    """Choose the loops of each attack."""
    for loop in LOOPS:
        for number, name in enumerate(ATTACKS):
            if name.partition("-")[0] in THEMES_OF_THE_LOOP or loop == LOOPS[number % 2]:
                yield loop, name


@pytest.mark.parametrize(("anyio_backend", "name"), list(runs()), indirect=["anyio_backend"], scope="module")
async def test_attack(name: str, templates: Templates, neighbours: Neighbours, world: World) -> None:
    attack = ATTACKS[name]
    template = templates(attack.runtime, attack.metered)
    await run_attack(attack, template, world, await neighbours(template))
