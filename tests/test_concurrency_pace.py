"""pace: a crowd of tasks goes on a few at a time, in order, and nobody is left behind."""

from __future__ import annotations

import anyio
import pytest

from isola_anyio.concurrency import _BATCH, pace

CROWD = 5 * _BATCH + 3


class Crowd:
    """Tasks that all come to ``pace`` in one step of the loop, and note the step in which they go on."""

    def __init__(self) -> None:
        self.step = 0
        self.went: list[tuple[int, int]] = []

    async def count_steps(self) -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            self.step += 1

    async def go(self, number: int) -> None:
        await pace()
        self.went.append((number, self.step))


async def test_a_task_that_comes_alone_goes_on_at_once() -> None:
    for _ in range(3):
        with anyio.fail_after(5):
            await pace()


async def test_a_crowd_goes_on_a_few_at_a_time_in_the_order_it_came() -> None:
    crowd = Crowd()
    async with anyio.create_task_group() as steps:
        steps.start_soon(crowd.count_steps)
        async with anyio.create_task_group() as group:
            for number in range(CROWD):
                group.start_soon(crowd.go, number)
        steps.cancel_scope.cancel()
    assert sorted(number for number, _ in crowd.went) == list(range(CROWD))
    batches = [number // _BATCH for number, _ in sorted(crowd.went, key=lambda went: went[1])]
    if anyio.get_cancelled_exc_class().__module__.startswith(
        "asyncio"
    ):  # trio begins a step's tasks in random order, the counter of steps among them
        assert batches == sorted(batches)
        at = [step for _, step in crowd.went]
        assert max(at.count(step) for step in at) <= 2 * _BATCH  # the counter may come between two batches
    assert crowd.step >= CROWD // _BATCH


@pytest.mark.parametrize("victims", [[0], [_BATCH], [0, _BATCH, 2 * _BATCH], list(range(_BATCH))])
async def test_tasks_that_are_cancelled_leave_nobody_behind(victims: list[int]) -> None:
    crowd = Crowd()
    scopes = [anyio.CancelScope() for _ in range(CROWD)]

    async def go(number: int) -> None:
        with scopes[number]:
            await crowd.go(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for number in range(CROWD):
                group.start_soon(go, number)
            for number in victims:
                scopes[number].cancel()
    assert {number for number, _ in crowd.went} >= set(range(CROWD)) - set(victims)
    with anyio.fail_after(5):
        await pace()
