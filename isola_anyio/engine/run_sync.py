"""run_sync: one piece of guest work on a guest thread, awaited."""

from __future__ import annotations

__all__ = ["run_sync"]

from typing import TYPE_CHECKING, Final, Generic, TypeVar

import anyio

from isola_anyio.concurrency import outlast
from isola_anyio.engine.slots import Rank
from isola_anyio.engine.wakeup import Wakeup
from isola_anyio.fairness import in_pieces

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.engine.threads import ThreadPool
    from isola_anyio.errors import IsolaError

T = TypeVar("T")

_REMINDER_S: Final = 0.01
"""Between calls of ``stop`` while stopped work goes on; see ``Instance.interrupt`` for why one may not be enough."""


class _Outcome(Generic[T]):
    """What the work came to; written on the guest's thread before the wake-up."""

    value: T
    error: BaseException | None = None
    done = False


async def run_sync(pool: ThreadPool, work: Callable[[], T], *, stop: Callable[[], None], rank: Rank = Rank.FRESH) -> T:
    """Call ``work`` on a guest thread and return its result.

    When cancelled, work that has not begun is withdrawn; otherwise ``stop`` is called, again and again, which must make
    the work end soon, and its end is awaited before the cancellation goes on.

    Raises:
        IsolaError: no thread can be had; ``work`` was not called.
        BaseException: what ``work`` raised.
    """
    await anyio.lowlevel.checkpoint_if_cancelled()
    outcome: _Outcome[T] = _Outcome()
    news = Wakeup()

    def perform() -> None:
        try:
            # What it does for long outside of the guest gives way to event loops as a guest's host calls do.
            with in_pieces():
                outcome.value = work()
        except BaseException as exc:  # noqa: BLE001 - carried to the caller
            outcome.error = exc

    def refuse(error: IsolaError) -> None:
        outcome.error = error
        end()

    def end() -> None:
        # The outcome before the flag, the flag before the wake-up: whoever is woken finds both.
        outcome.done = True
        news.set()

    async def wait_and_remind() -> None:
        with anyio.move_on_after(_REMINDER_S):
            await news.wait()
        if not outcome.done:
            stop()

    item = pool.submit(perform, done=end, refused=refuse, rank=rank)
    try:
        while not outcome.done:
            await news.wait()
    except BaseException:
        # Withdrawn, no thread ever had it. Otherwise one has, and it must be back before the caller frees what it works
        # on.
        if not pool.withdraw(item):
            stop()
            await outlast(lambda: outcome.done, wait_and_remind)
        raise
    error, outcome.error = outcome.error, None
    if error is not None:
        try:
            raise error
        finally:
            del error  # whose traceback has this frame: a circle otherwise
    return outcome.value
