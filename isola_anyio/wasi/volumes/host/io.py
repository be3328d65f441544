"""Move bytes between host files and guest memory, and share host descriptors between sandboxes."""

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
    """Read where the host has no ``preadv`` (Windows); the lock keeps the shared offset to one reader."""
    done = 0
    with _seek_lock:
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
        """Read straight into the views; the GIL is free meanwhile."""
        return os.preadv(fd, views, offset)

else:
    preadv = _preadv_by_seeking


class SharedFd:
    """A host descriptor that several owners hold; the last ``release`` closes it."""

    __slots__ = ("_lock", "_owners", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._owners = 1
        self._lock = threading.Lock()

    def retain(self) -> SharedFd:
        """Add an owner."""
        with self._lock:
            self._owners += 1
        return self

    def release(self) -> None:
        """Take an owner away."""
        with self._lock:
            self._owners -= 1
            last = not self._owners
        if last:
            self._close()

    def _close(self) -> None:
        os.close(self.fd)


if sys.platform == "win32":  # where guests have no files of the host

    def _most_for_guests() -> int:
        return 0

else:
    import resource

    def _most_for_guests() -> int:
        """Return how many descriptors of this process may be guests': half, as the rest is the host's own work."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return sys.maxsize if soft == resource.RLIM_INFINITY else soft // 2


class GuestFd(SharedFd):
    """A host descriptor that is open because a guest asked for it; counted, in its sandbox and in all, until it is not.

    Call ``admit`` before opening.
    """

    __slots__ = ("_usage",)

    _counting = threading.Lock()
    _open = 0

    @classmethod
    def admit(cls, usage: FileUsage) -> None:
        """Raise unless one more may be opened: ``MFILE`` for what the sandbox has, ``NFILE`` for what all have."""
        if usage.host_fds >= usage.limits.max_host_files:
            raise WasiError(Errno.MFILE)
        if cls._open >= _most_for_guests():
            raise WasiError(Errno.NFILE)

    def __init__(self, fd: int, usage: FileUsage) -> None:
        super().__init__(fd)
        self._usage = usage
        self._count(1)

    def _count(self, change: int) -> None:
        with GuestFd._counting:  # a template's is closed by whichever fork is the last to
            self._usage.host_fds += change
            GuestFd._open += change

    def _close(self) -> None:
        self._count(-1)
        super()._close()
