"""An open file of a tree in memory.

The tree's lock may be wanted by an event loop (``MemoryMount.read``), so it is held for a piece of a transfer only:
``PIECE_BYTES``, some tenths of a millisecond. Between the pieces of a longer one others may read and write the file, as
between two calls; who appends appends each piece.
"""

# ruff: noqa: D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["MemoryFile"]

from typing import TYPE_CHECKING

from isola_anyio.fairness import PIECE_BYTES, pause
from isola_anyio.wasi.abi import Rights
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.descriptors import SeekableFile
from isola_anyio.wasi.volumes.memory.tree import MemoryTree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from isola_anyio.wasi.abi import Stat
    from isola_anyio.wasi.volumes.interfaces import Grant, Volume
    from isola_anyio.wasi.volumes.memory.nodes import File


def _pieces(views: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """Yield the views in their order, cut, in lists of ``PIECE_BYTES`` at most together."""
    piece: list[memoryview] = []
    room = PIECE_BYTES
    for view in views:
        start = 0
        while len(view) - start >= room:
            yield [*piece, view[start : start + room]]
            start += room
            piece, room = [], PIECE_BYTES
        if start < len(view):
            piece.append(view[start:])
            room -= len(view) - start
    if piece:
        yield piece


def _transfer(views: Sequence[memoryview], move: Callable[[Sequence[memoryview], int], int]) -> int:
    """Move the views' bytes in pieces until one is cut short; return how many bytes were moved.

    ``move`` is given a piece, and how many bytes there were before it.
    """
    done = 0
    for piece in _pieces(views):
        try:
            n = move(piece, done)
        except WasiError:
            if not done:
                raise
            break
        done += n
        if n < sum(map(len, piece)):
            break
        pause()
    return done


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
        if len(views) != 1 or len(views[0]) > PIECE_BYTES:
            return _transfer(views, lambda piece, done: self._read_piece(piece, offset + done))
        with self._lock:
            return self.node.read(views, offset)

    def _read_piece(self, piece: Sequence[memoryview], offset: int) -> int:
        with self._lock:
            return self.node.read(piece, offset)

    def _write_at(self, views: Sequence[memoryview], offset: int) -> int:
        if len(views) != 1 or len(views[0]) > PIECE_BYTES:
            return _transfer(views, lambda piece, done: self._write_piece(piece, offset + done))
        return self._write_piece(views, offset)

    def _write_piece(self, views: Sequence[memoryview], offset: int) -> int:
        with self._lock:
            n = self.node.write(views, offset)
            self._mark_changed()
            return n

    def _append(self, views: Sequence[memoryview]) -> tuple[int, int]:
        end = 0

        def append(piece: Sequence[memoryview], _done: int) -> int:
            nonlocal end
            with self._lock:
                n = self.node.write(piece, self.node.size)
                end = self.node.size
                self._mark_changed()
            return n

        return _transfer(views, append), end

    def _mark_changed(self) -> None:
        self.node.touch(self._volume.now_ns())
        self._volume.changed()

    def set_size(self, size: int) -> None:
        if not self.base & Rights.FD_WRITE:
            raise WasiError(Errno.BADF)
        with self._lock:
            self.node.resize(size)
            self._mark_changed()
        self._volume.free_dropped()

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
        self._volume.free_dropped()
