"""The targets."""

from tests.fuzz.targets.frames import CALLS, NAMES, TARGETS

__all__ = ["CALLS", "NAMES", "TARGETS"]
