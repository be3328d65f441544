"""Let the host read and seed an in-memory tree a guest uses, while the guest may be using it.

Paths here are the host's way to write them: ``str`` with ``/``, from the tree's root; bytes that are not UTF-8 are
surrogate escapes. Errors are the host's own (``FileNotFoundError``, ``IsADirectoryError``, ...).
"""

from __future__ import annotations

__all__ = ["MountView", "TreeAccess"]

import errno
import os
from typing import TYPE_CHECKING, Final

from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.descriptors import Descriptor
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.limits import FileLimits, FileUsage
from isola_anyio.wasi.overlay import Change, OverlayVolume
from isola_anyio.wasi.paths import Names, guest_names, guest_text
from isola_anyio.wasi.volume import At, How, Permissions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from isola_anyio.wasi.memfs import MemoryVolume

_ALL: Final = Permissions(True, True, True, True)
_LINKS: Final = 40


def _raise(error: WasiError, path: str) -> None:
    number = getattr(errno, "E" + error.errno.name, errno.EIO)
    raise OSError(number, os.strerror(number), path) from None


class TreeAccess:
    """The host's hands in a tree in memory. Safe from any thread; each call is one step for the guest."""

    __slots__ = ("_volume",)

    def __init__(self, volume: MemoryVolume) -> None:
        self._volume = volume
        volume.view()

    def _at(self, path: str) -> At:
        return At(None, guest_names(path if path.startswith("/") else f"/{path}"), False, _LINKS)

    def _open(self, path: str, *, write: bool) -> Descriptor:
        how = How(
            read=not write,
            write=write,
            create=write,
            exclusive=False,
            truncate=write,
            directory=False,
            follow=True,
            flags=0,
            perms=_ALL,
        )
        opened = self._volume.open(self._at(path), how, FileUsage(FileLimits()))
        if not isinstance(opened, Descriptor):
            raise WasiError(Errno.ISDIR)
        opened.base = -1
        return opened

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        try:
            with self._lock():
                file = self._open(path, write=False)
                try:
                    data = bytearray(file.stat().size)
                    n = file.read([memoryview(data)]) if data else 0
                    return bytes(data[:n])
                finally:
                    file.close()
        except WasiError as exc:
            _raise(exc, path)
            raise

    def write(self, path: str, data: bytes) -> None:
        """Make a file hold ``data``, and the directories on the way exist; ``OSError`` (``ENOSPC``) for too much."""
        try:
            with self._lock():
                self._make_parents(self._at(path).names)
                file = self._open(path, write=True)
                try:
                    if data and file.write([memoryview(data)]) < len(data):
                        raise WasiError(Errno.NOSPC)
                finally:
                    file.close()
        except WasiError as exc:
            _raise(exc, path)

    def _make_parents(self, names: Names) -> None:
        for depth in range(1, len(names)):
            try:
                self._volume.mkdir(At(None, names[:depth], False, _LINKS))
            except WasiError as exc:
                if exc.errno is not Errno.EXIST:
                    raise

    def list(self, path: str = "/") -> list[str]:
        """Return the paths of all files and links below a directory, in order."""
        try:
            with self._lock():
                return sorted(guest_text(names) for names in self._walk(self._at(path).names))
        except WasiError as exc:
            _raise(exc, path)
            raise

    def _walk(self, top: Names) -> Iterator[Names]:
        todo = [top]
        while todo:
            names = todo.pop()
            at = self._volume.dir_at(names)
            if at.removed:
                raise WasiError(Errno.NOENT)
            for name, _, filetype in self._volume.listing(at, 1 << 62):
                if filetype is FileType.DIRECTORY:
                    todo.append((*names, name))
                else:
                    yield (*names, name)

    def remove(self, path: str) -> None:
        """Remove a file, or an empty directory."""
        at = self._at(path)
        try:
            with self._lock():
                try:
                    self._volume.unlink(at)
                except WasiError as exc:
                    if exc.errno is not Errno.ISDIR:
                        raise
                    self._volume.rmdir(at)
        except WasiError as exc:
            _raise(exc, path)

    def _lock(self) -> AbstractContextManager[object]:
        return self._volume.lock


class MountView(TreeAccess):
    """The host's view of one sandbox's mount that is kept in memory: ``/tmp``, a memory mount, an overlay.

    It outlives the sandbox: what was changed can still be read, though of an overlay's files only the changed ones.

    Attributes:
        guest: the mount's guest path; paths given to the methods are from there.
    """

    __slots__ = ("guest",)

    def __init__(self, guest: str, volume: MemoryVolume) -> None:
        super().__init__(volume)
        self.guest = guest

    def changes(self) -> list[Change]:
        """Return what an overlay's guest added, modified and deleted, by path; nothing for other mounts."""
        return self._volume.changes() if isinstance(self._volume, OverlayVolume) else []
