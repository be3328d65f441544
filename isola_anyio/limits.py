"""How much may one sandbox use? Limits with their defaults, and what a run did use.

Pure. Every limit here is enforced; the table in docs/security.md is made from :class:`Limits`.
"""

from __future__ import annotations

__all__ = ["Limits", "Usage", "check_count", "check_seconds", "check_size"]

import math
from dataclasses import dataclass, field
from typing import Final

from isola_anyio.errors import InvalidArgumentError, clip

MIB: Final = 1 << 20
MAX_MEMORY_BYTES: Final = 1 << 32
"""A 32-bit guest cannot address more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one sandbox; sizes in bytes, times in seconds."""

    max_memory: int
    max_fuel: int | None = None
    max_cpu: float | None = None
    max_output: int = 16 * MIB
    max_payload: int = 64 * MIB
    max_hostcalls: int = 1024
    max_total_hostcalls: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used; kept when it failed or was cancelled.

    Attributes:
        cpu_s: seconds of CPU the guest computed.
        wall_s: seconds from start to end, waiting for a turn not included.
        waiting_s: seconds of those in which the guest waited for the host, a timer or its consumer.
        fuel: fuel used, ``None`` when the template is not metered.
        hostcalls: hostcalls made.
        output_bytes: bytes written to stdout and stderr.
        peak_memory: most bytes of linear memory held so far.
        runs: how many runs these figures are of.
        total: the same, summed over the sandbox's life; ``None`` in a total itself.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    waiting_s: float = 0.0
    fuel: int | None = None
    hostcalls: int = 0
    output_bytes: int = 0
    peak_memory: int = 0
    runs: int = 0
    total: Usage | None = field(default=None, repr=False)

    def plus(self, other: Usage) -> Usage:
        """Add up two usages, as a total."""
        fuel = None if self.fuel is None and other.fuel is None else (self.fuel or 0) + (other.fuel or 0)
        return Usage(
            cpu_s=self.cpu_s + other.cpu_s,
            wall_s=self.wall_s + other.wall_s,
            waiting_s=self.waiting_s + other.waiting_s,
            fuel=fuel,
            hostcalls=self.hostcalls + other.hostcalls,
            output_bytes=self.output_bytes + other.output_bytes,
            peak_memory=max(self.peak_memory, other.peak_memory),
            runs=self.runs + other.runs,
        )


def check_size(name: str, value: object, *, low: int = 0, high: int = MAX_MEMORY_BYTES) -> int:
    """Return ``value`` if it is a number of bytes within bounds.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgumentError(f"{name} is a number of bytes (an int), not {clip(value)}")
    if not low <= value <= high:
        raise InvalidArgumentError(f"{name}={value} is out of range: give between {low} and {high} bytes")
    return value


def check_count(name: str, value: object, *, low: int = 1, high: int = (1 << 63) - 1) -> int:
    """Return ``value`` if it is a count within bounds.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgumentError(f"{name} is an int, not {clip(value)}")
    if not low <= value <= high:
        raise InvalidArgumentError(f"{name}={value} is out of range: give between {low} and {high}")
    return value


def check_seconds(name: str, value: object) -> float:
    """Return ``value`` if it is a positive, finite number of seconds.

    Raises:
        InvalidArgumentError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgumentError(f"{name} is a number of seconds, not {clip(value)}")
    if not (math.isfinite(value) and value > 0):
        raise InvalidArgumentError(f"{name}={value} is out of range: give a positive, finite number of seconds")
    return float(value)
