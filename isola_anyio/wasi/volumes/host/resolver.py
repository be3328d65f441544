"""Find things below a host directory without ever leaving it.

Whatever is found is *pinned* first (``O_PATH`` where the host has it: no side effect, no waiting, whatever it is), then
looked at, and only a regular file or a directory is opened, through the pin: what was looked at is what is opened.

Two resolvers do the same: ``OpenAt2Resolver`` lets the kernel confine the path, ``WalkResolver`` (in ``walk``) goes one
component at a time.
"""

# ruff: noqa: D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["DIR_FLAGS", "FILE_FLAGS", "OpenAt2Resolver", "Resolver", "Target"]

import errno
import os
import stat
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.host.kernelfs import is_kernel_device
from isola_anyio.wasi.volumes.host.openat2 import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

if TYPE_CHECKING:
    from isola_anyio.wasi.volumes.paths import Names

O_PATH: Final[int] = getattr(os, "O_PATH", 0)
HAS_PINS: Final = bool(O_PATH) and os.path.isdir("/proc/self/fd")  # noqa: PTH112 - at import, once
"""Whether a descriptor can stand for a file without opening it, and be opened later."""

_NOFOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_CLOEXEC: Final[int] = getattr(os, "O_CLOEXEC", 0)

DIR_FLAGS: Final[int] = O_PATH | getattr(os, "O_DIRECTORY", 0) | _NOFOLLOW | _CLOEXEC
"""To hold a directory as the start of paths."""

FILE_FLAGS: Final[int] = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | _CLOEXEC
"""To open a file: should a fifo or a terminal have slipped in, do not wait for it and do not adopt it."""


def admit(st: os.stat_result) -> os.stat_result:
    """Return ``st``, or refuse what lies on a kernel file system."""
    if is_kernel_device(st.st_dev):
        raise WasiError(Errno.ACCES)
    return st


class Target:
    """Something found: pinned by ``fd``, or, without pins, by its name in an open directory.

    Attributes:
        st: what it was when it was found.
    """

    __slots__ = ("_fd", "_name", "_parent", "st")

    def __init__(self, st: os.stat_result, fd: int = -1, parent: int = -1, name: bytes = b"") -> None:
        self.st = st
        self._fd = fd
        self._parent = parent
        self._name = name

    def open(self, flags: int) -> int:
        """Open it; it must be regular or a directory still."""
        if self._fd >= 0:
            return os.open(b"/proc/self/fd/%d" % self._fd, flags | FILE_FLAGS)
        fd = os.open(self._name, flags | FILE_FLAGS | _NOFOLLOW, dir_fd=self._parent)
        st = os.fstat(fd)
        if (st.st_dev, st.st_ino) != (self.st.st_dev, self.st.st_ino):
            os.close(fd)
            raise WasiError(Errno.AGAIN)
        return fd

    def take_dir(self) -> int:
        """Return a descriptor that paths can start from; the caller closes it."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            return fd
        return self.open(DIR_FLAGS)

    def set_times(self, times: tuple[int, int]) -> None:
        """Set access and modification time (ns) of a regular file or a directory."""
        if self._fd >= 0:
            os.utime(b"/proc/self/fd/%d" % self._fd, ns=times)
        else:
            os.utime(self._name, ns=times, dir_fd=self._parent, follow_symlinks=False)

    def close(self) -> None:
        """Let go."""
        for fd in (self._fd, self._parent):
            if fd >= 0:
                os.close(fd)
        self._fd = self._parent = -1


class Resolver(ABC):
    """Finds what names below a directory lead to; ``links`` is how many symbolic links may be followed."""

    @abstractmethod
    def look(self, dir_fd: int, names: Names, follow: bool, links: int) -> Target:
        """Pin what the names lead to; the caller closes it."""

    @abstractmethod
    def parent(self, dir_fd: int, names: Names, links: int) -> int:
        """Return a descriptor of the directory that has the last name; the caller closes it."""

    @abstractmethod
    def create(self, dir_fd: int, names: Names, follow: bool, links: int, flags: int) -> int:
        """Create a regular file, and open it; it may turn out to exist unless ``flags`` has ``O_EXCL``."""

    def stat(self, dir_fd: int, names: Names, follow: bool, links: int) -> os.stat_result:
        """Tell about what the names lead to."""
        target = self.look(dir_fd, names, follow, links)
        target.close()
        return target.st


class OpenAt2Resolver(Resolver):
    """Lets Linux confine the path."""

    @staticmethod
    def _open(dir_fd: int, names: Names, flags: int, links: int, mode: int = 0) -> int:
        resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
        if not links:
            resolve |= RESOLVE_NO_SYMLINKS
        try:
            return openat2(dir_fd, b"/".join(names) or b".", flags, mode, resolve)
        except OSError as exc:
            if exc.errno == errno.EXDEV:  # led outside
                raise WasiError(Errno.PERM) from None
            raise

    def look(self, dir_fd: int, names: Names, follow: bool, links: int) -> Target:
        fd = self._open(dir_fd, names, O_PATH if follow else O_PATH | _NOFOLLOW, links)
        try:
            return Target(admit(os.fstat(fd)), fd)
        except BaseException:
            os.close(fd)
            raise

    def parent(self, dir_fd: int, names: Names, links: int) -> int:
        fd = self._open(dir_fd, names[:-1], O_PATH | os.O_DIRECTORY, links)
        try:
            admit(os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def create(self, dir_fd: int, names: Names, follow: bool, links: int, flags: int) -> int:
        if not follow:
            flags |= _NOFOLLOW
        fd = self._open(dir_fd, names, flags | FILE_FLAGS | os.O_CREAT, links, 0o666)
        try:
            if not stat.S_ISREG(admit(os.fstat(fd)).st_mode):
                raise WasiError(Errno.ACCES)
        except BaseException:
            os.close(fd)
            raise
        return fd
