"""``Namespace``: which mount serves a guest's path, and the path inside it.

A path is resolved one component at a time. ``..`` inside a mount that has no other mounts in it is left to the volume,
which knows where links lead; anywhere else the path is first made canonical, so that neither a link nor ``..`` leads
around a mount point.

Race: between making a path canonical and using it, another program (or another sandbox) may put a link into it. So a
canonical path is used with ``links`` 0, which follows none: what was resolved is what is used, or the operation fails.
"""

# ruff: noqa: ARG002, D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["Directory", "Namespace", "ResolvedPath"]

from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from isola_anyio.wasi.abi import FileType, Stat
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.interfaces import Crossing, Descriptor, Grant, Volume, VolumePath
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
        volume: its mount's volume when it was opened.
        inner: its path in the volume when it was opened.
        token: the volume's token for it; ``None`` is the volume's root.
        preopen: the guest finds it open at its start, and may ask for its name.
        entries: packed entries as of the last listing from the start; charged, as a guest may hold many.
    """

    __slots__ = ("_charged", "entries", "inner", "point", "preopen", "token", "volume")

    filetype: ClassVar[FileType] = FileType.DIRECTORY

    def __init__(
        self, grant: Grant, point: Names, volume: Volume, inner: Names, token: Any, *, preopen: bool = False
    ) -> None:
        super().__init__(grant)
        self.point = point
        self.volume = volume
        self.inner = inner
        self.token = token
        self.preopen = preopen
        self.entries: list[bytes] | None = None
        self._charged: tuple[FileUsage, int] | None = None

    def keep(self, entries: list[bytes], usage: FileUsage) -> None:
        """Keep packed entries, in place of those kept before; ``NOSPC`` past the budget."""
        self._uncharge()
        cost = sum(map(len, entries)) + ENTRY_COST_BYTES * len(entries)
        usage.hold(cost)
        self._charged = usage, cost
        self.entries = entries

    def _uncharge(self) -> None:
        self.entries = None
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
        if not self.perms.dir_write:
            raise self.perms.write_refusal
        self.volume.set_dir_times(self.token, atim, mtim)

    def fork(self, volumes: Callable[[Volume], Volume]) -> Directory:
        volume = volumes(self.volume)
        token = self.volume.dup_token(self.token, volume)
        return Directory(self.grant(), self.point, volume, self.inner, token, preopen=self.preopen)

    def sync(self, data_only: bool) -> None:
        self.volume.sync_dir(self.token)

    def close(self) -> None:
        self._uncharge()
        self.volume.release(self.token)


class ResolvedPath(NamedTuple):
    """Where a guest's path leads.

    Attributes:
        mount: the mount that serves it.
        path: the path inside the mount's volume.
        guest: the path from the guest's root.
    """

    mount: Mount
    path: VolumePath
    guest: Names

    @property
    def is_start(self) -> bool:
        """Whether the path leads to the directory it started from, or to a mount point."""
        return not self.path.names


ENTRY_COST_BYTES: Final = 48
"""Charged for each kept entry besides its bytes: the object's header and its slot in the list, rounded up."""

_CACHED_PATHS: Final = 1024
"""Resolved paths in the cache; a guess. Guests open their library archive hundreds of times."""

_CACHED_PATH_BYTES: Final = 128
"""Longest path in the cache: twice that of the library archive. The cache is charged to nobody, and the components of a
long path take far more memory than its text."""


class _Frame(NamedTuple):
    """A mount that the path has left for one inside it, to come back to by ``..``.

    ``inner`` is the path in it so far, without the name of the mount point.
    """

    mount: Mount
    start: Any
    prefix: Names
    inner: tuple[bytes, ...]


class Namespace:
    """The mounts of one sandbox, and how guests' paths are resolved through them."""

    __slots__ = ("limits", "table")

    def __init__(self, table: MountTable, limits: FileLimits) -> None:
        self.table = table
        self.limits = limits

    def resolve(self, start: Descriptor, path: bytes, follow: bool) -> ResolvedPath:
        """Resolve ``path`` from an open directory; ``follow``: a link at the end is followed.

        Raises:
            WasiError: ``NOTDIR`` when the start is no directory, ``PERM`` for an absolute path or one that leads above
                the start (above ``/`` is ``/``), ``LOOP``, and the volumes' errors for the path's components.
        """
        if not isinstance(start, Directory):
            raise WasiError(Errno.NOTDIR)
        is_root = not start.point and not start.inner
        if is_root and (known := self.table.lexical.get(path)) is not None:
            point, inner, guest = known
            return ResolvedPath(self.table.by_point[point], inner, guest)
        names, slash = split(path, self.limits)
        if len(start.inner) + len(names) > self.limits.max_depth:
            raise WasiError(Errno.NAMETOOLONG)
        mount = self.table.by_point[start.point]
        if not mount.covered and b".." not in names:
            # The path cannot leave this mount: the volume resolves it.
            inner = VolumePath(start.token, names, slash, self.limits.max_symlinks)
            return ResolvedPath(mount, inner, (*mount.point, *start.inner, *names))
        if is_root and b".." not in names:
            resolved = self._resolve_lexically(names, slash)
            if resolved is not None:
                if len(path) <= _CACHED_PATH_BYTES:
                    self._cache(path, resolved)
                return resolved
        for _ in range(self.limits.max_symlinks):
            try:
                return self._resolve_by_component(mount, start, names, slash, follow or slash, is_root)
            except Crossing as crossing:
                # A link led to another mount: start again from the root, with the link's target in the path.
                names = (*crossing.names, *crossing.rest)
                mount = self.table.by_point[()]
                start = Directory(Grant(0), (), mount.volume, (), None)
                is_root = True
        raise WasiError(Errno.LOOP)

    def _cache(self, path: bytes, resolved: ResolvedPath) -> None:
        lexical = self.table.lexical
        if len(lexical) >= _CACHED_PATHS:
            lexical.clear()
        lexical[path] = resolved.mount.point, resolved.path, resolved.guest

    def _resolve_lexically(self, names: Names, slash: bool) -> ResolvedPath | None:
        """Resolve a path from the root by its text alone: possible if it leads into a mount with no other inside."""
        by_point = self.table.by_point
        mount = by_point[()]
        base = 0
        # No further than mount points are deep: each look costs as much as the path so far is long.
        for depth in range(1, min(len(names), max(map(len, by_point))) + 1):
            if not mount.covered:
                break
            entered = by_point.get(names[:depth])
            if entered is not None:
                mount, base = entered, depth
        if mount.covered and base < len(names):
            return None
        return ResolvedPath(mount, VolumePath(None, names[base:], slash, self.limits.max_symlinks), names)

    def _resolve_by_component(
        self, mount: Mount, start: Directory, names: Names, slash: bool, follow: bool, is_root: bool
    ) -> ResolvedPath:
        by_point = self.table.by_point
        token: Any = start.token
        prefix: Names = start.inner
        inner: list[bytes] = []
        depth = 0  # of `inner`, taking `..` as written
        frames: list[_Frame] = []
        deepest = max(map(len, by_point))  # as above: deeper there is no mount to look for
        for index, name in enumerate(names):
            if name != b"..":
                inner.append(name)
                depth += 1
                if mount.covered and len(mount.point) + len(prefix) + len(inner) <= deepest:
                    entered = by_point.get((*mount.point, *prefix, *inner))
                    if entered is not None:
                        frames.append(_Frame(mount, token, prefix, tuple(inner[:-1])))
                        mount, token, prefix, inner, depth = entered, None, (), [], 0
            elif depth > 0 and not mount.covered:
                inner.append(name)
                depth -= 1
            elif inner and (real := self._canonical(mount, token, prefix, inner, True, names[index:])):
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
            inner = list(self._canonical(mount, token, prefix, inner, follow, ()))
            links = 0
        path = VolumePath(token, tuple(inner), slash, links)
        return ResolvedPath(mount, path, (*mount.point, *prefix, *inner))

    def _canonical(
        self, mount: Mount, token: Any, prefix: Names, inner: list[bytes], follow: bool, rest: Names
    ) -> Names:
        path = VolumePath(token, tuple(inner), False, self.limits.max_symlinks)
        try:
            return mount.volume.canonical(path, follow, mount.covered, prefix)
        except Crossing as crossing:
            raise Crossing((*mount.point, *crossing.names), (*crossing.rest, *rest)) from None
