"""Signals and forks: wasmtime's trap handlers, kept first, and the generation of the process that made an engine."""

from __future__ import annotations

__all__ = ["TrapHandler", "c_sigaction", "generation", "trap_handlers"]

import ctypes
import os
import signal
import threading
import warnings
from typing import Any, Final, NamedTuple

from isola_anyio.engine.ffi.raw import libc

_generation = 0


def generation() -> int:
    """Count the ``os.fork`` calls this process is away from the one that imported the module.

    An engine made in an older generation has lost its threads and must not be used.
    """
    return _generation


def _after_fork_in_child() -> None:
    global _generation  # noqa: PLW0603 - a process has one generation
    # In the child, where this thread is the only one left.
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

_TRAP_SIGNALS: Final = tuple(
    int(getattr(signal, name)) for name in ("SIGSEGV", "SIGILL", "SIGFPE", "SIGBUS") if hasattr(signal, name)
)
_SIGACTION_BYTES: Final = 256  # larger than any platform's `struct sigaction`
_ADDRESS_BYTES: Final = 8
"""Where ``struct sigaction`` begins with the handler's address, as on Linux and macOS."""
c_sigaction: Any = None
if libc is not None:
    c_sigaction = libc["sigaction"]
    c_sigaction.restype = ctypes.c_int


class TrapHandler(NamedTuple):
    """wasmtime's handler of one signal, and what is needed to compare it with the one in force.

    Attributes:
        number: the signal.
        query: ``sigaction``'s answer goes here. One buffer a signal, shared by all threads: whoever writes to it
            writes what is in force for this very signal, and no thread gives up the GIL while it asks.
        seen: the first bytes of ``query``: the handler's address.
        address: wasmtime's own.
        action: wasmtime's whole ``struct sigaction``.
    """

    number: int
    query: Any
    seen: memoryview
    address: memoryview
    action: Any


class _TrapHandlers:
    """wasmtime's own signal handlers, remembered once an engine has run, and how to put them back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.installed: tuple[TrapHandler, ...] = ()
        """Written once, under the lock, when the first store was made; empty where there is no ``sigaction``."""

    def remember(self) -> None:
        """Record the handlers as they are now; called when the first store has been made."""
        # Looked at before the lock, because every store that is made comes here; again under it, because two may be the
        # first.
        if c_sigaction is None or self.installed:
            return
        with self._lock:
            if self.installed:
                return
            found: list[TrapHandler] = []
            for number in _TRAP_SIGNALS:
                action = ctypes.create_string_buffer(_SIGACTION_BYTES)
                if c_sigaction(number, None, action) == 0:
                    query = ctypes.create_string_buffer(_SIGACTION_BYTES)
                    seen = memoryview(query).cast("B")[:_ADDRESS_BYTES]
                    found.append(TrapHandler(number, query, seen, memoryview(action.raw[:_ADDRESS_BYTES]), action))
            # As a whole and last: `Store.enter` goes through it on every thread, without the lock.
            self.installed = tuple(found)

    def guard(self) -> None:
        """Put wasmtime's handlers back where another has taken their place; about 2 µs when nothing changed.

        ``Store.enter`` does the same in line, before every turn of every guest.
        """
        for handler in self.installed:
            if c_sigaction(handler.number, None, handler.query) == 0 and handler.seen != handler.address:
                self.restore(handler)

    def restore(self, handler: TrapHandler) -> None:
        """Put one of wasmtime's handlers back, and say so."""
        # Threads that find the same handler replaced at the same time all put the same one back.
        with self._lock:
            c_sigaction(handler.number, handler.action, None)
        warnings.warn(
            f"the handler of {signal.Signals(handler.number).name} was replaced after wasmtime installed its own (by "
            "faulthandler.enable() or signal.signal, most likely); it has been put back, because without it a guest's "
            "trap would end this process. Enable such handlers before the first template is built.",
            RuntimeWarning,
            stacklevel=3,
        )


trap_handlers: Final = _TrapHandlers()
