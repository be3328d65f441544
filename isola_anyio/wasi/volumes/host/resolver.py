"""Resolvers: finding what a path below a host directory leads to, without ever leaving the directory.

Race: between a check of what a name is and its use, another program can replace it: a regular file by a fifo, whose
opening blocks, a directory by a link that leads out. So whatever is found is *pinned* first (opened with ``O_PATH``
where the host has it: no side effect, no waiting, whatever it is), then checked, and only a regular file or a directory
is opened, through the pin. What was checked is what is opened.

Two resolvers do the same: ``OpenAt2Resolver`` lets the kernel confine the path, ``WalkResolver`` (in ``walk``) resolves
one component at a time.
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
"""Whether a descriptor can refer to a file without opening it, and be opened later, through ``/proc``."""

_NOFOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_CLOEXEC: Final[int] = getattr(os, "O_CLOEXEC", 0)

DIR_FLAGS: Final[int] = O_PATH | getattr(os, "O_DIRECTORY", 0) | _NOFOLLOW | _CLOEXEC
"""Flags to hold a directory as the start of paths."""

FILE_FLAGS: Final[int] = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | _CLOEXEC
"""Flags to open a file: a fifo that took its place is not waited for, a terminal does not become the process's."""


def admit(st: os.stat_result) -> os.stat_result:
    """Return ``st``; raise ``ACCES`` for what lies on a kernel file system."""
    if is_kernel_device(st.st_dev):
        raise WasiError(Errno.ACCES)
    return st


class Target:
    """What a path led to: pinned by a descriptor, or, on hosts without pins, named in an open directory.

    Attributes:
        st: its ``stat`` when it was found.
    """

    __slots__ = ("_fd", "_name", "_parent", "st")

    def __init__(self, st: os.stat_result, fd: int = -1, parent: int = -1, name: bytes = b"") -> None:
        self.st = st
        self._fd = fd
        self._parent = parent
        self._name = name

    def open(self, flags: int) -> int:
        """Open it; the caller has checked that it is a regular file or a directory.

        Without a pin the name may have been given to something else since: ``AGAIN``.
        """
        if self._fd >= 0:
            return os.open(b"/proc/self/fd/%d" % self._fd, flags | FILE_FLAGS)
        fd = os.open(self._name, flags | FILE_FLAGS | _NOFOLLOW, dir_fd=self._parent)
        st = os.fstat(fd)
        if (st.st_dev, st.st_ino) != (self.st.st_dev, self.st.st_ino):
            os.close(fd)
            raise WasiError(Errno.AGAIN)
        return fd

    def take_dir(self) -> int:
        """Return a descriptor of a directory that paths can start from; the caller closes it."""
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
        """Close the pin."""
        for fd in (self._fd, self._parent):
            if fd >= 0:
                os.close(fd)
        self._fd = self._parent = -1


class Resolver(ABC):
    """Finds what components below a directory lead to; ``links`` is how many symbolic links may be followed."""

    @abstractmethod
    def look(self, dir_fd: int, names: Names, follow: bool, links: int) -> Target:
        """Return what the names lead to, pinned; the caller closes it."""

    @abstractmethod
    def parent(self, dir_fd: int, names: Names, links: int) -> int:
        """Return a descriptor of the directory that contains the last name; the caller closes it."""

    @abstractmethod
    def create(self, dir_fd: int, names: Names, follow: bool, links: int, flags: int) -> int:
        """Create a regular file and open it; without ``O_EXCL`` in ``flags`` it may be one created meanwhile."""

    def stat(self, dir_fd: int, names: Names, follow: bool, links: int) -> os.stat_result:
        """Return the ``stat`` of what the names lead to."""
        target = self.look(dir_fd, names, follow, links)
        target.close()
        return target.st


class OpenAt2Resolver(Resolver):
    """Has the kernel confine the path (``openat2``)."""

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
