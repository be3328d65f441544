"""``OverlayVolume``: a host directory that a guest can change without changing the host's files.

Files of the host are read where they are. The first change of one copies it into memory (*copy up*), where it is
charged to the sandbox; a deleted name is recorded as hidden. A node of an unchanged host file or directory is not part
of the tree, and is freed when nobody uses it any more.

As in Linux's overlayfs, a descriptor opened for reading before a file was first changed keeps reading the host's bytes.
"""

# ruff: noqa: D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["Change", "OverlayVolume"]

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from isola_anyio.wasi.abi import FileType, Stat
from isola_anyio.wasi.errno import Errno, WasiError, errno_of
from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage
from isola_anyio.wasi.volumes.host.io import GuestFd, SharedFd
from isola_anyio.wasi.volumes.host.open_file import HostFile
from isola_anyio.wasi.volumes.interfaces import VolumePath
from isola_anyio.wasi.volumes.memory.content import NoContent
from isola_anyio.wasi.volumes.memory.nodes import Dir, File, FrozenDir, Link, Node
from isola_anyio.wasi.volumes.memory.tree import LISTED_BYTES_MAX
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume
from isola_anyio.wasi.volumes.paths import guest_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isola_anyio.wasi.volumes.host.volume import HostVolume
    from isola_anyio.wasi.volumes.interfaces import Descriptor, Grant, Volume
    from isola_anyio.wasi.volumes.memory.tree import Found
    from isola_anyio.wasi.volumes.paths import Names

P = ParamSpec("P")
T = TypeVar("T")

_COPY_BYTES: Final = 1 << 20

_ABSENT: Final = frozenset({Errno.NOENT, Errno.NOTDIR, Errno.LOOP, Errno.NAMETOOLONG})
"""The host's errors for a path that does not exist there.

The guest's own tree leads to such paths: through what is a link on the host (``LOOP``, as none is followed), and, where
directories were moved into each other, longer than a host's may be.
"""

_HIDDEN: Final = _ABSENT | {Errno.ACCES, Errno.PERM}
"""The host's errors for a path that a guest cannot see."""


def _is_any_of(error: OSError | WasiError, errnos: frozenset[Errno]) -> bool:
    return (error.errno if isinstance(error, WasiError) else errno_of(error)) in errnos


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between an overlay and the host directory below it.

    Attributes:
        path: from the mount's root, beginning with ``/``.
        kind: ``"added"``, ``"modified"`` or ``"deleted"``.
    """

    path: str
    kind: Literal["added", "modified", "deleted"]


class LowerFile(Node):
    """A regular file of the host that the guest has not changed.

    Attributes:
        lower: its path in the host directory.
    """

    __slots__ = ("bytes", "lower")

    filetype: ClassVar[FileType] = FileType.REGULAR_FILE

    def __init__(self, st: Stat, lower: Names) -> None:
        super().__init__(st.dev, st.ino, (st.atim, st.mtim, st.ctim), st.nlink)
        self.lower = lower
        self.bytes = st.size

    @property
    def size(self) -> int:
        return self.bytes


class LowerFileDescriptor(HostFile):
    """An open host file of an overlay: its time stamps are set in the overlay, never on the host."""

    __slots__ = ("_found", "_volume")

    def __init__(
        self,
        grant: Grant,
        volume: OverlayVolume,
        found: Found,
        shared: SharedFd,
        usage: FileUsage,
        offset: int = 0,
    ) -> None:
        super().__init__(grant, shared, usage, exclusive=False, offset=offset)
        self._volume = volume
        self._found = found

    def stat(self) -> Stat:
        node = self._found.node
        return node.stat() if isinstance(node, File) else super().stat()

    def _stamp(self, atim: int | None, mtim: int | None) -> None:
        volume, found = self._volume, self._found
        with volume.lock:
            now = None if found.parent is None else volume.child(found.parent, found.name)
            if now is None or found.node is None or (now.dev, now.ino) != (found.node.dev, found.node.ino):
                raise WasiError(Errno.ROFS)  # its name is gone or another file's, or it was opened in the template
            self._found = found = found._replace(node=now)
            self._found = found._replace(node=volume.copy_up(found))
            volume.stamp(self._found.existing(), atim, mtim)

    def fork(self, volumes: Callable[[Volume], Volume]) -> LowerFileDescriptor:
        volume = volumes(self._volume)
        assert isinstance(volume, OverlayVolume)
        # Without its directory: that one is a node of the other tree.
        found = self._found._replace(parent=None)
        return LowerFileDescriptor(self.grant(), volume, found, self._shared.retain(), volume.usage, self.offset)


class OverlayVolume(MemoryVolume):
    """A tree in memory over a host directory; closes ``lower`` when it is closed.

    Nodes of unchanged host files and directories are made when they are asked for. Two that stand for one directory
    would each get changes that the other does not show, so a directory's node is found again through ``_seen`` while
    anybody uses it.
    """

    def __init__(
        self,
        lower: HostVolume,
        dev: int,
        usage: FileUsage | None = None,
        frozen: FrozenDir | None = None,
        next_ino: int = 1 << 32,
    ) -> None:
        super().__init__(usage or FileUsage(FileLimits()), dev, frozen, next_ino)
        self._lower = lower
        self._closed = False
        self._final: list[Change] | OSError | WasiError | None = None
        self._seen: WeakValueDictionary[Names, Dir] = WeakValueDictionary()
        if frozen is None:
            st = lower.stat_dir(None)
            self.root = Dir(st.dev, st.ino, (st.atim, st.mtim, st.ctim), None)
            self.root.lower = ()

    def charge_to(self, usage: FileUsage) -> None:
        self.usage = usage
        self.empty = NoContent(usage)

    def _new(self, usage: FileUsage, frozen: FrozenDir) -> OverlayVolume:
        return OverlayVolume(self._lower.share(), self.dev, usage, frozen, self.next_ino)

    def close(self) -> None:
        """Release the host directory. The host's views can still read changed files and the list of changes."""
        with self.lock, ExitStack() as last_first:
            last_first.callback(super().close)
            last_first.callback(self._lower.close)
            if self._viewed:
                try:
                    self._final = self.changes()
                except (OSError, WasiError) as exc:
                    self._final = exc.with_traceback(None)  # raised to whoever asks for the list
            self._closed = True

    # The host's directory

    def _lower_stat(self, names: Names) -> Stat | None:
        if self._closed:
            return None
        try:
            return self._lower.stat(VolumePath(None, names, False, 0), False)
        except (OSError, WasiError) as exc:
            if _is_any_of(exc, _ABSENT):
                return None
            raise

    def child(self, directory: Dir, name: bytes) -> Node | None:
        entries = self.entries_of(directory)
        if name in entries or directory.lower is None:
            return entries.get(name)
        names = (*directory.lower, name)
        seen = self._seen.get(names)
        if seen is not None and not seen.anchored and seen.parent is directory:
            return seen
        st = self._lower_stat(names)
        if st is None:
            return None
        times = (st.atim, st.mtim, st.ctim)
        if st.filetype is FileType.DIRECTORY:
            found = Dir(st.dev, st.ino, times, directory)
            found.lower = names
            found.anchored = False
            self._seen[names] = found
            return found
        if st.filetype is FileType.SYMBOLIC_LINK:
            return Link(st.dev, st.ino, times, self._lower.readlink(VolumePath(None, names, False, 0)), st.nlink)
        if st.filetype is FileType.REGULAR_FILE:
            return LowerFile(st, names)
        return Node(st.dev, st.ino, times, st.nlink)  # a device or the like: can be seen and removed

    def listing(self, directory: Dir, limit: int) -> Iterator[tuple[bytes, int, FileType]]:
        left = limit
        for entry in super().listing(directory, limit):
            left -= 1
            yield entry
        if directory.lower is None or self._closed:
            return
        try:
            token = self._lower.open_dir(directory.lower)
        except (FileNotFoundError, NotADirectoryError, WasiError):
            return
        try:
            entries = self.entries_of(directory)
            for entry in self._lower.list(token, limit):
                if entry[0] not in entries:
                    left -= 1
                    if left < 0:
                        raise WasiError(Errno.OVERFLOW)
                    yield entry
        finally:
            self._lower.release(token)

    def name_of(self, directory: Dir) -> bytes:
        if directory.anchored or not directory.lower:
            return super().name_of(directory)
        return directory.lower[-1]

    def opened(self, found: Found, grant: Grant, usage: FileUsage) -> Descriptor:
        node = found.node
        if not isinstance(node, LowerFile):
            return super().opened(found, grant, usage)
        GuestFd.admit(usage)
        return LowerFileDescriptor(grant, self, found, GuestFd(self._open_lower(node), usage), usage)

    def _open_lower(self, node: LowerFile) -> int:
        return self._lower.open_to_read(node.lower)

    # Copy up

    def copy_up_dir(self, directory: Dir) -> Dir:
        if not directory.anchored and directory.parent is not None and directory.lower:
            parent = self.copy_up_dir(directory.parent)
            name = directory.lower[-1]
            self._charge(directory, name)
            self.count += 1
            self.entries_of(parent)[name] = directory
            directory.anchored = True
        return directory

    def copy_up(self, found: Found, empty: bool = False) -> Node:
        node = found.existing()
        if isinstance(node, Dir):
            return self.copy_up_dir(node)
        entries = self.entries_of(found.holder)
        if entries.get(found.name) is node:
            return node
        if isinstance(node, LowerFile):
            copy: Node = File(node.dev, node.ino, node.times, self.empty)
            self._charge_copy(found, copy)
            try:
                if not empty:
                    self._copy_bytes(node, copy)
            except BaseException:
                self.count -= 1
                copy.nlink = 0
                self.usage.hold(-copy.cost)
                raise
        elif isinstance(node, Link):
            copy = Link(node.dev, node.ino, node.times, node.target)
            self._charge_copy(found, copy)
        else:
            raise WasiError(Errno.ACCES)
        self.entries_of(self.copy_up_dir(found.holder))[found.name] = copy
        self.changed()
        return copy

    def _charge_copy(self, found: Found, copy: Node) -> None:
        self._charge(copy, found.name)
        self.count += 1

    def _copy_bytes(self, node: LowerFile, into: Node) -> None:
        assert isinstance(into, File)
        fd = self._open_lower(node)
        try:
            offset = 0
            while data := os.pread(fd, _COPY_BYTES, offset):
                if into.write([data], offset) < len(data):
                    raise WasiError(Errno.NOSPC)
                offset += len(data)
        except BaseException:
            into.content.clear()
            raise
        finally:
            os.close(fd)

    def _put(self, directory: Dir, name: bytes, node: Node) -> None:
        super()._put(self.copy_up_dir(directory), name, node)

    def _take(self, directory: Dir, name: bytes) -> None:
        entries = self.entries_of(self.copy_up_dir(directory))
        if directory.lower is not None and self._lower_stat((*directory.lower, name)) is not None:
            entries[name] = None
        else:
            entries.pop(name, None)

    def _is_counted(self, found: Found) -> bool:
        return found.parent is not None and self.entries_of(found.parent).get(found.name) is found.node

    # The list of changes

    def changes(self) -> list[Change]:
        """Return every difference from the host directory, by path; for a new directory, all its entries too.

        Raises:
            WasiError: ``OVERFLOW`` when the paths are longer than ``LISTED_BYTES_MAX`` together.
        """
        with self.lock:
            if isinstance(self._final, list):
                return list(self._final)
            if self._final is not None:
                raise self._final.with_traceback(None)
            return sorted(self._differences(), key=lambda change: change.path)

    def _differences(self) -> Iterator[Change]:
        room = LISTED_BYTES_MAX
        todo: list[tuple[Dir, Names, bool]] = [(self.root, (), True)]
        while todo:
            directory, names, is_below = todo.pop()
            for name in self._candidates(directory, names):
                path = (*names, name)
                text = guest_text(path)
                room -= len(text)
                if room < 0:
                    raise WasiError(Errno.OVERFLOW)
                node = self._visible(self.child, directory, name)
                below = self._visible(self._lower_stat, path) if is_below else None
                if node is None:
                    if below is not None:
                        yield Change(text, "deleted")
                    continue
                if isinstance(node, Dir):
                    todo.append((node, path, below is not None and below.filetype is FileType.DIRECTORY))
                    if node.lower == path and below is not None:
                        continue
                yield Change(text, "added" if below is None else "modified")

    def _candidates(self, directory: Dir, names: Names) -> dict[bytes, None]:
        """Return the names in a directory at path ``names`` that may differ from what the host has there."""
        candidates = dict.fromkeys(self.entries_of(directory))
        if directory.lower != names:  # moved here, or new: what shows through is new here too
            through = self._visible(lambda: [entry[0] for entry in self.listing(directory, 1 << 62)])
            candidates.update(dict.fromkeys(through or ()))
        return candidates

    @staticmethod
    def _visible(look: Callable[P, T | None], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call ``look``, and return ``None`` where the host has nothing that a guest can see."""
        try:
            return look(*args, **kwargs)
        except (OSError, WasiError) as exc:
            if _is_any_of(exc, _HIDDEN):
                return None
            raise
