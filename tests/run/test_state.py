"""The run's state machine as a table, without a loop, a thread or a guest."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isola_anyio.run.state import (
    IN_TURN,
    NEW_RUN,
    RULES,
    Action,
    Event,
    Interrupt,
    Notice,
    Phase,
    State,
    Stop,
    transition,
)
from tests.run import state_table

if TYPE_CHECKING:
    from collections.abc import Iterator

TASK: Final = (Event.CANCEL, Event.CLOSE, Event.CPU_OUT, Event.LOOK, Event.DUE)
"""What the run's task may report whatever the guest does."""
UNWINDING: Final = (Event.PATIENCE_OVER, Event.GRACE_OVER)
"""... and what it may report of a guest that is being cancelled."""


def possible(state: State) -> Iterator[Event]:
    """Give the events that either side can report in a state."""
    phase = state.phase
    if phase is Phase.NEW:
        yield from (Event.START, Event.CANCEL, Event.CLOSE)
        return
    yield from TASK
    if state.stop is Stop.CANCELLED:
        yield from UNWINDING
    if phase is Phase.QUEUED:
        yield from (Event.ENTER, Event.WITHDRAWN)
    elif phase is Phase.COMPUTING:
        yield from (Event.BLOCK, Event.SLEEP, Event.END, Event.TELLABLE, Event.DEFERRABLE)
        if state.pending:
            yield Event.LEAVE
        else:
            yield from (Event.PARK, Event.SERVE)
    elif phase is Phase.BLOCKED:
        yield Event.UNBLOCK
    elif phase is Phase.SLEEPING:
        yield Event.WAKE
    elif phase is Phase.SERVED:
        yield Event.SERVED


def reachable() -> dict[State, list[tuple[Event, State, tuple[Action, ...]]]]:
    """Walk every state that a run can be in, with the ways out of it."""
    found: dict[State, list[tuple[Event, State, tuple[Action, ...]]]] = {}
    left = deque([NEW_RUN])
    while left:
        state = left.popleft()
        if state in found:
            continue
        found[state] = [(event, *transition(state, event)) for event in possible(state)]
        left.extend(after for _, after, _ in found[state])
    return found


STATES: Final = reachable()
STEPS: Final = [(state, *way) for state, ways in STATES.items() for way in ways]


def test_the_table_in_the_docs_is_the_codes() -> None:
    assert state_table.section(state_table.PAGE.read_text("utf-8")) == state_table.table()


def test_every_row_of_the_table_is_needed() -> None:
    used = {
        next((number for number, rule in enumerate(RULES) if rule.event is event and rule.fits(state)), None)
        for state, event, _, _ in STEPS
    }
    assert [rule for number, rule in enumerate(RULES) if number not in used] == []


def test_there_are_few_enough_states_to_keep_every_transition() -> None:
    assert len(STATES) < 300


def test_an_ended_run_stays_ended() -> None:
    for state, event, after, actions in STEPS:
        if state.phase is Phase.ENDED:
            assert after == state, event
            assert actions == (), event


def test_the_first_reason_to_stop_stays() -> None:
    for state, event, after, _ in STEPS:
        if state.stop:
            assert after.stop is state.stop, (state, event)


def test_a_final_interrupt_is_never_withdrawn_while_the_run_lasts() -> None:
    for state, event, after, actions in STEPS:
        if state.interrupt is Interrupt.FINAL:
            assert after.interrupt is Interrupt.FINAL, (state, event)
            assert Action.CLEAR not in actions or after.phase is Phase.ENDED, (state, event)
            assert Action.ENTER not in actions, (state, event)


def test_an_interrupt_is_withdrawn_once_in_a_run_at_most() -> None:
    for state, event, after, actions in STEPS:
        if Action.CLEAR in actions and after.phase is not Phase.ENDED:
            assert (state.interrupt, after.interrupt) == (Interrupt.RAISED, Interrupt.SPENT), event
        if state.interrupt is Interrupt.SPENT:
            assert after.interrupt in (Interrupt.SPENT, Interrupt.FINAL), event


def test_what_interrupts_the_instance_says_so_in_the_state() -> None:
    for state, event, after, actions in STEPS:
        if Action.INTERRUPT in actions:
            assert after.interrupt in (Interrupt.RAISED, Interrupt.FINAL), (state, event)
            assert after.phase is Phase.QUEUED or after.phase in IN_TURN, (state, event)


def test_a_turn_is_asked_for_whenever_the_phase_becomes_queued() -> None:
    for state, event, after, actions in STEPS:
        assert (Action.SUBMIT in actions) == (state.phase is not Phase.QUEUED and after.phase is Phase.QUEUED), event


def test_a_turn_comes_to_something_while_it_goes_on_only() -> None:
    for state in STATES:
        assert not state.pending or state.phase in IN_TURN


def test_a_guest_is_told_of_a_cancellation_only() -> None:
    for state in STATES:
        if state.notice:
            assert state.stop is Stop.CANCELLED
            assert state.delivered


def test_a_guest_that_was_told_is_left_alone_until_the_grace_is_over() -> None:
    for state, event, _, actions in STEPS:
        if state.notice and Action.INTERRUPT in actions:
            assert event in (Event.GRACE_OVER, Event.CLOSE, Event.CPU_OUT), state
        if state.notice:
            assert Action.TELL not in actions


@pytest.mark.parametrize("event", [Event.GRACE_OVER, Event.CLOSE, Event.CPU_OUT])
def test_a_final_event_ends_a_run_without_another_turn(event: Event) -> None:
    for state in STATES:
        if event not in possible(state):
            continue
        after, _ = transition(state, event)
        if after.phase in IN_TURN:  # the thread comes back, having noticed
            after, _ = transition(after._replace(phase=Phase.COMPUTING), Event.END)
            after, _ = transition(after, Event.LEAVE)
        elif after.phase is Phase.QUEUED:
            withdrawn, _ = transition(after, Event.WITHDRAWN)
            assert withdrawn.phase is Phase.ENDED, state
            after, actions = transition(after, Event.ENTER)
            assert not actions, state
            after, _ = transition(after, Event.LOOK if event is not Event.GRACE_OVER else event)
        assert after.phase is Phase.ENDED, state


def test_a_cancelled_run_whose_guest_goes_on_as_it_should_ends_without_breaking_it() -> None:
    """From every state in which a run can be cancelled there is a way to its end that keeps the sandbox."""
    for start in STATES:
        if start.stop or start.phase in (Phase.ENDED, Phase.SLEEPING):
            continue
        state, actions = transition(start, Event.CANCEL)
        assert Action.BREAK not in actions
        for _ in range(12):
            if state.phase is Phase.ENDED:
                break
            event = {
                Phase.QUEUED: Event.ENTER,
                Phase.BLOCKED: Event.UNBLOCK,
                Phase.SERVED: Event.SERVED,
                Phase.PARKED: Event.LOOK,
            }.get(state.phase)
            if event is None:  # computing: it makes a door call, and ends when it has been told
                if state.pending:
                    event = Event.LEAVE
                elif state.notice:
                    event = Event.END
                else:
                    event = Event.PARK
            state, actions = transition(state, event)
            assert Action.BREAK not in actions, start
        assert state.phase is Phase.ENDED, start


@given(st.lists(st.integers(min_value=0, max_value=99), max_size=40))
def test_however_two_sides_interleave_nothing_impossible_happens(choices: list[int]) -> None:
    state = NEW_RUN
    inside = False
    for choice in choices:
        events = list(possible(state))
        event = events[choice % len(events)]
        state, actions = transition(state, event)
        if Action.ENTER in actions:
            assert not inside
            inside = True
        if event is Event.LEAVE:
            assert inside
            inside = False
        assert inside == (state.phase in IN_TURN)


def test_an_event_that_cannot_happen_is_a_fault_of_ours() -> None:
    with pytest.raises(ValueError, match="LEAVE cannot happen in State"):
        transition(NEW_RUN, Event.LEAVE)
    told = NEW_RUN._replace(phase=Phase.PARKED, stop=Stop.CANCELLED, notice=Notice.SENT, delivered=True)
    with pytest.raises(ValueError, match="WAKE cannot happen"):
        transition(told, Event.WAKE)
    assert transition(told, Event.ENTER) == (told, ())  # a turn that was given up and begins all the same
