"""Event loop: `asyncio` without selector, sockets or threads; it runs what is ready, then says when its next timer is.

A message pumps it once (`pump`) and the turn ends. Plain code that must wait (`run`, `asyncio.run`) pumps it again and
again, and blocks in the host between two pumps (`run_until_complete`).
"""

import asyncio
import heapq
import sys
from asyncio import base_events, events

from . import _port

_set_running_loop = events._set_running_loop
_get_running_loop = events._get_running_loop
_heappop = heapq.heappop
_all_tasks = asyncio.all_tasks
_gather = asyncio.gather
_swap_current_task = asyncio.tasks._swap_current_task
_get_asyncgen_hooks = sys.get_asyncgen_hooks
_set_asyncgen_hooks = sys.set_asyncgen_hooks
_shutdown_asyncgens = base_events.BaseEventLoop.shutdown_asyncgens


DEADLOCK = "deadlock: the coroutine waits for something that nothing will bring about"


class _NoSelector:
    """BaseEventLoop asks for one when it closes."""

    def close(self):
        pass


BATCHES = 256
"""Rounds of ready callbacks after which the turn ends, so that the host can send completions: code that spins on
`asyncio.sleep(0)` until an answer has come must get that answer. A guess: about a millisecond of empty callbacks."""


class PortLoop(base_events.BaseEventLoop):
    def __init__(self):
        super().__init__()
        self._selector = _NoSelector()
        self.reports = []
        self._dropped = []
        self._closers = set()
        self.blocked_task = None
        """The task whose `run_in_executor` is under way."""
        self._hooks = (self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook)

    def _process_events(self, event_list):
        pass

    def _write_to_self(self):
        pass

    def _timer_handle_cancelled(self, handle):
        # The base class only counts; popping happens lazily in `pump`, and a heap of mostly cancelled timers is
        # rebuilt here so that cancelling in a loop does not grow it without end.
        super()._timer_handle_cancelled(handle)
        scheduled = self._scheduled
        if len(scheduled) > 100 and self._timer_cancelled_count * 2 > len(scheduled):
            live = [timer for timer in scheduled if not timer._cancelled]
            for timer in scheduled:
                if timer._cancelled:
                    timer._scheduled = False
            heapq.heapify(live)
            self._scheduled = live
            self._timer_cancelled_count = 0

    def pump(self, until=None):
        """Run what is ready; -> seconds until the next timer (0: more is ready), None if only the host brings news."""
        ready = self._ready
        outer = _get_running_loop()
        outer_hooks = _get_asyncgen_hooks()
        _set_running_loop(self)
        _set_asyncgen_hooks(*self._hooks)
        left = BATCHES
        last = False
        try:
            while left and not last:
                left -= 1
                # Callbacks that the last step of `until` scheduled run once more, as they do in `asyncio.run`.
                last = until is not None and until.done()
                scheduled = self._scheduled
                if scheduled:
                    while scheduled and scheduled[0]._cancelled:
                        self._timer_cancelled_count -= 1
                        _heappop(scheduled)._scheduled = False
                    if scheduled:
                        now = self.time()
                        while scheduled and scheduled[0]._when <= now:
                            timer = _heappop(scheduled)
                            timer._scheduled = False
                            ready.append(timer)
                if not ready:
                    break
                for _ in range(len(ready)):
                    handle = ready.popleft()
                    if not handle._cancelled:
                        handle._run()
                        handle = None
        finally:
            _set_running_loop(outer)
            _set_asyncgen_hooks(*outer_hooks)
        if ready:
            return 0.0
        scheduled = self._scheduled
        return max(0.0, scheduled[0]._when - self.time()) if scheduled else None

    def run_until_complete(self, future):
        """Drive the loop from plain code; the guest's thread blocks in the host while everything in the loop waits."""
        if _get_running_loop() is not None:
            raise RuntimeError("run() cannot be called from a running event loop; await the coroutine instead")
        new = not asyncio.isfuture(future)
        future = asyncio.ensure_future(future, loop=self)
        if new:
            future._log_destroy_pending = False
        cancellation = None
        while True:
            delay = self.pump(future)
            if future.done():
                break
            if delay == 0.0 and not _port.operations.waiting:
                continue
            if delay is None and not _port.operations.waiting:
                future.cancel()
                self.pump(future)
                raise RuntimeError(DEADLOCK)
            if not _port.wait(delay):
                cancellation = _port.cancellation()
                future.cancel()
        if cancellation is not None and (future.cancelled() or future.exception() is None):
            raise cancellation
        return future.result()

    def _asyncgen_finalizer_hook(self, agen):
        # The base class calls `aclose()` here; the coroutine is lost, with a warning, if the loop ends before it runs.
        self._asyncgens.discard(agen)
        if not self._closed:
            self._dropped.append(agen)
            self.call_soon(self._close_dropped)

    def _close_dropped(self):
        while self._dropped:
            closer = self.create_task(self._dropped.pop().aclose())
            self._closers.add(closer)
            closer.add_done_callback(self._closers.discard)

    async def shutdown_asyncgens(self):
        self._close_dropped()
        await _shutdown_asyncgens(self)
        if self._closers:
            await _gather(*self._closers, return_exceptions=True)

    def tasks(self):
        """The tasks that have not ended."""
        return _all_tasks(self)

    def has_generators(self):
        """Whether an async generator has begun, has not ended, and is not being ended."""
        return bool(self._asyncgens or self._dropped)

    def cancel_tasks(self):
        """Cancel all tasks but those that close abandoned generators: closing them is not to be interrupted."""
        for task in self.tasks() - self._closers:
            task.cancel()

    async def end_generators(self):
        """`shutdown_asyncgens` for a loop that goes on afterwards."""
        try:
            await self.shutdown_asyncgens()
        finally:
            self._asyncgens_shutdown_called = False

    def wind_up(self):
        """From plain code: cancel the tasks that are left, let them unwind, then close the generators."""
        self.cancel_tasks()
        while (tasks := self.tasks()) or self.has_generators():
            left = _gather(*tasks, return_exceptions=True) if tasks else self.end_generators()
            self.run_until_complete(left)

    def run_forever(self):
        raise RuntimeError("run_forever() would never return in a sandbox; use run() or run_until_complete()")

    def call_soon_threadsafe(self, callback, *args, context=None):
        return self.call_soon(callback, *args, context=context)

    def default_exception_handler(self, context):
        # Written to stderr when the run ends; asyncio would use `logging`, which the user may have replaced.
        self.reports.append(context)

    async def shutdown_default_executor(self, timeout=None):
        pass

    def run_in_executor(self, executor, func, *args):
        """There are no threads: `func` runs here and now, and sees no loop and no task, as it would in a thread."""
        future = self.create_future()
        running = _get_running_loop()
        if running is not None:
            running.blocked_task = _swap_current_task(running, None)
            _set_running_loop(None)
        try:
            result = func(*args)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            if running is not None:
                _set_running_loop(running)
                _swap_current_task(running, running.blocked_task)
                running.blocked_task = None
        return future
