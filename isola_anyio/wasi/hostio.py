"""Move bytes between host files and guest memory, and share host descriptors between sandboxes."""

from __future__ import annotations

__all__ = ["READ_FLAGS", "SharedFd", "preadv"]

import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

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
            os.close(self.fd)
