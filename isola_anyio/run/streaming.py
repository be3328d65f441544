"""Streaming: a run whose events somebody reads, driven by a task of its own."""

from __future__ import annotations

__all__ = ["Streaming"]

from functools import partial
from typing import TYPE_CHECKING
from weakref import finalize

import anyio

from isola_anyio.concurrency import is_cancellation, start_ungrouped
from isola_anyio.engine.wakeup import loop_caller
from isola_anyio.errors import GuestError, SandboxClosedError
from isola_anyio.events import EndEvent, ErrorEvent, EventQueue
from isola_anyio.run.task import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from isola_anyio.run.queue import RunQueue
    from isola_anyio.run.services import Message


class _Mark:
    """Lives as long as a task's coroutine, whose argument it is."""


class Streaming:
    """The run behind an event stream; implements ``events.StreamedRun``.

    Attributes:
        queue: where the run's events go.
        run: the run.
    """

    def __init__(self, runs: RunQueue, message: Message, refuse_own_handlers: Callable[[Run], None]) -> None:
        self.queue = EventQueue()
        self.run = Run(runs, message, self.queue)
        self._refuse_own_handlers = refuse_own_handlers
        self._scope = anyio.CancelScope()
        self._call_soon = loop_caller()
        self._is_alone = False
        self._begun = False

    def begin(self, group: TaskGroup | None) -> None:
        """Start the run's task, in ``group`` or by itself; its turn in the queue is the next from now."""
        # Now, in the caller's own step: runs are in the order in which they were asked for, and tasks begin in any.
        self.run.enter_line()
        self._is_alone = group is None
        # On asyncio a task that is cancelled before its first step never runs a line of it. Its place in the line would
        # be taken for ever; so whoever frees the mark, the collector on any thread perhaps, has the place given up.
        mark = _Mark()
        finalize(mark, self._end_unbegun).atexit = False
        work = partial(self._work, mark)
        if group is None:
            start_ungrouped(work, name="isola event stream")
        else:
            group.start_soon(work, name="isola event stream")

    def _end_unbegun(self) -> None:
        if not self._begun:
            self._call_soon(self._give_up)

    def _give_up(self) -> None:
        """The run's task will never begin: end the stream, and let the next run have its turn."""
        self.run.leave_line()
        self.queue.end(SandboxClosedError("the run was cancelled before it began"))

    async def _work(self, _mark: _Mark) -> None:
        self._begun = True
        error: BaseException | None = SandboxClosedError("the run was cancelled before it ended")
        try:
            with self._scope:
                try:
                    value = await self.run.complete()
                    self.queue.put(EndEvent(data=value), 0)
                    error = None
                except GuestError as exc:
                    self.queue.put(ErrorEvent(data=f"{exc.type}: {exc.message}", exception=exc), 0)
                    error = None
                except BaseException as exc:
                    # An Exception is raised to the stream's reader; any other BaseException in the sandbox's task
                    # group, if there is one.
                    if is_cancellation(exc) or not (isinstance(exc, Exception) or self._is_alone):
                        raise
                    error = exc
        finally:
            # After the run has left the line; whoever reads the end may ask for the next one.
            self.queue.end(error)

    def cancel(self) -> None:
        """Cancel the run."""
        self._scope.cancel()

    def abandon(self, *, cancel: bool) -> None:
        """Nobody has the stream any more; a collector may call this on any thread."""
        # Never here: scopes and queues belong to the loop, and this may be any thread in the middle of anything.
        self._call_soon(self._scope.cancel if cancel else self.queue.discard)

    def refuse_own_handlers(self) -> None:
        """Refuse to wait for the run when called by what the run waits for."""
        self._refuse_own_handlers(self.run)

    async def join(self) -> None:
        """Wait until nothing of the run is left."""
        with anyio.CancelScope(shield=True):
            await self.run.join()
