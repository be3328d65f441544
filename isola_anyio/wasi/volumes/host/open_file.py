"""An open regular file of the host."""

# ruff: noqa: ARG002, D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["HostFile", "access_flags"]

import os
from typing import TYPE_CHECKING, Final

from isola_anyio.wasi.abi import FdFlags, Rights, Stat
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.descriptors import SeekableFile
from isola_anyio.wasi.volumes.host.io import SharedFd, preadv

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from isola_anyio.wasi.volumes.budgets import FileUsage
    from isola_anyio.wasi.volumes.interfaces import Grant, Volume

_SYNC_FLAGS: Final = FdFlags.DSYNC | FdFlags.RSYNC | FdFlags.SYNC


def access_flags(grant: Grant) -> int:
    """Return the flags of ``open`` for what a descriptor may do."""
    flags = os.O_RDONLY
    if grant.base & Rights.FD_WRITE:
        flags = os.O_RDWR if grant.base & Rights.FD_READ else os.O_WRONLY
    if grant.flags & FdFlags.APPEND:
        flags |= os.O_APPEND
    if grant.flags & (FdFlags.SYNC | FdFlags.RSYNC):
        flags |= os.O_SYNC
    elif grant.flags & FdFlags.DSYNC:
        flags |= os.O_DSYNC
    return flags


class HostFile(SeekableFile):
    """A guest's descriptor over a host descriptor.

    The offset is kept here, not in the host's descriptor, so one that is only read from can serve a template and all
    its forks at once, from several threads.
    """

    __slots__ = ("_exclusive", "_shared", "_usage")

    def __init__(self, grant: Grant, shared: SharedFd, usage: FileUsage, *, exclusive: bool, offset: int = 0) -> None:
        """Take over a reference to ``shared``; ``exclusive``: no other has one, so it may carry this one's flags."""
        super().__init__(grant, offset)
        self._shared = shared
        self._usage = usage
        self._exclusive = exclusive

    def stat(self) -> Stat:
        return Stat.of_host(os.fstat(self._shared.fd))

    def _size(self) -> int:
        return os.fstat(self._shared.fd).st_size

    def _read_at(self, views: Sequence[memoryview], offset: int) -> int:
        return preadv(self._shared.fd, views, offset)

    def _write_at(self, views: Sequence[memoryview], offset: int) -> int:
        wanted = sum(map(len, views))
        self._usage.write(wanted)
        done = 0
        try:
            done = os.pwritev(self._shared.fd, views, offset)
        finally:
            self._usage.written_bytes -= wanted - done
        return done

    def _append(self, views: Sequence[memoryview]) -> tuple[int, int]:
        if not self._exclusive:
            # Without O_APPEND, as other guests share the host descriptor: one that appends at the same moment may be
            # overwritten. Only a single-file mount gets here, as every other file is opened for its guest alone.
            end = self._size()
            n = self._write_at(views, end)
            return n, end + n
        wanted = sum(map(len, views))
        self._usage.write(wanted)
        done = 0
        try:
            done = os.writev(self._shared.fd, views)
        finally:
            self._usage.written_bytes -= wanted - done
        return done, os.lseek(self._shared.fd, 0, os.SEEK_CUR)

    def set_flags(self, flags: int) -> None:
        if (flags ^ self.flags) & _SYNC_FLAGS:
            raise WasiError(Errno.NOTSUP)  # hosts ignore the change without an error
        if (flags ^ self.flags) & FdFlags.APPEND and self._exclusive:
            import fcntl  # noqa: PLC0415 - not on Windows, where host files are not mounted

            now = fcntl.fcntl(self._shared.fd, fcntl.F_GETFL) & ~os.O_APPEND
            fcntl.fcntl(self._shared.fd, fcntl.F_SETFL, now | os.O_APPEND if flags & FdFlags.APPEND else now)
        self.flags = flags

    def set_size(self, size: int) -> None:
        if not self.base & Rights.FD_WRITE:
            raise WasiError(Errno.BADF)
        if size >= 1 << 63:
            raise WasiError(Errno.FBIG)
        growth = max(size - self._size(), 0)
        self._usage.write(growth)
        try:
            os.ftruncate(self._shared.fd, size)
        except OSError:
            self._usage.written_bytes -= growth
            raise

    def _stamp(self, atim: int | None, mtim: int | None) -> None:
        st = os.fstat(self._shared.fd)
        os.utime(
            self._shared.fd,
            ns=(st.st_atime_ns if atim is None else atim, st.st_mtime_ns if mtim is None else mtim),
        )

    def sync(self, data_only: bool) -> None:
        if data_only and hasattr(os, "fdatasync"):
            os.fdatasync(self._shared.fd)
        else:
            os.fsync(self._shared.fd)

    def fork(self, volumes: Callable[[Volume], Volume]) -> HostFile | None:
        if self.base & Rights.FD_WRITE:
            return None  # two guests would write through one descriptor
        return HostFile(self.grant(), self._shared.retain(), self._usage, exclusive=False, offset=self.offset)

    def close(self) -> None:
        self._shared.release()
