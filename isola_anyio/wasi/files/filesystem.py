"""Own one sandbox's files, from the template's fork to the last close.

Making one for a sandbox copies a dict and little else: what a template's files hold is shared until it is changed.
"""

from __future__ import annotations

__all__ = ["FileSystem"]

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.wasi.abi import OFlags, Rights
from isola_anyio.wasi.errno import WasiError
from isola_anyio.wasi.files.dump import pack, pack_tree, unpack, unpack_tree
from isola_anyio.wasi.files.lease import Lease
from isola_anyio.wasi.files.mount_table import BoundMount, MountTable, device_of
from isola_anyio.wasi.files.namespace import Directory, Namespace
from isola_anyio.wasi.files.operations import FileOperations
from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage
from isola_anyio.wasi.volumes.descriptors import Descriptor, SeekableFile, Table
from isola_anyio.wasi.volumes.host.single_file import SharedFileVolume
from isola_anyio.wasi.volumes.interfaces import Permissions, Volume
from isola_anyio.wasi.volumes.memory.archive import ArchiveVolume
from isola_anyio.wasi.volumes.memory.nodes import Dir, FrozenFile
from isola_anyio.wasi.volumes.memory.open_file import MemoryFile
from isola_anyio.wasi.volumes.memory.view import MountView
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume
from isola_anyio.wasi.volumes.paths import Names, guest_names, guest_text

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

READ_ONLY = Permissions()
READ_WRITE = Permissions(True, True, True, True)

ROOT_FD = 3


class FileSystem(FileOperations):
    """One sandbox's files and open descriptors.

    Attributes:
        usage: what the files cost now.
        table: open descriptors; 3 is ``/``, and 0 to 2 are added by the owner of standard input and output.
    """

    __slots__ = ("_closed", "_lease", "table")

    def __init__(self, mounts: MountTable, limits: FileLimits, above: Lease | None = None) -> None:
        super().__init__(Namespace(mounts, limits), FileUsage(limits))
        self.table = Table(limits)
        self._lease = Lease(above)
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
        for given in mounts:
            files.own(given.volume)
        try:
            bound: list[BoundMount] = []
            if stdlib is not None:
                point = guest_names(stdlib_guest)
                bound.append(BoundMount(point, SharedFileVolume(stdlib), READ_ONLY))
                files.own(bound[0].volume)
                if data_member is not None:
                    below = (*point, *data_member.removesuffix(".zip").encode().split(b"/"))
                    archive = ArchiveVolume(stdlib, device_of(below), member=data_member)
                    bound.append(BoundMount(below, archive, READ_ONLY))
                    files.own(archive)
            tmp = (b"tmp",)
            memory = MemoryVolume(files.usage, device_of(tmp))
            files.own(memory)
            bound.append(BoundMount(tmp, memory, READ_WRITE, private=True))
            files._add([*bound, *mounts])
        except BaseException:
            files.close()
            raise
        files._open_root()
        return files

    def own(self, volume: Volume) -> None:
        """Close a volume when this file system, and all that were forked from it, are closed."""
        self._lease.volumes.append(volume)

    def _add(self, mounts: Sequence[BoundMount]) -> None:
        for bound in mounts:
            bound.volume.charge_to(self.usage)
        self.namespace.table.add(mounts)

    def _open_root(self) -> None:
        root = self.namespace.table.by_point[()]
        directory = Directory((), root.volume, (), None, preopen=True)
        directory.perms = root.perms
        directory.guest = ()
        self.table.put(ROOT_FD, directory)

    def fork(self, mounts: Iterable[BoundMount] = (), limits: FileLimits | None = None) -> FileSystem:
        """Return files that start as these are: private state copied on write, open descriptors kept.

        Descriptors open for writing to the host are dropped: two sandboxes would share them. ``mounts`` belong to the
        new file system, and are closed with it or when this fails. They cover those of this one at the same point;
        directories open there are dropped, as paths from them would be the new mount's, under its permissions.
        """
        limits = limits or self.usage.limits
        mounts = list(mounts)
        try:
            child = FileSystem(self.namespace.table.fork(), limits, self._lease)
        except ValueError:
            for given in mounts:
                given.volume.close()
            raise
        if limits != self.usage.limits:
            child.namespace.table.lexical = {}  # what it remembers was resolved under other limits
        for given in mounts:
            child.own(given.volume)
        try:
            by_point = child.namespace.table.by_point
            forked: dict[Volume, Volume] = {}
            for point, mount in self.namespace.table.by_point.items():
                if mount.private:
                    volume = forked[mount.volume] = mount.volume.fork(child.usage)
                    child.own(volume)
                    by_point[point] = mount.with_volume(volume)
            child._add(mounts)
            covered = {given.point for given in mounts}
            for fd, descriptor in self.table:
                if fd >= ROOT_FD and not (isinstance(descriptor, Directory) and descriptor.point in covered):
                    kept = descriptor.fork(lambda volume: forked.get(volume, volume))
                    if kept is not None:
                        child.table.put(fd, kept)
        except BaseException:
            child.close()
            raise
        return child

    def close(self) -> None:
        """Close every descriptor, and the mounts this file system was given unless a fork still uses them."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as closing:
            closing.callback(self._lease.release)
            self.table.clear()

    def mount_view(self, guest_path: str) -> MountView:
        """Return the host's view of a mount kept in memory.

        Raises:
            InvalidArgumentError: when no mount is at exactly this guest path, or the host's own files are, which the
                host can see for itself.
        """
        try:
            point = guest_names(guest_path)
        except ValueError as exc:
            raise InvalidArgumentError(str(exc)) from exc
        mount = self.namespace.table.by_point.get(point)
        if mount is None:
            raise InvalidArgumentError(f"guest_path={clip(guest_path)} is not a mount; give the path of one exactly")
        if not isinstance(mount.volume, MemoryVolume):
            raise InvalidArgumentError(
                f"guest_path={clip(guest_path)} shows files of the host: look at them there; only /tmp, memory mounts"
                " and overlays are kept in memory"
            )
        return MountView(guest_text(point), mount.volume)

    # On disk

    def dump(self) -> bytes:
        """Return the private state: what is in ``/tmp``, what overlays hold, and what is open.

        Descriptors open for writing to the host or to a shared memory mount are left out.
        """
        chunks: list[bytes] = []
        orphans: dict[Names, list[FrozenFile]] = {}
        descriptors = [
            record for fd, open_now in self.table if fd >= ROOT_FD and (record := self._describe(fd, open_now, orphans))
        ]
        volumes: dict[str, Any] = {}
        for point, mount in self.namespace.table.by_point.items():
            volume = mount.volume
            if mount.private and isinstance(volume, MemoryVolume):
                tree = pack_tree(volume.freeze(), orphans.get(point, ()), chunks)
                volumes[_latin(point)] = [tree, *volume.counters]
        return pack({"volumes": volumes, "descriptors": descriptors}, chunks)

    def _describe(self, fd: int, d: Descriptor, orphans: dict[Names, list[FrozenFile]]) -> dict[str, Any] | None:
        record: dict[str, Any] = {"fd": fd, "base": d.base, "inheriting": d.inheriting, "flags": d.flags}
        if isinstance(d, Directory):
            guest = d.guest
            if isinstance(d.volume, MemoryVolume) and isinstance(d.token, Dir):
                inner = d.volume.path_of(d.token)
                guest = None if inner is None else (*d.point, *inner)
            record |= {"kind": "dir", "preopen": d.preopen}
        elif isinstance(d, MemoryFile) and (point := self._private_point(d.volume)) is not None:
            frozen = d.node.freeze()
            orphans.setdefault(point, []).append(frozen)
            return record | {
                "kind": "memory",
                "at": _latin(point),
                "file": [frozen.dev, frozen.ino],
                "offset": d.offset,
            }
        elif isinstance(d, SeekableFile) and not d.base & Rights.FD_WRITE:
            guest = d.guest
            record |= {"kind": "file", "offset": d.offset}
        else:
            return None
        return None if guest is None else record | {"guest": _latin(guest)}

    def _private_point(self, volume: Volume) -> Names | None:
        for point, mount in self.namespace.table.by_point.items():
            if mount.private and mount.volume is volume:
                return point
        return None

    def load(self, data: bytes) -> None:
        """Take over what ``dump`` returned, in a file system with the same mounts.

        A descriptor whose host file is gone is left out. ``ValueError`` for bytes that are not of this library's
        version or of other mounts; the file system is then to be closed.
        """
        try:
            self._load(data)
        except (KeyError, TypeError, IndexError, OverflowError, WasiError) as exc:
            raise ValueError("not the state of these files") from exc

    def _load(self, data: bytes) -> None:
        header, chunks = unpack(data)
        files: dict[Names, dict[tuple[int, int], FrozenFile]] = {}
        by_point = self.namespace.table.by_point
        for key, (tree, next_ino, count) in header["volumes"].items():
            point = _names(key)
            mount = by_point[point]
            if not mount.private or not isinstance(mount.volume, MemoryVolume):
                raise ValueError("not a private mount")
            image = unpack_tree(tree, chunks)
            files[point] = image.files
            volume = mount.volume.revived(self.usage, image.root, int(next_ino), int(count))
            self.own(volume)
            by_point[point] = mount.with_volume(volume)
        self.table.clear()
        self._open_root()
        root = self.table.remove(ROOT_FD)
        for record in header["descriptors"]:
            fd = record["fd"]
            if not isinstance(fd, int) or not ROOT_FD <= fd < ROOT_FD + 2 * self.usage.limits.max_open_files:
                raise ValueError("not a descriptor")
            opened = self._reopen(root, record, files)
            if opened is not None:
                self.table.put(fd, opened)

    def _reopen(
        self, root: Descriptor, record: dict[str, Any], files: dict[Names, dict[tuple[int, int], FrozenFile]]
    ) -> Descriptor | None:
        base, inheriting, flags = int(record["base"]), int(record["inheriting"]), int(record["flags"])
        if record["kind"] == "memory":
            point = _names(record["at"])
            mount = self.namespace.table.by_point[point]
            assert isinstance(mount.volume, MemoryVolume)
            dev, ino = record["file"]
            opened: Descriptor = MemoryFile(mount.volume, mount.volume.thaw_file(files[point][dev, ino]))
            opened.perms = mount.perms
        else:
            path = b"/".join(_names(record["guest"])) or b"."
            oflags = OFlags.DIRECTORY if record["kind"] == "dir" else 0
            try:
                opened = self.open(root, path, True, oflags, base, inheriting, 0)
            except (OSError, WasiError):
                return None
        opened.base, opened.inheriting, opened.flags = base, inheriting, flags
        if isinstance(opened, Directory):
            opened.preopen = bool(record["preopen"])
        elif isinstance(opened, SeekableFile):
            opened.offset = int(record["offset"])
        return opened


def _latin(names: Names) -> str:
    return b"/".join(names).decode("latin-1")


def _names(text: str) -> Names:
    return tuple(text.encode("latin-1").split(b"/")) if text else ()
