"""Concurrency: small pieces of structured concurrency that asyncio and trio both lack.

The one module, with ``engine/wakeup.py``, that asks which of the two is running.
"""

from __future__ import annotations

__all__ = [
    "HeldUp",
    "being_cancelled",
    "is_cancellation",
    "is_held_up_by_caller",
    "open_task_group",
    "outlast",
    "pace",
    "single_exception",
    "start_ungrouped",
]

import math
from collections import deque
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import sniffio
from anyio.lowlevel import RunVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

    from anyio.abc import TaskGroup


def single_exception(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """Return the one exception that an exception group holds, or ``None`` when there are several.

    Cancellations beside it are its consequence and do not count; a group of nothing else gives one of them.
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


class HeldUp:
    """Marks code that ``owner`` waits for, with all that it calls and starts: it must not wait for ``owner`` in turn.

    A context manager around a handler or a producer. Calls and tasks inside see it through the context variable, which
    they inherit; a task that outlives the block has a copy of the context, in which ``over`` says that nobody waits for
    it any more. Different marks may be entered on different threads; one mark is entered and left on one.
    """

    __slots__ = ("_token", "over", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.over = False

    def __enter__(self) -> None:
        self._token = _held_up.set((*_held_up.get(), self))

    def __exit__(self, *exc_info: object) -> None:
        self.over = True
        self.owner = None  # a copy of the context may live for long, and must not keep a closed run alive
        _held_up.reset(self._token)


_held_up: Final[ContextVar[tuple[HeldUp, ...]]] = ContextVar("isola_anyio_held_up", default=())
"""The marks around the current code, the outermost first."""


def is_held_up_by_caller(owner: object) -> bool:
    """Tell whether ``owner`` waits for the code that calls this."""
    return any(mark.owner is owner and not mark.over for mark in _held_up.get())


_ungrouped: Final[set[object]] = set()
"""Tasks that run: asyncio keeps only weak references to them, and the collector would take one that waits."""


def start_ungrouped(function: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
    """Start a task in the running loop that is in no task group, with the caller's context.

    For what is started and ended by calls of their own, as with ``start()`` and ``aclose()``: whoever starts it must
    end it and wait for it, and it must not raise. A loop that ends cancels it.
    """
    if sniffio.current_async_library() == "trio":
        import trio  # noqa: PLC0415 - only where it is running

        trio.lowlevel.spawn_system_task(function, name=name, context=copy_context())
        return
    import asyncio  # noqa: PLC0415 - only where it is running

    task = asyncio.get_running_loop().create_task(function(), name=name)
    _ungrouped.add(task)
    task.add_done_callback(_ungrouped.discard)


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
        try:
            raise cancellation
        finally:
            del cancellation


_BATCH: Final = 16
"""Tasks that :func:`pace` lets through in one step of the event loop: a few milliseconds of their work."""


class _Batch:
    """Tasks that go on together; the first of them lets the next batch go."""

    __slots__ = ("count", "event")

    def __init__(self) -> None:
        self.count = 0
        self.event = anyio.Event()


_batches: Final[RunVar[deque[_Batch]]] = RunVar("isola_anyio_batches")
"""Of each event loop: the batches that have yet to go, and the one that is about to."""


async def pace() -> None:
    """Let a bounded number of tasks go on in one step of the event loop, in the order in which they come here.

    For what a crowd of tasks begins at one moment, because all are cancelled at once: without it the loop would stand
    still until each of them has made its first step. A task that comes alone waits for one checkpoint. Cancelled, it
    goes on at once: the caller shields it.
    """
    batches = _batches.get(None)
    if batches is None:
        _batches.set(batches := deque())
    is_first = not batches
    if is_first or batches[-1].count >= _BATCH:
        batches.append(_Batch())
    batch = batches[-1]
    batch.count += 1
    is_leader = batch.count == 1
    try:
        if is_first:
            await anyio.lowlevel.checkpoint()  # what comes in this step of the loop belongs to this batch or the next
        else:
            await batch.event.wait()
    finally:
        # The leader of a batch is never ahead of it: its own cancellation lets the whole batch go.
        if is_leader:
            batch.event.set()
            batches.remove(batch)
            if batches:
                batches[0].event.set()
