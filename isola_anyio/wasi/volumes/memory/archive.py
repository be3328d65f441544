"""``ArchiveVolume``: the files of a zip archive as a read-only tree, read on first use.

The archive may lie inside another one (a library archive carries its data files that way): ``member`` names it there.
Its bytes are read once and shared by every sandbox.

Sandboxes on several threads share one archive. Its tree is built and its members are unpacked under the volume's lock,
as a tree and its files' bytes are read under that lock in every in-memory volume.
"""

# ruff: noqa: ARG002, D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["ArchiveVolume"]

import calendar
import io
import zipfile
from typing import TYPE_CHECKING, Final

from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage
from isola_anyio.wasi.volumes.memory.content import FrozenContent
from isola_anyio.wasi.volumes.memory.nodes import Dir, File, Node
from isola_anyio.wasi.volumes.memory.open_file import MemoryFile
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from isola_anyio.wasi.volumes.interfaces import Descriptor, Grant, Volume
    from isola_anyio.wasi.volumes.memory.tree import Found

_UNLIMITED: Final = FileLimits(max_memory_bytes=1 << 62, max_entries=1 << 30)


class ArchiveFile(MemoryFile):
    """An open member of an archive.

    Forked and closed without the lock, by event loops: another sandbox's thread holds it while it unpacks a member,
    which takes tenths of a second. Descriptors need no counting here, as no member is ever discarded.
    """

    __slots__ = ()

    def fork(self, volumes: Callable[[Volume], Volume]) -> ArchiveFile:
        return ArchiveFile(self.grant(), self.volume, self.node, self.offset)

    def close(self) -> None:
        pass


class ArchiveVolume(MemoryVolume):
    """The tree of the archive at ``path``, or of the archive ``member`` inside it; of both what is below ``prefix``."""

    def __init__(self, path: str | os.PathLike[str], dev: int, *, member: str | None = None, prefix: str = "") -> None:
        """Read nothing yet; an archive that is missing or broken on first use is an empty tree."""
        super().__init__(FileUsage(_UNLIMITED), dev)
        self._path = path
        self._member = member
        self._prefix = prefix
        self._unread = True
        self._archive: zipfile.ZipFile | None = None

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()

    def opened(self, found: Found, grant: Grant, usage: FileUsage) -> Descriptor:
        node = found.node
        return ArchiveFile(grant, self, node) if isinstance(node, File) else super().opened(found, grant, usage)

    def entries_of(self, directory: Dir) -> dict[bytes, Node | None]:
        if self._unread:
            self._unread = False
            try:
                self._read()
            except (OSError, KeyError, zipfile.BadZipFile):
                self.root.entries.clear()
        return super().entries_of(directory)

    def _read(self) -> None:
        archive = zipfile.ZipFile(self._path)
        if self._member is not None:
            with archive as outer:
                archive = zipfile.ZipFile(io.BytesIO(outer.read(self._member)))
        self._archive = archive
        for info in archive.infolist():
            if not info.filename.startswith(self._prefix):
                continue
            names = info.filename[len(self._prefix) :].encode("utf-8", "surrogateescape").split(b"/")
            if any(name in (b".", b"..") for name in names):
                continue
            parts = [name for name in names if name]
            directory = self.root
            for name in parts if info.is_dir() else parts[:-1]:
                child = directory.entries.get(name)
                if not isinstance(child, Dir):
                    child = Dir(self.dev, self.new_ino(), self.root.times, directory)
                    directory.entries[name] = child
                directory = child
            if parts and not info.is_dir():
                directory.entries[parts[-1]] = _file(self, archive, info)


def _file(volume: ArchiveVolume, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> File:
    stamp = calendar.timegm((*info.date_time, 0, 0, 0)) * 1_000_000_000
    return File(volume.dev, volume.new_ino(), (stamp, stamp, stamp), _Member(archive, info))


class _Member:
    """One archive member's bytes, unpacked at the first read and kept."""

    __slots__ = ("_archive", "_data", "_info", "size")

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._archive = archive
        self._info = info
        self._data: memoryview | None = None
        self.size = info.file_size

    def _load(self) -> memoryview:
        data = self._data
        if data is None:
            try:
                data = memoryview(self._archive.read(self._info))
            except (zipfile.BadZipFile, NotImplementedError, EOFError) as exc:
                raise WasiError(Errno.IO) from exc
            self._data = data
        return data

    def writable(self) -> _Member:
        return self  # to be refused by `write`

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        data = self._load()
        done = 0
        for view in views:
            n = min(len(view), max(len(data) - offset, 0))
            view[:n] = data[offset : offset + n]
            offset += n
            done += n
        return done

    def write(self, views: Sequence[memoryview | bytes], offset: int) -> int:
        raise WasiError(Errno.ROFS)

    def resize(self, size: int) -> None:
        raise WasiError(Errno.ROFS)

    def clear(self) -> None:
        pass

    def freeze(self) -> FrozenContent:
        return FrozenContent(0, {})
