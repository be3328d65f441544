"""Arrange volumes below one root: which mount serves a guest path, and what shows on the way to it.

Mounts are matched by the longest guest path, also below a *file*: a library archive's data directory appears "inside"
the archive. A directory that a mount point needs and no volume has is made up, as an empty read-only mount.
"""

from __future__ import annotations

__all__ = ["BoundMount", "Mount", "MountTable"]

import zlib
from typing import TYPE_CHECKING, NamedTuple

from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.errno import WasiError
from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage
from isola_anyio.wasi.volumes.interfaces import At, Permissions, Volume
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume

if TYPE_CHECKING:
    from collections.abc import Iterable

    from isola_anyio.wasi.volumes.paths import Names


class BoundMount(NamedTuple):
    """A volume ready to be shown at a guest path.

    Attributes:
        point: the guest path.
        volume: what is shown there; whoever is given the mount closes it.
        perms: what may be done with it.
        private: a fork gets a copy of the volume's state instead of sharing it.
    """

    point: Names
    volume: Volume
    perms: Permissions
    private: bool = False


class Mount:
    """A volume in its place.

    Attributes:
        covered: paths of the volume, from its root, where other mounts are.
    """

    __slots__ = ("covered", "perms", "point", "private", "volume")

    def __init__(self, bound: BoundMount) -> None:
        self.point = bound.point
        self.volume = bound.volume
        self.perms = bound.perms
        self.private = bound.private
        self.covered: frozenset[Names] = frozenset()

    def with_volume(self, volume: Volume) -> Mount:
        """Return the same mount of another volume."""
        mount = Mount(BoundMount(self.point, volume, self.perms, self.private))
        mount.covered = self.covered
        return mount


def device_of(point: Names) -> int:
    """Return a device number for an in-memory volume: the same for the same guest path, and no host device's."""
    return 0x6900_0000_0000 | zlib.crc32(b"/".join(point))


def empty_volume(point: Names) -> MemoryVolume:
    """Return a volume with nothing in it, for a directory that only leads to mounts."""
    return MemoryVolume(FileUsage(FileLimits()), device_of(point))


class MountTable:
    """The mounts of one namespace.

    Attributes:
        by_point: every mount; ``()`` is the root's.
        above: for each directory that leads to mounts, the names below it that do.
        lexical: paths from the root for which only their text decides where they lead, and the place; a cache.
    """

    __slots__ = ("above", "by_point", "lexical")

    def __init__(self, mounts: Iterable[BoundMount] = ()) -> None:
        self.by_point: dict[Names, Mount] = {(): Mount(BoundMount((), empty_volume(()), Permissions()))}
        self.above: dict[Names, frozenset[bytes]] = {}
        self.lexical: dict[bytes, tuple[Names, At, Names]] = {}
        self.add(mounts)

    def fork(self) -> MountTable:
        """Return a table with the same mounts, to be changed on its own."""
        table = MountTable.__new__(MountTable)
        table.by_point = self.by_point.copy()
        table.above = self.above
        table.lexical = self.lexical  # shared by all forks: the same mounts give the same answers
        return table

    def add(self, mounts: Iterable[BoundMount]) -> None:
        """Put mounts in place; one at a point that is taken covers what was there."""
        added = [Mount(bound) for bound in mounts]
        if not added:
            return
        self.lexical = {}
        self.above = dict(self.above)
        for mount in sorted(added, key=lambda mount: len(mount.point)):
            self._make_way(mount.point)
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
                # A new object: the old one is other tables' too.
                by_point[parent] = replaced = outer.with_volume(outer.volume)
                replaced.covered = outer.covered | {point[depth:]}

    def _make_way(self, point: Names) -> None:
        """Make up the directories that lead to a mount point and are nowhere."""
        for depth in range(1, len(point)):
            here = point[:depth]
            mount = self.serving(here)
            try:
                st = mount.volume.stat(At(None, here[len(mount.point) :], False, 40), True)
            except (WasiError, OSError):
                self._install(Mount(BoundMount(here, empty_volume(here), Permissions())))
                continue
            if st.filetype is not FileType.DIRECTORY:
                return  # a mount below a file: nothing shows between the two

    def serving(self, names: Names) -> Mount:
        """Return the mount with the longest point that is on the way to ``names``."""
        by_point = self.by_point
        for depth in range(len(names), 0, -1):
            mount = by_point.get(names[:depth])
            if mount is not None:
                return mount
        return by_point[()]
