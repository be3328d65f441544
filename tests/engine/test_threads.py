"""The pool of guest threads: slots, order, withdrawal, blocking, and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Self

import pytest

from isola_anyio.engine import threads
from isola_anyio.engine.guest_thread import GuestThread
from isola_anyio.engine.slots import EXTRA_SLOTS, Rank, SlotWaiter
from isola_anyio.engine.threads import ThreadPool, WorkItem, _Thread
from isola_anyio.errors import IsolaError
from tests.engine.test_guest_thread import kill_threads_at_birth, refuse_signal_stacks


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(max_parallel=1)
    yield pool
    pool.retire()


class Work:
    """A piece of work that says when it began and ends when it is told."""

    def __init__(self, pool: ThreadPool, rank: Rank = Rank.FRESH) -> None:
        self.began, self.may_end, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.refused: SimpleQueue[IsolaError] = SimpleQueue()
        self.pool = pool
        self.item: WorkItem = pool.submit(self._run, refused=self.refused.put, rank=rank)

    def _run(self) -> None:
        self.began.set()
        self.may_end.wait(10)
        self.ended.set()

    def finish(self) -> None:
        self.may_end.set()
        assert self.ended.wait(10)


def test_no_more_than_max_parallel_compute_at_once(pool: ThreadPool) -> None:
    first, second = Work(pool), Work(pool)
    assert first.began.wait(10)
    assert not second.began.wait(0.05)
    first.finish()
    assert second.began.wait(10)
    second.finish()


def test_work_is_done_in_the_order_it_came(pool: ThreadPool) -> None:
    order: list[int] = []
    gate = Work(pool)
    done = threading.Event()
    for number in range(20):
        pool.submit(partial(order.append, number))
    pool.submit(done.set)
    gate.finish()
    assert done.wait(10)
    assert order == list(range(20))


def test_queued_work_can_be_withdrawn_and_started_work_cannot(pool: ThreadPool) -> None:
    first, second = Work(pool), Work(pool)
    assert first.began.wait(10)
    assert pool.withdraw(second.item)
    assert not pool.withdraw(second.item)
    assert not pool.withdraw(first.item)
    first.finish()
    assert not second.began.wait(0.05)


def test_a_bounded_crowd_unwinds_beside_those_that_are_wanted(pool: ThreadPool) -> None:
    first = Work(pool)
    assert first.began.wait(10)
    crowd = [Work(pool, Rank.UNWINDING) for _ in range(EXTRA_SLOTS + 1)]
    assert all(work.began.wait(10) for work in crowd[:EXTRA_SLOTS])
    assert not crowd[-1].began.wait(0.05)
    assert pool.busy == 1 + EXTRA_SLOTS
    first.finish()
    assert crowd[-1].began.wait(10)
    for work in crowd:
        work.finish()


def test_what_is_final_waits_for_nobody_who_unwinds(pool: ThreadPool) -> None:
    crowd = [Work(pool, Rank.UNWINDING) for _ in range(EXTRA_SLOTS + 5)]
    final = Work(pool, Rank.FINAL)
    assert final.began.wait(10)
    for work in (final, *crowd):
        work.finish()


class Blocked:
    """A guest that waits for something, its slot given back, and wants one again when it is woken."""

    def __init__(self, pool: ThreadPool) -> None:
        self.pool, self.turn = pool, SlotWaiter()
        self.paused, self.wake, self.resumed = (threading.Event() for _ in range(3))
        pool.submit(self._run)
        assert self.paused.wait(10)

    def _run(self) -> None:
        self.pool.pause()
        self.paused.set()
        self.wake.wait(10)
        self.pool.resume(self.turn)
        self.resumed.set()


def test_a_blocked_guest_gives_its_slot_to_the_next_and_takes_one_again(pool: ThreadPool) -> None:
    blocked = Blocked(pool)
    second = Work(pool)
    assert second.began.wait(10)
    blocked.wake.set()
    assert not blocked.resumed.wait(0.05)
    second.finish()
    assert blocked.resumed.wait(10)


def test_a_stopped_guest_resumes_at_once(pool: ThreadPool) -> None:
    blocked = Blocked(pool)
    second = Work(pool)
    assert second.began.wait(10)
    blocked.turn.urgency = Rank.UNWINDING
    blocked.wake.set()
    assert blocked.resumed.wait(10)
    second.finish()


def test_an_expedited_guest_leaves_the_queue_for_a_slot(pool: ThreadPool) -> None:
    blocked = Blocked(pool)
    second = Work(pool)
    assert second.began.wait(10)
    blocked.wake.set()
    assert not blocked.resumed.wait(0.05)
    blocked.turn.urgency = Rank.UNWINDING
    pool.expedite(blocked.turn)
    assert blocked.resumed.wait(10)
    second.finish()


def test_slots_are_never_lost_or_made(pool: ThreadPool) -> None:
    pool = ThreadPool(max_parallel=3)
    lock = threading.Lock()
    running, most = 0, 0
    done = threading.Semaphore(0)

    def work(number: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if number % 3 == 0:
            with lock:
                running -= 1
            pool.pause()
            pool.resume(SlotWaiter())
            with lock:
                running += 1
                most = max(most, running)
        with lock:
            running -= 1
        done.release()

    for number in range(600):
        pool.submit(partial(work, number))
    for _ in range(600):
        assert done.acquire(timeout=10)
    assert most <= 3
    pool.retire()


@pytest.mark.slow
def test_retiring_lets_threads_end_and_still_serves_what_comes() -> None:
    pool = ThreadPool(max_parallel=2)
    work = Work(pool)
    assert work.began.wait(10)
    pool.retire()
    late = Work(pool)
    late.finish()
    work.finish()
    for thread in threading.enumerate():
        if thread.name.startswith("isola-guest"):
            thread.join(0.5)
    assert pool.idle == 0


def test_computing_guests_take_turns_once_somebody_has_waited_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isola_anyio.engine.threads.PATIENCE_S", 0.05)
    monkeypatch.setattr("isola_anyio.engine.threads.SLICE_S", 0.01)
    pool = ThreadPool(max_parallel=1)
    turn, stop, epoch = SlotWaiter(), threading.Event(), threading.Event()
    pool.increment_epoch = epoch.set

    def compute() -> None:
        while not stop.is_set():
            if epoch.wait(0.01):
                epoch.clear()
                pool.preempt(turn)

    pool.submit(compute)
    for _ in range(3):
        done = threading.Event()
        pool.submit(done.set)
        assert done.wait(10)
    stop.set()
    turn.urgency = Rank.FINAL
    pool.expedite(turn)
    pool.retire()


def test_long_work_of_the_hosts_stands_aside_for_who_has_waited_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isola_anyio.engine.threads.PATIENCE_S", 0.02)
    pool = ThreadPool(max_parallel=1)
    turn, stop = SlotWaiter(), threading.Event()

    def decode() -> None:
        while not stop.wait(0.001):
            pool.stand_aside(turn)

    pool.submit(decode)
    for _ in range(3):
        done = threading.Event()
        pool.submit(done.set)
        assert done.wait(10)
    stop.set()
    turn.urgency = Rank.FINAL
    pool.expedite(turn)
    pool.retire()


class NoThreads:
    """While it is entered the system refuses threads, but for the first few."""

    def __init__(self, allowed: int = 0, why: type[Exception] = RuntimeError) -> None:
        self.allowed, self.refused, self._why = allowed, 0, why
        self._start = threading.Thread.start

    def __enter__(self) -> Self:
        def start(thread: threading.Thread) -> None:
            if not thread.name.startswith("isola-guest"):
                self._start(thread)
                return
            if self.allowed <= 0:
                self.refused += 1
                raise self._why("can't start new thread")
            self.allowed -= 1
            self._start(thread)

        threading.Thread.start = start  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_: object) -> None:
        threading.Thread.start = self._start  # type: ignore[method-assign]


@pytest.mark.parametrize("rank", [Rank.FRESH, Rank.UNWINDING])
@pytest.mark.parametrize("why", [RuntimeError, MemoryError])
def test_work_without_a_thread_is_refused_in_words_and_its_slot_is_given_back(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch, rank: Rank, why: type[Exception]
) -> None:
    monkeypatch.setattr("isola_anyio.engine.threads.THREAD_PATIENCE_S", 0.05)
    with NoThreads(why=why) as system:
        for _ in range(3):
            with pytest.raises(IsolaError, match=r"no thread can be started .*can't start new thread.*ulimit"):
                raise Work(pool, rank).refused.get(timeout=10)
            assert pool.busy == 0
    assert system.refused > 3  # asked for again and again
    Work(pool).finish()


def test_without_the_thread_that_starts_threads_work_is_refused_at_once(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", refuse)
        for _ in range(3):
            with pytest.raises(IsolaError, match="can't start new thread"):
                Work(pool)
            assert pool.busy == 0
    Work(pool).finish()


def test_a_manager_that_dies_on_its_first_steps_is_found_by_the_next_who_brings_work(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(thread: threading.Thread) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(GuestThread, "run", die)
        patch.setattr("threading.excepthook", lambda _: None)
        first = Work(pool)
        while pool._manager_starts.empty():
            time.sleep(0.001)
    second = Work(pool)  # finds that out, and starts another
    for work in (first, second):
        work.finish()


@pytest.mark.parametrize("kill", [refuse_signal_stacks, kill_threads_at_birth])
def test_the_next_that_queues_finds_out_that_the_thread_that_starts_threads_has_died(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch, kill: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with monkeypatch.context() as patch:
        kill(patch)
        with suppress(IsolaError):  # it may have died by then
            Work(pool).may_end.set()
        while pool._is_managed and pool._manager_starts.empty():
            time.sleep(0.001)
    Work(pool).finish()
    assert pool.busy == 0


def test_threads_are_not_started_by_who_brings_work(pool: ThreadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    start, starters = threading.Thread.start, dict[str, str]()

    def note(thread: threading.Thread) -> None:
        starters[thread.name] = threading.current_thread().name
        start(thread)

    monkeypatch.setattr("threading.Thread.start", note)
    Work(pool).finish()
    assert starters["isola-guest-1"] == "isola-manager"


def test_queued_work_without_a_thread_has_the_next_that_comes_free(pool: ThreadPool) -> None:
    blocked = Blocked(pool)
    first = Work(pool)
    assert first.began.wait(10)
    second = Work(pool)
    with NoThreads() as system:
        first.may_end.set()
        assert second.began.wait(10)
        second.finish()
        blocked.wake.set()
        assert blocked.resumed.wait(10)
    assert system.refused == 0


def test_work_for_which_no_thread_can_be_had_for_a_moment_is_not_lost(pool: ThreadPool) -> None:
    with NoThreads() as system:
        work = Work(pool)
        while system.refused < 3:
            time.sleep(0.001)
        assert pool.busy == 0
    assert work.began.wait(10)
    work.finish()


def test_guests_that_have_their_threads_go_on_past_work_that_has_none(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isola_anyio.engine.threads.THREAD_PATIENCE_S", 60)
    blocked = [Blocked(pool), Blocked(pool)]  # two threads, none idle
    with NoThreads() as system:
        late = Work(pool)
        while not system.refused:
            time.sleep(0.001)
        blocked[0].wake.set()
        assert blocked[0].resumed.wait(10)
        assert late.began.wait(10)  # on the thread of the one that went past it
    late.finish()
    blocked[1].wake.set()
    assert blocked[1].resumed.wait(10)


def test_a_short_run_waits_for_a_slice_and_not_for_all_that_compute_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isola_anyio.engine.threads.PATIENCE_S", 0.02)
    monkeypatch.setattr("isola_anyio.engine.threads.SLICE_S", 0.01)
    pool, crowd = ThreadPool(max_parallel=2), 150
    stop, epoch = threading.Event(), 0
    began: set[int] = set()
    preempted = 0

    def increment() -> None:
        nonlocal epoch
        epoch += 1

    def compute(number: int) -> None:
        nonlocal preempted
        turn, seen = SlotWaiter(), 0
        began.add(number)
        while not stop.wait(0.001):
            if epoch != seen:
                seen = epoch
                pool.preempt(turn)
                preempted += 1

    pool.increment_epoch = increment
    for number in range(crowd):
        pool.submit(partial(compute, number))
    while len(began) < crowd:
        time.sleep(0.01)
    for _ in range(5):
        before, done = preempted, threading.Event()
        pool.submit(done.set)
        assert done.wait(10)
        assert preempted - before < crowd / 4
    stop.set()
    while pool.busy:
        time.sleep(0.001)
    pool.retire()


def test_the_manager_ends_with_a_retired_pool() -> None:
    pool = ThreadPool(max_parallel=1)
    Work(pool).finish()
    pool.retire()
    deadline = time.monotonic() + 10
    while pool._is_managed:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    Work(pool).finish()  # what still comes has a new one


def test_work_that_is_refused_gets_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each is raised in another task, whose frames it then refers to.
    def refuse(_self: _Thread, _pool: ThreadPool, _number: int) -> None:
        raise IsolaError("no thread") from OSError("none")

    monkeypatch.setattr(_Thread, "__init__", refuse)
    monkeypatch.setattr(threads, "THREAD_PATIENCE_S", 0.0)
    pool = ThreadPool(max_parallel=2)
    errors = [work.refused.get(timeout=30) for work in (Work(pool), Work(pool))]
    assert [str(error) for error in errors] == ["no thread", "no thread"]
    assert errors[0] is not errors[1]
    assert all(isinstance(error.__cause__, OSError) for error in errors)
    pool.retire()
