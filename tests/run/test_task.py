"""The run's task and its turns, with a fake machine: where exactly a stop falls is decided by events."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import cast

import anyio
import anyio.lowlevel
import pytest

from isola_anyio.engine.slots import Rank, Work
from isola_anyio.engine.threads import ThreadPool, WorkItem
from isola_anyio.errors import CpuLimitError, GuestError, IsolaError, SandboxBrokenError, SandboxClosedError
from isola_anyio.events import EventQueue
from isola_anyio.guests.protocol import ToGuest
from isola_anyio.run.state import Notice, Patience, Phase, Stop
from isola_anyio.run.task import Run
from tests.run.fake_machine import CALL, FakeGuest, FakeMachine, Gate, Script, cancelled, runs_of, script


async def test_a_run_is_one_turn_and_gives_its_value(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, lambda guest: guest.done([1, 2]))
    runs = runs_of(machine)
    assert await Run(runs, CALL).complete() == [1, 2]
    assert machine.turns == [ToGuest.CALL]
    assert not runs.line
    assert runs.usage.runs == 1


async def test_a_timer_gives_the_guest_its_next_turn(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, lambda guest: guest.park(0.001), lambda guest: guest.done())
    await Run(runs_of(machine), CALL).complete()
    assert machine.turns == [ToGuest.CALL, ToGuest.RESUME]


async def test_a_turn_that_ends_without_a_word_is_a_protocol_error_and_the_guest_is_not_trusted_again(
    pool: ThreadPool,
) -> None:
    machine = FakeMachine(pool, lambda _guest: None)
    with pytest.raises(GuestError, match="without a word"):
        await Run(runs_of(machine), CALL).complete()
    assert machine.broken


async def test_cancelled_before_a_thread_has_it_the_guest_is_never_entered(pool: ThreadPool) -> None:
    gates = [Gate(), Gate()]
    for gate in gates:
        pool.submit(gate)
        await gate.arrive()
    machine = FakeMachine(pool, lambda guest: guest.done())
    await cancelled(Run(runs_of(machine), CALL), anyio.wait_all_tasks_blocked)
    assert machine.turns == []
    assert not machine.broken
    for gate in gates:
        gate.opened.set()


async def test_cancelled_when_a_thread_has_it_and_has_not_begun_the_guest_is_never_entered(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, lambda guest: guest.done())
    gate = Gate()
    put = pool.put

    def put_late(work: Work, rank: Rank = Rank.FRESH) -> None:
        def late() -> None:
            gate()
            work.run()

        put(WorkItem(late, work.report), rank)

    pool.put = put_late  # type: ignore[method-assign]
    run = Run(runs_of(machine), CALL)

    async def when() -> None:
        await gate.arrive()
        threading.Timer(0.01, gate.opened.set).start()

    await cancelled(run, when)
    pool.put = put  # type: ignore[method-assign]
    assert machine.turns == []
    assert not machine.broken


async def test_a_spinning_guest_is_interrupted_and_dead(pool: ThreadPool) -> None:
    gate = Gate()
    gate.opened.set()
    machine = FakeMachine(pool, script(gate, FakeGuest.spin))
    began = time.perf_counter()
    await cancelled(Run(runs_of(machine, Patience()), CALL), gate.arrive)
    assert machine.broken
    assert time.perf_counter() - began < Patience().grace_s


async def test_a_guest_whose_thread_was_not_scheduled_is_not_to_blame(pool: ThreadPool) -> None:
    # 80 ms on the clock, no CPU of its own, then it comes where it can be told: on a busy machine that is nothing.
    gate = Gate()
    machine = FakeMachine(pool, script(gate, lambda guest: guest.park()), lambda guest: guest.fail())

    async def when() -> None:
        await gate.arrive()
        threading.Timer(0.08, gate.opened.set).start()

    await cancelled(Run(runs_of(machine, Patience()), CALL), when)
    assert machine.turns == [ToGuest.CALL, ToGuest.CANCEL]
    assert not machine.broken


async def test_an_interrupt_that_was_not_noticed_before_a_door_call_is_withdrawn(pool: ThreadPool) -> None:
    gate = Gate()
    seen: list[bytes] = []

    def late(guest: FakeGuest) -> None:
        gate()
        while not machine.store.interrupted:  # it has computed for too long, and is told in the very next moment
            pass
        seen.append(guest.wait())
        guest.notice()
        guest.done()

    machine = FakeMachine(pool, late)
    run = Run(runs_of(machine, Patience()), CALL)
    gate.opened.set()
    await cancelled(run, gate.arrive)
    assert seen == [b"\1"]
    assert not machine.broken
    assert not machine.store.interrupted
    assert run.turns.state.notice is Notice.IN_REPLY


async def test_a_second_interrupt_of_a_run_is_final(pool: ThreadPool) -> None:
    gate = Gate()

    def late(guest: FakeGuest) -> None:
        gate()
        while not machine.store.interrupted:
            pass
        guest.ask("plain", 1)  # its reply is withheld, so that it parks; it does not
        guest.spin()

    machine = FakeMachine(pool, late)
    gate.opened.set()
    await cancelled(Run(runs_of(machine, handlers={"plain": lambda _: None}), CALL), gate.arrive)
    assert machine.broken


@pytest.mark.parametrize("where", ["parked", "waiting", "without room"])
async def test_a_waiting_guest_is_told_and_unwinds(pool: ThreadPool, where: str) -> None:
    gate = Gate()
    gate.opened.set()
    told: list[object] = []

    def wait(guest: FakeGuest) -> None:
        told.append(guest.wait())
        guest.fail()

    def fill(guest: FakeGuest) -> None:
        try:
            while True:
                guest.write("x" * 10_000)
        except Exception as exc:
            told.append(type(exc).__name__)
        guest.fail()

    first = {"parked": lambda guest: guest.park(), "waiting": wait, "without room": fill}[where]
    machine = FakeMachine(pool, script(gate, first), lambda guest: guest.fail(), max_output=1 << 40)
    run = Run(runs_of(machine), CALL, EventQueue() if where == "without room" else None)

    async def when() -> None:
        await gate.arrive()
        expected = Phase.PARKED if where == "parked" else Phase.BLOCKED
        while run.turns.state.phase is not expected:
            await anyio.lowlevel.checkpoint()

    await cancelled(run, when)
    assert not machine.broken
    assert machine.turns == ([ToGuest.CALL, ToGuest.CANCEL] if where == "parked" else [ToGuest.CALL])
    assert told == {"parked": [], "waiting": [b"\1"], "without room": ["WasiError"]}[where]


async def test_a_guest_that_ignores_its_cancellation_is_broken_when_the_grace_is_over(pool: ThreadPool) -> None:
    gate = Gate()
    gate.opened.set()
    machine = FakeMachine(pool, script(gate, lambda guest: guest.park()), lambda guest: guest.park())
    await cancelled(Run(runs_of(machine), CALL), gate.arrive)
    assert machine.broken


async def test_a_sleeping_guest_is_interrupted_at_once(pool: ThreadPool) -> None:
    gate = Gate()
    gate.opened.set()
    machine = FakeMachine(pool, script(gate, lambda guest: guest.sleep(60)))
    run = Run(runs_of(machine, Patience()), CALL)
    began = time.perf_counter()
    await cancelled(run, gate.arrive)
    assert machine.broken
    assert time.perf_counter() - began < Patience().grace_s


async def test_a_guest_that_sleeps_after_it_was_told_has_its_grace(pool: ThreadPool) -> None:
    gate = Gate()
    gate.opened.set()

    def unwind(guest: FakeGuest) -> None:
        guest.sleep(0.02)
        guest.fail()

    machine = FakeMachine(pool, script(gate, lambda guest: guest.park()), unwind)
    await cancelled(Run(runs_of(machine, Patience()), CALL), gate.arrive)
    assert not machine.broken


@pytest.mark.parametrize("where", ["in line", "queued", "computing", "parked", "waiting", "sleeping"])
async def test_closing_stops_a_run_wherever_it_is(pool: ThreadPool, where: str) -> None:
    gate, hog = Gate(), Gate()
    gate.opened.set()
    steps: dict[str, Script] = {
        "computing": FakeGuest.spin,
        "parked": lambda guest: guest.park(),
        "waiting": lambda guest: cast("None", guest.wait()),
        "sleeping": lambda guest: guest.sleep(None),
    }
    machine = FakeMachine(pool, script(gate, steps.get(where, lambda guest: guest.park())))
    runs = runs_of(machine)
    blockers: list[Gate] = []
    if where == "queued":
        for _ in range(2):
            blocker = Gate()
            blockers.append(blocker)
            pool.submit(blocker)
            await blocker.arrive()
    raised: list[type[BaseException]] = []

    async def go(run: Run) -> None:
        try:
            await run.complete()
        except IsolaError as exc:
            raised.append(type(exc))

    async with anyio.create_task_group() as group:
        run = Run(runs, CALL)
        group.start_soon(go, run)
        if where == "queued":
            await anyio.wait_all_tasks_blocked()
        else:
            await gate.arrive()
        if where == "in line":
            group.start_soon(go, Run(runs, CALL))
            await anyio.wait_all_tasks_blocked()
        runs.close()
    assert raised == [SandboxClosedError] * (2 if where == "in line" else 1)
    assert not runs.line
    for blocker in blockers:
        blocker.opened.set()
    del hog


async def test_a_cpu_budget_ends_a_guest_that_is_being_cancelled_too(pool: ThreadPool) -> None:
    gate = Gate()
    gate.opened.set()

    def unwind(guest: FakeGuest) -> None:
        guest.spin()

    machine = FakeMachine(pool, script(gate, lambda guest: guest.park()), unwind, max_cpu=0.02)
    run = Run(runs_of(machine, Patience(grace_s=30)), CALL)
    with anyio.fail_after(10):
        await cancelled(run, gate.arrive)
    assert machine.broken
    assert run.turns.state.stop is Stop.CANCELLED


async def test_a_cpu_budget_ends_a_spinning_guest(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, FakeGuest.spin, max_cpu=0.02)
    with pytest.raises(CpuLimitError):
        await Run(runs_of(machine), CALL).complete()
    assert machine.broken


async def test_no_thread_to_be_had_is_an_error_and_the_sandbox_goes_on(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, lambda guest: guest.done(7))
    runs = runs_of(machine)
    put = pool.put

    def refuse(work: Work, rank: Rank = Rank.FRESH) -> None:
        raise IsolaError("no thread can be started")

    pool.put = refuse  # type: ignore[method-assign]
    with pytest.raises(IsolaError, match="no thread"):
        await Run(runs, CALL).complete()
    pool.put = put  # type: ignore[method-assign]
    assert not machine.broken
    assert await Run(runs, CALL).complete() == 7


async def test_a_run_behind_one_that_broke_the_guest_is_refused(pool: ThreadPool) -> None:
    gate = Gate()
    gate.opened.set()
    machine = FakeMachine(pool, script(gate, FakeGuest.spin))
    runs = runs_of(machine)
    raised: list[BaseException] = []

    async def second() -> None:
        try:
            await Run(runs, CALL).complete()
        except SandboxBrokenError as exc:
            raised.append(exc)

    async with anyio.create_task_group() as outer, anyio.create_task_group() as group:
        group.start_soon(Run(runs, CALL).complete)
        await gate.arrive()
        outer.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert len(raised) == 1


@pytest.mark.slow
async def test_cancelled_at_any_moment_in_any_turn_nothing_is_left(pool: ThreadPool) -> None:
    """A storm: scripts and moments at random, from a seed; after each the queue, the pool and the flags are clean."""
    draw = random.Random(20261130)

    async def later(_payload: object) -> int:
        await anyio.lowlevel.checkpoint()
        return 1

    for number in range(150):
        ops = iter(range(1, 1000))

        def turn(guest: FakeGuest, ops: Iterator[int] = ops) -> None:
            if guest.kind is ToGuest.CANCEL:
                guest.fail()
                return
            for _ in range(draw.randrange(4)):
                what = draw.randrange(4)
                if what == 0:
                    guest.ask("plain", next(ops))
                elif what == 1:
                    guest.ask("later", next(ops))
                elif what == 2 and guest.wait(0.0001) == b"\1":
                    guest.fail()
                    return
                else:
                    guest.notice()
            if draw.random() < 0.3:
                guest.done()
            else:
                guest.park(0.0001)

        machine = FakeMachine(pool, turn)
        runs = runs_of(machine, Patience(), {"plain": lambda _: None, "later": later})
        run = Run(runs, CALL)
        with anyio.move_on_after(draw.random() * 0.002):
            await run.complete()
        assert run.turns.state.phase is Phase.ENDED, number
        assert not runs.line
        assert machine.store.inside == 0
        if not machine.broken:
            assert not machine.store.interrupted
            machine.scripts = [lambda guest: guest.done(5)]
            assert await Run(runs, CALL).complete() == 5
