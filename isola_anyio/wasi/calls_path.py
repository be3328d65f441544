"""The ``path_*`` functions: opening, creating, removing and asking about files by path."""

from __future__ import annotations

__all__ = ["PathCalls"]

from typing import TYPE_CHECKING

from isola_anyio.wasi.abi import FILESTAT, FdFlags, OFlags
from isola_anyio.wasi.answering import answers_errno
from isola_anyio.wasi.calls_fd import chosen_times
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.interfaces import OpenRequest

if TYPE_CHECKING:
    from isola_anyio.wasi.answering import CallContext

_FOLLOW = 1


class PathCalls:
    """Calls that take an open directory and a path relative to it."""

    __slots__ = ("context", "files", "limits", "memory", "table")

    def __init__(self, context: CallContext) -> None:
        self.context = context
        # The context's own, one attribute nearer: these are read in every call.
        self.memory = context.memory
        self.files = context.files
        self.limits = context.limits
        self.table = context.table

    def _path(self, ptr: int, n: int) -> bytes:
        if n & 0xFFFF_FFFF > self.limits.max_path_bytes:
            self.memory.check(ptr, n & 0xFFFF_FFFF)  # a bad pointer is FAULT, however long
            raise WasiError(Errno.NAMETOOLONG)
        return self.memory.read(ptr, n)

    @answers_errno
    def path_open(
        self, fd: int, lookup: int, path: int, n: int, oflags: int, base: int, inheriting: int, fdflags: int, out: int
    ) -> None:
        """Open or create, and write the new descriptor's number."""
        if oflags & ~OFlags.ALL or fdflags & ~FdFlags.ALL:
            raise WasiError(Errno.INVAL)
        memory = self.memory
        memory.check(out, 4)
        table = self.table
        start = table.get(fd)
        table.reserve()  # before a file is created that could not be given a number
        request = OpenRequest(
            follow=lookup & _FOLLOW != 0,
            create=oflags & OFlags.CREAT != 0,
            exclusive=oflags & OFlags.EXCL != 0,
            truncate=oflags & OFlags.TRUNC != 0,
            directory=oflags & OFlags.DIRECTORY != 0,
            base=base,
            inheriting=inheriting,
            flags=fdflags,
        )
        opened = self.files.open(start, self._path(path, n), request)
        memory.write_u32(out, table.add(opened))

    @answers_errno
    def path_filestat_get(self, fd: int, lookup: int, path: int, n: int, out: int) -> None:
        """Write the ``filestat`` of what a path leads to."""
        stat = self.files.stat(self.table.get(fd), self._path(path, n), bool(lookup & _FOLLOW))
        FILESTAT.pack_into(self.memory.buffer, self.memory.check(out, 64), *stat)

    @answers_errno
    def path_filestat_set_times(
        self, fd: int, lookup: int, path: int, n: int, atim: int, mtim: int, fst_flags: int
    ) -> None:
        """Set time stamps."""
        times = chosen_times(atim, mtim, fst_flags)
        self.files.set_times(self.table.get(fd), self._path(path, n), bool(lookup & _FOLLOW), *times)

    @answers_errno
    def path_create_directory(self, fd: int, path: int, n: int) -> None:
        """Create a directory."""
        self.files.mkdir(self.table.get(fd), self._path(path, n))

    @answers_errno
    def path_remove_directory(self, fd: int, path: int, n: int) -> None:
        """Remove an empty directory."""
        self.files.rmdir(self.table.get(fd), self._path(path, n))

    @answers_errno
    def path_unlink_file(self, fd: int, path: int, n: int) -> None:
        """Remove anything but a directory."""
        self.files.unlink(self.table.get(fd), self._path(path, n))

    @answers_errno
    def path_readlink(self, fd: int, path: int, n: int, buffer: int, room: int, out: int) -> None:
        """Write a link's target, cut to the buffer's size."""
        target = self.files.readlink(self.table.get(fd), self._path(path, n))
        self.memory.check(out, 4)
        target = target[: room & 0xFFFF_FFFF]
        self.memory.write(buffer, target)
        self.memory.write_u32(out, len(target))

    @answers_errno
    def path_symlink(self, target: int, target_n: int, fd: int, path: int, n: int) -> None:
        """Create a symbolic link."""
        start = self.table.get(fd)
        self.files.symlink(self._path(target, target_n), start, self._path(path, n))

    @answers_errno
    def path_link(
        self, old_fd: int, lookup: int, old_path: int, old_n: int, new_fd: int, new_path: int, new_n: int
    ) -> None:
        """Give a file a second name."""
        old, new = self.table.get(old_fd), self.table.get(new_fd)
        self.files.link(old, bool(lookup & _FOLLOW), self._path(old_path, old_n), new, self._path(new_path, new_n))

    @answers_errno
    def path_rename(self, old_fd: int, old_path: int, old_n: int, new_fd: int, new_path: int, new_n: int) -> None:
        """Rename, within a mount."""
        old, new = self.table.get(old_fd), self.table.get(new_fd)
        self.files.rename(old, self._path(old_path, old_n), new, self._path(new_path, new_n))
