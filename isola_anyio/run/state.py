"""The state machine of one run: phases, stops, and what follows from each event.

Pure: no loop, no thread, no guest. ``transition(state, event)`` gives the state after an event and the actions that
whoever reported the event has to take; it is the only place that decides. :class:`~isola_anyio.run.turns.Turns` holds
the current state, under a lock, because events come from two sides: the run's task in the event loop, and the guest
thread that has the turn. ``docs/design.md`` prints :data:`RULES` as a table.

A guest that is cancelled is told of it where that is possible, and is then left alone for a grace in which it unwinds.
Where it can be told depends on the phase: a parked guest is sent CANCEL, a blocked one is told in the reply it waits
for, a computing one when it makes its next door call. One that computes on without a door call is interrupted, which
is the end of its instance. An interrupt that was raised and has not yet been noticed when the guest makes a door call
after all, its last word included, is withdrawn, once in a run; after the grace, and for a limit or a close, interrupts
are final.

Longer than other modules, because the table and the words it is made of are read together.
"""

from __future__ import annotations

__all__ = [
    "IN_TURN",
    "NEW_RUN",
    "PATIENCE",
    "RULES",
    "STARTED",
    "Action",
    "Event",
    "Interrupt",
    "Notice",
    "Patience",
    "Pending",
    "Phase",
    "Rule",
    "State",
    "Stop",
    "transition",
]

from dataclasses import dataclass, field
from enum import IntEnum, auto
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a guest that is being cancelled may take, in seconds.

    Attributes:
        grace_s: for unwinding, from when the guest was told.
        queued_s: for being told, when nothing of the guest is on a thread or its thread queues for a slot: a crowd that
            is cancelled at once unwinds a few at a time. One that was not told by then is given up.
        courtesy_s: CPU that a computing guest may use without a door call before it is interrupted: so much that one
            that mostly waits, or talks often, stays usable, and well below the 5 ms in which a spinning guest has to
            be stopped. It is the guest's own CPU time: a guest whose thread waits for a core is not to blame.
        withheld_s: CPU that it may use after a reply was withheld, so that it parks, whatever door calls it makes: so
            much that it can free the memory of a large frame.
        patience_s: ... and on the clock, whatever CPU it used, so that a machine that never schedules the guest's
            thread does not keep the caller waiting.
        reminder_s: between increments of the epoch while an interrupted guest has not come back; see
            :meth:`~isola_anyio.engine.instance.Instance.interrupt`.
    """

    grace_s: float = 1.0
    queued_s: float = 5.0
    courtesy_s: float = 0.002
    withheld_s: float = 0.05
    patience_s: float = 1.0
    reminder_s: float = 0.01


PATIENCE: Final = Patience()


class Phase(IntEnum):
    """Where the guest is."""

    NEW = auto()
    """Nothing was asked of a guest thread yet."""
    QUEUED = auto()
    """A turn is wanted, and no guest thread has begun it."""
    COMPUTING = auto()
    """Inside a turn: guest code, or short work of the host for it."""
    SERVED = auto()
    """Inside a turn: a plain handler of the program's has the guest's thread."""
    BLOCKED = auto()
    """Inside a turn: the thread waits on the guest's behalf, where the guest can be told of a cancellation."""
    SLEEPING = auto()
    """Inside a turn: plain guest code sleeps, where it can be told nothing."""
    PARKED = auto()
    """Between turns: no WebAssembly frame is on a stack."""
    ENDED = auto()
    """The run is over."""


IN_TURN: Final = frozenset({Phase.COMPUTING, Phase.SERVED, Phase.BLOCKED, Phase.SLEEPING})


class Stop(IntEnum):
    """Why the run is being stopped; the first reason stays."""

    NONE = 0
    CANCELLED = auto()
    CPU = auto()
    CLOSED = auto()


class Notice(IntEnum):
    """Whether the guest was told of its cancellation; one that was told is left alone until the grace is over."""

    NONE = 0
    IN_REPLY = auto()
    """The reply to a door call said so; CANCEL follows when the guest parks."""
    QUEUED = auto()
    """CANCEL waits for a guest thread."""
    SENT = auto()
    """CANCEL was delivered."""


class Interrupt(IntEnum):
    """Whether the instance was interrupted."""

    NONE = 0
    RAISED = auto()
    """It may still be withdrawn, should the guest make a door call before it notices."""
    SPENT = auto()
    """One was withdrawn, or a reply was withheld instead. The next one is final."""
    FINAL = auto()
    """Never withdrawn while the run lasts."""


class Pending(IntEnum):
    """What the turn under way has come to; it becomes the phase when the thread has left the guest."""

    NONE = 0
    PARKED = auto()
    ENDED = auto()


class State(NamedTuple):
    """The state of one run."""

    phase: Phase = Phase.NEW
    stop: Stop = Stop.NONE
    notice: Notice = Notice.NONE
    interrupt: Interrupt = Interrupt.NONE
    pending: Pending = Pending.NONE
    delivered: bool = False
    """Whether the guest knows of the run: its first message was handed over."""


NEW_RUN: Final = State()


class Event(IntEnum):
    """What happened; T: reported by the run's task, G: by the guest thread that has the turn."""

    START = auto()
    """T: the run has its turn in the sandbox's queue."""
    CANCEL = auto()
    """T: the caller is cancelled."""
    CLOSE = auto()
    """T: the sandbox is being closed."""
    CPU_OUT = auto()
    """T, G: ``max_cpu`` is used up."""
    WITHDRAWN = auto()
    """T: the queued turn was taken back before a thread had it."""
    LOOK = auto()
    """T: the task looks after the guest: is there anything to be done about a stop?"""
    DUE = auto()
    """T: there is something for a parked guest: completions, a timer, room for events."""
    PATIENCE_OVER = auto()
    """T: a cancelled guest computed on for longer than the courtesy."""
    GRACE_OVER = auto()
    """T: a cancelled guest has not unwound in time."""
    ENTER = auto()
    """G: a guest thread begins the queued turn."""
    BLOCK = auto()
    """G: the thread is about to wait on the guest's behalf."""
    UNBLOCK = auto()
    """G: that wait is over."""
    SLEEP = auto()
    """G: plain guest code sleeps."""
    WAKE = auto()
    """G: that sleep is over."""
    SERVE = auto()
    """G: a plain handler is called."""
    SERVED = auto()
    """G: the plain handler returned."""
    TELLABLE = auto()
    """G: the guest made a door call whose reply can say that it is cancelled."""
    DEFERRABLE = auto()
    """G: ... whose reply can be withheld, so that the guest parks and is sent CANCEL."""
    PARK = auto()
    """G: the guest ends its turn and waits."""
    END = auto()
    """G: the guest's outermost function is done, or the turn failed."""
    LEAVE = auto()
    """G: no WebAssembly frame is left on the thread; from here on others may enter the guest or free it."""


LATE: Final = frozenset(
    {
        *(Event.CANCEL, Event.CLOSE, Event.CPU_OUT, Event.WITHDRAWN, Event.LOOK, Event.DUE),
        *(Event.PATIENCE_OVER, Event.GRACE_OVER, Event.TELLABLE, Event.DEFERRABLE),
        # A turn that was given up while the thread pool had it: whoever gave it up could not know that.
        Event.ENTER,
    }
)
"""Events that may come when nothing follows from them any more. Any other without a rule is a fault of this library."""


class Action(IntEnum):
    """What has to be done; L: by ``Turns.step`` itself, under the lock, else by who reported the event."""

    SUBMIT = auto()
    """Ask the thread pool for a turn."""
    WITHDRAW_WORK = auto()
    """Take the queued turn back; report WITHDRAWN if that worked."""
    ENTER = auto()
    """Enter the guest. Without it the turn is not begun."""
    TELL = auto()
    """Say in the reply that the guest is cancelled, or withhold the reply."""
    INTERRUPT = auto()
    """L: interrupt the instance. Under the lock, because after LEAVE it would hit the next run."""
    CLEAR = auto()
    """L: withdraw an interrupt, and the guest's precedence."""
    EXPEDITE = auto()
    """L: wake the guest, which from here on goes before guests that are wanted when it waits for a CPU slot."""
    LET_UNWIND = auto()
    """L: it does that without being woken: its thread, if it has one, does not wait."""
    BREAK = auto()
    """L: the guest is not trusted again."""
    STOPPED = auto()
    """The outcome is the stop's: the guest has nothing more to say about it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: what follows from an event in some phases, if the other fields have one of these values.

    Attributes:
        event: what happened.
        phases: the phases the row is for.
        when: for each field named, the values it may have.
        stop: the reason to stop, noted if there is none yet.
        to: fields and their new values.
        actions: what has to be done, in this order.
    """

    event: Event
    phases: frozenset[Phase]
    when: Mapping[str, frozenset[int]] = field(default_factory=dict[str, frozenset[int]])
    stop: Stop = Stop.NONE
    to: Mapping[str, int] = field(default_factory=dict[str, int])
    actions: tuple[Action, ...] = ()

    def fits(self, state: State) -> bool:
        """Whether the row is for this state."""
        return state.phase in self.phases and all(getattr(state, name) in values for name, values in self.when.items())

    def apply(self, state: State) -> State:
        """Return the state after the event."""
        changes: dict[str, Any] = dict(self.to)
        if self.stop and not state.stop:
            changes["stop"] = self.stop
        return state._replace(**changes)


_Conditions: TypeAlias = "dict[str, int | tuple[int, ...]]"


def _rule(
    event: Event,
    phases: Phase | frozenset[Phase] | tuple[Phase, ...],
    *actions: Action,
    when: _Conditions | None = None,
    stop: Stop = Stop.NONE,
    **to: int,
) -> Rule:
    at = frozenset({phases}) if isinstance(phases, Phase) else frozenset(phases)
    conditions = {
        name: frozenset(values if isinstance(values, tuple) else (values,)) for name, values in (when or {}).items()
    }
    return Rule(event, at, conditions, stop, to, actions)


_NOT_FINAL: Final = (Interrupt.NONE, Interrupt.RAISED, Interrupt.SPENT)
# QUEUED too: a parked guest whose CANCEL was asked for is one that no thread could be had for.
_NOT_SENT: Final = (Notice.NONE, Notice.IN_REPLY, Notice.QUEUED)
_WANTED: Final[_Conditions] = {"stop": Stop.NONE}
_CANCELLED: Final[_Conditions] = {"stop": Stop.CANCELLED}
_UNTOLD: Final[_Conditions] = {"stop": Stop.CANCELLED, "notice": Notice.NONE}

RULES: Final = (
    _rule(Event.START, Phase.NEW, Action.SUBMIT, phase=Phase.QUEUED),
    # --- somebody wants the run stopped
    _rule(Event.CANCEL, Phase.NEW, stop=Stop.CANCELLED, phase=Phase.ENDED),
    _rule(Event.CANCEL, Phase.QUEUED, Action.WITHDRAW_WORK, when=_WANTED, stop=Stop.CANCELLED),
    _rule(Event.CANCEL, Phase.BLOCKED, Action.EXPEDITE, when=_WANTED, stop=Stop.CANCELLED),
    _rule(Event.CANCEL, Phase.SLEEPING, Action.INTERRUPT, when=_WANTED, stop=Stop.CANCELLED, interrupt=Interrupt.FINAL),
    _rule(Event.CANCEL, (Phase.COMPUTING, Phase.SERVED, Phase.PARKED), when=_WANTED, stop=Stop.CANCELLED),
    _rule(Event.CLOSE, Phase.NEW, Action.STOPPED, stop=Stop.CLOSED, phase=Phase.ENDED),
    _rule(Event.CLOSE, Phase.PARKED, Action.BREAK, Action.STOPPED, stop=Stop.CLOSED, phase=Phase.ENDED),
    _rule(
        Event.CLOSE, Phase.QUEUED, Action.INTERRUPT, Action.WITHDRAW_WORK, stop=Stop.CLOSED, interrupt=Interrupt.FINAL
    ),
    _rule(Event.CLOSE, IN_TURN, Action.INTERRUPT, stop=Stop.CLOSED, interrupt=Interrupt.FINAL),
    _rule(Event.CPU_OUT, Phase.PARKED, Action.BREAK, Action.STOPPED, stop=Stop.CPU, phase=Phase.ENDED),
    _rule(
        Event.CPU_OUT, Phase.QUEUED, Action.INTERRUPT, Action.WITHDRAW_WORK, stop=Stop.CPU, interrupt=Interrupt.FINAL
    ),
    # Whatever the turn has come to: a guest may compute on after its last word. For one that does not, LEAVE clears it.
    _rule(Event.CPU_OUT, IN_TURN, Action.INTERRUPT, stop=Stop.CPU, interrupt=Interrupt.FINAL),
    # Whatever the turn has come to: a guest may compute on after its last word.
    _rule(
        Event.PATIENCE_OVER,
        Phase.COMPUTING,
        Action.INTERRUPT,
        when=_UNTOLD | {"interrupt": Interrupt.NONE},
        interrupt=Interrupt.RAISED,
    ),
    _rule(
        Event.PATIENCE_OVER,
        Phase.COMPUTING,
        Action.INTERRUPT,
        when=_UNTOLD | {"interrupt": Interrupt.SPENT},
        interrupt=Interrupt.FINAL,
    ),
    _rule(Event.GRACE_OVER, Phase.PARKED, Action.BREAK, phase=Phase.ENDED),
    _rule(
        Event.GRACE_OVER, Phase.QUEUED, Action.BREAK, Action.INTERRUPT, Action.WITHDRAW_WORK, interrupt=Interrupt.FINAL
    ),
    _rule(Event.GRACE_OVER, IN_TURN, Action.BREAK, Action.INTERRUPT, interrupt=Interrupt.FINAL),
    # --- the task looks after a guest that has no turn
    _rule(
        Event.WITHDRAWN,
        Phase.QUEUED,
        Action.BREAK,
        Action.STOPPED,
        when={"interrupt": Interrupt.FINAL},
        phase=Phase.ENDED,
    ),
    _rule(Event.WITHDRAWN, Phase.QUEUED, when={"delivered": False}, phase=Phase.ENDED),
    _rule(Event.WITHDRAWN, Phase.QUEUED, phase=Phase.PARKED),
    _rule(Event.LOOK, Phase.PARKED, when=_CANCELLED | {"delivered": False}, phase=Phase.ENDED),
    _rule(
        Event.LOOK,
        Phase.PARKED,
        Action.BREAK,
        Action.STOPPED,
        when={"stop": (Stop.CPU, Stop.CLOSED)},
        phase=Phase.ENDED,
    ),
    _rule(
        Event.LOOK,
        Phase.PARKED,
        Action.BREAK,
        Action.STOPPED,
        when=_CANCELLED | {"interrupt": Interrupt.FINAL},
        phase=Phase.ENDED,
    ),
    _rule(
        Event.LOOK,
        Phase.PARKED,
        Action.LET_UNWIND,
        Action.SUBMIT,
        when=_CANCELLED | {"notice": _NOT_SENT},
        phase=Phase.QUEUED,
        notice=Notice.QUEUED,
    ),
    _rule(Event.DUE, Phase.PARKED, Action.SUBMIT, when=_WANTED, phase=Phase.QUEUED),
    _rule(
        Event.DUE,
        Phase.PARKED,
        Action.SUBMIT,
        when=_CANCELLED | {"notice": Notice.SENT, "interrupt": _NOT_FINAL},
        phase=Phase.QUEUED,
    ),
    # --- a turn, on a guest thread
    _rule(Event.ENTER, Phase.QUEUED, Action.ENTER, when=_WANTED, phase=Phase.COMPUTING, delivered=True),
    _rule(
        Event.ENTER,
        Phase.QUEUED,
        Action.ENTER,
        when=_CANCELLED | {"notice": (Notice.QUEUED, Notice.SENT), "interrupt": _NOT_FINAL},
        phase=Phase.COMPUTING,
        notice=Notice.SENT,
    ),
    _rule(Event.ENTER, Phase.QUEUED, phase=Phase.PARKED),
    # Not blocked at all: whoever is about to block looks first, and tells it. After a final interrupt it can be told
    # nothing, and blocks, where it hears of the interrupt: otherwise it would look and be sent back for ever.
    _rule(Event.BLOCK, Phase.COMPUTING, when=_UNTOLD | {"interrupt": _NOT_FINAL}),
    _rule(Event.BLOCK, Phase.COMPUTING, phase=Phase.BLOCKED),
    _rule(Event.UNBLOCK, Phase.BLOCKED, phase=Phase.COMPUTING),
    _rule(
        Event.SLEEP, Phase.COMPUTING, Action.INTERRUPT, when=_UNTOLD, phase=Phase.SLEEPING, interrupt=Interrupt.FINAL
    ),
    _rule(Event.SLEEP, Phase.COMPUTING, phase=Phase.SLEEPING),
    _rule(Event.WAKE, Phase.SLEEPING, phase=Phase.COMPUTING),
    _rule(Event.SERVE, Phase.COMPUTING, phase=Phase.SERVED),
    _rule(Event.SERVED, Phase.SERVED, phase=Phase.COMPUTING),
    _rule(
        Event.TELLABLE,
        Phase.COMPUTING,
        Action.CLEAR,
        Action.LET_UNWIND,
        Action.TELL,
        when=_UNTOLD | {"interrupt": Interrupt.RAISED},
        notice=Notice.IN_REPLY,
        interrupt=Interrupt.SPENT,
    ),
    _rule(
        Event.TELLABLE,
        Phase.COMPUTING,
        Action.LET_UNWIND,
        Action.TELL,
        when=_UNTOLD | {"interrupt": (Interrupt.NONE, Interrupt.SPENT)},
        notice=Notice.IN_REPLY,
    ),
    _rule(
        Event.DEFERRABLE,
        Phase.COMPUTING,
        Action.CLEAR,
        Action.LET_UNWIND,
        Action.TELL,
        when=_UNTOLD | {"interrupt": Interrupt.RAISED},
        interrupt=Interrupt.SPENT,
    ),
    _rule(
        Event.DEFERRABLE,
        Phase.COMPUTING,
        Action.LET_UNWIND,
        Action.TELL,
        when=_UNTOLD | {"interrupt": (Interrupt.NONE, Interrupt.SPENT)},
        interrupt=Interrupt.SPENT,
    ),
    _rule(
        Event.PARK,
        Phase.COMPUTING,
        Action.CLEAR,
        when={"pending": Pending.NONE, "interrupt": Interrupt.RAISED},
        pending=Pending.PARKED,
        interrupt=Interrupt.SPENT,
    ),
    _rule(Event.PARK, Phase.COMPUTING, when={"pending": Pending.NONE}, pending=Pending.PARKED),
    # On its way out of WebAssembly it would notice, and be dead, although it has done what it was interrupted for.
    _rule(
        Event.END,
        IN_TURN,
        Action.CLEAR,
        when={"interrupt": Interrupt.RAISED},
        pending=Pending.ENDED,
        interrupt=Interrupt.SPENT,
    ),
    _rule(Event.END, IN_TURN, pending=Pending.ENDED),
    # It had parked, computed on, and came back before it noticed: it can be told after all.
    _rule(
        Event.LEAVE,
        IN_TURN,
        Action.CLEAR,
        when={"pending": Pending.PARKED, "interrupt": Interrupt.RAISED},
        phase=Phase.PARKED,
        pending=Pending.NONE,
        interrupt=Interrupt.SPENT,
    ),
    _rule(Event.LEAVE, IN_TURN, when={"pending": Pending.PARKED}, phase=Phase.PARKED, pending=Pending.NONE),
    _rule(
        Event.LEAVE,
        IN_TURN,
        when={"pending": Pending.ENDED, "stop": Stop.NONE},
        phase=Phase.ENDED,
        pending=Pending.NONE,
    ),
    # What was raised when the guest had just ended by itself must not hit the next run.
    _rule(Event.LEAVE, IN_TURN, Action.CLEAR, when={"pending": Pending.ENDED}, phase=Phase.ENDED, pending=Pending.NONE),
)
"""The table: the first row that fits decides."""

_RULES_OF: Final = {event: tuple(rule for rule in RULES if rule.event is event) for event in Event}


@cache  # a few hundred states, each a tuple of small ints: on the run path a transition is one call into C
def transition(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """Return the state after an event, and what has to be done.

    Raises:
        ValueError: the event cannot happen in this state: a fault of this library's own.
    """
    for rule in _RULES_OF[event]:
        if rule.fits(state):
            return rule.apply(state), rule.actions
    if event in LATE:
        return state, ()
    raise ValueError(f"{event.name} cannot happen in {state}")


STARTED: Final = transition(NEW_RUN, Event.START)[0]
"""The state of a run whose task has just asked for its first turn; nobody else has seen it by then."""
