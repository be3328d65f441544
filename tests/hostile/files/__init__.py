"""Files: out of the mounts, over the budgets, into what blocks."""

from __future__ import annotations

from tests.hostile.files import budgets, libraries, loops, modules, mounts, paths

ATTACKS = [
    *paths.ATTACKS,
    *mounts.ATTACKS,
    *budgets.ATTACKS,
    *libraries.ATTACKS,
    *loops.ATTACKS,
    *modules.ATTACKS,
]
