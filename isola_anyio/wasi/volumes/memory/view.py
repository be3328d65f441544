"""Let the host read and seed an in-memory tree a guest uses, while the guest may be using it.

Paths here are the host's way to write them: ``str`` with ``/``, from the tree's root; bytes that are not UTF-8 are
surrogate escapes. Errors are the host's own (``FileNotFoundError``, ``IsADirectoryError``, ...).
"""

from __future__ import annotations

__all__ = ["READ_BYTES_MAX", "MountView", "TreeAccess"]

import errno
import io
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage
from isola_anyio.wasi.volumes.descriptors import Descriptor
from isola_anyio.wasi.volumes.interfaces import At, How, Permissions
from isola_anyio.wasi.volumes.memory.nodes import Dir
from isola_anyio.wasi.volumes.memory.overlay import Change, OverlayVolume
from isola_anyio.wasi.volumes.memory.tree import LISTED_BYTES_MAX
from isola_anyio.wasi.volumes.paths import Names, guest_names, guest_text

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from isola_anyio.wasi.volumes.memory.volume import MemoryVolume

_ALL: Final = Permissions(True, True, True, True)
_LINKS: Final = 40


READ_BYTES_MAX: Final = 64 << 20
"""Bytes of a file that is read unless told otherwise; a guess. A guest's file may say any size and cost it nothing."""


def _host_error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


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

    @contextmanager
    def _step(self, path: str) -> Generator[None]:
        """Keep the guest out meanwhile, and say what is refused as the host does."""
        try:
            with self._volume.lock:
                yield
        except WasiError as exc:
            raise _host_error(getattr(errno, "E" + exc.errno.name, errno.EIO), path) from None

    def read(self, path: str, *, max_bytes: int = READ_BYTES_MAX) -> bytes:
        """Return a file's bytes; ``OSError`` (``EFBIG``) when it says that it has more than ``max_bytes``."""
        with self._step(path):
            file = self._open(path, write=False)
            try:
                size = file.stat().size
                if size > max_bytes:
                    raise _host_error(errno.EFBIG, path)
                return _read(file, size)
            finally:
                file.close()

    def write(self, path: str, data: bytes) -> None:
        """Make a file hold ``data``, and the directories on the way exist; ``OSError`` (``ENOSPC``) for too much."""
        with self._step(path):
            self._make_parents(self._at(path).names)
            file = self._open(path, write=True)
            try:
                if data and file.write([memoryview(data)]) < len(data):
                    raise WasiError(Errno.NOSPC)
            finally:
                file.close()

    def _make_parents(self, names: Names) -> None:
        for depth in range(1, len(names)):
            try:
                self._volume.mkdir(At(None, names[:depth], False, _LINKS))
            except WasiError as exc:
                if exc.errno is not Errno.EXIST:
                    raise

    def list(self, path: str = "/") -> list[str]:
        """Return the paths of all files and links below a directory, in order.

        ``OSError`` (``EOVERFLOW``) when all paths together, of directories too, are longer than 64 MiB.
        """
        with self._step(path):
            return sorted(self._walk(self._at(path).names))

    def _walk(self, top: Names) -> Iterator[str]:
        volume = self._volume
        start = volume.dir_at(top)
        if start.removed:
            raise WasiError(Errno.NOENT)
        room = LISTED_BYTES_MAX
        todo = [(start, guest_text(top) if top else "")]
        while todo:
            at, above = todo.pop()
            for name, _, filetype in volume.listing(at, 1 << 62):
                path = above + guest_text((name,))
                room -= len(path)
                if room < 0:
                    raise WasiError(Errno.OVERFLOW)
                if filetype is not FileType.DIRECTORY:
                    yield path
                elif isinstance(below := volume.child(at, name), Dir):
                    todo.append((below, path))

    def remove(self, path: str) -> None:
        """Remove a file, or an empty directory."""
        at = self._at(path)
        with self._step(path):
            try:
                self._volume.unlink(at)
            except WasiError as exc:
                if exc.errno is not Errno.ISDIR:
                    raise
                self._volume.rmdir(at)


def _read(file: Descriptor, size: int) -> bytes:
    """Read from the start, up to ``size`` bytes, into what is returned: a large file is held once."""
    buffer = io.BytesIO()
    if size:
        buffer.seek(size - 1)
        buffer.write(b"\0")
        with buffer.getbuffer() as whole:
            n = file.read([whole])
        buffer.truncate(n)
    return buffer.getvalue()


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
        """Return what an overlay's guest added, modified and deleted, by path; nothing for other mounts.

        ``OSError`` (``EOVERFLOW``) when the paths that are looked at are longer than 64 MiB together.
        """
        with self._step(self.guest):
            return self._volume.changes() if isinstance(self._volume, OverlayVolume) else []
