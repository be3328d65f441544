"""Find which mount serves a guest's path, and where in it.

A path is taken apart one component at a time. ``..`` inside a mount that has no other mounts in it is left to the
volume, which knows where links lead; anywhere else the path is first made canonical, so that neither a link nor ``..``
slips past a mount point. After that no link may be followed any more (``links`` is 0): what was looked at is what is
used, or the operation fails.
"""

# ruff: noqa: ARG002, D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["Directory", "Namespace", "Place"]

from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from isola_anyio.wasi.abi import FileType, Rights, Stat
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.descriptors import Descriptor
from isola_anyio.wasi.volumes.interfaces import At, Crossing, Permissions, Volume
from isola_anyio.wasi.volumes.paths import split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from isola_anyio.wasi.files.mount_table import Mount, MountTable
    from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage
    from isola_anyio.wasi.volumes.paths import Names


class Directory(Descriptor):
    """An open directory: one of a volume, and where the guest sees it.

    Attributes:
        point: its mount's guest path.
        inner: its path in the volume.
        token: the volume's handle for it; ``None`` is the volume's root.
        snapshot: packed entries as of the last listing from the start; charged, as a guest may hold many.
    """

    __slots__ = ("_charged", "inner", "point", "preopen", "snapshot", "token", "volume")

    filetype: ClassVar[FileType] = FileType.DIRECTORY

    def __init__(self, point: Names, volume: Volume, inner: Names, token: Any, *, preopen: bool = False) -> None:
        super().__init__(Rights.DIRECTORY, Rights.ALL)
        self.point = point
        self.volume = volume
        self.inner = inner
        self.token = token
        self.preopen = preopen
        self.snapshot: list[bytes] | None = None
        self._charged: tuple[FileUsage, int] | None = None

    def keep(self, entries: list[bytes], usage: FileUsage) -> None:
        """Take a new snapshot in place of the old one; ``NOSPC`` when it is too large for the budget."""
        self._uncharge()
        cost = sum(map(len, entries)) + ENTRY_COST_BYTES * len(entries)
        usage.hold(cost)
        self._charged = usage, cost
        self.snapshot = entries

    def _uncharge(self) -> None:
        self.snapshot = None
        if self._charged is not None:
            usage, cost = self._charged
            self._charged = None
            usage.hold(-cost)

    def stat(self) -> Stat:
        return self.volume.stat_dir(self.token)

    def read(self, views: Sequence[memoryview]) -> int:
        raise WasiError(Errno.ISDIR)

    def pread(self, views: Sequence[memoryview], offset: int) -> int:
        raise WasiError(Errno.ISDIR)

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        if self.perms is None or not self.perms.dir_write:
            raise Permissions().write_refusal if self.perms is None else self.perms.write_refusal
        self.volume.set_dir_times(self.token, atim, mtim)

    def fork(self, volumes: Callable[[Volume], Volume]) -> Directory:
        twin = Directory(self.point, volumes(self.volume), self.inner, None, preopen=self.preopen)
        twin.token = self.volume.twin(self.token, twin.volume)
        twin.base, twin.inheriting, twin.flags, twin.perms = self.base, self.inheriting, self.flags, self.perms
        twin.guest = self.guest
        return twin

    def sync(self, data_only: bool) -> None:
        self.volume.sync_dir(self.token)

    def close(self) -> None:
        self._uncharge()
        self.volume.release(self.token)


class Place(NamedTuple):
    """Where a path leads: a mount, a place in its volume, and the guest path to there."""

    mount: Mount
    at: At
    guest: Names

    @property
    def is_start(self) -> bool:
        """Whether the path names the directory it started from, or a mount point."""
        return not self.at.names


ENTRY_COST_BYTES: Final = 48
"""Charged for each entry of a snapshot besides its bytes: the object's head and its place in the list, rounded up."""

_REMEMBERED: Final = 1024
"""Paths whose place is remembered; a guess. Guests import from one archive hundreds of times."""

_REMEMBERED_PATH_BYTES: Final = 128
"""Longest of them: twice what guests import from. Nobody is charged, and the names of a long path weigh far more."""


class _Frame(NamedTuple):
    """A mount on the way, to come back to by ``..``; ``inner`` is without the name of the mount point left for."""

    mount: Mount
    start: Any
    prefix: Names
    inner: tuple[bytes, ...]


class Namespace:
    """The mounts of one sandbox, and the way through them."""

    __slots__ = ("limits", "table")

    def __init__(self, table: MountTable, limits: FileLimits) -> None:
        self.table = table
        self.limits = limits

    def place(self, start: Descriptor, path: bytes, follow: bool) -> Place:
        """Resolve ``path`` from an open directory; ``follow`` says what is meant by a link at the end.

        Raises:
            WasiError: ``NOTDIR`` when the start is no directory, ``PERM`` for an absolute path or one that leads above
                the start (above ``/`` there is ``/``), ``LOOP``, and what the path's components bring.
        """
        if not isinstance(start, Directory):
            raise WasiError(Errno.NOTDIR)
        is_root = not start.point and not start.inner
        if is_root and (known := self.table.lexical.get(path)) is not None:
            point, at, guest = known
            return Place(self.table.by_point[point], at, guest)
        names, slash = split(path, self.limits)
        if len(start.inner) + len(names) > self.limits.max_depth:
            raise WasiError(Errno.NAMETOOLONG)
        mount = self.table.by_point[start.point]
        if not mount.covered and b".." not in names:
            # The straight line: nothing but this mount can be meant.
            at = At(start.token, names, slash, self.limits.max_symlinks)
            return Place(mount, at, (*mount.point, *start.inner, *names))
        if is_root and b".." not in names:
            place = self._by_text(names, slash)
            if place is not None:
                if len(path) <= _REMEMBERED_PATH_BYTES:
                    self._remember(path, place)
                return place
        for _ in range(self.limits.max_symlinks):
            try:
                return self._place(mount, start, names, slash, follow or slash, is_root)
            except Crossing as crossing:
                # A link led to another mount: start again from the root, by the way the link took.
                names = (*crossing.names, *crossing.rest)
                mount = self.table.by_point[()]
                start = Directory((), mount.volume, (), None)
                is_root = True
        raise WasiError(Errno.LOOP)

    def _remember(self, path: bytes, place: Place) -> None:
        lexical = self.table.lexical
        if len(lexical) >= _REMEMBERED:
            lexical.clear()
        lexical[path] = place.mount.point, place.at, place.guest

    def _by_text(self, names: Names, slash: bool) -> Place | None:
        """Return where a path from the root leads if only its text decides that: into a mount with no other inside."""
        by_point = self.table.by_point
        mount = by_point[()]
        base = 0
        for depth in range(1, len(names) + 1):
            if not mount.covered:
                break
            entered = by_point.get(names[:depth])
            if entered is not None:
                mount, base = entered, depth
        if mount.covered and base < len(names):
            return None
        return Place(mount, At(None, names[base:], slash, self.limits.max_symlinks), names)

    def _place(self, mount: Mount, start: Directory, names: Names, slash: bool, follow: bool, is_root: bool) -> Place:
        by_point = self.table.by_point
        token: Any = start.token
        prefix: Names = start.inner
        inner: list[bytes] = []
        depth = 0  # of `inner`, taking `..` as written
        frames: list[_Frame] = []
        for index, name in enumerate(names):
            if name != b"..":
                inner.append(name)
                depth += 1
                if mount.covered:
                    entered = by_point.get((*mount.point, *prefix, *inner))
                    if entered is not None:
                        frames.append(_Frame(mount, token, prefix, tuple(inner[:-1])))
                        mount, token, prefix, inner, depth = entered, None, (), [], 0
            elif depth > 0 and not mount.covered:
                inner.append(name)
                depth -= 1
            elif inner and (real := self._real(mount, token, prefix, inner, True, names[index:])):
                inner = list(real[:-1])
                depth = len(inner)
            elif frames:
                mount, token, prefix, outer = frames.pop()
                inner = list(outer)
                depth = len(inner)
            elif is_root:
                inner = []
            else:
                raise WasiError(Errno.PERM)
        links = self.limits.max_symlinks
        if mount.covered and inner:
            inner = list(self._real(mount, token, prefix, inner, follow, ()))
            links = 0
        at = At(token, tuple(inner), slash, links)
        return Place(mount, at, (*mount.point, *prefix, *inner))

    def _real(self, mount: Mount, token: Any, prefix: Names, inner: list[bytes], follow: bool, rest: Names) -> Names:
        at = At(token, tuple(inner), False, self.limits.max_symlinks)
        try:
            return mount.volume.canonical(at, follow, mount.covered, prefix)
        except Crossing as crossing:
            raise Crossing((*mount.point, *crossing.names), (*crossing.rest, *rest)) from None
