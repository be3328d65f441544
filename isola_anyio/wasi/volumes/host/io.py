"""Host descriptors: reading them into guest memory, and sharing them by reference count.

A template and its forks run on different threads and use the same host descriptors. Closing one while another thread
still uses its number is the danger: the host gives the number to the next file that is opened, and the late user would
read or write that one. So a shared descriptor is closed by whoever drops the last reference, and by nobody else.
"""

from __future__ import annotations

__all__ = ["READ_FLAGS", "GuestFd", "SharedFd", "preadv"]

import os
import sys
import threading
from typing import TYPE_CHECKING, Final

from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isola_anyio.wasi.volumes.budgets import FileUsage

READ_FLAGS: Final[int] = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

_seek_lock = threading.Lock()


def _preadv_by_seeking(fd: int, views: Sequence[memoryview], offset: int) -> int:
    """Read where the host has no ``preadv`` (Windows)."""
    done = 0
    with _seek_lock:  # seek and read are two calls, and another guest's thread may share the descriptor
        os.lseek(fd, offset, os.SEEK_SET)
        for view in views:
            data = os.read(fd, len(view))
            view[: len(data)] = data
            done += len(data)
            if len(data) < len(view):
                break
    return done


if hasattr(os, "preadv"):

    def preadv(fd: int, views: Sequence[memoryview], offset: int) -> int:
        """Read straight into the views; the GIL is released meanwhile."""
        return os.preadv(fd, views, offset)

else:
    preadv = _preadv_by_seeking


class SharedFd:
    """A host descriptor with a reference count; dropping the last reference closes it. Safe from any thread.

    Attributes:
        fd: the number; valid only while the caller holds a reference.
    """

    __slots__ = ("_lock", "_references", "fd")

    def __init__(self, fd: int) -> None:
        """Take over ``fd``, with one reference: the caller's."""
        self.fd = fd
        self._references = 1
        self._lock = threading.Lock()

    def retain(self) -> SharedFd:
        """Add a reference, and return this; the caller holds one already, so the count is not 0."""
        with self._lock:
            self._references += 1
        return self

    def release(self) -> None:
        """Drop a reference."""
        with self._lock:
            self._references -= 1
            is_last = not self._references
        if is_last:  # outside the lock: nobody else has a reference to use it with, and closing may block
            self._close()

    def _close(self) -> None:
        os.close(self.fd)


if sys.platform == "win32":  # host directories are not mounted there

    def _max_for_guests() -> int:
        return 0

else:
    import resource

    def _max_for_guests() -> int:
        """Return how many descriptors of this process may be guests': half, to leave the rest to the host program."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return sys.maxsize if soft == resource.RLIM_INFINITY else soft // 2


class GuestFd(SharedFd):
    """A host descriptor that a guest opened; counted, while it is open, for its sandbox and for the process.

    Call ``admit`` before opening. Between that and the count another guest's thread may open one too: the process's
    bound is soft by the number of threads, which the half that is left to the host program has room for.
    """

    __slots__ = ("_usage",)

    _counting = threading.Lock()
    _open = 0  # of all guests in this process; under `_counting`

    @classmethod
    def admit(cls, usage: FileUsage) -> None:
        """Raise unless one more may be opened: ``MFILE`` past the sandbox's budget, ``NFILE`` past the process's."""
        if usage.host_fds >= usage.limits.max_host_files:
            raise WasiError(Errno.MFILE)
        if cls._open >= _max_for_guests():
            raise WasiError(Errno.NFILE)

    def __init__(self, fd: int, usage: FileUsage) -> None:
        super().__init__(fd)
        self._usage = usage
        self._count(1)

    def _count(self, change: int) -> None:
        with GuestFd._counting:  # the sandbox's count too: a descriptor it shares with a fork may be closed by that one
            self._usage.host_fds += change
            GuestFd._open += change

    def _close(self) -> None:
        self._count(-1)
        super()._close()
