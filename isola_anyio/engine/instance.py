"""One guest's instance: a forked store, its memory, and how it is stopped.

An instance is entered by one guest thread at a time. Other threads may only call :meth:`Instance.interrupt`,
:meth:`Instance.expedite` and :meth:`Instance.wake`. A guest thread blocks nowhere but in :meth:`Instance.wait`, which
gives the CPU slot back and ends at once when the guest is stopped.
"""

from __future__ import annotations

__all__ = ["Instance"]

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from isola_anyio.engine import ffi
from isola_anyio.engine.headroom import headroom
from isola_anyio.engine.slots import Rank, SlotWaiter
from isola_anyio.wasi.linear_memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from isola_anyio.engine.image import Image
    from isola_anyio.engine.threads import ThreadPool

_LONGEST_WAIT_S: Final = 3600.0 * 24


class Instance:
    """A guest ready to be entered. Close it from a thread that is not inside it.

    Raises:
        IsolaError: the process is near a limit of its memory maps or threads.

    Attributes:
        memory: linear memory, checked.
        waiter: the guest's place in the queue for a slot; its ``urgency`` is written by whoever stops the guest, under
            the run's lock.
        store: the seam's store, for the driver that prepares exports and installs host functions.
    """

    def __init__(self, program: ffi.Program, *, pool: ThreadPool, max_memory: int, image: Image | None = None) -> None:
        headroom.check_sandbox()
        self.pool = pool
        self.store = ffi.Store(program, max_memory=max_memory)
        try:
            if image is not None:
                image.fork_into(self.store)
        except BaseException:
            self.store.close()
            raise
        self.max_memory = max_memory
        self.memory = GuestMemory(self.store.buffer, self.store.memory_size(), self.store.memory_size)
        # Set by any thread, cleared by the guest's thread after it has waited: a set between the two is not lost,
        # because whoever sets it has put what it is about somewhere first, and the guest's thread looks afterwards.
        self._woken = threading.Event()
        self.waiter = SlotWaiter()
        self.store.on_epoch = partial(pool.preempt, self.waiter)

    @property
    def dead(self) -> bool:
        """Whether the guest trapped or was stopped inside a computation; it cannot be entered again."""
        return self.store.dead

    @property
    def interrupted(self) -> bool:
        """Whether the guest is being stopped."""
        return self.store.interrupted

    def set_handlers(self, handlers: Sequence[Callable[..., int | None]]) -> None:
        """Install the host functions, in the order of the program's linker."""
        self.store.handlers = handlers

    def enter(self, work: Callable[[], None]) -> None:
        """Call ``work``, which calls the guest's exports, with this instance as the running one.

        Raises:
            ffi.GuestTrap, ffi.FuelExhausted, ffi.StoreInterrupted: the guest is dead, or was not entered.
            BaseException: what a host function raised; the guest is dead.
        """
        previous = self.store.enter()
        try:
            work()
        finally:
            self.store.leave(previous)

    def interrupt(self) -> None:
        """Stop the guest wherever it is: in WebAssembly at its next epoch check, in a wait at once. From any thread.

        A guest whose epoch callback has just looked at the flag, and not yet returned to wasmtime, misses this
        increment: wasmtime sets the store's next deadline from the epoch as it is then. So whoever waits for an
        interrupted guest to come back calls this again now and then, and the next increment is noticed.
        """
        # The flag before the increment: the callback that this brings about looks at it. The wake-up after both, for a
        # guest that waits; and the pool last, for one that has waited and queues for a slot, where it can be told
        # nothing.
        self.store.interrupted = True
        self.waiter.urgency = Rank.FINAL
        self.store.program.engine.increment_epoch()
        self._woken.set()
        self.pool.expedite(self.waiter)

    def clear_interrupt(self) -> None:
        """Take back an interrupt that the guest has not noticed, and any expediting."""
        self.store.interrupted = False
        self.waiter.urgency = Rank.FRESH
        self._woken.clear()

    def wake(self) -> None:
        """Make a :meth:`wait` return, now or the next time. From any thread."""
        self._woken.set()

    def expedite(self) -> None:
        """Wake the guest to unwind: from here on it goes before guests that are wanted. From any thread."""
        self.let_unwind()
        self._woken.set()
        self.pool.expedite(self.waiter)

    def let_unwind(self) -> None:
        """From here on the guest, which knows that it is cancelled, goes before guests that are wanted."""
        if self.waiter.urgency is not Rank.FINAL:
            self.waiter.urgency = Rank.UNWINDING

    def wait(self, seconds: float | None) -> None:
        """Block the guest thread until :meth:`wake`, or for ``seconds``; the slot is free meanwhile.

        Raises:
            ffi.StoreInterrupted: the guest is being stopped.
        """
        if seconds is None or seconds > 0:
            # A slot is the right to compute: whoever waits does not need one, and somebody else may.
            ffi.baton.give_up()
            self.pool.pause()
            try:
                self._woken.wait(_LONGEST_WAIT_S if seconds is None else min(seconds, _LONGEST_WAIT_S))
            finally:
                # Whatever the wait ended with: a turn ends with a slot, which the pool then gives to the next.
                self.pool.resume(self.waiter)
                ffi.note_gil_released()
                ffi.trap_handlers.guard()  # other threads had time to replace them, and the turn goes on
        # Cleared, then looked: one that is set between the two makes the next wait return at once.
        self._woken.clear()
        if self.store.interrupted:
            raise ffi.StoreInterrupted

    def sleep(self, seconds: float | None) -> None:
        """Block for ``seconds`` (``None``: for ever), whatever else wakes the guest.

        Raises:
            ffi.StoreInterrupted: the guest is being stopped.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            if self.store.interrupted:  # who sleeps for no time wants to know just this
                raise ffi.StoreInterrupted
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            self.wait(left)

    def close(self) -> None:
        """Free the guest's memory. A second call does nothing."""
        self.memory.buffer = memoryview(b"")
        self.memory.length = 0
        self.store.close()
