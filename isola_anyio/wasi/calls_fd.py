"""The ``fd_*`` functions: reading, writing and asking about open descriptors."""

from __future__ import annotations

__all__ = ["FdCalls"]

import time
from typing import TYPE_CHECKING

from isola_anyio.wasi.abi import FDSTAT, FILESTAT, FdFlags, FstFlags
from isola_anyio.wasi.answering import answers_errno
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.files.namespace import Directory

if TYPE_CHECKING:
    from isola_anyio.wasi.answering import CallContext

_U64 = 0xFFFF_FFFF_FFFF_FFFF
_SIGN = 1 << 63
_PREOPEN_NAME = b"/"


def chosen_times(atim: int, mtim: int, fst_flags: int) -> tuple[int | None, int | None]:
    """Return the time stamps to set, ``None`` for one to keep; ``INVAL`` for contradictory or unknown flags."""
    if fst_flags & ~FstFlags.ALL or fst_flags & 3 == 3 or fst_flags & 12 == 12:
        raise WasiError(Errno.INVAL)
    now = time.time_ns() if fst_flags & (FstFlags.ATIM_NOW | FstFlags.MTIM_NOW) else 0
    atim &= _U64
    mtim &= _U64
    return (
        now if fst_flags & FstFlags.ATIM_NOW else atim if fst_flags & FstFlags.ATIM else None,
        now if fst_flags & FstFlags.MTIM_NOW else mtim if fst_flags & FstFlags.MTIM else None,
    )


class FdCalls:
    """Calls that take a descriptor and no path."""

    __slots__ = ("context", "files", "limits", "memory", "table")

    def __init__(self, context: CallContext) -> None:
        self.context = context
        # The context's own, one attribute nearer: these are read in every call.
        self.memory = context.memory
        self.files = context.files
        self.limits = context.limits
        self.table = context.table

    def _views(self, iovs: int, count: int) -> list[memoryview]:
        limits = self.limits
        return self.memory.iovecs(iovs, count, limits.max_iovecs, limits.max_transfer_bytes)

    @answers_errno
    def fd_read(self, fd: int, iovs: int, count: int, out: int) -> None:
        """Read from the current offset."""
        descriptor = self.table.get(fd)
        self.memory.check(out, 4)
        self.memory.write_u32(out, descriptor.read(self._views(iovs, count)))

    @answers_errno
    def fd_pread(self, fd: int, iovs: int, count: int, offset: int, out: int) -> None:
        """Read from ``offset``."""
        descriptor = self.table.get(fd)
        self.memory.check(out, 4)
        self.memory.write_u32(out, descriptor.pread(self._views(iovs, count), offset & _U64))

    @answers_errno
    def fd_write(self, fd: int, iovs: int, count: int, out: int) -> None:
        """Write at the current offset, or the end when appending."""
        descriptor = self.table.get(fd)
        self.memory.check(out, 4)
        self.memory.write_u32(out, descriptor.write(self._views(iovs, count)))

    @answers_errno
    def fd_pwrite(self, fd: int, iovs: int, count: int, offset: int, out: int) -> None:
        """Write at ``offset``."""
        descriptor = self.table.get(fd)
        self.memory.check(out, 4)
        self.memory.write_u32(out, descriptor.pwrite(self._views(iovs, count), offset & _U64))

    @answers_errno
    def fd_seek(self, fd: int, delta: int, whence: int, out: int) -> None:
        """Move the offset."""
        descriptor = self.table.get(fd)
        delta &= _U64
        self.memory.check(out, 8)
        self.memory.write_u64(out, descriptor.seek(delta - (1 << 64) if delta & _SIGN else delta, whence))

    @answers_errno
    def fd_tell(self, fd: int, out: int) -> None:
        """Write the offset."""
        self.memory.write_u64(out, self.table.get(fd).seek(0, 1))

    @answers_errno
    def fd_close(self, fd: int) -> None:
        """Close."""
        self.table.remove(fd).close()

    @answers_errno
    def fd_renumber(self, old: int, new: int) -> None:
        """Move a descriptor onto another, which is closed."""
        self.table.renumber(old, new)

    @answers_errno
    def fd_sync(self, fd: int) -> None:
        """Make everything durable."""
        self.table.get(fd).sync(False)

    @answers_errno
    def fd_datasync(self, fd: int) -> None:
        """Make the data durable."""
        self.table.get(fd).sync(True)

    @answers_errno
    def fd_advise(self, fd: int, offset: int, n: int, advice: int) -> None:
        """Check the arguments, and ignore the advice."""
        descriptor = self.table.get(fd)
        if isinstance(descriptor, Directory):
            raise WasiError(Errno.BADF)
        if not 0 <= advice <= 5 or offset & _SIGN or n & _SIGN:
            raise WasiError(Errno.INVAL)
        descriptor.seek(0, 1)  # raises for what is no file

    @answers_errno
    def fd_allocate(self, fd: int, offset: int, n: int) -> None:
        """Extend the file if it is shorter; no room is reserved."""
        self.table.get(fd).allocate(offset & _U64, n & _U64)

    @answers_errno
    def fd_filestat_get(self, fd: int, out: int) -> None:
        """Write the ``filestat`` of what is open."""
        stat = self.table.get(fd).stat()
        FILESTAT.pack_into(self.memory.buffer, self.memory.check(out, 64), *stat)

    @answers_errno
    def fd_filestat_set_size(self, fd: int, size: int) -> None:
        """Cut or extend the file."""
        self.table.get(fd).set_size(size & _U64)

    @answers_errno
    def fd_filestat_set_times(self, fd: int, atim: int, mtim: int, fst_flags: int) -> None:
        """Set time stamps."""
        descriptor = self.table.get(fd)
        descriptor.set_times(*chosen_times(atim, mtim, fst_flags))

    @answers_errno
    def fd_fdstat_get(self, fd: int, out: int) -> None:
        """Write the descriptor's type, flags and rights."""
        d = self.table.get(fd)
        FDSTAT.pack_into(self.memory.buffer, self.memory.check(out, 24), d.filetype, d.flags, d.base, d.inheriting)

    @answers_errno
    def fd_fdstat_set_flags(self, fd: int, flags: int) -> None:
        """Change the flags."""
        descriptor = self.table.get(fd)
        if flags & ~FdFlags.ALL:
            raise WasiError(Errno.INVAL)
        descriptor.set_flags(flags)

    @answers_errno
    def fd_fdstat_set_rights(self, fd: int, base: int, inheriting: int) -> None:
        """Drop rights; more cannot be had."""
        descriptor = self.table.get(fd)
        base &= _U64
        inheriting &= _U64
        if base & ~descriptor.base or inheriting & ~descriptor.inheriting:
            raise WasiError(Errno.NOTCAPABLE)
        descriptor.base = base
        descriptor.inheriting = inheriting

    @answers_errno
    def fd_prestat_get(self, fd: int, out: int) -> None:
        """Write that the descriptor is a preopened directory, and the length of its name."""
        descriptor = self.table.get(fd)
        if not isinstance(descriptor, Directory) or not descriptor.preopen:
            raise WasiError(Errno.BADF)
        self.memory.write_u64(out, len(_PREOPEN_NAME) << 32)

    @answers_errno
    def fd_prestat_dir_name(self, fd: int, ptr: int, n: int) -> None:
        """Write the name of the one preopened directory: ``/``."""
        descriptor = self.table.get(fd)
        if not isinstance(descriptor, Directory) or not descriptor.preopen:
            raise WasiError(Errno.BADF)
        if n & 0xFFFF_FFFF < len(_PREOPEN_NAME):
            raise WasiError(Errno.NAMETOOLONG)
        self.memory.write(ptr, _PREOPEN_NAME)

    @answers_errno
    def fd_readdir(self, fd: int, ptr: int, n: int, cookie: int, out: int) -> None:
        """Write directory entries; a buffer that is not filled means that there are no more."""
        view = self.memory.slice(ptr, n)
        self.memory.check(out, 4)
        packed = self.files.readdir(self.table.get(fd), cookie & _U64, len(view))
        view[: len(packed)] = packed
        self.memory.write_u32(out, len(packed))
