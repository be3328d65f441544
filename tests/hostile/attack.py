"""Say what an attack is, and what must hold when it is over.

An attack is a guest's script and a call. Whatever it does, the harness checks what must always hold; ``expect`` adds
what must hold for this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from textwrap import dedent
from typing import TYPE_CHECKING, Any, Literal

from isola_anyio import (
    GuestError,
    InternalError,
    InvalidArgumentError,
    IsolaError,
    LimitError,
    SandboxBrokenError,
    SandboxClosedError,
)
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from isola_anyio import Event

MIB = 1 << 20
CONTRACT = (GuestError, LimitError, SandboxBrokenError, SandboxClosedError, InvalidArgumentError)
"""What the library may raise for something a guest did."""


@dataclass
class Outcome:
    """What came of an attack.

    Attributes:
        value: what the call returned; for twins a list of both sandboxes' values.
        error: what it raised instead.
        cancelled: whether the harness had to cancel it, as the attack wanted.
        late_s: how long after the cancellation the call came back.
        events: what was streamed.
        grown_bytes: how far the host's resident memory rose above what it was before.
        usable: whether the sandbox answered afterwards.
        in_line: whether more guests attacked than may compute at once; then a cancelled one may not have begun.
    """

    value: Any = None
    error: BaseException | None = None
    cancelled: bool = False
    late_s: float = 0.0
    events: list[Event] = field(default_factory=list)
    grown_bytes: int = 0
    usable: bool = False
    in_line: bool = False

    def __str__(self) -> str:
        if self.error is not None:
            return f"{type(self.error).__name__}: {str(self.error)[:600]}"
        if self.cancelled:
            return f"cancelled, {self.late_s * 1000:.0f} ms late"
        try:
            return f"value {str(self.value)[:600]}"
        except (ValueError, RecursionError):  # an int of too many digits, or a deep list
            return f"value of type {type(self.value).__name__}"


Expectation = Callable[[Outcome], None]


class LateError(AssertionError):
    """What should have ended in time did not: the one expectation that a busy machine may fail by itself."""


@dataclass(frozen=True)
class Attack:
    """One named attack.

    Attributes:
        name: says what is tried.
        script: defines ``attack``, which is then called.
        expect: what must hold, besides what always must.
        options: of ``template.create``.
        mounts: which of the world's directories are mounted: ``ro`` at ``/data``, ``rw`` at ``/disk``.
        cancel_after: seconds after which the harness cancels the call, counted from the call.
        stream: the call's events are read, ``slowly`` after a pause so that the guest meets a full channel.
        twin: the same script is run in a second sandbox of the template, and the value is a list of both results.
        max_gap_s: how long the event loop may stand still; more than the usual 50 ms needs a ``reason``.
        max_grown_bytes: how far the host's resident memory may rise.
    """

    name: str
    runtime: Literal["python", "js"]
    script: str
    expect: Expectation
    args: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    mounts: str = ""
    cancel_after: float | None = None
    stream: Literal["", "read", "slowly"] = ""
    twin: bool = False
    metered: bool = False
    max_gap_s: float = 0.05
    reason: str = ""
    max_grown_bytes: int = 400 * MIB

    def __post_init__(self) -> None:
        assert self.max_gap_s <= 0.05 or self.reason, f"{self.name}: a longer standstill needs a reason"


def python(name: str, script: str, expect: Expectation, **rest: Any) -> Attack:
    """An attack in Python."""
    return Attack(name, "python", dedent(script), expect, **rest)


def js(name: str, script: str, expect: Expectation, **rest: Any) -> Attack:
    """An attack in JavaScript."""
    return Attack(name, "js", dedent(script), expect, **rest)


# --- expectations ----------------------------------------------------------------------------------------------------


def gives(expected: Any) -> Expectation:
    """The call returns this."""

    def check(outcome: Outcome) -> None:
        assert outcome.error is None, str(outcome)
        assert not outcome.cancelled, str(outcome)
        assert outcome.value == expected

    return check


def holds(predicate: Callable[[Any], Any], *, usable: bool = False) -> Expectation:
    """The call returns something that fulfils the predicate."""

    def check(outcome: Outcome) -> None:
        assert outcome.error is None, str(outcome)
        assert not outcome.cancelled, str(outcome)
        assert predicate(outcome.value), str(outcome)
        assert outcome.usable or not usable

    return check


def raises(kind: type[IsolaError], *types: str, usable: bool | None = None, text: str = "") -> Expectation:
    """The call raises this; a ``GuestError`` of one of ``types`` if any are given."""

    def check(outcome: Outcome) -> None:
        assert isinstance(outcome.error, kind), str(outcome)
        if types:
            assert isinstance(outcome.error, GuestError)
            assert outcome.error.type in types, str(outcome)
        assert text in str(outcome.error)
        assert usable is None or outcome.usable == usable

    return check


def stopped(*, within_s: float = 0.1, usable: bool | None = None) -> Expectation:
    """The call goes on until it is cancelled, and then ends at once."""

    def check(outcome: Outcome) -> None:
        assert outcome.cancelled, str(outcome)
        assert usable is None or outcome.in_line or outcome.usable == usable
        if outcome.late_s >= within_s * SLACK:
            raise LateError(str(outcome))

    return check


def stopped_after_grace(outcome: Outcome) -> None:
    """A guest that does not unwind is stopped when its second is over."""
    stopped(within_s=1.5, usable=False)(outcome)


def contained(outcome: Outcome) -> None:
    """Whatever it did, it did to itself: what always must hold is the whole claim."""
    assert outcome.error is None or isinstance(outcome.error, CONTRACT)


def survives(outcome: Outcome) -> None:
    """Whatever it did, the sandbox goes on."""
    contained(outcome)
    assert outcome.usable, str(outcome)


def either(*expectations: Expectation) -> Expectation:
    """One of these holds."""

    def check(outcome: Outcome) -> None:
        failures: list[AssertionError] = []
        for expect in expectations:
            try:
                expect(outcome)
            except AssertionError as exc:
                failures.append(exc)
            else:
                return
        kind = LateError if any(isinstance(failure, LateError) for failure in failures) else AssertionError
        raise kind(" / ".join(map(str, failures)))

    return check


def is_of_the_contract(error: BaseException) -> bool:
    """Whether the library may raise this for something a guest did."""
    return isinstance(error, CONTRACT) and not isinstance(error, InternalError)
