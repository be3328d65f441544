"""``MountTable``: volumes arranged below one root, and which mount serves a guest path.

The mount with the longest guest path that begins the path serves it, also below a *file*: a library archive's data
directory appears "inside" the archive. Directories that lead to a mount point and that no volume has are added as empty
read-only mounts.
"""

from __future__ import annotations

__all__ = ["BoundMount", "Mount", "MountTable"]

import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.errno import WasiError
from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage
from isola_anyio.wasi.volumes.interfaces import READ_ONLY, Permissions, Volume, VolumePath
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume

if TYPE_CHECKING:
    from collections.abc import Iterable

    from isola_anyio.wasi.volumes.paths import Names


_MAX_SYMLINKS: Final = FileLimits().max_symlinks


class BoundMount(NamedTuple):
    """A volume ready to be shown at a guest path.

    Attributes:
        point: the guest path.
        volume: what is shown there; whoever is given the mount closes it.
        perms: what guests may do with it.
        private: a fork gets a copy of the volume's state instead of sharing it.
    """

    point: Names
    volume: Volume
    perms: Permissions
    private: bool = False


class Mount:
    """A volume at a guest path, in one table or in several.

    Attributes:
        covered: paths of the volume, from its root, at which other mounts are.
    """

    __slots__ = ("covered", "perms", "point", "private", "volume")

    def __init__(self, bound: BoundMount) -> None:
        self.point = bound.point
        self.volume = bound.volume
        self.perms = bound.perms
        self.private = bound.private
        self.covered: frozenset[Names] = frozenset()

    def with_volume(self, volume: Volume) -> Mount:
        """Return the same mount with another volume."""
        mount = Mount(BoundMount(self.point, volume, self.perms, self.private))
        mount.covered = self.covered
        return mount


def device_of(point: Names) -> int:
    """Return a device number for an in-memory volume: the same for the same guest path, and of no host device."""
    return 0x6900_0000_0000 | zlib.crc32(b"/".join(point))


def empty_volume(point: Names) -> MemoryVolume:
    """Return an empty volume, for a directory that only leads to mounts."""
    return MemoryVolume(FileUsage(FileLimits()), device_of(point))


class MountTable:
    """The mounts of one namespace.

    A fork shares ``above`` and ``lexical`` with its template, whose thread may be using them, so ``add`` replaces them
    instead of changing them. Entries are added to ``lexical`` by every sharer: it is a cache, whose every entry holds
    for all of them, and a dict that is read and written by several threads under the GIL loses at worst an entry.

    Attributes:
        by_point: mounts by guest path; ``()`` is the root's.
        above: for each directory that leads to mounts, the names below it that do.
        lexical: cache of resolved paths: those from the root of which the text alone tells where they lead.
    """

    __slots__ = ("above", "by_point", "lexical")

    def __init__(self, mounts: Iterable[BoundMount] = ()) -> None:
        self.by_point: dict[Names, Mount] = {(): Mount(BoundMount((), empty_volume(()), READ_ONLY))}
        self.above: dict[Names, frozenset[bytes]] = {}
        self.lexical: dict[bytes, tuple[Names, VolumePath, Names]] = {}
        self.add(mounts)

    def fork(self) -> MountTable:
        """Return a table with the same mounts, changed apart from this one."""
        table = MountTable.__new__(MountTable)
        table.by_point = self.by_point.copy()
        table.above = self.above
        table.lexical = self.lexical  # the same mounts resolve paths the same way
        return table

    def add(self, mounts: Iterable[BoundMount]) -> None:
        """Add mounts; one at a guest path that has a mount covers it."""
        added = [Mount(bound) for bound in mounts]
        if not added:
            return
        self.lexical = {}
        self.above = dict(self.above)
        for mount in sorted(added, key=lambda mount: len(mount.point)):
            self._add_missing_parents(mount.point)
            self._install(mount)

    def _install(self, mount: Mount) -> None:
        by_point = self.by_point
        point = mount.point
        n = len(point)
        mount.covered = frozenset([other[n:] for other in by_point if len(other) > n and other[:n] == point])
        by_point[point] = mount
        for depth in range(n):
            parent = point[:depth]
            self.above[parent] = self.above.get(parent, frozenset()) | {point[depth]}
            outer = by_point.get(parent)
            if outer is not None:
                # A new object: the old one may be in other tables too.
                by_point[parent] = replaced = outer.with_volume(outer.volume)
                replaced.covered = outer.covered | {point[depth:]}

    def _add_missing_parents(self, point: Names) -> None:
        """Add an empty mount for each directory that leads to a mount point and that no volume has."""
        for depth in range(1, len(point)):
            parent = point[:depth]
            mount = self.serving(parent)
            try:
                inner = VolumePath(None, parent[len(mount.point) :], False, _MAX_SYMLINKS)
                st = mount.volume.stat(inner, True)
            except (WasiError, OSError):
                self._install(Mount(BoundMount(parent, empty_volume(parent), READ_ONLY)))
                continue
            if st.filetype is not FileType.DIRECTORY:
                return  # a mount below a file: nothing is visible between the two

    def serving(self, names: Names) -> Mount:
        """Return the mount with the longest guest path that begins ``names``."""
        by_point = self.by_point
        for depth in range(len(names), 0, -1):
            mount = by_point.get(names[:depth])
            if mount is not None:
                return mount
        return by_point[()]
