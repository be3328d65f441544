"""Hold what a guest has open: the kinds of descriptor, and their table."""

# ruff: noqa: ARG002 - bases refuse; overrides do what the base class documents

from __future__ import annotations

__all__ = ["Descriptor", "Table"]

import heapq
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar, Final

from isola_anyio.wasi.abi import FileType, Rights, Stat
from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from isola_anyio.wasi.volumes.budgets import FileLimits
    from isola_anyio.wasi.volumes.interfaces import Permissions, Volume
    from isola_anyio.wasi.volumes.paths import Names

FIRST_FILE: Final = 3
"""Lowest number given out; 0 to 2 are standard input and output for good, even when they are closed."""

GIVEN: Final = 4
"""Descriptors a guest starts with: standard input and output, and ``/``."""

OFFSET_MAX: Final = (1 << 63) - 1

_BADF = Errno.BADF


class Descriptor:
    """An open file, directory or stream; this base refuses everything that is not said to work.

    Attributes:
        base: rights of this descriptor.
        inheriting: rights of descriptors opened through it.
        flags: ``FdFlags`` as the guest last set them.
        perms: those of the mount it was opened in.
        guest: the path it was opened by, from the root.
    """

    __slots__ = ("base", "flags", "guest", "inheriting", "perms")

    filetype: ClassVar[FileType] = FileType.UNKNOWN

    base: int
    inheriting: int
    flags: int

    def __init__(self, base: int, inheriting: int = 0, flags: int = 0) -> None:
        self.base = base
        self.inheriting = inheriting
        self.flags = flags
        self.perms: Permissions | None = None
        self.guest: Names | None = None

    def stat(self) -> Stat:
        """Tell about the open thing."""
        raise WasiError(_BADF)

    def read(self, views: Sequence[memoryview]) -> int:
        """Fill the views from the current offset; 0 at the end."""
        raise WasiError(_BADF)

    def write(self, views: Sequence[memoryview]) -> int:
        """Take the views' bytes at the current offset, or the end when appending."""
        raise WasiError(_BADF)

    def pread(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill the views from ``offset``."""
        raise WasiError(_BADF)

    def pwrite(self, views: Sequence[memoryview], offset: int) -> int:
        """Take the views' bytes at ``offset``."""
        raise WasiError(_BADF)

    def seek(self, delta: int, whence: int) -> int:
        """Move the offset and return it."""
        raise WasiError(_BADF)

    def set_flags(self, flags: int) -> None:
        """Change ``FdFlags``."""
        self.flags = flags

    def set_size(self, size: int) -> None:
        """Cut or extend to ``size`` bytes."""
        raise WasiError(Errno.INVAL)

    def allocate(self, offset: int, n: int) -> None:
        """Make sure that the file reaches ``offset + n``."""
        raise WasiError(_BADF)

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        """Set time stamps (ns); ``None`` leaves one alone."""
        raise WasiError(_BADF)

    def sync(self, data_only: bool) -> None:
        """Make written bytes durable, where that means something."""

    def fork(self, volumes: Callable[[Volume], Volume]) -> Descriptor | None:
        """Return the same for a forked sandbox, given what became of each volume; ``None`` drops it there."""
        return None

    def close(self) -> None:
        """Release what the descriptor holds; called once."""


class SeekableFile(Descriptor):
    """A regular file whose offset is kept here, so that asking for it costs the host nothing.

    Subclasses give the bytes (``_read_at``, ``_write_at``, ``_append``) and ``stat``.
    """

    __slots__ = ("offset",)

    filetype: ClassVar[FileType] = FileType.REGULAR_FILE

    def __init__(self, base: int, inheriting: int = 0, flags: int = 0) -> None:
        super().__init__(base, inheriting, flags)
        self.offset = 0

    def _read_at(self, views: Sequence[memoryview], offset: int) -> int:
        raise NotImplementedError

    def _write_at(self, views: Sequence[memoryview], offset: int) -> int:
        raise WasiError(_BADF)

    def _append(self, views: Sequence[memoryview]) -> tuple[int, int]:
        """Write at the end; return how much, and the offset after it."""
        raise WasiError(_BADF)

    def _size(self) -> int:
        return self.stat().size

    def read(self, views: Sequence[memoryview]) -> int:
        if not self.base & Rights.FD_READ:
            raise WasiError(_BADF)
        n = self._read_at(views, self.offset)
        self.offset += n
        return n

    def pread(self, views: Sequence[memoryview], offset: int) -> int:
        if not self.base & Rights.FD_READ:
            raise WasiError(_BADF)
        if offset > OFFSET_MAX:
            raise WasiError(Errno.INVAL)
        return self._read_at(views, offset)

    def write(self, views: Sequence[memoryview]) -> int:
        if not self.base & Rights.FD_WRITE:
            raise WasiError(_BADF)
        if self.flags & 1:  # FdFlags.APPEND
            n, self.offset = self._append(views)
            return n
        n = self._write_at(views, self.offset)
        self.offset += n
        return n

    def pwrite(self, views: Sequence[memoryview], offset: int) -> int:
        if not self.base & Rights.FD_WRITE:
            raise WasiError(_BADF)
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

    def take_after(self, other: SeekableFile) -> None:
        """Take over the guest's view of a descriptor that this one was forked from."""
        self.base, self.inheriting, self.flags, self.perms = other.base, other.inheriting, other.flags, other.perms
        self.guest = other.guest
        self.offset = other.offset

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        if self.perms is None:
            raise WasiError(Errno.ROFS)
        if not self.perms.file_write:
            raise self.perms.write_refusal
        self._stamp(atim, mtim)

    def _stamp(self, atim: int | None, mtim: int | None) -> None:
        raise WasiError(Errno.ROFS)

    def allocate(self, offset: int, n: int) -> None:
        if not self.base & Rights.FD_WRITE:
            raise WasiError(_BADF)
        if not n or offset > OFFSET_MAX:
            raise WasiError(Errno.INVAL)
        if offset + n > OFFSET_MAX:
            raise WasiError(Errno.FBIG)
        if offset + n > self._size():
            self.set_size(offset + n)


class Table:
    """A guest's descriptors by number."""

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
            raise WasiError(_BADF)
        return found

    def reserve(self) -> None:
        """Raise ``MFILE`` unless one more can be added."""
        if len(self.open) - GIVEN >= self._limits.max_open_files:
            raise WasiError(Errno.MFILE)

    def add(self, descriptor: Descriptor) -> int:
        """Give a descriptor the lowest free number."""
        fd = heapq.heappop(self._free) if self._free else self._next
        if fd == self._next:
            self._next += 1
        self.open[fd] = descriptor
        return fd

    def put(self, fd: int, descriptor: Descriptor) -> None:
        """Place a descriptor at a number not in use, when a table is restored."""
        if fd in self._free:
            self._free.remove(fd)
            heapq.heapify(self._free)
        while self._next <= fd:
            if self._next != fd:
                heapq.heappush(self._free, self._next)
            self._next += 1
        self.open[fd] = descriptor

    def remove(self, fd: int) -> Descriptor:
        """Take a descriptor out of the table; closing it is the caller's."""
        found = self.open.pop(fd, None)
        if found is None:
            raise WasiError(_BADF)
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
        """Close everything, whatever closing one of them raises."""
        with ExitStack() as closing:
            for descriptor in self.open.values():
                closing.callback(descriptor.close)
            self.open.clear()
        self._free.clear()
        self._next = FIRST_FILE
