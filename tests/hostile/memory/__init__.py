"""Attacks through memory."""

from tests.hostile.memory.allocations import ATTACKS

__all__ = ["ATTACKS"]
