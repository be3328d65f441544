"""The interpreter's lock reaches others in time, although guests' long host calls take it again at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Self

import pytest

from isola_anyio import fairness
from isola_anyio.engine import ffi
from tests.engine.support import call, make_program

CALLS = """(module
  (import "host" "give" (func $give (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "ask") (loop $again (drop (call $give (i32.const 0))) (br $again))))"""


@pytest.mark.slow
def test_who_waits_for_the_lock_gets_it_between_long_host_calls(tmp_path: Path) -> None:
    """Without the sleeps the other thread came round some ten times in a second."""
    store = ffi.Store(make_program(tmp_path, CALLS), max_memory=1 << 20)
    text = b"\xff" * 60_000
    store.handlers = [lambda _: len(text.decode("utf-8", "replace")) and 0]

    def guest() -> None:
        with pytest.raises(ffi.StoreInterrupted):
            call(store, "ask", ">")

    thread = threading.Thread(target=guest)
    thread.start()
    rounds, end = 0, time.monotonic() + 1
    while time.monotonic() < end:
        time.sleep(0.001)
        rounds += 1
    store.interrupted = True
    store.program.engine.increment_epoch()
    thread.join()
    store.close()
    assert rounds > 60


def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    sleeps: list[float] = []
    monkeypatch.setattr(fairness, "sleep", sleeps.append)
    fairness.note_gil_released()
    return sleeps


def test_long_host_calls_add_up_and_waiting_makes_good(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = slept(monkeypatch)
    now = time.perf_counter()
    for _ in range(10):
        fairness.host_call_took(now, now + 0.00025)
    assert len(sleeps) == 1
    fairness.note_gil_released()
    fairness.host_call_took(now - 10, time.perf_counter())  # it waited in between: only what came after counts
    assert len(sleeps) == 1


def test_long_work_gives_way_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = slept(monkeypatch)
    with fairness.in_pieces():
        for _ in range(1000):
            fairness.yield_gil()
        few = len(sleeps)
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            fairness.yield_gil()
    assert few < 5
    assert len(sleeps) > few


class StoppedError(Exception):
    """What a stand-in's interrupt raises."""


class StandIn:
    """A running instance, as far as yield points look at one."""

    handlers = ()
    fault = None
    stopped = False

    def check_interrupt(self) -> None:
        if self.stopped:
            raise StoppedError


class Holder:
    """A thread that takes the baton, keeps it while it waits, and gives it up when it is told to."""

    def __init__(self, baton: fairness._Baton) -> None:
        self._baton = baton
        self.taken = threading.Event()
        self.go = threading.Event()
        self.thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        self._baton.take(None)
        self.taken.set()
        self.go.wait(30)
        self._baton.give_up()

    def __enter__(self) -> Self:
        self.thread.start()
        assert self.taken.wait(30)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.go.set()
        self.thread.join()


@pytest.fixture
def baton(monkeypatch: pytest.MonkeyPatch) -> fairness._Baton:
    own = fairness._Baton()
    monkeypatch.setattr(fairness, "baton", own)
    return own


def test_a_holder_that_blocks_stops_nobody(baton: fairness._Baton) -> None:
    with Holder(baton) as holder:
        baton.take(None)  # another one, when the lease is over
        assert not holder.go.is_set()
        assert baton.is_taken
    # The first holder gave up what was no longer the baton.
    assert baton.is_taken
    assert baton.lock.locked()
    baton.give_up()
    assert not baton.is_taken
    assert not baton.lock.locked()


def test_a_guest_that_is_stopped_does_not_wait_for_the_baton(
    baton: fairness._Baton, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = StandIn()
    monkeypatch.setattr(fairness.current, "host", host)
    baton.taken_at = time.perf_counter() + 1000  # its lease is never over
    with Holder(baton):
        baton.taken_at = time.perf_counter() + 1000
        threading.Timer(0.01, lambda: setattr(host, "stopped", True)).start()
        with pytest.raises(StoppedError):
            make_long_calls()
    assert fairness.current.baton is None


def make_long_calls() -> None:
    """Make long calls until the baton is wanted."""
    while True:
        now = time.perf_counter()
        fairness.note_gil_released()
        fairness.host_call_took(now, now + 0.003)


def test_a_thread_of_an_event_loop_waits_for_nothing(baton: fairness._Baton) -> None:
    with Holder(baton) as holder:
        baton.taken_at = time.perf_counter() + 1000
        for _ in range(100):
            fairness.yield_gil()
            fairness.pause()
        assert not holder.go.is_set()
    assert fairness.current.baton is None


def test_one_thread_at_a_time_does_long_work(baton: fairness._Baton) -> None:
    inside: set[int] = set()
    most = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal most
        with fairness.in_pieces():
            for _ in range(20):
                with lock:
                    inside.discard(threading.get_ident())
                fairness.current.released_at = 0.0
                fairness.yield_gil()
                with lock:
                    inside.add(threading.get_ident())
                    most = max(most, len(inside))
            with lock:
                inside.discard(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not baton.is_taken


def test_the_baton_does_not_go_into_the_guest(tmp_path: Path) -> None:
    store = ffi.Store(make_program(tmp_path, CALLS), max_memory=1 << 20)
    held: list[object] = []

    def give(_: int) -> int:
        if held:
            held.append(fairness.current.baton)
            raise StoppedError
        fairness.current.released_at = 0.0
        fairness.yield_gil()
        held.append(fairness.current.baton)
        return 0

    store.handlers = [give]
    with pytest.raises(StoppedError):
        call(store, "ask", ">")
    assert held[0] is not None  # the second call may find it in the thread's hand: calls that are close are one work
    assert fairness.current.baton is None
    store.close()


@pytest.mark.parametrize("size", [0, 10, fairness.PIECE_BYTES, 3 * fairness.PIECE_BYTES + 5])
def test_blocks_are_copied_in_pieces(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    pauses: list[None] = []
    copy = fairness.copy_in_pieces(memoryview(data)[:size], lambda: pauses.append(None))
    assert type(copy) is bytes
    assert copy == data[:size]
    assert len(pauses) == (-(-size // fairness.PIECE_BYTES) if size > fairness.PIECE_BYTES else 0)
    assert fairness.join_in_pieces((b"ab", memoryview(b"cd"), b"")) == b"abcd"
