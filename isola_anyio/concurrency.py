"""Small pieces of structured concurrency that both backends lack."""

from __future__ import annotations

__all__ = ["being_cancelled", "is_cancellation", "open_task_group", "outlast", "single_exception"]

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import anyio
import sniffio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from anyio.abc import TaskGroup


def single_exception(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """Return the one exception a task group's group is about, or ``None`` when there are several.

    Cancellations beside it are its consequence and do not count.
    """
    cancelled = anyio.get_cancelled_exc_class()
    rest = [exc for exc in group.exceptions if not isinstance(exc, cancelled)]
    if len(rest) == 1:
        return rest[0]
    return group.exceptions[0] if not rest else None


@asynccontextmanager
async def open_task_group() -> AsyncGenerator[TaskGroup]:
    """Open a task group for the library's own use: a single failure leaves it as itself, not in a group."""
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as caught:
        failure = single_exception(caught)
        if failure is None:
            raise
    if failure is not None:
        try:
            raise failure
        finally:
            del failure


def is_cancellation(exc: BaseException) -> bool:
    """Tell whether an exception is a cancellation, or a group with one in it."""
    if isinstance(exc, BaseExceptionGroup):
        return any(map(is_cancellation, cast("BaseExceptionGroup[BaseException]", exc).exceptions))
    return isinstance(exc, anyio.get_cancelled_exc_class())


def being_cancelled() -> bool:
    """Tell whether somebody cancels the current task: by a scope around it or, on asyncio, by its own ``cancel``."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if sniffio.current_async_library() != "asyncio":
        return False
    import asyncio  # noqa: PLC0415 - only where it is running

    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def outlast(done: Callable[[], bool], wait: Callable[[], Awaitable[object]]) -> None:
    """Await ``wait()`` until ``done()``, through any number of cancellations; the last of them is raised afterwards.

    For what must have ended before anything else may happen, such as a thread that is on its way back. A shield alone
    does not hold against asyncio's own ``Task.cancel``.
    """
    cancellation: BaseException | None = None
    cancelled = anyio.get_cancelled_exc_class()
    while not done():
        try:
            with anyio.CancelScope(shield=True):
                await wait()
        except cancelled as exc:
            cancellation = exc
    if cancellation is not None:
        raise cancellation
