"""Keep wasmtime's signal handlers first, and know when this process is a fork of the one that made the engine."""

from __future__ import annotations

__all__ = ["generation", "guard_signals", "trap_handlers"]

import ctypes
import os
import signal
import threading
import warnings
from typing import Any, Final

from isola_anyio.engine.ffi.raw import libc

_generation = 0


def generation() -> int:
    """Count the ``os.fork`` calls this process is away from the one that imported the module.

    An engine made in an older generation has lost its threads and must not be used.
    """
    return _generation


def _after_fork_in_child() -> None:
    global _generation  # noqa: PLW0603 - a process has one generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

_TRAP_SIGNALS: Final = tuple(
    int(getattr(signal, name)) for name in ("SIGSEGV", "SIGILL", "SIGFPE", "SIGBUS") if hasattr(signal, name)
)
_SIGACTION_BYTES: Final = 256  # larger than any platform's `struct sigaction`
_sigaction: Any = None
if libc is not None:
    _sigaction = libc["sigaction"]
    _sigaction.restype = ctypes.c_int


class _TrapHandlers:
    """wasmtime's own signal handlers, remembered once an engine has run, and how to put them back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ours: list[tuple[int, Any, bytes]] = []
        self._query = ctypes.create_string_buffer(_SIGACTION_BYTES)
        self._checks: list[tuple[Any, bytes]] = []

    def remember(self) -> None:
        """Record the handlers as they are now; called when the first store has been made."""
        if _sigaction is None or self._ours:
            return
        with self._lock:
            if self._ours:
                return
            found: list[tuple[int, Any, bytes]] = []
            for number in _TRAP_SIGNALS:
                buffer = ctypes.create_string_buffer(_SIGACTION_BYTES)
                if _sigaction(number, None, buffer) == 0:
                    found.append((number, buffer, buffer.raw[:8]))
            self._ours = found

    def guard(self) -> None:
        """Put wasmtime's handlers back where another has taken their place; about 2 µs when nothing changed."""
        for number, ours, address in self._ours:
            query = ctypes.create_string_buffer(_SIGACTION_BYTES)
            if _sigaction(number, None, query) == 0 and query.raw[:8] != address:
                self._restore(number, ours)

    def _restore(self, number: int, ours: Any) -> None:
        with self._lock:
            _sigaction(number, ours, None)
        warnings.warn(
            f"the handler of {signal.Signals(number).name} was replaced after wasmtime installed its own (by "
            "faulthandler.enable() or signal.signal, most likely); it has been put back, because without it a guest's "
            "trap would end this process. Enable such handlers before the first template is built.",
            RuntimeWarning,
            stacklevel=2,
        )


trap_handlers: Final = _TrapHandlers()
guard_signals: Final = trap_handlers.guard
