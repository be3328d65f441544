"""Limits: what one sandbox may use, with defaults and checks; and what a run did use.

Pure. Every limit here is enforced. A new limit is a field of :class:`Limits` and a line of ``_CHECKS``; tests compare
the tables in docs/security.md and docs/reference/options.md with the fields.
"""

from __future__ import annotations

__all__ = ["Limits", "Usage", "check_count", "check_seconds", "check_size"]

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast, final

from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.kinds import is_a, plain_int

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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

    def replaced(self, given: Mapping[str, object]) -> Limits:
        """Return these limits with those of ``given`` in their place, each checked by itself.

        Names that are no limits are passed over, and so are values that are ``None``. What a limit may be beside
        another, or on a template, is for ``options.check_options`` to say.

        Raises:
            InvalidArgumentError: one has a wrong type or value.
        """
        checked: dict[str, Any] = {
            name: check(name, given[name]) for name, check in _CHECKS.items() if given.get(name) is not None
        }
        return replace(self, **checked) if checked else self


@final
@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used; kept when it failed or was cancelled.

    Attributes:
        cpu_s: seconds of CPU the guest computed.
        wall_s: seconds from start to end, without those the run waited for other runs of its sandbox.
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
    number = plain_int(value)
    if number is None:
        raise InvalidArgumentError(f"{name} is a number of bytes (an int), not {clip(value)}")
    if not low <= number <= high:
        raise InvalidArgumentError(f"{name}={clip(number)} is out of range: give between {low} and {high} bytes")
    return number


def check_count(name: str, value: object, *, low: int = 1, high: int = (1 << 63) - 1) -> int:
    """Return ``value`` if it is a count within bounds.

    Raises:
        InvalidArgumentError: it is not.
    """
    number = plain_int(value)
    if number is None:
        raise InvalidArgumentError(f"{name} is an int, not {clip(value)}")
    if not low <= number <= high:
        raise InvalidArgumentError(f"{name}={clip(number)} is out of range: give between {low} and {high}")
    return number


def check_seconds(name: str, value: object) -> float:
    """Return ``value`` if it is a positive, finite number of seconds.

    Raises:
        InvalidArgumentError: it is not.
    """
    number = float.__float__(cast("float", value)) if is_a(value, float) else plain_int(value)
    if number is None:
        raise InvalidArgumentError(f"{name} is a number of seconds, not {clip(value)}")
    try:
        seconds = float(number)
    except OverflowError:  # an int
        seconds = math.inf
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidArgumentError(f"{name}={clip(number)} is out of range: give a positive, finite number of seconds")
    return seconds


_CHECKS: Final[dict[str, Callable[[str, object], object]]] = {
    "max_memory": check_size,
    "max_fuel": check_count,
    "max_cpu": check_seconds,
    "max_output": partial(check_size, high=1 << 40),
    "max_payload": partial(check_size, low=1, high=1 << 31),
    "max_hostcalls": check_count,
    "max_total_hostcalls": partial(check_count, low=0),
}
"""How each field of :class:`Limits` is checked. The upper bounds of ``max_output`` and ``max_payload`` are guesses that
catch a wrong unit; a guest's memory bounds both lower."""
