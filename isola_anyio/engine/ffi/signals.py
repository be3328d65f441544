"""Signals and forks: wasmtime's trap handlers, kept first, and the generation of the process that made an engine."""

from __future__ import annotations

__all__ = ["TrapHandler", "generation", "trap_handlers"]

import ctypes
import logging
import os
import signal
import sys
import threading
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from isola_anyio.engine.ffi.signal_stack import SignalStack

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("isola_anyio.signals")

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
_sigaction: Any = None
# On macOS wasmtime takes traps from Mach ports, which come before all signals: there is nothing to guard.
if os.name == "posix" and sys.platform != "darwin":
    # A handle of its own, with the GIL, that saves nobody's `errno` around each call: these calls do not fail.
    _sigaction = ctypes.PyDLL(None)["sigaction"]
    _sigaction.restype = ctypes.c_int


class TrapHandler(NamedTuple):
    """wasmtime's handler of one signal, and what is needed to compare it with the one in force.

    Attributes:
        number: the signal.
        query: asks what is in force; a prepared call, because it is made before every turn.
        seen: the first field of the answer, the handler's address. One answer a signal, shared by all threads: whoever
            writes to it writes what is in force for this very signal, and no thread gives up the GIL while it asks.
        address: wasmtime's own.
        action: wasmtime's whole ``struct sigaction``.
    """

    number: int
    query: Callable[[], object]
    seen: ctypes.c_size_t
    address: int
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
        if _sigaction is None or self.installed:
            return
        with self._lock:
            if self.installed:
                return
            found: list[TrapHandler] = []
            for number in _TRAP_SIGNALS:
                action = ctypes.create_string_buffer(_SIGACTION_BYTES)
                if _sigaction(number, None, action) == 0:
                    answer = ctypes.create_string_buffer(_SIGACTION_BYTES)
                    query = partial(_sigaction, ctypes.c_int(number), None, ctypes.byref(answer))
                    seen = ctypes.c_size_t.from_buffer(answer)
                    address = ctypes.c_size_t.from_buffer(action).value
                    found.append(TrapHandler(number, query, seen, address, action))
            # wasmtime has one handler for all the signals it handles. Of others, which differ from platform to
            # platform (SIGBUS on Linux), the program may do what it likes.
            own = [handler for handler in found if handler.address == found[0].address]
            # As a whole and last: `Store.enter` goes through it on every thread, without the lock.
            self.installed = tuple(own)

    def guard(self) -> None:
        """Put wasmtime's handlers back where another has taken their place; about 1 µs when nothing changed.

        Called wherever the program's own code may have run since a guest was entered, such as after a wait without the
        GIL. ``Store.enter`` does the same in line, before every turn of every guest.
        """
        for handler in self.installed:
            handler.query()
            if handler.seen.value != handler.address:
                self.restore(handler)

    def glance(self) -> None:
        """As :meth:`guard`, if the first handler was replaced; a third of its price, for after a plain handler.

        That is SIGSEGV's, which whoever is after crashes takes with the others. ``signal.signal``, which may take one
        alone, raises on guest threads.
        """
        for handler in self.installed[:1]:
            handler.query()
            if handler.seen.value != handler.address:
                self.guard()

    def restore(self, handler: TrapHandler) -> None:
        """Put one of wasmtime's handlers back, and say so; raises nothing."""
        # Threads that find the same handler replaced at the same time all put the same one back.
        with self._lock:
            _sigaction(handler.number, handler.action, None)
        # `faulthandler.enable` has taken this thread's signal stack as well, if it was called here.
        SignalStack.reinstall()
        text = (
            f"the handler of {signal.Signals(handler.number).name} was replaced after wasmtime installed its own (by "
            "faulthandler.enable() or signal.signal, most likely); it has been put back, because without it a guest's "
            "trap would end this process. Enable such handlers before the first template is built."
        )
        # A run must not end with it: where the program makes errors of warnings, or its `showwarning` fails, it is
        # logged instead.
        try:
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        except Exception:  # noqa: BLE001 - the warning itself, or whatever the program's hook raised
            _logger.warning("%s", text)


trap_handlers: Final = _TrapHandlers()
