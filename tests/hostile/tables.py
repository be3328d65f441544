"""Tables: every attack of every theme, by theme, runtime and name."""

from __future__ import annotations

import importlib
from typing import Final

from tests.hostile.attack import Attack

THEMES: Final = (
    "cpu",
    "output",
    "hostcalls",
    "protocol",
    "clocks",
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
