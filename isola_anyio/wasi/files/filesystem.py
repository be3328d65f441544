"""``FileSystem``: one sandbox's files, from the fork of its template's to the last close.

Forking copies a dict and little else: what a template's files hold is shared until it is changed.
"""

from __future__ import annotations

__all__ = ["FileSystem"]

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.wasi.abi import Rights
from isola_anyio.wasi.files.mount_table import BoundMount, MountTable, device_of
from isola_anyio.wasi.files.namespace import Directory, Namespace
from isola_anyio.wasi.files.operations import FileOperations
from isola_anyio.wasi.files.shared_volumes import SharedVolumes
from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage
from isola_anyio.wasi.volumes.descriptors import DescriptorTable
from isola_anyio.wasi.volumes.host.single_file import SharedFileVolume
from isola_anyio.wasi.volumes.interfaces import READ_ONLY, READ_WRITE, Grant
from isola_anyio.wasi.volumes.memory.archive import ArchiveVolume
from isola_anyio.wasi.volumes.memory.view import MountView
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume
from isola_anyio.wasi.volumes.paths import guest_names, guest_text

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from isola_anyio.wasi.volumes.interfaces import Volume

ROOT_FD: Final = 3
"""The guest's descriptor of ``/``, its one preopened directory."""


class FileSystem:
    """One sandbox's files and open descriptors.

    Attributes:
        namespace: the mounts, and how paths are resolved through them.
        usage: what the files cost now.
        operations: what guests do with files by path.
        table: open descriptors; 3 is ``/``, and 0 to 2 are added by the owner of standard input and output.
    """

    __slots__ = ("_closed", "_shared", "namespace", "operations", "table", "usage")

    def __init__(self, mounts: MountTable, limits: FileLimits, parent: SharedVolumes | None = None) -> None:
        """Arrange ``mounts``; ``parent`` has the volumes that a fork uses of its template's.

        Raises:
            ValueError: ``parent`` is closed.
        """
        self.namespace = Namespace(mounts, limits)
        self.usage = FileUsage(limits)
        self.operations = FileOperations(self.namespace, self.usage)
        self.table = DescriptorTable(limits)
        self._shared = SharedVolumes(parent)
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
            stdlib_guest: guest path of the library archive.
            data_member: an archive inside the library archive, shown unpacked at its own path without ``.zip``, which
                is a path below the archive *file*.
            mounts: further mounts; closed with this file system, or when this fails.
            limits: budgets.
        """
        limits = limits or FileLimits()
        files = cls(MountTable(), limits)
        mounts = list(mounts)
        for given in mounts:
            files.adopt(given.volume)
        try:
            bound: list[BoundMount] = []
            if stdlib is not None:
                point = guest_names(stdlib_guest)
                bound.append(BoundMount(point, SharedFileVolume(stdlib), READ_ONLY))
                files.adopt(bound[0].volume)
                if data_member is not None:
                    below = (*point, *data_member.removesuffix(".zip").encode().split(b"/"))
                    archive = ArchiveVolume(stdlib, device_of(below), member=data_member)
                    bound.append(BoundMount(below, archive, READ_ONLY))
                    files.adopt(archive)
            tmp = (b"tmp",)
            memory = MemoryVolume(files.usage, device_of(tmp))
            files.adopt(memory)
            bound.append(BoundMount(tmp, memory, READ_WRITE, private=True))
            files.add_mounts([*bound, *mounts])
        except BaseException:
            files.close()
            raise
        files.open_root()
        return files

    def adopt(self, volume: Volume) -> None:
        """Close ``volume`` when this file system, and all that were forked from it, are closed."""
        self._shared.volumes.append(volume)

    def add_mounts(self, mounts: Sequence[BoundMount]) -> None:
        """Add mounts whose volumes are adopted, and charge their private state to this file system."""
        for bound in mounts:
            bound.volume.charge_to(self.usage)
        self.namespace.table.add(mounts)

    def open_root(self) -> None:
        """Open ``/`` as descriptor 3."""
        root = self.namespace.table.by_point[()]
        grant = Grant(Rights.DIRECTORY, Rights.ALL, perms=root.perms, guest=())
        self.table.put(ROOT_FD, Directory(grant, (), root.volume, (), None, preopen=True))

    def fork(self, mounts: Iterable[BoundMount] = (), limits: FileLimits | None = None) -> FileSystem:
        """Return files that start as these are: private state copied on write, open descriptors kept.

        Descriptors open for writing to the host are dropped: two sandboxes would share them. ``mounts`` belong to the
        new file system, and are closed with it or when this fails. They cover those of this one at the same guest path;
        directories open there are dropped, as their mount is not the new file system's.

        Raises:
            ValueError: this file system is closed.
        """
        limits = limits or self.usage.limits
        mounts = list(mounts)
        try:
            child = FileSystem(self.namespace.table.fork(), limits, self._shared)
        except ValueError:
            for given in mounts:
                given.volume.close()
            raise
        if limits != self.usage.limits:
            child.namespace.table.lexical = {}  # its paths were resolved under other limits
        for given in mounts:
            child.adopt(given.volume)
        try:
            by_point = child.namespace.table.by_point
            forked: dict[Volume, Volume] = {}
            for point, mount in self.namespace.table.by_point.items():
                if mount.private:
                    volume = forked[mount.volume] = mount.volume.fork(child.usage)
                    child.adopt(volume)
                    by_point[point] = mount.with_volume(volume)
            child.add_mounts(mounts)
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
        """Close every descriptor, and the volumes this file system was given unless a fork still uses them.

        Each, whatever closing another one raises. A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        with ExitStack() as closing:
            closing.callback(self._shared.release)
            self.table.clear()

    def mount_view(self, guest_path: str) -> MountView:
        """Return the host's view of a mount that is kept in memory.

        Raises:
            InvalidArgumentError: no mount is at exactly this guest path, or it shows the host's own files.
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
        return MountView._create(guest_text(point), mount.volume)  # noqa: SLF001 - users make none
