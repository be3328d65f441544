"""Guest threads: how one is started, so that whoever starts it hears of it, also when it dies on its first steps.

A new thread needs memory maps before its first line of Python runs: CPython maps memory for its frames, and wasmtime
would map a signal stack. In a process that has used up ``vm.max_map_count`` or its memory the first kills the thread
before it has told ``threading.Thread.start``, which then waits for ever; the second ends the process. So the signal
stack is made here, before anything else, and the start is reported by the thread itself or by its death: CPython lets
go of the function that the thread was to call, whatever became of it, and a weak reference tells.

``Thread.start`` is kept, with all that it does for names, tracing and the list of threads; only its wait is not.
"""

from __future__ import annotations

__all__ = ["GuestThread", "Start"]

import threading
import weakref
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from isola_anyio.engine.ffi.signal_stack import SignalStack
from isola_anyio.engine.headroom import headroom
from isola_anyio.errors import IsolaError

if TYPE_CHECKING:
    from collections.abc import Callable

_stack_size_lock: Final = threading.Lock()


class Start(weakref.ref[Any]):
    """How starting a thread went: ready, failed, or dead, if it is the weak reference whose object is gone.

    Attributes:
        thread: the thread.
        is_ready: it may be given guests.
        failure: why there is none, where that is known.
    """

    thread: GuestThread
    is_ready = False
    failure: BaseException | None = None

    def check(self) -> None:
        """Do nothing if the thread is ready.

        Raises:
            IsolaError: there is no such thread, or not any more.
        """
        if self.is_ready:
            return
        # One that died before `threading` knew it stays in its list of threads that are about to start, which
        # `threading.enumerate` shows.
        getattr(threading, "_limbo", {}).pop(self.thread, None)
        if isinstance(self.failure, IsolaError):
            raise self.failure
        reason = self.failure or "it died on its first steps"
        raise IsolaError(
            f"no thread can be started for a guest ({reason}): the process is at the limit of its threads, of its "
            f"memory or of its memory maps, with {threading.active_count()} threads now; close sandboxes that wait "
            "inside plain guest code, raise the limit (ulimit -u, a container's pids limit, sysctl vm.max_map_count), "
            "or try again"
        ) from self.failure


class _StartedEvent(threading.Event):
    """What ``Thread.start`` waits for, in vain if the thread dies: who waits, waits for the report instead."""

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002 - the interface
        """Wait for nothing."""
        return self.is_set()


class GuestThread(threading.Thread):
    """A daemon thread that calls ``target`` once it is ready to enter guests: with a signal stack of its own.

    Args:
        stack_bytes: the size of the thread's own stack.
    """

    def __init__(self, target: Callable[[], object], *, name: str, stack_bytes: int) -> None:
        super().__init__(name=name, daemon=True)
        self._call: Callable[[], object] | None = target
        self._stack_bytes = stack_bytes
        # Written by whoever starts the thread, before it runs; from then on the thread's own. The notice is reported
        # when the thread has let go of its first step.
        self._notice: Start | None = None
        self._report: Callable[[Start], object] | None = None
        # Where `threading` waits for something else one day, that is waited for as well, and no more harm is done than
        # it does to any thread.
        self._started = _StartedEvent()

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            IsolaError: the system has no room for another thread; ``target`` will not be called.
        """
        reports: SimpleQueue[Start] = SimpleQueue()
        self.start_soon(reports.put)
        # Outside the lock of `start_soon`, which event loops take that start a manager.
        reports.get().check()

    def start_soon(self, report: Callable[[Start], object]) -> None:
        """Start it, and have ``report`` called once when it is ready or has failed; raises nothing for a failure.

        Waits for nothing; so it must not be joined before it has been reported.

        Called on any thread, the new one included, which may have no memory for a frame: so ``report`` must be a
        function written in C that neither blocks nor raises, such as ``SimpleQueue.put``.
        """
        self._report = report
        try:
            headroom.check_thread()
            # The size of the next thread's stack is the interpreter's, one for all: nobody else may start one
            # meanwhile.
            with _stack_size_lock:
                before = threading.stack_size(self._stack_bytes)
                try:
                    super().start()
                finally:
                    threading.stack_size(before)
        except (IsolaError, RuntimeError, MemoryError) as exc:
            notice = self._notice
            if notice is not None and notice() is None:
                notice.failure = exc  # the first step is gone already, and that was reported
            else:
                self._settle(exc)

    @property
    def _bootstrap(self) -> Callable[[], object]:
        """What ``Thread.start`` has the new thread call: the same as ever, as an object that only that thread has."""
        report = self._report
        assert report is not None
        first_step = partial(vars(threading.Thread)["_bootstrap"], self)
        self._notice = notice = Start(first_step, report)
        notice.thread = self
        return first_step

    def run(self) -> None:
        """Run it, on the new thread; called by ``threading``."""
        target, self._call = self._call, None
        assert target is not None
        ident = threading.get_ident()
        try:
            stack = SignalStack.install()
        except BaseException as exc:  # noqa: BLE001 - carried to whoever started it
            self._settle(exc)
            return
        try:
            headroom.guest_threads.add(ident)
            self._settle(None)
            target()
        finally:
            headroom.guest_threads.discard(ident)
            stack.close()

    def _settle(self, failure: BaseException | None) -> None:
        """Report how it went."""
        report = self._report
        assert report is not None
        start = Start(self)
        start.thread = self
        start.failure = failure
        start.is_ready = failure is None
        # The report first: should there be no memory for it, the thread dies, and the notice reports that.
        report(start)
        # Gone before what it watches, the notice is never reported.
        self._notice = self._report = None
