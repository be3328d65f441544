"""The queue of one sandbox's runs: who is first, and thousands that leave at once."""

from __future__ import annotations

import random
import time

import anyio
import pytest

from isola_anyio.engine.threads import ThreadPool
from isola_anyio.run.queue import RunQueue
from tests.run.fake_machine import FakeMachine, runs_of


class Waiting:
    """A run in the queue."""

    def __init__(self) -> None:
        self.turn: anyio.Event | None = None
        self.is_over = False

    def close(self) -> None:
        raise NotImplementedError

    async def join(self) -> None:
        raise NotImplementedError

    def leave(self, runs: RunQueue) -> None:
        self.is_over = True
        runs.leave(self)


@pytest.fixture
async def runs(pool: ThreadPool) -> RunQueue:
    return runs_of(FakeMachine(pool, lambda guest: guest.done()))


def join(runs: RunQueue, count: int) -> list[Waiting]:
    waiting = [Waiting() for _ in range(count)]
    for run in waiting:
        run.turn = anyio.Event()
        runs.line.append(run)
    return waiting


@pytest.mark.parametrize("seed", range(5))
async def test_whoever_is_left_has_its_turn_in_the_order_they_came(runs: RunQueue, seed: int) -> None:
    everybody = join(runs, 200)
    chance = random.Random(seed)
    left = list(everybody)
    while left:
        assert runs.line[0] is left[0]
        assert left[0] is everybody[0] or (left[0].turn is not None and left[0].turn.is_set())
        assert not any(run.turn is not None and run.turn.is_set() for run in left[1:])
        assert len(runs.line) <= 2 * len(left)  # those that have left are not kept for long
        run = left.pop(chance.choice([0, chance.randrange(len(left))]))
        run.leave(runs)
    assert not runs.line


async def test_thousands_leave_at_once_and_each_is_looked_for_once(runs: RunQueue) -> None:
    first, *others = join(runs, 50_000)  # in quadratic time: a minute
    began = time.thread_time()
    for run in reversed(others):
        run.leave(runs)
    assert time.thread_time() - began < 10
    first.leave(runs)
    assert not runs.line
