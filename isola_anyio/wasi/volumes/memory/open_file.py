"""An open file of a tree in memory."""

# ruff: noqa: D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["MemoryFile"]

from typing import TYPE_CHECKING

from isola_anyio.wasi.abi import Rights
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.descriptors import SeekableFile
from isola_anyio.wasi.volumes.memory.tree import MemoryTree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from isola_anyio.wasi.abi import Stat
    from isola_anyio.wasi.volumes.interfaces import Grant, Volume
    from isola_anyio.wasi.volumes.memory.nodes import File


class MemoryFile(SeekableFile):
    """An open file of a memory volume.

    The node may be open in several guests (a memory mount), and read by the host: its bytes and its number of open
    descriptors are touched under the volume's lock only.
    """

    __slots__ = ("_lock", "_volume", "node")

    def __init__(self, grant: Grant, volume: MemoryTree, node: File, offset: int = 0) -> None:
        """Count a descriptor of ``node``; the volume's lock is held, or nobody else has the volume yet."""
        super().__init__(grant, offset)
        self._volume = volume
        self._lock = volume.lock
        self.node = node
        node.opened()

    @property
    def volume(self) -> MemoryTree:
        """The volume of the file."""
        return self._volume

    def stat(self) -> Stat:
        return self.node.stat()

    def _size(self) -> int:
        return self.node.size

    def _read_at(self, views: Sequence[memoryview], offset: int) -> int:
        with self._lock:
            return self.node.read(views, offset)

    def _write_at(self, views: Sequence[memoryview], offset: int) -> int:
        with self._lock:
            n = self.node.write(views, offset)
            self._mark_changed()
            return n

    def _append(self, views: Sequence[memoryview]) -> tuple[int, int]:
        with self._lock:
            end = self.node.size
            n = self.node.write(views, end)
            self._mark_changed()
            return n, end + n

    def _mark_changed(self) -> None:
        self.node.touch(self._volume.now_ns())
        self._volume.changed()

    def set_size(self, size: int) -> None:
        if not self.base & Rights.FD_WRITE:
            raise WasiError(Errno.BADF)
        with self._lock:
            self.node.resize(size)
            self._mark_changed()

    def _stamp(self, atim: int | None, mtim: int | None) -> None:
        with self._lock:
            self._volume.stamp(self.node, atim, mtim)

    def fork(self, volumes: Callable[[Volume], Volume]) -> MemoryFile:
        volume = volumes(self._volume)
        assert isinstance(volume, MemoryTree)
        with self._lock:
            node = self.node if volume is self._volume else volume.thaw_file(self.node.freeze())
            return MemoryFile(self.grant(), volume, node, self.offset)

    def close(self) -> None:
        with self._lock:
            self.node.closed()
