"""Attacks through files."""

from tests.hostile.files.paths import ATTACKS

__all__ = ["ATTACKS"]
