"""Memory: more than there is, deeper than any stack, and outside of what is one's own."""

from __future__ import annotations

from tests.hostile.memory import allocations, corruption, javascript, stacks

ATTACKS = [
    *allocations.ATTACKS,
    *stacks.ATTACKS,
    *corruption.ATTACKS,
    *javascript.ATTACKS,
]
