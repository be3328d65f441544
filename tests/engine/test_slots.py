"""The order of those who wait for a slot: ranks, shares, and slots beyond the usual ones."""

from __future__ import annotations

import pytest

from isola_anyio.engine.slots import EXTRA_SLOTS, Rank, SlotQueue, SlotWaiter, Waiting
from isola_anyio.engine.threads import WorkItem


def waiter() -> SlotWaiter:
    return SlotWaiter()


def queue_of(ranks: list[Rank], max_parallel: int = 1) -> tuple[SlotQueue, dict[Waiting, Rank]]:
    queue, rank_of = SlotQueue(max_parallel), dict[Waiting, Rank]()
    for number, rank in enumerate(ranks):
        waiting = waiter()
        rank_of[waiting] = rank
        queue.add(waiting, rank, float(number))
    return queue, rank_of


def granted(queue: SlotQueue, rank_of: dict[Waiting, Rank]) -> list[Rank]:
    """Give slots until nobody waits, each ending before the next begins."""
    order = list[Rank]()
    while (found := queue.take(has_thread=True)) is not None:
        order.append(rank_of[found])
        queue.active -= 1
    return order


def test_first_come_first_served_within_a_rank() -> None:
    queue, rank_of = queue_of([Rank.FRESH] * 5)
    expected = list(rank_of)
    found = []
    while (one := queue.take(has_thread=True)) is not None:
        found.append(one)
        queue.active -= 1
    assert found == expected


def test_long_runs_have_every_fourth_slot() -> None:
    queue, rank_of = queue_of([Rank.LONG] * 4 + [Rank.FRESH] * 9)
    order = granted(queue, rank_of)
    assert order[:8] == [Rank.FRESH, Rank.FRESH, Rank.FRESH, Rank.LONG] * 2
    assert sorted(order) == [Rank.FRESH] * 9 + [Rank.LONG] * 4


def test_guests_that_unwind_and_wanted_runs_take_turns_about_and_what_is_final_is_first() -> None:
    queue, rank_of = queue_of([Rank.FRESH] * 3 + [Rank.UNWINDING] * 3 + [Rank.FINAL] * 2)
    assert granted(queue, rank_of) == [Rank.FINAL] * 2 + [Rank.UNWINDING, Rank.FRESH] * 3


@pytest.mark.parametrize(
    ("rank", "slots"), [(Rank.FINAL, 2 * EXTRA_SLOTS), (Rank.UNWINDING, EXTRA_SLOTS), (Rank.FRESH, 0), (Rank.LONG, 0)]
)
def test_slots_beyond_max_parallel_are_for_guests_on_their_way_out(rank: Rank, slots: int) -> None:
    queue, _ = queue_of([rank] * 20, max_parallel=3)
    while queue.take(has_thread=True) is not None:
        pass
    assert queue.active == 3 + slots
    assert len(queue) == 20 - queue.active


def test_a_slot_that_is_handed_on_goes_to_the_next_however_many_are_taken() -> None:
    queue, rank_of = queue_of([Rank.FRESH])
    queue.active = 1 + EXTRA_SLOTS
    assert queue.take(has_thread=True) is None
    assert queue.swap(has_thread=True) in rank_of
    assert queue.active == 1 + EXTRA_SLOTS
    assert queue.swap(has_thread=True) is None


def test_without_a_thread_guests_that_have_one_pass_work() -> None:
    queue = SlotQueue(3)
    work, guest = WorkItem(lambda: None), waiter()
    queue.add(work, Rank.FRESH, 0.0)
    queue.add(guest, Rank.FRESH, 1.0)
    assert queue.take(has_thread=False) is guest
    assert queue.take(has_thread=False) is None
    assert queue.without_thread() == [work]
    queue.active = 3
    assert queue.without_thread() == []
    assert queue.overdue_work(1.0, 1.0) == 1
    assert queue.overdue_work(1.0, 0.5) == 0
    assert queue.is_overdue(1.0, 1.0)
    assert queue.remove(work)
    assert not queue.remove(work)
    assert not queue.is_overdue(1.0, 1.0)


def test_ten_thousand_are_taken_out_of_the_middle() -> None:
    queue, rank_of = queue_of([Rank.FRESH] * 10_000)
    first, *rest = rank_of
    for one in rest:
        assert queue.remove(one)
    assert queue.take(has_thread=True) is first
    assert len(queue) == 0
