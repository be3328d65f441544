"""Show one host file, read-only, through one shared host descriptor.

Opening it costs the host nothing: every guest descriptor keeps its own offset over the same host one. Guests import
from their library archive this way, hundreds of times each.
"""

# ruff: noqa: ARG002, D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["FileVolume", "SharedFileVolume"]

import os
import stat as host_stat
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from isola_anyio.wasi.abi import FileType, Stat
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.descriptors import Descriptor, SeekableFile
from isola_anyio.wasi.volumes.host.io import READ_FLAGS, SharedFd, preadv
from isola_anyio.wasi.volumes.interfaces import At, Crossing, How, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from isola_anyio.wasi.volumes.budgets import FileUsage
    from isola_anyio.wasi.volumes.paths import Names


class FileVolume(Volume):
    """A volume that is one regular file: its root is the file, and there is nothing below."""

    @abstractmethod
    def _open(self, how: How, usage: FileUsage) -> Descriptor:
        """Open the file, after the checks every file needs."""

    @abstractmethod
    def _stat(self) -> Stat:
        """Tell about the file."""

    def canonical(self, at: At, follow: bool, covered: AbstractSet[Names], prefix: Names) -> Names:
        if at.names and (*prefix, *at.names) in covered:
            raise Crossing((*prefix, *at.names), ())
        return at.names

    def _only_root(self, at: At) -> None:
        if at.names or at.slash:
            raise WasiError(Errno.NOTDIR)

    def open(self, at: At, how: How, usage: FileUsage) -> Descriptor:
        self._only_root(at)
        if how.create and how.exclusive:
            raise WasiError(Errno.EXIST)
        if how.directory:
            raise WasiError(Errno.NOTDIR)
        how.check_file()
        return self._open(how, usage)

    def stat(self, at: At, follow: bool) -> Stat:
        self._only_root(at)
        return self._stat()

    def stat_dir(self, start: Any) -> Stat:
        return self._stat()

    def list(self, start: Any, limit: int) -> Iterator[tuple[bytes, int, FileType]]:
        raise WasiError(Errno.NOTDIR)

    def readlink(self, at: At) -> bytes:
        self._only_root(at)
        raise WasiError(Errno.INVAL)


class SharedFileVolume(FileVolume):
    """A read-only regular file of the host that nobody changes while it is mounted: it is looked at once."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open ``path``; ``OSError`` as from ``open``, ``IsADirectoryError`` if it is not a regular file."""
        fd = os.open(path, READ_FLAGS)
        st = os.fstat(fd)
        if not host_stat.S_ISREG(st.st_mode):
            os.close(fd)
            raise IsADirectoryError(f"{os.fspath(path)!r} is not a regular file")
        self._fd = SharedFd(fd)
        self._looked = Stat.of_host(st)

    def _open(self, how: How, usage: FileUsage) -> SharedFile:
        return SharedFile(self._fd.retain(), self._looked)

    def _stat(self) -> Stat:
        return self._looked

    def close(self) -> None:
        self._fd.release()


class SharedFile(SeekableFile):
    """A read-only descriptor over a host descriptor it shares."""

    __slots__ = ("_looked", "shared")

    def __init__(self, shared: SharedFd, looked: Stat) -> None:
        super().__init__(0)
        self.shared = shared
        self._looked = looked

    def stat(self) -> Stat:
        return self._looked

    def _read_at(self, views: Sequence[memoryview], offset: int) -> int:
        return preadv(self.shared.fd, views, offset)

    def fork(self, volumes: Callable[[Volume], Volume]) -> SharedFile:
        twin = SharedFile(self.shared.retain(), self._looked)
        twin.take_after(self)
        return twin

    def close(self) -> None:
        self.shared.release()
