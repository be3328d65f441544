"""A file's bytes in memory: sparse, charged to a budget, and shared between forks until they are written.

Bytes are kept in chunks. A ``bytes`` chunk is shared with a template or another fork and never changes; the first write
to it makes a private ``bytearray``, which is charged. What no chunk covers reads as zeros and costs nothing, so a
file's size does not tell what it costs.

Nothing here has a lock: a file's bytes are read and written under the lock of the tree the file is in. What is dropped
under it, up to 60,000 chunks, is freed without it, and in pieces: see ``FileUsage.dropped``.
"""

# ruff: noqa: ARG002 - a file without bytes answers without looking at its arguments

from __future__ import annotations

__all__ = ["CHUNK_BYTES", "CHUNK_COST_BYTES", "Content", "FileBytes", "FrozenContent", "NoContent"]

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from isola_anyio.wasi.volumes.budgets import FileUsage

CHUNK_BYTES: Final = 64 << 10
"""Large enough that copying, not finding chunks, is the cost; small enough for sparse files."""

CHUNK_COST_BYTES: Final = 256
"""Charged for each private chunk besides its bytes: a bytearray, a dict entry and an int, rounded up."""

CHUNK_LEAST_BYTES: Final = 4 << 10
"""Least that is charged for the bytes of a private chunk that is not its file's first.

A sparse file of a million chunks of one byte each would take tenths of a second to cut, to free and to dump.
"""

FREED_AT_ONCE: Final = 16
"""Chunks that are freed where they are dropped."""

SIZE_MAX: Final = (1 << 63) - 1

_ZEROS: Final = memoryview(bytes(CHUNK_BYTES))


class FrozenContent(NamedTuple):
    """A file's bytes at one moment, immutable, for any number of forks to start from."""

    size: int
    chunks: Mapping[int, bytes]


class FileBytes(Protocol):
    """The bytes of a file in an in-memory tree.

    A file calls ``writable`` before ``write`` and ``resize``, and keeps what it returns in place of this.
    """

    size: int

    def writable(self) -> FileBytes:
        """Return bytes that can be written: this, or a new ``Content`` in place of a shared one."""
        ...

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill the views from ``offset``; return how many bytes there were."""
        ...

    def write(self, views: Sequence[memoryview | bytes], offset: int) -> int:
        """Take the views' bytes at ``offset``; return how many the budget had room for."""
        ...

    def resize(self, size: int) -> None:
        """Cut or extend."""

    def clear(self) -> None:
        """Drop all bytes, and give back what they are charged for."""

    def freeze(self) -> FrozenContent:
        """Return an immutable copy; chunks that are immutable already are shared with it."""
        ...


class NoContent:
    """The bytes of all empty files of one tree: a single object, as trees have many files that were never written."""

    __slots__ = ("_usage", "size")

    def __init__(self, usage: FileUsage) -> None:
        self._usage = usage
        self.size = 0

    def writable(self) -> Content:
        """Return new bytes for the one file that is about to be written."""
        return Content(self._usage)

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Return 0."""
        return 0

    def write(self, views: Sequence[memoryview | bytes], offset: int) -> int:
        """Refuse: this object is shared by all empty files, so a file writes to what ``writable`` returned."""
        raise WasiError(Errno.IO)

    def resize(self, size: int) -> None:
        """Refuse any size but 0, as ``write`` does."""
        if size:
            raise WasiError(Errno.IO)

    def clear(self) -> None:
        """Do nothing: there are no bytes."""

    def freeze(self) -> FrozenContent:
        """Return no bytes."""
        return FrozenContent(0, {})


def _cost_bytes(index: int, length: int) -> int:
    """Return what is charged for a private chunk of ``length`` bytes."""
    return CHUNK_COST_BYTES + (max(length, CHUNK_LEAST_BYTES) if index else length)


class Content:
    """A file's bytes; ``usage`` is charged for the private ones."""

    __slots__ = ("_charged_bytes", "_chunks", "_usage", "size")

    def __init__(self, usage: FileUsage, frozen: FrozenContent | None = None) -> None:
        self._usage = usage
        self._chunks: dict[int, bytes | bytearray] = {}
        self._charged_bytes = 0  # for all private chunks, so that dropping them needs no walk over them
        self.size = 0
        if frozen is not None:
            self.size = frozen.size
            self._chunks.update(frozen.chunks)

    def writable(self) -> Content:
        """Return this."""
        return self

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill the views from ``offset``; return how many bytes there were."""
        left = max(self.size - offset, 0)
        done = 0
        chunks = self._chunks
        for view in views:
            position = 0
            end = min(len(view), left)
            left -= end
            while position < end:
                index, inside = divmod(offset, CHUNK_BYTES)
                n = min(CHUNK_BYTES - inside, end - position)
                chunk = chunks.get(index, b"")
                held = min(max(len(chunk) - inside, 0), n)
                if held:
                    view[position : position + held] = memoryview(chunk)[inside : inside + held]
                if held < n:  # a hole, or past the end of a short chunk
                    view[position + held : position + n] = _ZEROS[: n - held]
                position += n
                offset += n
            done += position
        return done

    def write(self, views: Sequence[memoryview | bytes], offset: int) -> int:
        """Take the views' bytes at ``offset``; return how many the budget had room for.

        Raises:
            WasiError: ``NOSPC`` when there was room for none, ``FBIG`` past the largest offset.
        """
        if offset + sum(map(len, views)) > SIZE_MAX:
            raise WasiError(Errno.FBIG)
        done = 0
        try:
            for view in views:
                position = 0
                end = len(view)
                while position < end:
                    index, inside = divmod(offset, CHUNK_BYTES)
                    n = min(CHUNK_BYTES - inside, end - position)
                    self._write_chunk(index, inside, view[position : position + n])
                    position += n
                    offset += n
                    done += n
                    self.size = max(self.size, offset)
        except WasiError:
            if not done:
                raise
        return done

    def _write_chunk(self, index: int, inside: int, data: memoryview | bytes) -> None:
        chunk = self._chunks.get(index)
        if chunk is None and not inside:
            self._charge(_cost_bytes(index, len(data)))
            self._chunks[index] = bytearray(data)
        elif isinstance(chunk, bytearray) and len(chunk) == inside:
            self._charge(_cost_bytes(index, inside + len(data)) - _cost_bytes(index, inside))
            chunk += data
        else:
            # Through a view: assigning a slice of a bytearray directly copies the source first.
            with memoryview(self._private(index, inside + len(data))) as private:
                private[inside : inside + len(data)] = data

    def _charge(self, delta_bytes: int) -> None:
        self._usage.hold(delta_bytes)
        self._charged_bytes += delta_bytes

    def _private(self, index: int, length: int) -> bytearray:
        """Return a private chunk of at least ``length`` bytes, charged."""
        chunk = self._chunks.get(index)
        if isinstance(chunk, bytearray):
            missing = length - len(chunk)
            if missing > 0:
                self._charge(_cost_bytes(index, length) - _cost_bytes(index, len(chunk)))
                chunk.extend(_ZEROS[:missing])
            return chunk
        held = b"" if chunk is None else chunk
        length = max(length, len(held))
        self._charge(_cost_bytes(index, length))
        fresh = bytearray(held)
        fresh.extend(_ZEROS[: length - len(held)])
        self._chunks[index] = fresh
        return fresh

    def resize(self, size: int) -> None:
        """Cut, or extend with zeros that cost nothing."""
        if size > SIZE_MAX:
            raise WasiError(Errno.FBIG)
        if not size:
            self.clear()
        elif size < self.size:
            last, inside = divmod(size, CHUNK_BYTES)
            end = -(-self.size // CHUNK_BYTES)
            # Of a sparse file whichever is fewer: its chunks, or the places that are cut off.
            places = range(last, end) if end - last < len(self._chunks) else list(self._chunks)
            dropped: dict[int, bytes | bytearray] = {}
            for index in places:
                if (index > last or (index == last and not inside)) and index in self._chunks:
                    dropped[index] = self._chunks.pop(index)
            self._charge(-sum(_cost_bytes(i, len(c)) for i, c in dropped.items() if isinstance(c, bytearray)))
            self._let_go(dropped)
            chunk = self._chunks.get(last)
            if chunk is not None and len(chunk) > inside:
                if isinstance(chunk, bytearray):
                    self._charge(_cost_bytes(last, inside) - _cost_bytes(last, len(chunk)))
                    del chunk[inside:]
                else:
                    self._chunks[last] = chunk[:inside]
        self.size = size

    def _let_go(self, dropped: dict[int, bytes | bytearray]) -> None:
        if len(dropped) > FREED_AT_ONCE:
            self._usage.dropped.append(dropped)

    def clear(self) -> None:
        """Drop all bytes, and give back what they are charged for."""
        dropped, self._chunks = self._chunks, {}
        self._charge(-self._charged_bytes)
        self._let_go(dropped)
        self.size = 0

    def freeze(self) -> FrozenContent:
        """Return an immutable copy; chunks that are immutable already are shared with it."""
        return FrozenContent(self.size, {i: bytes(chunk) for i, chunk in self._chunks.items()})
