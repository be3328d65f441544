"""Do what a guest asks of its files, under the permissions of their mounts.

This is the part that knows what a request may do; volumes know how to do it.
"""

from __future__ import annotations

__all__ = ["FileOperations"]

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from isola_anyio.wasi.abi import DIRENT, FdFlags, FileType, OFlags, Rights, Stat
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.files.namespace import Directory, Namespace, Place
from isola_anyio.wasi.volumes.descriptors import Descriptor
from isola_anyio.wasi.volumes.interfaces import How

if TYPE_CHECKING:
    from collections.abc import Generator

    from isola_anyio.wasi.volumes.budgets import FileUsage


_NONE_BELOW: Final[frozenset[bytes]] = frozenset()


def _pack(cookie: int, name: bytes, ino: int, filetype: FileType) -> bytes:
    return DIRENT.pack(cookie, ino or 1, len(name), filetype) + name


class FileOperations:
    """Preview 1's file operations over a namespace.

    Attributes:
        usage: what the files cost now.
    """

    __slots__ = ("namespace", "usage")

    def __init__(self, namespace: Namespace, usage: FileUsage) -> None:
        self.namespace = namespace
        self.usage = usage

    # Opening

    def open(
        self, start: Descriptor, path: bytes, follow: bool, oflags: int, base: int, inheriting: int, fdflags: int
    ) -> Descriptor:
        """Open or create a file or a directory; the descriptor is the caller's to add to the table."""
        create = bool(oflags & OFlags.CREAT)
        truncate = bool(oflags & OFlags.TRUNC)
        if start.base & Rights.PATH_OPEN == 0 or (create and not start.base & Rights.PATH_CREATE_FILE):
            self._not_capable(start)
        if truncate and not start.base & Rights.PATH_FILESTAT_SET_SIZE:
            self._not_capable(start)
        place = self.namespace.place(start, path, follow)
        granted = base & start.inheriting
        how = How(
            read=bool(granted & Rights.FD_READ),
            write=bool(granted & Rights.FD_WRITE),
            create=create,
            exclusive=bool(oflags & OFlags.EXCL),
            truncate=truncate,
            directory=bool(oflags & OFlags.DIRECTORY),
            follow=follow,
            flags=fdflags & FdFlags.ALL,
            perms=place.mount.perms,
        )
        opened: Any = place.mount.volume.open(place.at, how, self.usage)
        if isinstance(opened, Descriptor):
            opened.base = granted
            opened.inheriting = inheriting & start.inheriting
            opened.flags = how.flags
            opened.perms = how.perms
            opened.guest = place.guest
            return opened
        mount = place.mount
        directory = Directory(mount.point, mount.volume, place.guest[len(mount.point) :], opened)
        directory.perms = how.perms
        directory.guest = place.guest
        if base or inheriting:
            directory.base = base & Rights.DIRECTORY & start.inheriting
            directory.inheriting = inheriting & start.inheriting
        else:  # asked for nothing in particular: as much as the start has
            directory.base = start.base
            directory.inheriting = start.inheriting
        directory.flags = how.flags
        return directory

    @staticmethod
    def _not_capable(start: Descriptor) -> None:
        raise WasiError(Errno.NOTCAPABLE if isinstance(start, Directory) else Errno.NOTDIR)

    def _at(self, start: Descriptor, path: bytes, follow: bool, right: int) -> Place:
        if not start.base & right:
            self._not_capable(start)
        return self.namespace.place(start, path, follow)

    # Looking

    def stat(self, start: Descriptor, path: bytes, follow: bool) -> Stat:
        """Tell about what a path leads to."""
        place = self._at(start, path, follow, Rights.PATH_FILESTAT_GET)
        if not place.mount.perms.dir_read and not place.is_start:
            raise WasiError(Errno.ACCES)
        return place.mount.volume.stat(place.at, follow)

    def readlink(self, start: Descriptor, path: bytes) -> bytes:
        """Return a symbolic link's target."""
        place = self._at(start, path, False, Rights.PATH_READLINK)
        if not place.mount.perms.dir_read:
            raise WasiError(Errno.ACCES)
        return place.mount.volume.readlink(place.at)

    def readdir(self, directory: Descriptor, cookie: int, room: int) -> bytes:
        """Return up to ``room`` bytes of packed entries from ``cookie`` on, the last one cut off if need be."""
        if not isinstance(directory, Directory):
            raise WasiError(Errno.NOTDIR)
        if not directory.base & Rights.FD_READDIR:
            raise WasiError(Errno.NOTCAPABLE)
        entries = directory.snapshot
        if entries is None or not cookie:
            entries = self._entries(directory)
            directory.keep(entries, self.usage)
        parts: list[bytes] = []
        while room > 0 and cookie < len(entries):
            entry = entries[cookie]
            cookie += 1
            parts.append(entry[:room])
            room -= len(entry)
        return b"".join(parts)

    def _entries(self, directory: Directory) -> list[bytes]:
        """Return a directory's entries, each packed as the guest gets it.

        Nothing else is made of them on the way: a list of tuples would bring on garbage collections.
        """
        mounts = self.namespace.table
        if not mounts.by_point[directory.point].perms.dir_read:
            raise WasiError(Errno.ACCES)
        guest = (*directory.point, *directory.inner)
        below = mounts.above.get(guest, _NONE_BELOW)
        ino = directory.stat().ino
        packed = [_pack(1, b".", ino, FileType.DIRECTORY), _pack(2, b"..", ino, FileType.DIRECTORY)]
        add = packed.append
        for name, entry_ino, filetype in directory.volume.list(directory.token, self.usage.limits.max_listing):
            if name not in below:
                add(_pack(len(packed) + 1, name, entry_ino, filetype))
        for name in sorted(below):
            mount = mounts.by_point.get((*guest, name))
            if mount is not None:
                st = mount.volume.stat_dir(None)
                add(_pack(len(packed) + 1, name, st.ino, st.filetype))
        return packed

    # Changing

    def _entry(self, start: Descriptor, path: bytes, right: int, busy: Errno, dots: Errno) -> Place:
        """Resolve a path whose last entry is to be made or changed."""
        place = self._at(start, path, False, right)
        if place.is_start:
            raise WasiError(busy)
        if place.at.names[-1] == b"..":
            raise WasiError(dots)
        return place

    @contextmanager
    def _making(self, place: Place) -> Generator[None]:
        """Account for the entry that is made meanwhile; where none may be made, say ``EXIST`` first, as hosts do."""
        volume, perms = place.mount.volume, place.mount.perms
        with ExitStack() as account:
            try:
                if not perms.dir_write:
                    raise perms.write_refusal
                if volume.is_on_disk:
                    account.enter_context(self.usage.making_entry())
            except WasiError as refusal:
                try:
                    volume.stat(place.at._replace(slash=False), False)
                except (WasiError, OSError):
                    raise refusal from None
                raise WasiError(Errno.EXIST) from None
            yield

    def _check_old(self, place: Place) -> None:
        """Refuse to change an entry where none may be, but say ``NOENT`` first; and keep the way to mounts."""
        perms = place.mount.perms
        if not perms.dir_write:
            place.mount.volume.stat(place.at._replace(slash=False), False)
            raise perms.write_refusal
        if place.guest in self.namespace.table.above:
            raise WasiError(Errno.BUSY)

    def mkdir(self, start: Descriptor, path: bytes) -> None:
        """Create a directory."""
        place = self._entry(start, path, Rights.PATH_CREATE_DIRECTORY, Errno.EXIST, Errno.EXIST)
        with self._making(place):
            place.mount.volume.mkdir(place.at)

    def rmdir(self, start: Descriptor, path: bytes) -> None:
        """Remove an empty directory."""
        place = self._entry(start, path, Rights.PATH_REMOVE_DIRECTORY, Errno.BUSY, Errno.NOTEMPTY)
        self._check_old(place)
        place.mount.volume.rmdir(place.at)

    def unlink(self, start: Descriptor, path: bytes) -> None:
        """Remove anything but a directory."""
        place = self._entry(start, path, Rights.PATH_UNLINK_FILE, Errno.BUSY, Errno.ISDIR)
        self._check_old(place)
        place.mount.volume.unlink(place.at)

    def symlink(self, target: bytes, start: Descriptor, path: bytes) -> None:
        """Create a symbolic link to a relative target that does not lead above the mount."""
        place = self._entry(start, path, Rights.PATH_SYMLINK, Errno.EXIST, Errno.EXIST)
        if not target or b"\0" in target:
            raise WasiError(Errno.NOENT if not target else Errno.INVAL)
        if len(target) > self.usage.limits.max_path_bytes:
            raise WasiError(Errno.NAMETOOLONG)
        with self._making(place):
            place.mount.volume.symlink(place.at, target)

    def link(self, old: Descriptor, follow: bool, old_path: bytes, new: Descriptor, new_path: bytes) -> None:
        """Give a file a second name in the same mount."""
        source = self._at(old, old_path, follow, Rights.PATH_LINK_SOURCE)
        place = self._entry(new, new_path, Rights.PATH_LINK_TARGET, Errno.EXIST, Errno.EXIST)
        if source.mount.point != place.mount.point:
            raise WasiError(Errno.XDEV)
        if source.is_start:
            raise WasiError(Errno.PERM)
        with self._making(place):
            place.mount.volume.link(source.at, place.at, follow)

    def rename(self, old: Descriptor, old_path: bytes, new: Descriptor, new_path: bytes) -> None:
        """Move within a mount."""
        source = self._entry(old, old_path, Rights.PATH_RENAME_SOURCE, Errno.BUSY, Errno.BUSY)
        place = self._entry(new, new_path, Rights.PATH_RENAME_TARGET, Errno.BUSY, Errno.BUSY)
        if source.mount.point != place.mount.point:
            raise WasiError(Errno.XDEV)
        self._check_old(source)
        if place.guest in self.namespace.table.above:
            raise WasiError(Errno.BUSY)
        place.mount.volume.rename(source.at, place.at)

    def set_times(self, start: Descriptor, path: bytes, follow: bool, atim: int | None, mtim: int | None) -> None:
        """Set time stamps by path."""
        place = self._at(start, path, follow, Rights.PATH_FILESTAT_SET_TIMES)
        place.mount.volume.set_times(place.at, follow, atim, mtim, place.mount.perms)
