"""Signal stacks: where a guest thread handles its signals, made before wasmtime would have to make one.

wasmtime handles traps on an alternate signal stack. The first time a thread enters a guest it looks whether the thread
has one of at least ``STACK_BYTES`` (``lazy_per_thread_init`` in its ``sys/unix/signals.rs``), and maps one if not;
where it cannot, because the process has used up its memory maps, it panics, which ends the process. So guest threads
are given a :class:`SignalStack` when they start, where a failure can still be told.

On macOS wasmtime takes traps from Mach ports and on Windows from vectored handlers: neither needs such a stack.
"""

from __future__ import annotations

__all__ = ["STACK_BYTES", "SignalStack"]

import ctypes
import mmap
import os
import sys
import threading
from typing import Any, ClassVar, Final, Self

from isola_anyio.engine.ffi.mapping import forbid
from isola_anyio.engine.ffi.raw import libc

STACK_BYTES: Final = 64 * 4096
"""What wasmtime asks for, ``MIN_STACK_SIZE``; less, and it makes its own."""


class _StackT(ctypes.Structure):
    """Linux's ``stack_t``; the order of the fields is another elsewhere."""

    _fields_: ClassVar = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


_sigaltstack: Any = None
if sys.platform.startswith("linux"):
    _sigaltstack = libc["sigaltstack"]
    _sigaltstack.restype = ctypes.c_int


class _Mine(threading.local):
    stack: SignalStack | None = None


_mine: Final = _Mine()


class SignalStack:
    """The calling thread's signal stack, from :meth:`install` until :meth:`close`, both called on that thread.

    Raises:
        OSError: the kernel has no memory or no map left for it; the thread must not enter a guest.
    """

    def __init__(self) -> None:
        self._previous = _StackT()
        self._memory: mmap.mmap | None = None
        if _sigaltstack is None:
            return
        # A page below it that nobody may touch, as below any stack: to run out of it must not write elsewhere.
        memory = mmap.mmap(-1, mmap.PAGESIZE + STACK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            base = ctypes.addressof(ctypes.c_ubyte.from_buffer(memory))
            forbid(base, mmap.PAGESIZE)
            self._ours = _StackT(base + mmap.PAGESIZE, 0, STACK_BYTES)
            if _sigaltstack(ctypes.byref(self._ours), ctypes.byref(self._previous)):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), "sigaltstack")
        except BaseException:
            memory.close()
            raise
        self._memory = memory

    @classmethod
    def install(cls) -> Self:
        """Give the calling thread a signal stack."""
        stack = cls()
        _mine.stack = stack
        return stack

    @staticmethod
    def reinstall() -> None:
        """Give the calling thread its own signal stack again: ``faulthandler.enable`` puts a smaller one there."""
        stack = _mine.stack
        if stack is not None and stack._memory is not None:  # noqa: SLF001 - same class
            _sigaltstack(ctypes.byref(stack._ours), None)  # noqa: SLF001 - same class

    def close(self) -> None:
        """Put back what the thread had before, and free the memory. A second call does nothing."""
        memory, self._memory = self._memory, None
        if memory is None:
            return
        _mine.stack = None
        # The kernel forgets the stack before its pages go: a signal between the two is handled on the thread's own
        # stack. One that somebody else has put there meanwhile is not ours to take away.
        now = _StackT()
        if _sigaltstack(None, ctypes.byref(now)) == 0 and now.sp == self._ours.sp:
            _sigaltstack(ctypes.byref(self._previous), None)
        memory.close()
