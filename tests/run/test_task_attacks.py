"""What guests did that made door calls instead of unwinding: the run's task with a fake machine, moment by moment."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import pytest

from isola_anyio.engine.threads import ThreadPool
from isola_anyio.errors import CpuLimitError, GuestError
from isola_anyio.guests.protocol import Status, ToGuest, ToHost
from isola_anyio.run.answers import WITHHELD_BYTES
from isola_anyio.run.hostcalls import Hostcalls
from isola_anyio.run.queue import RunQueue
from isola_anyio.run.services import Message
from isola_anyio.run.state import Patience
from isola_anyio.run.task import Run
from isola_anyio.values import StreamSource
from tests.run.fake_machine import FakeGuest, FakeMachine, Script

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.machine import GuestMachine

ENDLESS_GRACE = Patience(grace_s=600)
"""Whoever is stopped for good before the test times out was not left alone until the grace was over."""
CALL = Message(ToGuest.CALL, b"")


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(max_parallel=2)
    yield pool
    pool.retire()


def made(machine: FakeMachine, message: Message = CALL, patience: Patience = ENDLESS_GRACE, **handlers: Any) -> Run:
    return Run(RunQueue(cast("GuestMachine", machine), handlers, patience), message)


async def cancel_inside(run: Run, began: threading.Event, settled: Callable[[], bool] = lambda: True) -> None:
    """Complete a run, and cancel it when the guest has begun and things are as they should be."""
    async with anyio.create_task_group() as group:
        group.start_soon(run.complete)
        await anyio.to_thread.run_sync(began.wait, 10)
        while not settled():
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


def spins_after(last_word: Callable[[FakeGuest], None], began: threading.Event) -> Script:
    def turn(guest: FakeGuest) -> None:
        if guest.kind is ToGuest.CALL:
            last_word(guest)
            began.set()
            guest.spin()
        else:
            guest.fail()

    return turn


LAST_WORDS: dict[str, Callable[[FakeGuest], None]] = {
    "DONE": FakeGuest.done,
    "FAIL": FakeGuest.fail,
    "PARK": FakeGuest.park,
}


@pytest.mark.parametrize("last_word", list(LAST_WORDS))
async def test_a_guest_that_computes_on_after_its_last_word_is_stopped_when_it_is_cancelled(
    pool: ThreadPool, last_word: str
) -> None:
    began = threading.Event()
    machine = FakeMachine(pool, spins_after(LAST_WORDS[last_word], began))
    with anyio.fail_after(10):
        await cancel_inside(made(machine), began)
    assert machine.broken


@pytest.mark.parametrize("last_word", ["DONE", "FAIL", "PARK"])
async def test_a_guest_that_computes_on_after_its_last_word_uses_no_more_than_its_cpu(
    pool: ThreadPool, last_word: str
) -> None:
    machine = FakeMachine(pool, spins_after(LAST_WORDS[last_word], threading.Event()), max_cpu=0.02)
    with anyio.fail_after(10), pytest.raises(CpuLimitError):
        await made(machine).complete()
    assert machine.broken


@pytest.mark.slow
@pytest.mark.parametrize("what", ["unknown hostcalls", "drops", "plain hostcalls", "partial results"])
async def test_a_guest_that_makes_door_calls_instead_of_unwinding_is_stopped_soon(pool: ThreadPool, what: str) -> None:
    began = threading.Event()
    ops = iter(range(1, 1 << 31))
    calls: dict[str, Callable[[FakeGuest], object]] = {
        "unknown hostcalls": lambda guest: guest.ask("nobody", next(ops)),
        "drops": lambda guest: guest.door(ToHost.DROP, b"", next(ops)),
        "plain hostcalls": lambda guest: guest.ask("plain", next(ops)),
        "partial results": lambda guest: guest.door(ToHost.EMIT, b"1"),
    }

    def turn(guest: FakeGuest) -> None:
        while True:
            calls[what](guest)
            began.set()
            guest.notice()

    machine = FakeMachine(pool, turn)
    with anyio.fail_after(10):
        await cancel_inside(made(machine, plain=lambda _: None), began)
    assert machine.broken


@pytest.mark.slow
async def test_a_guest_that_asks_and_drops_until_it_is_full_is_stopped(pool: ThreadPool) -> None:
    began = threading.Event()
    ops = iter(range(1, 1 << 31))

    async def never(_: object) -> None:
        await anyio.sleep_forever()

    def turn(guest: FakeGuest) -> None:
        while True:
            op = next(ops)
            guest.ask("never", op)
            guest.door(ToHost.DROP, b"", op)
            began.set()
            guest.notice()

    for _ in range(10):
        began.clear()
        machine = FakeMachine(pool, turn)
        with anyio.fail_after(10):
            await cancel_inside(made(machine, never=never), began)
        assert machine.broken


@pytest.mark.slow
async def test_withheld_answers_do_not_fill_the_hosts_memory(pool: ThreadPool) -> None:
    began = threading.Event()
    ops = iter(range(1, 1 << 31))
    held: list[int] = []
    big = "x" * 4_000_000

    def turn(guest: FakeGuest) -> None:
        while True:
            guest.ask("big", next(ops))
            frames = run.turns.frames
            assert frames is not None
            held.extend(service.answers.size_bytes for service in frames.services if isinstance(service, Hostcalls))
            began.set()
            guest.notice()

    machine = FakeMachine(pool, turn)
    run = made(machine, patience=Patience(grace_s=600, withheld_s=0.2), big=lambda _: big)
    with anyio.fail_after(20):
        await cancel_inside(run, began)
    assert 0 < max(held) <= WITHHELD_BYTES + 2 * len(big)


async def test_a_cancelled_guest_hears_of_its_cancellation_before_it_hears_of_its_handlers(pool: ThreadPool) -> None:
    began, ended = threading.Event(), threading.Event()
    replies: list[bytes] = []

    async def never(_: object) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    def turn(guest: FakeGuest) -> None:
        guest.ask("never", 1)
        began.set()
        assert ended.wait(10)  # cancelled with the run, while the guest is on its way to wait for it
        time.sleep(0.001)  # the handler's task notes its end after the handler
        replies.append(guest.wait(0))
        replies.append(guest.wait(0))  # ... and it may ask again while it unwinds
        guest.fail()

    machine = FakeMachine(pool, turn)
    run = made(machine, never=never)
    with anyio.fail_after(10):
        await cancel_inside(run, began, lambda: has_started(run))
    assert replies[0] == b"\1"
    assert replies[1][:1] == b"\0"
    assert b"CancelledError" in replies[1]
    assert not machine.broken


def has_started(run: Run) -> bool:
    frames = run.turns.frames
    return frames is not None and any(
        bool(service._scopes) for service in frames.services if isinstance(service, Hostcalls)
    )


async def test_a_cancelled_guest_that_reads_its_stream_on_gets_an_error_and_no_end(pool: ThreadPool) -> None:
    began, ended = threading.Event(), threading.Event()
    statuses: list[int] = []

    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            ended.set()

    def turn(guest: FakeGuest) -> None:
        reply = guest.door(ToHost.READ, (0).to_bytes(4, "little"), 1)
        while not reply:
            reply = guest.wait()[5:]
        began.set()
        assert ended.wait(10)
        assert guest.door(ToHost.READ, (0).to_bytes(4, "little"), 2) == b""  # not the end: it was not all
        assert guest.wait() == b"\1"
        record = guest.wait()[1:]
        statuses.append(record[4])
        guest.fail()

    machine = FakeMachine(pool, turn)
    message = Message(ToGuest.CALL, b"", (StreamSource(items(), 1),))
    with anyio.fail_after(10):
        await cancel_inside(made(machine, message), began)
    assert statuses == [Status.PRODUCER_FAILED]
    assert not machine.broken


async def test_a_log_of_another_run_is_refused(pool: ThreadPool) -> None:
    machine = FakeMachine(pool, lambda guest: cast("None", guest.door(ToHost.LOG, b"\1hello", 99)))
    with pytest.raises(GuestError, match="a frame of run 99 during run 1"):
        await made(machine).complete()
