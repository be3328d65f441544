"""The pool of guest threads: slots, order, withdrawal, blocking, and its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Self

import pytest

from isola_anyio.engine.threads import SlotWaiter, ThreadPool, WorkItem
from isola_anyio.errors import IsolaError


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(max_parallel=1)
    yield pool
    pool.retire()


class Work:
    """A piece of work that says when it began and ends when it is told."""

    def __init__(self, pool: ThreadPool, *, urgent: bool = False) -> None:
        self.began, self.may_end, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.pool = pool
        self.item: WorkItem = pool.submit(self._run, urgent=urgent)

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


def test_a_queued_ticket_can_be_withdrawn_and_a_started_one_cannot(pool: ThreadPool) -> None:
    first, second = Work(pool), Work(pool)
    assert first.began.wait(10)
    assert pool.withdraw(second.item)
    assert not pool.withdraw(second.item)
    assert not pool.withdraw(first.item)
    first.finish()
    assert not second.began.wait(0.05)


def test_urgent_work_does_not_wait_for_a_slot(pool: ThreadPool) -> None:
    first = Work(pool)
    assert first.began.wait(10)
    urgent = Work(pool, urgent=True)
    assert urgent.began.wait(10)
    urgent.finish()
    first.finish()


class Blocked:
    """A guest that waits for something, its slot given back, and wants one again when it is woken."""

    def __init__(self, pool: ThreadPool) -> None:
        self.pool, self.turn = pool, SlotWaiter()
        self.paused, self.wake, self.resumed, self.expedited = (threading.Event() for _ in range(4))
        pool.submit(self._run)
        assert self.paused.wait(10)

    def _run(self) -> None:
        self.pool.pause()
        self.paused.set()
        self.wake.wait(10)
        self.pool.resume(self.turn, self.expedited.is_set)
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
    blocked.expedited.set()
    blocked.wake.set()
    assert blocked.resumed.wait(10)
    second.finish()


def test_a_hurried_guest_leaves_the_queue_for_a_slot(pool: ThreadPool) -> None:
    blocked = Blocked(pool)
    second = Work(pool)
    assert second.began.wait(10)
    blocked.wake.set()
    assert not blocked.resumed.wait(0.05)
    blocked.expedited.set()
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
            pool.resume(SlotWaiter(), lambda: False)
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
                pool.preempt(turn, stop.is_set)

    pool.submit(compute)
    for _ in range(3):
        done = threading.Event()
        pool.submit(done.set)
        assert done.wait(10)
    stop.set()
    pool.expedite(turn)
    pool.retire()


class NoThreads:
    """While it is entered the system refuses threads, but for the first few."""

    def __init__(self, allowed: int = 0, why: type[Exception] = RuntimeError) -> None:
        self.allowed, self.refused, self._why = allowed, 0, why
        self._start = threading.Thread.start

    def __enter__(self) -> Self:
        def start(thread: threading.Thread) -> None:
            if self.allowed <= 0:
                self.refused += 1
                raise self._why("can't start new thread")
            self.allowed -= 1
            self._start(thread)

        threading.Thread.start = start  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_: object) -> None:
        threading.Thread.start = self._start  # type: ignore[method-assign]


@pytest.mark.parametrize("urgent", [False, True])
@pytest.mark.parametrize("why", [RuntimeError, MemoryError])
def test_work_without_a_thread_is_refused_in_words_and_its_slot_is_given_back(
    pool: ThreadPool, urgent: bool, why: type[Exception]
) -> None:
    with NoThreads(why=why):
        for _ in range(3):
            with pytest.raises(IsolaError, match=r"no thread can be started .*can't start new thread.*ulimit"):
                pool.submit(lambda: None, urgent=urgent)
            assert pool.busy == 0
    Work(pool).finish()


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


def test_work_whose_slot_comes_free_while_no_thread_can_be_started_is_not_lost(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isola_anyio.engine.threads.PATIENCE_S", 0.02)
    monkeypatch.setattr("isola_anyio.engine.threads.SLICE_S", 0.01)
    may_block, blocked, wake = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        may_block.wait(10)
        pool.pause()
        blocked.set()
        wake.wait(10)
        pool.resume(SlotWaiter(), lambda: False)

    pool.submit(block)
    waiting = Work(pool)  # the ticker is started with it
    with NoThreads() as system:
        may_block.set()
        assert blocked.wait(10)
        assert not waiting.began.wait(0.1)
        assert system.refused > 1  # the ticker has tried, too
        assert pool.busy == 0
    assert waiting.began.wait(10)
    waiting.finish()
    wake.set()


def test_guests_that_have_their_threads_go_on_past_work_that_has_none(pool: ThreadPool) -> None:
    blocked = Blocked(pool)
    gate = Blocked(pool)  # has a thread of its own, and no slot
    first = Work(pool)
    assert first.began.wait(10)
    late = Work(pool)
    blocked.wake.set()
    while len(pool._queue) < 2:
        threading.Event().wait(0.001)
    with NoThreads():
        pool.pause()  # for `first`, which goes on without a slot
        assert blocked.resumed.wait(10)
        assert late.began.wait(10)  # on the thread of the one that went past it
    late.finish()
    with pool._lock:
        pool._active += 1
    first.finish()
    gate.wake.set()
    assert gate.resumed.wait(10)


def test_without_a_ticker_work_still_changes_hands_and_the_next_one_starts_it(pool: ThreadPool) -> None:
    first = Work(pool)
    with NoThreads():
        second = Work(pool)
    assert not pool._ticking
    third = Work(pool)
    assert pool._ticking
    for work in (first, second, third):
        work.finish()
    deadline = threading.Event()
    while pool.busy:
        deadline.wait(0.001)


def test_an_interrupt_key_while_a_thread_starts_leaves_no_thread_and_no_slot_behind(pool: ThreadPool) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def press(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    threading.Thread.start = press  # type: ignore[method-assign, assignment]
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.submit(lambda: None)
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
    started[0].join(5)
    assert not started[0].is_alive()
    assert pool.busy == 0
    Work(pool).finish()
