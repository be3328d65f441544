"""Worker threads: blocking file work that stops soon after its caller is cancelled."""

from __future__ import annotations

__all__ = ["GRACE_S", "Meter", "run_stoppable"]

import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

from isola_anyio.runtimes.progress import OnProgress, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.runtimes.progress import Stage

T = TypeVar("T")

GRACE_S: Final = 0.8
"""How long a cancelled build may take to clean up: the promise is a second in all."""

POLL_S: Final = 0.005
REPORT_EVERY_S: Final = 0.1  # often enough for a progress bar


class _StoppedError(Exception):
    """Unwinds the worker thread; never leaves this module."""


class Meter:
    """What the work calls after each piece: reports progress, and stops the work when nobody wants it any more."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self.on_progress = on_progress
        self.failure: BaseException | None = None  # written by the thread before it unwinds, read after
        # `_started` and `_stopped` under `_guard`: either the work sees that it was stopped and does not begin, or
        # whoever stops it sees that it began and waits for `_finished`.
        self._started = False
        self._stopped = threading.Event()
        self._guard = threading.Lock()
        self._finished = threading.Event()
        # The rest is the worker thread's own.
        self._stage: Stage = "verify"
        self._done = 0
        self._total = 0
        self._next_report_s = 0.0

    def begin(self, stage: Stage, total: int) -> None:
        """Start counting from nothing."""
        self._stage, self._done, self._total = stage, 0, total
        self._report()

    def advance(self, count: int) -> None:
        """Count a piece of work."""
        self._done = min(self._done + count, self._total)
        if self._stopped.is_set():
            raise _StoppedError
        if time.monotonic() >= self._next_report_s:
            self._report()

    def pause(self, seconds: float) -> None:
        """Wait for something else to get on, or shorter when the work is stopped."""
        if self._stopped.wait(seconds):
            raise _StoppedError

    def finish(self) -> None:
        """Report the stage as done."""
        self._done = self._total
        self._report()

    def _report(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError
        if self.on_progress is None:
            return
        try:
            anyio.from_thread.run_sync(self.on_progress, Progress(self._stage, self._done, self._total))
        except BaseException as exc:  # noqa: BLE001 - it is raised again, on the caller's side
            self.failure = exc  # kept apart, so that a callback's OSError is not taken for the disk's
            raise _StoppedError from None
        self._next_report_s = time.monotonic() + REPORT_EVERY_S

    def run(self, work: Callable[[Meter], T]) -> T:
        """Do the work, unless it was stopped before it began."""
        with self._guard:
            if self._stopped.is_set():
                raise _StoppedError
            self._started = True
        try:
            return work(self)
        finally:
            self._finished.set()

    async def stop(self) -> None:
        """Stop the work and wait until the thread has left it."""
        with self._guard:
            self._stopped.set()
            if not self._started:
                return
        with anyio.move_on_after(GRACE_S, shield=True):
            while not self._finished.is_set():  # noqa: ASYNC110 - set by a thread that may have lost its loop
                await anyio.sleep(POLL_S)


async def run_stoppable(work: Callable[[Meter], T], on_progress: OnProgress | None = None) -> T:
    """Return ``work(meter)``, done in a worker thread; ``work`` must use ``meter`` often.

    When cancelled, the thread is abandoned to anyio, stopped at its next use of the meter, and waited for here, for
    ``GRACE_S`` at most. anyio's own way, to shield the wait for the thread, does not hold against asyncio's
    ``Task.cancel``.
    """
    meter = Meter(on_progress)
    try:
        return await anyio.to_thread.run_sync(meter.run, work, abandon_on_cancel=True)
    except _StoppedError:
        assert meter.failure is not None
        raise meter.failure from None
    except anyio.get_cancelled_exc_class():
        await meter.stop()
        raise
