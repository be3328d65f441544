"""Slots: who may compute next; the order of work and guests that wait, without a lock or a thread.

A *slot* is the right to compute. There are ``max_parallel`` of them for runs that are wanted, and a few more that only
guests on their way out may take. Who waits has a rank:

``FINAL``
    does what ends soon and must not wait for anybody: a guest thread that was interrupted and only has to come back,
    memory to be freed. First of all, and has slots that nobody else may take, so that guests in slow handlers of the
    program's cannot hold up the end of another sandbox.
``UNWINDING``
    a cancelled guest. A crowd of them may spin in their ``finally``, so there are ``EXTRA_SLOTS`` for them beyond
    ``max_parallel`` and no more; and while they wait, wanted runs have every second slot that comes free, of these too.
``FRESH``
    a run that has not computed for long.
``LONG``
    a run that has: every fourth slot, when fresh ones wait as well. So a short run among hundreds of long ones waits
    for a slot to come free, and not for hundreds of turns; and long ones always go on.

Within a rank: first come, first served. Everything here is called under the pool's lock.
"""

from __future__ import annotations

__all__ = ["EXTRA_SLOTS", "Rank", "SlotQueue", "SlotWaiter", "Waiting", "Work"]

import threading
from collections import OrderedDict
from enum import IntEnum
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio.errors import IsolaError

EXTRA_SLOTS: Final = 2
"""Slots of guests that unwind, beyond ``max_parallel``; and as many again for what is final."""
_LONG_ONCE_IN: Final = 4
"""Of so many slots for wanted runs, long ones have one when fresh ones wait as well."""


class Rank(IntEnum):
    """In which order those who wait for a slot have one."""

    FINAL = 0
    UNWINDING = 1
    FRESH = 2
    LONG = 3


class Work(Protocol):
    """What a guest thread can be given.

    Attributes:
        since: when it began to wait for a slot, by ``time.monotonic``; written by the pool.
        long: whether it has computed for long, so that fresh work goes first.
    """

    since: float

    @property
    def long(self) -> bool:
        """See above."""
        ...

    def run(self) -> None:
        """Do it, on a guest thread; must not raise."""

    def report(self) -> None:
        """Say that it is done, on the same thread, which has given its slot back by then; must not raise.

        So whoever hears of it, and brings the next work at once, finds the slot and the thread free.
        """

    def refuse(self, error: IsolaError) -> None:
        """No thread can be had for it: it will not be done. Called by one of the pool's threads; must not raise."""


class SlotWaiter:
    """A guest thread's place in the queue for a slot; one a guest, used again and again.

    The lock is held except for the moment between :meth:`grant` and the end of :meth:`wait`: acquiring it a second time
    is what blocks the thread, and whoever grants the slot releases it from another thread. A plain lock, because a
    condition or a semaphore costs several times as much, and there is one waiter.

    Attributes:
        since: when it began to wait; written by the pool.
        began: since when the guest computes, by ``time.monotonic``; written by the guest's thread.
        urgency: ``FRESH`` for a wanted run, else how it is being stopped; written under the run's lock.
        long: whether the run has computed for long; written by the guest's thread.
    """

    __slots__ = ("_granted", "began", "long", "since", "urgency")

    def __init__(self) -> None:
        self._granted = threading.Lock()
        self._granted.acquire()
        self.since = 0.0
        self.began = 0.0
        self.urgency = Rank.FRESH
        self.long = False

    @property
    def rank(self) -> Rank:
        """Where the guest queues now."""
        return Rank.LONG if self.long and self.urgency is Rank.FRESH else self.urgency

    def wait(self) -> None:
        """Block until the slot is there."""
        self._granted.acquire()

    def grant(self) -> None:
        """Let the thread compute."""
        self._granted.release()


Waiting: TypeAlias = "Work | SlotWaiter"


class SlotQueue:
    """The slots of one pool, and those who wait for one.

    Attributes:
        active: slots taken, those beyond ``max_parallel`` included.
        waiting: how many wait.
    """

    def __init__(self, max_parallel: int) -> None:
        self.max_parallel: Final = max_parallel
        self._most_unwinding: Final = max_parallel + EXTRA_SLOTS
        self._most: Final = max_parallel + 2 * EXTRA_SLOTS
        self.active = 0
        self.waiting = 0
        # By identity, in the order they came; taking one out of the middle costs the same as taking the first, because
        # thousands may be withdrawn at once. (Of a plain dict, to find the first gets slower with each that is gone.)
        self._queues: Final = tuple(OrderedDict[Waiting, None]() for _ in Rank)
        self._is_wanted_next = False  # turns about: guests that unwind, wanted runs
        self._fresh_granted = 0

    def __len__(self) -> int:
        return self.waiting

    def limit(self, rank: Rank) -> int:
        """Return below how many taken slots one of this rank may have one."""
        if rank is Rank.FINAL:
            return self._most
        if rank is Rank.UNWINDING or self._queues[Rank.UNWINDING]:
            return self._most_unwinding
        return self.max_parallel

    def add(self, waiting: Waiting, rank: Rank, now: float) -> None:
        """Queue somebody; ``now`` by ``time.monotonic``."""
        waiting.since = now
        self._queues[rank][waiting] = None
        self.waiting += 1

    def remove(self, waiting: Waiting) -> bool:
        """Take somebody out of the queue who has no slot yet; tell whether that was so."""
        for queue in self._queues:
            if waiting in queue:
                del queue[waiting]
                self.waiting -= 1
                return True
        return False

    def take(self, *, has_thread: bool) -> Waiting | None:
        """Take the next who may have a slot out of the queue, and a free slot with it.

        Without a free thread work is passed over, by guests that have a thread and only want to go on.
        """
        for rank in self._order():
            if self._queues[rank] and self.active < self.limit(rank):
                found = self._first(rank, has_thread)
                if found is not None:
                    self.active += 1
                    return found
        return None

    def swap(self, *, has_thread: bool) -> Waiting | None:
        """Take the next out of the queue who may have the slot that a computing guest hands on.

        As many slots are taken as before. So for a while wanted runs may have slots of those that unwind; or they would
        wait until a crowd of these has ended.
        """
        for rank in self._order():
            if self._queues[rank]:
                found = self._first(rank, has_thread)
                if found is not None:
                    return found
        return None

    def _first(self, rank: Rank, has_thread: bool) -> Waiting | None:
        queue = self._queues[rank]
        if has_thread:
            found: Waiting | None = next(iter(queue))
        else:
            found = next((waiting for waiting in queue if isinstance(waiting, SlotWaiter)), None)
        if found is not None:
            if rank is Rank.FRESH:
                self._fresh_granted += 1
            elif rank is Rank.LONG:
                self._fresh_granted = 0
            if rank is not Rank.FINAL:
                self._is_wanted_next = rank is Rank.UNWINDING
            del queue[found]
            self.waiting -= 1
        return found

    def _order(self) -> tuple[Rank, ...]:
        is_turn_of_long = self._fresh_granted >= _LONG_ONCE_IN - 1
        wanted = (Rank.LONG, Rank.FRESH) if is_turn_of_long else (Rank.FRESH, Rank.LONG)
        if self._is_wanted_next:
            return (Rank.FINAL, *wanted, Rank.UNWINDING)
        return (Rank.FINAL, Rank.UNWINDING, *wanted)

    def without_thread(self) -> list[Work]:
        """Return the work that has a slot, and lacks a thread; when there is no free thread."""
        found: list[Work] = []
        for rank in self._order():
            if room := max(0, self.limit(rank) - self.active - len(found)):
                found += islice(self._works(rank), room)
        return found

    def overdue_work(self, patience_s: float, now: float) -> int:
        """Count the work, up to one for each slot, that has waited that long and will need a thread."""
        found = 0
        for rank in Rank:
            for work in self._works(rank):
                if now - work.since < patience_s or found >= self.max_parallel:
                    break
                found += 1
        return found

    def _works(self, rank: Rank) -> Iterator[Work]:
        return (waiting for waiting in self._queues[rank] if not isinstance(waiting, SlotWaiter))

    def is_overdue(self, patience_s: float, now: float) -> bool:
        """Tell whether somebody has waited that long."""
        return any(queue and now - next(iter(queue)).since >= patience_s for queue in self._queues)
