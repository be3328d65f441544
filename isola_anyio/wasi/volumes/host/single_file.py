"""Volumes of one regular file: what all have in common, and one for a file that nobody changes.

``SharedFileVolume`` shows the guests' library archive, which each of them opens hundreds of times to import from. It
opens the host's file once; every guest descriptor is an offset over that one host descriptor.
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
from isola_anyio.wasi.volumes.descriptors import SeekableFile
from isola_anyio.wasi.volumes.host.io import READ_FLAGS, SharedFd, preadv
from isola_anyio.wasi.volumes.interfaces import Crossing, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from isola_anyio.wasi.volumes.budgets import FileUsage
    from isola_anyio.wasi.volumes.interfaces import Descriptor, Grant, OpenRequest, VolumePath
    from isola_anyio.wasi.volumes.paths import Names


class FileVolume(Volume):
    """A volume that is one regular file: its root is the file, and there is nothing below."""

    @abstractmethod
    def _open(self, request: OpenRequest, grant: Grant, usage: FileUsage) -> Descriptor:
        """Open the file; the checks that every file needs are done."""

    @abstractmethod
    def _stat(self) -> Stat:
        """Return the file's ``Stat``."""

    def canonical(self, path: VolumePath, follow: bool, covered: AbstractSet[Names], prefix: Names) -> Names:
        if path.names and (*prefix, *path.names) in covered:
            raise Crossing((*prefix, *path.names), ())
        return path.names

    def _only_root(self, path: VolumePath) -> None:
        if path.names or path.slash:
            raise WasiError(Errno.NOTDIR)

    def open(self, path: VolumePath, request: OpenRequest, grant: Grant, usage: FileUsage) -> Descriptor:
        self._only_root(path)
        if request.create and request.exclusive:
            raise WasiError(Errno.EXIST)
        if request.directory:
            raise WasiError(Errno.NOTDIR)
        request.check_file(grant)
        return self._open(request, grant, usage)

    def stat(self, path: VolumePath, follow: bool) -> Stat:
        self._only_root(path)
        return self._stat()

    def stat_dir(self, token: Any) -> Stat:
        return self._stat()

    def list(self, token: Any, limit: int) -> Iterator[tuple[bytes, int, FileType]]:
        raise WasiError(Errno.NOTDIR)

    def readlink(self, path: VolumePath) -> bytes:
        self._only_root(path)
        raise WasiError(Errno.INVAL)


class SharedFileVolume(FileVolume):
    """A read-only regular file of the host that nobody changes while it is mounted, so its ``Stat`` is asked once."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open ``path``; ``OSError`` as from ``open``, ``IsADirectoryError`` if it is not a regular file."""
        fd = os.open(path, READ_FLAGS)
        st = os.fstat(fd)
        if not host_stat.S_ISREG(st.st_mode):
            os.close(fd)
            raise IsADirectoryError(f"{os.fspath(path)!r} is not a regular file")
        self._shared = SharedFd(fd)
        self._known_stat = Stat.of_host(st)

    def _open(self, request: OpenRequest, grant: Grant, usage: FileUsage) -> SharedFile:
        return SharedFile(grant, self._shared.retain(), self._known_stat)

    def _stat(self) -> Stat:
        return self._known_stat

    def close(self) -> None:
        self._shared.release()


class SharedFile(SeekableFile):
    """A read-only descriptor over a shared host descriptor; counts against no budget of host descriptors."""

    __slots__ = ("_known_stat", "_shared")

    def __init__(self, grant: Grant, shared: SharedFd, known_stat: Stat, offset: int = 0) -> None:
        """Take over a reference to ``shared``."""
        super().__init__(grant, offset)
        self._shared = shared
        self._known_stat = known_stat

    def stat(self) -> Stat:
        return self._known_stat

    def _read_at(self, views: Sequence[memoryview], offset: int) -> int:
        return preadv(self._shared.fd, views, offset)

    def fork(self, volumes: Callable[[Volume], Volume]) -> SharedFile:
        return SharedFile(self.grant(), self._shared.retain(), self._known_stat, self.offset)

    def close(self) -> None:
        self._shared.release()
