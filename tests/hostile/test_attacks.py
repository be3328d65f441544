"""Every attack of the tables, on both backends; what must hold is in ``harness`` and beside each attack."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.hostile.attack import Attack
from tests.hostile.conftest import Templates
from tests.hostile.harness import World, run_attack

THEMES = (
    "files",
    "memory",
    "cpu",
    "output",
    "values",
    "hostcalls",
    "introspection",
    "randomness",
    "clocks",
    "environment",
    "protocol",
)
ATTACKS: dict[str, Attack] = {
    f"{theme}-{attack.runtime}-{attack.name}": attack
    for theme in THEMES
    for attack in importlib.import_module(f"tests.hostile.{theme}").ATTACKS
}

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc, and makes a fifo")


def test_there_are_as_many_as_we_say() -> None:
    runtimes = [attack.runtime for attack in ATTACKS.values()]
    assert len(runtimes) >= 150
    assert min(runtimes.count("python"), runtimes.count("js")) >= 50


@pytest.mark.parametrize("name", ATTACKS)
async def test_attack(name: str, templates: Templates, world: World) -> None:
    attack = ATTACKS[name]
    await run_attack(attack, await templates(attack.runtime, metered=attack.metered), world)
