"""Serve one sandbox's files: the operations of preview 1 over mounts, under their permissions.

``FileSystem`` is the part that knows what a request may do; volumes know how. It is forked for every sandbox, so
making one copies a dict and little else.
"""

from __future__ import annotations

__all__ = ["FileSystem"]

from typing import TYPE_CHECKING, Any

from isola_anyio.wasi.abi import DIRENT, FdFlags, FileType, OFlags, Rights, Stat
from isola_anyio.wasi.archive import ArchiveVolume
from isola_anyio.wasi.descriptors import Descriptor, Table
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.hostfile import SharedFileVolume
from isola_anyio.wasi.limits import FileLimits, FileUsage
from isola_anyio.wasi.memfs import MemoryVolume
from isola_anyio.wasi.mounts import BoundMount, Mount, MountTable, device_of
from isola_anyio.wasi.namespace import Directory, Namespace, Place
from isola_anyio.wasi.paths import guest_names
from isola_anyio.wasi.volume import How, Permissions, Volume

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from isola_anyio.wasi.paths import Names

READ_ONLY = Permissions()
READ_WRITE = Permissions(True, True, True, True)

ROOT_FD = 3


class FileSystem:
    """One sandbox's files and open descriptors.

    Attributes:
        usage: what the files cost now.
        table: open descriptors; 3 is ``/``, and 0 to 2 are added by the owner of standard input and output.
    """

    __slots__ = ("_closed", "_owned", "namespace", "table", "usage")

    def __init__(self, mounts: MountTable, limits: FileLimits) -> None:
        self.usage = FileUsage(limits)
        self.namespace = Namespace(mounts, limits)
        self.table = Table(limits)
        self._owned: list[Volume] = []
        self._closed = False

    @classmethod
    def base(
        cls,
        *,
        stdlib: str | os.PathLike[str] | None = None,
        stdlib_guest: str = "/usr/local/lib/python315.zip",
        data_member: str | None = "matplotlib/mpl-data.zip",
        mounts: Iterable[BoundMount] = (),
        limits: FileLimits | None = None,
    ) -> FileSystem:
        """Return the files every sandbox of a kind has.

        Args:
            stdlib: the library archive, shown read-only at ``stdlib_guest``; ``None`` for a guest that has none.
            stdlib_guest: where the guest looks for it.
            data_member: an archive inside the library archive that is shown unpacked at its own path less ``.zip``,
                which is a path below the archive *file*.
            mounts: more; closed with this file system.
            limits: budgets.
        """
        limits = limits or FileLimits()
        files = cls(MountTable(), limits)
        mounts = list(mounts)
        files._owned.extend(bound.volume for bound in mounts)
        try:
            bound: list[BoundMount] = []
            if stdlib is not None:
                point = guest_names(stdlib_guest)
                bound.append(BoundMount(point, SharedFileVolume(stdlib), READ_ONLY))
                files._owned.append(bound[0].volume)
                if data_member is not None:
                    below = (*point, *data_member.removesuffix(".zip").encode().split(b"/"))
                    archive = ArchiveVolume(stdlib, device_of(below), member=data_member)
                    bound.append(BoundMount(below, archive, READ_ONLY))
            tmp = (b"tmp",)
            bound.append(BoundMount(tmp, MemoryVolume(files.usage, device_of(tmp)), READ_WRITE, private=True))
            files.namespace.table.add([*bound, *mounts])
        except BaseException:
            files.close()
            raise
        files._open_root()
        return files

    def _open_root(self) -> None:
        root = self.namespace.table.by_point[()]
        directory = Directory((), root.volume, (), None, preopen=True)
        directory.perms = root.perms
        self.table.put(ROOT_FD, directory)

    def fork(self, mounts: Iterable[BoundMount] = (), limits: FileLimits | None = None) -> FileSystem:
        """Return files that start as these are: private state copied on write, open descriptors kept.

        Descriptors open for writing to the host are dropped: two sandboxes would share them. ``mounts`` belong to the
        new file system, and are closed with it or when this fails.
        """
        limits = limits or self.usage.limits
        child = FileSystem(self.namespace.table.fork(), limits)
        mounts = list(mounts)
        child._owned.extend(bound.volume for bound in mounts)
        try:
            by_point = child.namespace.table.by_point
            forked: dict[Volume, Volume] = {}
            for point, mount in self.namespace.table.by_point.items():
                if mount.private:
                    volume = forked[mount.volume] = mount.volume.fork(child.usage)
                    child._owned.append(volume)
                    by_point[point] = mount.with_volume(volume)
            child.namespace.table.add(mounts)
            for fd, descriptor in self.table:
                if fd >= ROOT_FD:
                    kept = descriptor.fork(lambda volume: forked.get(volume, volume))
                    if kept is not None:
                        child.table.put(fd, kept)
        except BaseException:
            child.close()
            raise
        return child

    def close(self) -> None:
        """Close every descriptor and the mounts this file system was given."""
        if self._closed:
            return
        self._closed = True
        self.table.clear()
        for volume in self._owned:
            volume.close()

    def mount_at(self, point: Names) -> Mount:
        """Return the mount at exactly this guest path; ``KeyError`` when there is none."""
        return self.namespace.table.by_point[point]

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
            return opened
        mount = place.mount
        directory = Directory(mount.point, mount.volume, place.guest[len(mount.point) :], opened)
        directory.perms = how.perms
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
            entries = directory.snapshot = self._entries(directory)
        parts: list[bytes] = []
        while room > 0 and cookie < len(entries):
            name, ino, filetype = entries[cookie]
            cookie += 1
            entry = DIRENT.pack(cookie, ino or 1, len(name), filetype) + name
            parts.append(entry[:room])
            room -= len(entry)
        return b"".join(parts)

    def _entries(self, directory: Directory) -> list[tuple[bytes, int, FileType]]:
        mounts = self.namespace.table
        if not mounts.by_point[directory.point].perms.dir_read:
            raise WasiError(Errno.ACCES)
        ino = directory.stat().ino
        found = directory.volume.list(directory.token, self.usage.limits.max_listing)
        guest = (*directory.point, *directory.inner)
        below = mounts.above.get(guest)
        if below:
            found = [entry for entry in found if entry[0] not in below]
            for name in sorted(below):
                mount = mounts.by_point.get((*guest, name))
                if mount is not None:
                    st = mount.volume.stat_dir(None)
                    found.append((name, st.ino, st.filetype))
        return [(b".", ino, FileType.DIRECTORY), (b"..", ino, FileType.DIRECTORY), *found]

    # Changing

    def _entry(self, start: Descriptor, path: bytes, right: int, busy: Errno, dots: Errno) -> Place:
        """Resolve a path whose last entry is to be made or changed."""
        place = self._at(start, path, False, right)
        if place.is_start:
            raise WasiError(busy)
        if place.at.names[-1] == b"..":
            raise WasiError(dots)
        return place

    def _check_new(self, place: Place) -> None:
        """Refuse a new entry where none may be made, but say ``EXIST`` first, as hosts do."""
        perms = place.mount.perms
        if not perms.dir_write:
            try:
                place.mount.volume.stat(place.at._replace(slash=False), False)
            except (WasiError, OSError):
                raise perms.write_refusal from None
            raise WasiError(Errno.EXIST)

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
        self._check_new(place)
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
        """Create a symbolic link to a relative target that, as written, stays in the mount."""
        place = self._entry(start, path, Rights.PATH_SYMLINK, Errno.EXIST, Errno.EXIST)
        if not target or b"\0" in target:
            raise WasiError(Errno.NOENT if not target else Errno.INVAL)
        if len(target) > self.usage.limits.max_path_bytes:
            raise WasiError(Errno.NAMETOOLONG)
        self._check_new(place)
        if target.startswith(b"/"):
            raise WasiError(Errno.PERM)
        depth = len(place.guest) - len(place.mount.point) - 1
        for part in target.split(b"/"):
            if part == b"..":
                depth -= 1
            elif part not in (b"", b"."):
                depth += 1
            if depth < 0:
                raise WasiError(Errno.PERM)
        place.mount.volume.symlink(place.at, target)

    def link(self, old: Descriptor, follow: bool, old_path: bytes, new: Descriptor, new_path: bytes) -> None:
        """Give a file a second name in the same mount."""
        source = self._at(old, old_path, follow, Rights.PATH_LINK_SOURCE)
        place = self._entry(new, new_path, Rights.PATH_LINK_TARGET, Errno.EXIST, Errno.EXIST)
        if source.mount.point != place.mount.point:
            raise WasiError(Errno.XDEV)
        if source.is_start:
            raise WasiError(Errno.PERM)
        self._check_new(place)
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
