"""``FileOperations``: preview 1's operations by path, with the rights of descriptors and the permissions of mounts.

What a guest may do is decided here; volumes do it.
"""

from __future__ import annotations

__all__ = ["FileOperations"]

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from isola_anyio.fairness import pause
from isola_anyio.wasi.abi import DIRENT, FileType, Rights, Stat
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.files.namespace import Directory, Namespace, ResolvedPath
from isola_anyio.wasi.volumes.interfaces import Descriptor, Grant

if TYPE_CHECKING:
    from collections.abc import Generator

    from isola_anyio.wasi.volumes.budgets import FileUsage
    from isola_anyio.wasi.volumes.interfaces import OpenRequest

_NO_MOUNTS: Final[frozenset[bytes]] = frozenset()
_LISTED_PER_PAUSE: Final = 0x3F
"""Entries between two yield points, as a mask; they take a tenth of a millisecond, those of the host the more."""


def _pack(cookie: int, name: bytes, ino: int, filetype: FileType) -> bytes:
    return DIRENT.pack(cookie, ino or 1, len(name), filetype) + name


class FileOperations:
    """Preview 1's file operations by path. Paths are relative to an open directory, ``start``.

    Attributes:
        namespace: the mounts, and how paths are resolved through them.
        usage: what the files cost now.
    """

    __slots__ = ("namespace", "usage")

    def __init__(self, namespace: Namespace, usage: FileUsage) -> None:
        self.namespace = namespace
        self.usage = usage

    # Opening

    def open(self, start: Descriptor, path: bytes, request: OpenRequest) -> Descriptor:
        """Open or create a file or a directory; adding the descriptor to the table is the caller's."""
        if start.base & Rights.PATH_OPEN == 0 or (request.create and not start.base & Rights.PATH_CREATE_FILE):
            self._not_capable(start)
        if request.truncate and not start.base & Rights.PATH_FILESTAT_SET_SIZE:
            self._not_capable(start)
        resolved = self.namespace.resolve(start, path, request.follow)
        mount = resolved.mount
        inheriting = request.inheriting & start.inheriting
        grant = Grant(request.base & start.inheriting, inheriting, request.flags, mount.perms, resolved.guest)
        opened: Any = mount.volume.open(resolved.path, request, grant, self.usage)
        if isinstance(opened, Descriptor):
            return opened
        if request.base or request.inheriting:
            grant = grant._replace(base=grant.base & Rights.DIRECTORY)
        else:  # asked for nothing in particular: as much as the start has
            grant = grant._replace(base=start.base, inheriting=start.inheriting)
        return Directory(grant, mount.point, mount.volume, resolved.guest[len(mount.point) :], opened)

    @staticmethod
    def _not_capable(start: Descriptor) -> None:
        raise WasiError(Errno.NOTCAPABLE if isinstance(start, Directory) else Errno.NOTDIR)

    def _resolve(self, start: Descriptor, path: bytes, follow: bool, right: int) -> ResolvedPath:
        if not start.base & right:
            self._not_capable(start)
        return self.namespace.resolve(start, path, follow)

    # Looking

    def stat(self, start: Descriptor, path: bytes, follow: bool) -> Stat:
        """Return the ``Stat`` of what a path leads to."""
        resolved = self._resolve(start, path, follow, Rights.PATH_FILESTAT_GET)
        if not resolved.mount.perms.dir_read and not resolved.is_start:
            raise WasiError(Errno.ACCES)
        return resolved.mount.volume.stat(resolved.path, follow)

    def readlink(self, start: Descriptor, path: bytes) -> bytes:
        """Return a symbolic link's target."""
        resolved = self._resolve(start, path, False, Rights.PATH_READLINK)
        if not resolved.mount.perms.dir_read:
            raise WasiError(Errno.ACCES)
        return resolved.mount.volume.readlink(resolved.path)

    def readdir(self, directory: Descriptor, cookie: int, room: int) -> bytes:
        """Return up to ``room`` bytes of packed entries from number ``cookie`` on, the last one cut to fit."""
        if not isinstance(directory, Directory):
            raise WasiError(Errno.NOTDIR)
        if not directory.base & Rights.FD_READDIR:
            raise WasiError(Errno.NOTCAPABLE)
        entries = directory.entries
        if entries is None or not cookie:
            entries = self._entries(directory)
            directory.keep(entries, self.usage)
        parts: list[bytes] = []
        while room > 0 and cookie < len(entries):
            entry = entries[cookie]
            cookie += 1
            parts.append(entry[:room])
            room -= len(entry)
            if not cookie & _LISTED_PER_PAUSE:
                pause()
        return b"".join(parts)

    def _entries(self, directory: Directory) -> list[bytes]:
        """Return a directory's entries, each packed for the guest.

        Packed at once: bytes are not tracked by the garbage collector, and a list of as many tuples would start it.
        """
        mounts = self.namespace.table
        if not mounts.by_point[directory.point].perms.dir_read:
            raise WasiError(Errno.ACCES)
        guest = (*directory.point, *directory.inner)
        below = mounts.above.get(guest, _NO_MOUNTS)
        ino = directory.stat().ino
        packed = [_pack(1, b".", ino, FileType.DIRECTORY), _pack(2, b"..", ino, FileType.DIRECTORY)]
        add = packed.append
        for name, entry_ino, filetype in directory.volume.list(directory.token, self.usage.limits.max_listing):
            if name not in below:
                add(_pack(len(packed) + 1, name, entry_ino, filetype))
                if not len(packed) & _LISTED_PER_PAUSE:
                    pause()
        for name in sorted(below):
            mount = mounts.by_point.get((*guest, name))
            if mount is not None:
                st = mount.volume.stat_dir(None)
                add(_pack(len(packed) + 1, name, st.ino, st.filetype))
        return packed

    # Changing

    def _entry(self, start: Descriptor, path: bytes, right: int, busy: Errno, dots: Errno) -> ResolvedPath:
        """Resolve a path to an entry to be made or changed; ``busy`` refuses a start, ``dots`` a ``..`` at the end."""
        resolved = self._resolve(start, path, False, right)
        if resolved.is_start:
            raise WasiError(busy)
        if resolved.path.names[-1] == b"..":
            raise WasiError(dots)
        return resolved

    @contextmanager
    def _making(self, resolved: ResolvedPath) -> Generator[None]:
        """Charge an entry that is made in the ``with`` block; if it may not be made, but exists, that is ``EXIST``."""
        volume, perms = resolved.mount.volume, resolved.mount.perms
        with ExitStack() as charge:
            try:
                if not perms.dir_write:
                    raise perms.write_refusal
                if volume.is_on_disk:
                    charge.enter_context(self.usage.making_entry())
            except WasiError as refusal:
                try:
                    volume.stat(resolved.path._replace(slash=False), False)
                except (WasiError, OSError):
                    raise refusal from None
                raise WasiError(Errno.EXIST) from None
            yield

    def _check_old(self, resolved: ResolvedPath) -> None:
        """Raise unless the entry may be changed: ``NOENT`` first if there is none, ``BUSY`` if it leads to a mount."""
        perms = resolved.mount.perms
        if not perms.dir_write:
            resolved.mount.volume.stat(resolved.path._replace(slash=False), False)
            raise perms.write_refusal
        if resolved.guest in self.namespace.table.above:
            raise WasiError(Errno.BUSY)

    def mkdir(self, start: Descriptor, path: bytes) -> None:
        """Create a directory."""
        resolved = self._entry(start, path, Rights.PATH_CREATE_DIRECTORY, Errno.EXIST, Errno.EXIST)
        with self._making(resolved):
            resolved.mount.volume.mkdir(resolved.path)

    def rmdir(self, start: Descriptor, path: bytes) -> None:
        """Remove an empty directory."""
        resolved = self._entry(start, path, Rights.PATH_REMOVE_DIRECTORY, Errno.BUSY, Errno.NOTEMPTY)
        self._check_old(resolved)
        resolved.mount.volume.rmdir(resolved.path)

    def unlink(self, start: Descriptor, path: bytes) -> None:
        """Remove anything but a directory."""
        resolved = self._entry(start, path, Rights.PATH_UNLINK_FILE, Errno.BUSY, Errno.ISDIR)
        self._check_old(resolved)
        resolved.mount.volume.unlink(resolved.path)

    def symlink(self, target: bytes, start: Descriptor, path: bytes) -> None:
        """Create a symbolic link to a relative target that does not lead above the mount."""
        resolved = self._entry(start, path, Rights.PATH_SYMLINK, Errno.EXIST, Errno.EXIST)
        if not target or b"\0" in target:
            raise WasiError(Errno.NOENT if not target else Errno.INVAL)
        if len(target) > self.usage.limits.max_path_bytes:
            raise WasiError(Errno.NAMETOOLONG)
        with self._making(resolved):
            resolved.mount.volume.symlink(resolved.path, target)

    def link(self, old: Descriptor, follow: bool, old_path: bytes, new: Descriptor, new_path: bytes) -> None:
        """Give a file a second name in the same mount."""
        source = self._resolve(old, old_path, follow, Rights.PATH_LINK_SOURCE)
        resolved = self._entry(new, new_path, Rights.PATH_LINK_TARGET, Errno.EXIST, Errno.EXIST)
        if source.mount.point != resolved.mount.point:
            raise WasiError(Errno.XDEV)
        if source.is_start:
            raise WasiError(Errno.PERM)
        with self._making(resolved):
            resolved.mount.volume.link(source.path, resolved.path, follow)

    def rename(self, old: Descriptor, old_path: bytes, new: Descriptor, new_path: bytes) -> None:
        """Move within a mount."""
        source = self._entry(old, old_path, Rights.PATH_RENAME_SOURCE, Errno.BUSY, Errno.BUSY)
        resolved = self._entry(new, new_path, Rights.PATH_RENAME_TARGET, Errno.BUSY, Errno.BUSY)
        if source.mount.point != resolved.mount.point:
            raise WasiError(Errno.XDEV)
        self._check_old(source)
        if resolved.guest in self.namespace.table.above:
            raise WasiError(Errno.BUSY)
        resolved.mount.volume.rename(source.path, resolved.path)

    def set_times(self, start: Descriptor, path: bytes, follow: bool, atim: int | None, mtim: int | None) -> None:
        """Set time stamps by path."""
        resolved = self._resolve(start, path, follow, Rights.PATH_FILESTAT_SET_TIMES)
        resolved.mount.volume.set_times(resolved.path, follow, atim, mtim, resolved.mount.perms)
