"""Open descriptors: regular files with an offset, and the table of a guest's descriptors by number."""

# ruff: noqa: ARG002, D102 - bases refuse; overrides do what the base class documents

from __future__ import annotations

__all__ = ["DescriptorTable", "SeekableFile"]

import heapq
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar, Final

from isola_anyio.wasi.abi import FdFlags, FileType, Rights
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.interfaces import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from isola_anyio.wasi.volumes.budgets import FileLimits
    from isola_anyio.wasi.volumes.interfaces import Grant

FIRST_FILE: Final = 3
"""Lowest number given out; 0 to 2 stay reserved for standard input and output, even when they are closed."""

INITIAL_COUNT: Final = 4
"""Descriptors a guest starts with, and which are not counted against its budget: 0 to 2, and ``/``."""

OFFSET_MAX: Final = (1 << 63) - 1


class SeekableFile(Descriptor):
    """A regular file whose offset is kept here, so that asking for it needs no call of the host.

    Subclasses move the bytes (``_read_at``, ``_write_at``, ``_append``) and implement ``stat``.
    """

    __slots__ = ("offset",)

    filetype: ClassVar[FileType] = FileType.REGULAR_FILE

    def __init__(self, grant: Grant, offset: int = 0) -> None:
        super().__init__(grant)
        self.offset = offset

    def _read_at(self, views: Sequence[memoryview], offset: int) -> int:
        raise NotImplementedError

    def _write_at(self, views: Sequence[memoryview], offset: int) -> int:
        raise WasiError(Errno.BADF)

    def _append(self, views: Sequence[memoryview]) -> tuple[int, int]:
        """Write at the end; return how many bytes, and the offset after them."""
        raise WasiError(Errno.BADF)

    def _size(self) -> int:
        return self.stat().size

    def read(self, views: Sequence[memoryview]) -> int:
        if not self.base & Rights.FD_READ:
            raise WasiError(Errno.BADF)
        n = self._read_at(views, self.offset)
        self.offset += n
        return n

    def pread(self, views: Sequence[memoryview], offset: int) -> int:
        if not self.base & Rights.FD_READ:
            raise WasiError(Errno.BADF)
        if offset > OFFSET_MAX:
            raise WasiError(Errno.INVAL)
        return self._read_at(views, offset)

    def write(self, views: Sequence[memoryview]) -> int:
        if not self.base & Rights.FD_WRITE:
            raise WasiError(Errno.BADF)
        if self.flags & FdFlags.APPEND:
            n, self.offset = self._append(views)
            return n
        n = self._write_at(views, self.offset)
        self.offset += n
        return n

    def pwrite(self, views: Sequence[memoryview], offset: int) -> int:
        if not self.base & Rights.FD_WRITE:
            raise WasiError(Errno.BADF)
        if offset > OFFSET_MAX:
            raise WasiError(Errno.INVAL)
        return self._write_at(views, offset)

    def seek(self, delta: int, whence: int) -> int:
        if whence == 0:
            offset = delta
        elif whence == 1:
            offset = self.offset + delta
        elif whence == 2:
            offset = self._size() + delta
        else:
            raise WasiError(Errno.INVAL)
        if not 0 <= offset <= OFFSET_MAX:
            raise WasiError(Errno.INVAL)
        self.offset = offset
        return offset

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        if not self.perms.file_write:
            raise self.perms.write_refusal
        self._stamp(atim, mtim)

    def _stamp(self, atim: int | None, mtim: int | None) -> None:
        raise WasiError(Errno.ROFS)

    def allocate(self, offset: int, n: int) -> None:
        if not self.base & Rights.FD_WRITE:
            raise WasiError(Errno.BADF)
        if not n or offset > OFFSET_MAX:
            raise WasiError(Errno.INVAL)
        if offset + n > OFFSET_MAX:
            raise WasiError(Errno.FBIG)
        if offset + n > self._size():
            self.set_size(offset + n)


class DescriptorTable:
    """A guest's descriptors by number. Used by the guest's thread only.

    Invariant: every number from ``FIRST_FILE`` up to ``_next`` is either open or in the heap ``_free``.

    Attributes:
        open: descriptor by number.
    """

    __slots__ = ("_free", "_limits", "_next", "open")

    def __init__(self, limits: FileLimits) -> None:
        self._limits = limits
        self._free: list[int] = []
        self._next = FIRST_FILE
        self.open: dict[int, Descriptor] = {}

    def __iter__(self) -> Iterator[tuple[int, Descriptor]]:
        return iter(self.open.items())

    def get(self, fd: int) -> Descriptor:
        """Return an open descriptor, or raise ``BADF``."""
        found = self.open.get(fd)
        if found is None:
            raise WasiError(Errno.BADF)
        return found

    def reserve(self) -> None:
        """Raise ``MFILE`` unless one more can be added."""
        if len(self.open) - INITIAL_COUNT >= self._limits.max_open_files:
            raise WasiError(Errno.MFILE)

    def add(self, descriptor: Descriptor) -> int:
        """Give a descriptor the lowest free number."""
        if self._free:
            fd = heapq.heappop(self._free)
        else:
            fd = self._next
            self._next += 1
        self.open[fd] = descriptor
        return fd

    def put(self, fd: int, descriptor: Descriptor) -> None:
        """Add a descriptor at a number that is not in use, for a table that is forked or restored."""
        if fd in self._free:
            self._free.remove(fd)
            heapq.heapify(self._free)
        while self._next <= fd:
            if self._next != fd:
                heapq.heappush(self._free, self._next)
            self._next += 1
        self.open[fd] = descriptor

    def remove(self, fd: int) -> Descriptor:
        """Remove a descriptor from the table and return it; the caller closes it."""
        found = self.open.pop(fd, None)
        if found is None:
            raise WasiError(Errno.BADF)
        if fd >= FIRST_FILE:
            heapq.heappush(self._free, fd)
        return found

    def renumber(self, old: int, new: int) -> None:
        """Move ``old`` onto ``new``, closing what was there; both must be open."""
        self.get(new)
        moved = self.get(old)
        if old == new:
            return
        replaced = self.open[new]
        self.remove(old)
        self.open[new] = moved
        replaced.close()

    def clear(self) -> None:
        """Close every descriptor, whatever closing another one raises."""
        with ExitStack() as closing:
            for descriptor in self.open.values():
                closing.callback(descriptor.close)
            self.open.clear()
        self._free.clear()
        self._next = FIRST_FILE
