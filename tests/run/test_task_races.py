"""The moments in which the event loop and the guest's thread meet: each test is one interleaving, made with events.

Longer than other modules, because each of them is found by reading down one list.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from isola_anyio import codec
from isola_anyio.engine.slots import Rank, Work
from isola_anyio.engine.threads import ThreadPool
from isola_anyio.errors import (
    CpuLimitError,
    GuestError,
    IsolaError,
    MemoryLimitError,
    SandboxBrokenError,
    SandboxClosedError,
)
from isola_anyio.events import EventQueue
from isola_anyio.guests.protocol import ToGuest, ToHost
from isola_anyio.run import hostcalls
from isola_anyio.run.frames import Frames
from isola_anyio.run.services import GivenUp, Message
from isola_anyio.run.state import Notice, Patience, Phase, State, Stop
from isola_anyio.run.streaming import Streaming
from isola_anyio.run.streams import StreamPump
from isola_anyio.run.task import Run
from isola_anyio.run.turns import Turns
from isola_anyio.values import StreamSource
from tests.run.fake_machine import (
    CALL,
    FakeGuest,
    FakeInstance,
    FakeMachine,
    Gate,
    cancelled,
    runs_of,
    script,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_GRACE = Patience(grace_s=30)


class SlowToInterrupt(FakeMachine):
    """A machine whose instance, once interrupted, is found by the loop only when ``moment`` has passed.

    Whoever looks at the state, and interrupts because of what it saw, is held up between the two.
    """

    loop_thread = 0

    def __init__(self, *args: Any, moment: Callable[[], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._moment = moment
        self.loop_thread = threading.get_ident()

    @property
    def instance(self) -> FakeInstance:
        if threading.get_ident() == self.loop_thread and self.store.interrupted:
            self._moment()
        return self._instance

    @instance.setter
    def instance(self, instance: FakeInstance) -> None:
        self._instance = instance


async def test_a_reminder_does_not_reach_the_next_run(pool: ThreadPool) -> None:
    late = Gate()

    def moment() -> None:
        late.opened.set()
        until = time.monotonic() + 0.1
        while run.turns.state.phase is not Phase.ENDED and time.monotonic() < until:
            time.sleep(0.001)

    machine = SlowToInterrupt(pool, script(late, FakeGuest.done), moment=moment)
    runs = runs_of(machine, Patience(grace_s=0.02, courtesy_s=60))
    run = Run(runs, CALL)
    await cancelled(run, late.arrive)
    assert run.turns.state.phase is Phase.ENDED
    assert not machine.store.interrupted


@pytest.mark.slow
async def test_a_reminder_does_not_hit_a_guest_that_was_told_meanwhile(pool: ThreadPool) -> None:
    gate = Gate(opened=True)

    def moment() -> None:
        told.opened.set()
        time.sleep(0.05)

    told = Gate()
    replies: list[bytes] = []

    def late(guest: FakeGuest) -> None:
        gate()
        while not machine.store.interrupted:
            pass
        told()
        replies.append(guest.wait())
        time.sleep(0.1)
        guest.notice()
        guest.fail()

    machine = SlowToInterrupt(pool, late, moment=moment)
    await cancelled(Run(runs_of(machine, LONG_GRACE), CALL), gate.arrive)
    assert replies == [b"\1"]
    assert not machine.broken


async def test_cancelled_and_closed_while_the_host_looks_for_completions_a_waiting_guest_ends(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Gate()
    take = Frames.take_completions

    def take_late(self: Frames) -> list[bytes]:
        looks()
        return take(self)

    monkeypatch.setattr(Frames, "take_completions", take_late)
    machine = FakeMachine(pool, lambda guest: None if guest.wait() == b"" else guest.fail())
    runs = runs_of(machine, LONG_GRACE)

    async def when() -> None:
        await looks.arrive()
        closing.start_soon(close_after_cancel)

    async def close_after_cancel() -> None:
        while not run.turns.state.stop:
            await anyio.lowlevel.checkpoint()
        runs.close()
        looks.opened.set()

    run = Run(runs, CALL)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as closing:
            await cancelled(run, when)
    assert machine.broken


async def test_a_cancelled_guest_that_sleeps_for_no_time_is_not_stopped_for_that(pool: ThreadPool) -> None:
    gate = Gate()
    told: list[bytes] = []

    def look_and_wait(guest: FakeGuest) -> None:
        gate()
        while not run.turns.state.stop:
            pass
        guest.sleep(0)  # sched_yield, or randomness in pieces
        told.append(guest.wait())
        guest.fail()

    machine = FakeMachine(pool, look_and_wait)
    gate.opened.set()
    run = Run(runs_of(machine, Patience(courtesy_s=60)), CALL)
    await cancelled(run, gate.arrive)
    assert told == [b"\1"]
    assert not machine.broken


async def test_a_streamed_run_whose_task_begins_after_the_guest_broke_is_refused(pool: ThreadPool) -> None:
    gate = Gate(opened=True)
    machine = FakeMachine(pool, script(gate, FakeGuest.spin))
    runs = runs_of(machine)
    second = Run(runs, CALL)

    async def when() -> None:
        await gate.arrive()
        second.enter_line()

    await cancelled(Run(runs, CALL), when)
    with pytest.raises(SandboxBrokenError):
        await second.complete()
    assert not runs.line


@pytest.mark.slow
async def test_cancelled_while_a_batch_is_encoded_a_reading_guest_unwinds(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = Gate(opened=True)
    encode = StreamPump._encode
    read: list[bytes] = []

    def encode_slowly(self: StreamPump, value: Any, max_bytes: int | None, *, wrap: int = 0) -> bytes:
        encoding()
        while not machine.store.interrupted:
            time.sleep(0.001)
        self._run.yield_gil()
        return encode(self, value, max_bytes, wrap=wrap)

    monkeypatch.setattr(StreamPump, "_encode", encode_slowly)

    def read_all(guest: FakeGuest) -> None:
        produced.wait(10)
        read.append(guest.door(ToHost.READ, bytes(4), 1))
        guest.notice()
        guest.park()

    produced = threading.Event()

    def items() -> Any:
        yield 1
        produced.set()
        yield 2

    machine = FakeMachine(pool, read_all, FakeGuest.fail)
    message = Message(ToGuest.CALL, b"", (StreamSource(items(), 8),))
    await cancelled(Run(runs_of(machine, LONG_GRACE), message), encoding.arrive)
    assert read == [b""]
    assert machine.turns == [ToGuest.CALL, ToGuest.CANCEL]
    assert not machine.broken


@pytest.mark.parametrize("last", ["done", "emit"])
async def test_cancelled_while_a_large_value_is_decoded_a_guest_is_not_stopped_for_it(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    decoding = Gate(opened=True)
    decode = codec.decode

    def decode_slowly(data: Any, *, pause: Any) -> Any:
        decoding()
        while not machine.store.interrupted:
            time.sleep(0.001)
        pause()
        return decode(data, pause=pause)

    monkeypatch.setattr(codec, "decode", decode_slowly)

    def turn(guest: FakeGuest) -> None:
        if last == "done":
            guest.done()
        else:
            guest.door(ToHost.EMIT, codec.encode(1))
            guest.notice()
            guest.park()
        guest.notice()

    def unwind(guest: FakeGuest) -> None:
        monkeypatch.undo()
        guest.fail()

    machine = FakeMachine(pool, turn, unwind)
    run = Run(runs_of(machine, Patience(courtesy_s=0.0, grace_s=30)), CALL, EventQueue())
    await cancelled(run, decoding.arrive)
    assert not machine.broken
    assert not machine.store.interrupted


async def test_a_guest_that_parks_when_it_was_just_interrupted_is_told_instead(pool: ThreadPool) -> None:
    gate = Gate(opened=True)

    def park_late(guest: FakeGuest) -> None:
        gate()
        while not machine.store.interrupted:
            pass
        guest.park()
        guest.notice()  # on its way out of WebAssembly

    machine = FakeMachine(pool, park_late, FakeGuest.fail)
    await cancelled(Run(runs_of(machine, LONG_GRACE), CALL), gate.arrive)
    assert machine.turns == [ToGuest.CALL, ToGuest.CANCEL]
    assert not machine.broken


async def test_a_cpu_budget_ends_a_guest_that_computes_on_after_its_last_word(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, script(FakeGuest.done, FakeGuest.spin), max_cpu=0.02)
    with anyio.fail_after(5), pytest.raises(CpuLimitError):
        await Run(runs_of(machine), CALL).complete()
    assert machine.broken


async def test_no_thread_for_a_moment_when_a_guest_is_to_unwind_it_unwinds_later(pool: ThreadPool) -> None:
    gate = Gate(opened=True)
    machine = FakeMachine(pool, script(gate, FakeGuest.park), FakeGuest.fail)
    run = Run(runs_of(machine, LONG_GRACE), CALL)
    put, refused = pool.put, 0

    def refuse_some(work: Work, rank: Rank = Rank.FRESH) -> None:
        nonlocal refused
        if rank is Rank.UNWINDING and refused < 3:
            refused += 1
            raise IsolaError("no thread can be started")
        put(work, rank)

    async def when() -> None:
        await gate.arrive()
        while run.turns.state.phase is not Phase.PARKED:
            await anyio.lowlevel.checkpoint()

    pool.put = refuse_some  # type: ignore[method-assign]
    with anyio.fail_after(5):
        await cancelled(run, when)
    assert refused == 3
    assert machine.turns == [ToGuest.CALL, ToGuest.CANCEL]
    assert not machine.broken


async def test_no_thread_for_a_later_turn_is_the_runs_error_and_the_guest_unwinds(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, lambda guest: guest.park(0.001), FakeGuest.fail)
    put = pool.put

    def refuse(work: Work, rank: Rank = Rank.FRESH) -> None:
        if machine.turns and rank is not Rank.UNWINDING:
            raise IsolaError("no thread can be started")
        put(work, rank)

    pool.put = refuse  # type: ignore[method-assign]
    with pytest.raises(IsolaError, match="no thread"):
        await Run(runs_of(machine), CALL).complete()
    assert machine.turns == [ToGuest.CALL, ToGuest.CANCEL]
    assert not machine.broken


async def test_an_interrupt_key_while_work_is_handed_over_leaves_a_whole_pool_and_sandbox(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, lambda guest: guest.done(3))
    runs = runs_of(machine)
    put = pool.put

    def press(work: Work, rank: Rank = Rank.FRESH) -> None:
        put(work, rank)
        raise KeyboardInterrupt

    pool.put = press  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        await Run(runs, CALL).complete()
    pool.put = put  # type: ignore[method-assign]
    assert not machine.broken
    assert await Run(runs, CALL).complete() == 3


async def test_a_guest_without_room_for_small_failures_either_is_a_memory_error(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, lambda guest: guest.park(0.0))
    deliver, calls = machine.deliver, 0

    def refuse(frame: bytes, conversation: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise MemoryError("no room")
        deliver(frame, conversation)

    machine.deliver = refuse  # type: ignore[method-assign]
    with pytest.raises(MemoryLimitError, match="no room"):
        await Run(runs_of(machine), CALL).complete()
    assert machine.broken  # it waits for what never came


async def test_a_handler_whose_awaitable_cannot_be_closed_does_not_end_the_run(pool: ThreadPool) -> None:
    class Stubborn:
        def __await__(self) -> Any:
            yield

        def close(self) -> None:
            raise ZeroDivisionError

    def both(guest: FakeGuest) -> None:
        guest.ask("give", 1)
        guest.done(4)

    machine = FakeMachine(pool, both)
    runs = runs_of(machine, handlers={"give": lambda _: Stubborn()})
    assert await Run(runs, CALL).complete() == 4
    assert runs.usage.runs == 1


class Closable:
    """What a plain handler returned, to be awaited; or to be closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __await__(self) -> Any:
        yield

    def close(self) -> None:
        self.closed += 1


async def test_an_awaitable_whose_call_is_dropped_before_its_task_is_started_is_closed(pool: ThreadPool) -> None:
    def ask_and_drop(guest: FakeGuest) -> None:
        guest.ask("hold", 1)
        guest.ask("give", 2)
        guest.door(ToHost.DROP, number=2)
        guest.park(0.0)

    given = Closable()
    closed_in_run: list[int] = []

    def end(guest: FakeGuest) -> None:
        closed_in_run.append(given.closed)
        guest.done(4)

    async def hold(_payload: object) -> None:
        await anyio.sleep_forever()

    machine = FakeMachine(pool, ask_and_drop, end, max_hostcalls=1)
    assert await Run(runs_of(machine, handlers={"hold": hold, "give": lambda _: given}), CALL).complete() == 4
    assert closed_in_run == [1]
    assert given.closed == 1


async def test_an_awaitable_that_is_given_up_while_its_payload_is_weighed_is_closed(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(*_args: object) -> int:
        raise GivenUp

    monkeypatch.setattr(hostcalls, "TINY_PAYLOAD_BYTES", 0)
    monkeypatch.setattr(codec, "decoded_size", give_up)
    given = Closable()

    def ask(guest: FakeGuest) -> None:
        guest.ask("give", 1)
        guest.done(4)

    machine = FakeMachine(pool, ask)
    assert await Run(runs_of(machine, handlers={"give": lambda _: given}), CALL).complete() == 4
    assert given.closed == 1


async def test_what_a_run_used_that_never_began_is_nothing(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, lambda guest: guest.done())
    machine.metered = True
    runs = runs_of(machine)
    await Run(runs, CALL).complete()
    before = runs.usage
    assert before.fuel == 7
    gates = [Gate(), Gate()]
    for gate in gates:
        pool.submit(gate)
        await gate.arrive()
    await cancelled(Run(runs, CALL), anyio.wait_all_tasks_blocked)
    for gate in gates:
        gate.opened.set()
    assert runs.usage == before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_streamed_run_whose_task_is_cancelled_before_its_first_step_leaves_the_line(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, lambda guest: guest.done(6))
    runs = runs_of(machine)
    streaming = Streaming(runs, CALL, lambda _: None)
    streaming.begin(None)
    for task in asyncio.all_tasks():
        if task.get_name() == "isola event stream":
            task.cancel()
    del task
    with anyio.fail_after(5):
        assert await Run(runs, CALL).complete() == 6
        await streaming.join()
    assert not runs.line
    assert isinstance(streaming.queue.error, SandboxClosedError)


class Body(bytes):
    """A message's body that tells of its end: ``bytes`` cannot be referred to weakly."""

    gone: threading.Event

    def __del__(self) -> None:
        self.gone.set()


@pytest.mark.parametrize(
    ("state", "had_its_slot_s_ago", "is_left"),
    [
        pytest.param(State(Phase.BLOCKED, Stop.CANCELLED), 60.0, True, id="queues"),
        pytest.param(State(Phase.COMPUTING, Stop.CANCELLED), 0.0, True, id="queued until now"),
        pytest.param(State(Phase.COMPUTING, Stop.CANCELLED, Notice.SENT), 60.0, True, id="is being told"),
        pytest.param(State(Phase.COMPUTING, Stop.CANCELLED), 60.0, False, id="computes on"),
    ],
)
async def test_the_grace_of_a_guest_that_queued_is_not_over_before_it_is_told(
    pool: ThreadPool, *, state: State, had_its_slot_s_ago: float, is_left: bool
) -> None:
    # Between its slot and the line that notes that it was told the task may look, after a long time in the queue.
    runs = runs_of(FakeMachine(pool), Patience(grace_s=10, queued_s=50))
    run = Run(runs, CALL)
    run.turns = Turns(runs, CALL, None, owner=run)
    run.turns.state = state
    now = time.monotonic()
    runs.machine.instance.waiter.began = now - had_its_slot_s_ago
    assert (run._grace_left(began=now - 30) > 0) is is_left


async def test_a_message_is_let_go_when_the_guest_has_it(pool: ThreadPool) -> None:
    body = Body(b"body")
    gone = body.gone = threading.Event()
    machine = FakeMachine(pool, lambda guest: guest.park(), FakeGuest.fail)
    run = Run(runs_of(machine), Message(ToGuest.CALL, body))
    del body

    async def when() -> None:
        while not machine.turns or run.turns.state.phase is not Phase.PARKED:
            await anyio.lowlevel.checkpoint()
        assert gone.is_set()

    await cancelled(run, when)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["value", "guest error", "interrupted", "protocol error"])
async def test_a_run_that_is_over_leaves_nothing_for_the_collector(pool: ThreadPool, how: str) -> None:
    gate = Gate(opened=True)

    def garbage(guest: FakeGuest) -> None:
        guest.door(ToHost.DONE, b"\xff")

    steps = {"value": FakeGuest.done, "guest error": FakeGuest.fail, "interrupted": FakeGuest.spin}
    machine = FakeMachine(pool, script(gate, steps.get(how, garbage)))
    runs = runs_of(machine)

    async def cancel(scope: anyio.CancelScope) -> None:
        await gate.arrive()
        scope.cancel()

    async def once() -> weakref.ref[Run]:
        run = Run(runs, CALL)
        if how == "interrupted":
            # Not in a task of its own: a circle of anyio's own would hold it on asyncio.
            async with anyio.create_task_group() as group:
                with anyio.CancelScope() as scope:
                    group.start_soon(cancel, scope)
                    await run.complete()
        else:
            with suppress(GuestError):
                await run.complete()
        return weakref.ref(run)

    await once()  # what the first use of anything makes
    machine.abandoned = machine.store.dead = machine.store.interrupted = False
    await anyio.wait_all_tasks_blocked()
    gc.collect()
    gc.disable()
    try:
        gone = await once()
        for _ in range(100):
            if gone() is None:
                break
            await anyio.sleep(0.001)  # the guest thread lets go of the turn a moment later
        assert gone() is None
    finally:
        gc.enable()
