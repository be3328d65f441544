"""Answer the ``path_*`` functions: what a guest does by name."""

from __future__ import annotations

__all__ = ["PathCalls"]

from typing import TYPE_CHECKING

from isola_anyio.wasi.abi import FILESTAT, FdFlags
from isola_anyio.wasi.answering import hostcall
from isola_anyio.wasi.calls_fd import chosen_times
from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from isola_anyio.wasi.files.filesystem import FileSystem
    from isola_anyio.wasi.linear_memory import GuestMemory
    from isola_anyio.wasi.volumes.budgets import FileLimits
    from isola_anyio.wasi.volumes.descriptors import Table

_FOLLOW = 1


class PathCalls:
    """The functions that take an open directory and a path from there."""

    memory: GuestMemory
    files: FileSystem
    limits: FileLimits
    table: Table
    fault: Exception | None

    def _path(self, ptr: int, n: int) -> bytes:
        if n & 0xFFFF_FFFF > self.limits.max_path_bytes:
            self.memory.slice(ptr, n)
            raise WasiError(Errno.NAMETOOLONG)
        return self.memory.read(ptr, n)

    @hostcall
    def path_open(
        self, fd: int, lookup: int, path: int, n: int, oflags: int, base: int, inheriting: int, fdflags: int, out: int
    ) -> None:
        """Open or create, and write the new descriptor's number."""
        if oflags & ~15 or fdflags & ~FdFlags.ALL:
            raise WasiError(Errno.INVAL)
        memory = self.memory
        memory.check(out, 4)
        table = self.table
        start = table.get(fd)
        table.reserve()
        opened = self.files.open(start, self._path(path, n), bool(lookup & _FOLLOW), oflags, base, inheriting, fdflags)
        memory.write_u32(out, table.add(opened))

    @hostcall
    def path_filestat_get(self, fd: int, lookup: int, path: int, n: int, out: int) -> None:
        """Write what a path leads to."""
        stat = self.files.stat(self.table.get(fd), self._path(path, n), bool(lookup & _FOLLOW))
        FILESTAT.pack_into(self.memory.buffer, self.memory.check(out, 64), *stat)

    @hostcall
    def path_filestat_set_times(
        self, fd: int, lookup: int, path: int, n: int, atim: int, mtim: int, fst_flags: int
    ) -> None:
        """Set time stamps."""
        times = chosen_times(atim, mtim, fst_flags)
        self.files.set_times(self.table.get(fd), self._path(path, n), bool(lookup & _FOLLOW), *times)

    @hostcall
    def path_create_directory(self, fd: int, path: int, n: int) -> None:
        """Create a directory."""
        self.files.mkdir(self.table.get(fd), self._path(path, n))

    @hostcall
    def path_remove_directory(self, fd: int, path: int, n: int) -> None:
        """Remove an empty directory."""
        self.files.rmdir(self.table.get(fd), self._path(path, n))

    @hostcall
    def path_unlink_file(self, fd: int, path: int, n: int) -> None:
        """Remove anything but a directory."""
        self.files.unlink(self.table.get(fd), self._path(path, n))

    @hostcall
    def path_readlink(self, fd: int, path: int, n: int, buffer: int, room: int, out: int) -> None:
        """Write a link's target, cut to the buffer's size."""
        target = self.files.readlink(self.table.get(fd), self._path(path, n))
        self.memory.check(out, 4)
        target = target[: room & 0xFFFF_FFFF]
        self.memory.write(buffer, target)
        self.memory.write_u32(out, len(target))

    @hostcall
    def path_symlink(self, target: int, target_n: int, fd: int, path: int, n: int) -> None:
        """Create a symbolic link."""
        start = self.table.get(fd)
        self.files.symlink(self._path(target, target_n), start, self._path(path, n))

    @hostcall
    def path_link(
        self, old_fd: int, lookup: int, old_path: int, old_n: int, new_fd: int, new_path: int, new_n: int
    ) -> None:
        """Give a file a second name."""
        old, new = self.table.get(old_fd), self.table.get(new_fd)
        self.files.link(old, bool(lookup & _FOLLOW), self._path(old_path, old_n), new, self._path(new_path, new_n))

    @hostcall
    def path_rename(self, old_fd: int, old_path: int, old_n: int, new_fd: int, new_path: int, new_n: int) -> None:
        """Move."""
        old, new = self.table.get(old_fd), self.table.get(new_fd)
        self.files.rename(old, self._path(old_path, old_n), new, self._path(new_path, new_n))
