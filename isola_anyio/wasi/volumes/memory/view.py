"""Views: the host's access to an in-memory tree, while guests may be using it.

Paths are ``str`` with ``/``, from the tree's root; bytes that are not UTF-8 are surrogate escapes. Errors are the
host's own (``FileNotFoundError``, ``IsADirectoryError``, ...).

Every method holds the tree's lock from its first look to its last change, so a guest sees all of it or nothing, and
waits meanwhile: what the host asks for at once is bounded.
"""

from __future__ import annotations

__all__ = ["READ_BYTES_MAX", "MountView", "TreeAccess"]

import errno
import io
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

from isola_anyio.construction import made_by
from isola_anyio.wasi.abi import FileType, Rights
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage
from isola_anyio.wasi.volumes.interfaces import READ_WRITE, Descriptor, Grant, OpenRequest, VolumePath
from isola_anyio.wasi.volumes.memory.nodes import Dir
from isola_anyio.wasi.volumes.memory.overlay import Change, OverlayVolume
from isola_anyio.wasi.volumes.memory.tree import LISTED_BYTES_MAX
from isola_anyio.wasi.volumes.paths import Names, guest_names, guest_text

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from isola_anyio.wasi.volumes.memory.volume import MemoryVolume

_MAX_SYMLINKS: Final = FileLimits().max_symlinks


READ_BYTES_MAX: Final = 64 << 20
"""Default for the largest file that is read; a guess. A sparse file of a guest's may have any size at no cost."""


def _host_error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


class TreeAccess:
    """The host's access to a tree in memory. Safe from any thread; each call is atomic for guests."""

    __slots__ = ("_volume",)

    def __init__(self, volume: MemoryVolume) -> None:
        self._volume = volume
        volume.view()

    @staticmethod
    def _resolve(path: str) -> VolumePath:
        return VolumePath(None, guest_names(path if path.startswith("/") else f"/{path}"), False, _MAX_SYMLINKS)

    def _open(self, path: str, *, write: bool) -> Descriptor:
        grant = Grant(Rights.FD_WRITE if write else Rights.FD_READ, perms=READ_WRITE)
        request = OpenRequest(create=write, truncate=write)
        opened = self._volume.open(self._resolve(path), request, grant, FileUsage(FileLimits()))
        if not isinstance(opened, Descriptor):
            raise WasiError(Errno.ISDIR)
        return opened

    @contextmanager
    def _locked(self, path: str) -> Generator[None]:
        """Hold the tree's lock, and turn a ``WasiError`` into the host's ``OSError``."""
        try:
            with self._volume.lock:
                yield
        except WasiError as exc:
            raise _host_error(getattr(errno, "E" + exc.errno.name, errno.EIO), path) from None

    def read(self, path: str, *, max_bytes: int = READ_BYTES_MAX) -> bytes:
        """Return a file's bytes; ``OSError`` (``EFBIG``) for one larger than ``max_bytes``."""
        with self._locked(path):
            file = self._open(path, write=False)
            try:
                size = file.stat().size
                if size > max_bytes:
                    raise _host_error(errno.EFBIG, path)
                return _read(file, size)
            finally:
                file.close()

    def write(self, path: str, data: bytes) -> None:
        """Write a file, with missing directories on the way; ``OSError`` (``ENOSPC``) past the budget."""
        with self._locked(path):
            self._make_parents(self._resolve(path).names)
            file = self._open(path, write=True)
            try:
                if data and file.write([memoryview(data)]) < len(data):
                    raise WasiError(Errno.NOSPC)
            finally:
                file.close()

    def _make_parents(self, names: Names) -> None:
        for depth in range(1, len(names)):
            try:
                self._volume.mkdir(VolumePath(None, names[:depth], False, _MAX_SYMLINKS))
            except WasiError as exc:
                if exc.errno is not Errno.EXIST:
                    raise

    def list(self, path: str = "/") -> list[str]:
        """Return the paths of all files and links below a directory, in order.

        ``OSError`` (``EOVERFLOW``) when all paths together, of directories too, are longer than 32 MiB.
        """
        with self._locked(path):
            return sorted(self._walk(self._resolve(path).names))

    def _walk(self, top: Names) -> Iterator[str]:
        volume = self._volume
        start = volume.dir_at(top)
        if start.removed:
            raise WasiError(Errno.NOENT)
        room = LISTED_BYTES_MAX
        todo = [(start, guest_text(top) if top else "")]
        while todo:
            directory, parent = todo.pop()
            for name, _, filetype in volume.listing(directory, 1 << 62):
                path = f"{parent}/{name.decode('utf-8', 'surrogateescape')}"
                room -= len(path)
                if room < 0:
                    raise WasiError(Errno.OVERFLOW)
                if filetype is not FileType.DIRECTORY:
                    yield path
                elif isinstance(below := volume.child(directory, name), Dir):
                    todo.append((below, path))

    def remove(self, path: str) -> None:
        """Remove a file, or an empty directory."""
        resolved = self._resolve(path)
        with self._locked(path):
            try:
                self._volume.unlink(resolved)
            except WasiError as exc:
                if exc.errno is not Errno.ISDIR:
                    raise
                self._volume.rmdir(resolved)


def _read(file: Descriptor, size: int) -> bytes:
    """Return up to ``size`` bytes from the start, read straight into the result: a large file is in memory once."""
    buffer = io.BytesIO()
    if size:
        buffer.seek(size - 1)
        buffer.write(b"\0")
        with buffer.getbuffer() as whole:
            n = file.read([whole])
        buffer.truncate(n)
    return buffer.getvalue()


@final
@made_by("sandbox.mount(guest_path)")
class MountView(TreeAccess):
    """The host's view of one sandbox's mount that is kept in memory: ``/tmp``, a memory mount, an overlay.

    Returned by ``Sandbox.mount``. It may be used from any thread, and after the sandbox's end: what the guest changed
    can still be read then, but of an overlay no file that it left as it was.

    Attributes:
        guest: the mount's guest path; paths given to the methods are from there.
    """

    __slots__ = ("guest",)

    guest: str

    @classmethod
    def _create(cls, guest: str, volume: MemoryVolume) -> MountView:
        view = object.__new__(cls)
        TreeAccess.__init__(view, volume)
        view.guest = guest
        return view

    def changes(self) -> list[Change]:
        """Return what an overlay's guest added, modified and deleted, by path; nothing for other mounts.

        ``OSError`` (``EOVERFLOW``) when the paths to compare are longer than 32 MiB together.
        """
        with self._locked(self.guest):
            return self._volume.changes() if isinstance(self._volume, OverlayVolume) else []
