"""``OverlayVolume``: a host directory that a guest can change without changing the host's files.

Files of the host are read where they are. The first change of one copies it into memory (*copy up*), where it is
charged to the sandbox; a deleted name is recorded as hidden. A node of an unchanged host file or directory is not part
of the tree, and is freed when nobody uses it any more.

As in Linux's overlayfs, a descriptor opened for reading before a file was first changed keeps reading the host's bytes.

The host's view of an overlay, on the event loop, takes its lock, so the lock is not held while a file's bytes are
copied. An operation that finds it needs them raises ``_BytesNeeded`` before it has changed anything; the bytes are
copied, and the operation is done again.

Longer than other modules, because what is below shows through in each operation of one class.
"""

# ruff: noqa: D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["Change", "OverlayVolume"]

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from isola_anyio.fairness import PIECE_BYTES, pause
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
    from collections.abc import Set as AbstractSet

    from isola_anyio.wasi.volumes.host.volume import HostVolume
    from isola_anyio.wasi.volumes.interfaces import Descriptor, Grant, OpenRequest, Permissions, Volume
    from isola_anyio.wasi.volumes.memory.tree import Found
    from isola_anyio.wasi.volumes.paths import Names

P = ParamSpec("P")
T = TypeVar("T")

_MANY_NAMES: Final = 64
"""So many names of one directory are looked for by listing it."""

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


class _BytesNeeded(Exception):  # noqa: N818 - not an error: the operation is done again
    """A host file's bytes must be copied before the operation can be done."""

    def __init__(self, node: LowerFile) -> None:
        super().__init__()
        self.node = node


class _Copy:
    """A copy of a host file's bytes that is not part of the tree yet.

    Attributes:
        node: the host file, as it was found.
        file: the copy; its bytes are charged.
    """

    __slots__ = ("file", "node")

    def __init__(self, node: LowerFile, file: File) -> None:
        self.node = node
        self.file = file

    def is_of(self, node: LowerFile) -> bool:
        """Whether the host still has what was copied."""
        ours = self.node
        return (node.lower, node.dev, node.ino, node.bytes, node.times[1]) == (
            *(ours.lower, ours.dev, ours.ino, ours.bytes, ours.times[1]),
        )


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
        self._volume.with_bytes(self._stamp_in_overlay, atim, mtim)

    def _stamp_in_overlay(self, atim: int | None, mtim: int | None) -> None:
        volume, found = self._volume, self._found
        with volume.lock:
            now = None if found.parent is None else volume.child(found.parent, found.name)
            if now is None or found.node is None or (now.dev, now.ino) != (found.node.dev, found.node.ino):
                raise WasiError(Errno.ROFS)  # its name is gone or another file's, or it was opened in the template
            self._found = found = found._replace(node=now)
            self._found = found._replace(node=volume.copy_up(found))  # may ask for its bytes first
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
        self._copy: _Copy | None = None  # the guest's thread: for the operation that it does again
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
        upper = super().listing(directory, limit)
        if directory.lower is None or self._closed:
            return upper
        return self._merged(upper, directory.lower, frozenset(self.entries_of(directory)), limit)

    def _merged(
        self, upper: Iterator[tuple[bytes, int, FileType]], lower: Names, known: AbstractSet[bytes], left: int
    ) -> Iterator[tuple[bytes, int, FileType]]:
        """Yield ``upper``, and of the host's directory what is not ``known``; without the lock: that may take long."""
        limit = left
        for entry in upper:
            left -= 1
            yield entry
        try:
            token = self._lower.open_dir(lower)
        except (FileNotFoundError, NotADirectoryError, WasiError):
            return
        try:
            for entry in self._lower.list(token, limit):
                if entry[0] not in known:
                    left -= 1
                    if left < 0:
                        raise WasiError(Errno.OVERFLOW)
                    yield entry
        finally:
            self._lower.release(token)

    def is_empty(self, directory: Dir) -> bool:
        return next(self.listing(directory, 1 << 62), None) is None

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

    def with_bytes(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do an operation of the guest's, which may need a host file's bytes."""
        try:
            while True:
                try:
                    return operation(*args, **kwargs)
                except _BytesNeeded as needed:
                    self._discard_copy()
                    self._copy_bytes(needed.node)
        finally:
            self._discard_copy()

    def open(self, path: VolumePath, request: OpenRequest, grant: Grant, usage: FileUsage) -> Descriptor | Dir:
        return self.with_bytes(super().open, path, request, grant, usage)

    def link(self, old: VolumePath, new: VolumePath, follow: bool) -> None:
        self.with_bytes(super().link, old, new, follow)

    def rename(self, old: VolumePath, new: VolumePath) -> None:
        self.with_bytes(super().rename, old, new)

    def set_times(self, path: VolumePath, follow: bool, atim: int | None, mtim: int | None, perms: Permissions) -> None:
        self.with_bytes(super().set_times, path, follow, atim, mtim, perms)

    def copy_up(self, found: Found, empty: bool = False) -> Node:
        node = found.existing()
        if isinstance(node, Dir):
            return self.copy_up_dir(node)
        entries = self.entries_of(found.holder)
        if entries.get(found.name) is node:
            return node
        if isinstance(node, LowerFile):
            if empty or not node.bytes:
                copy: Node = File(node.dev, node.ino, node.times, self.empty)
            elif self._copy is not None and self._copy.is_of(node):
                copy = self._copy.file
            else:
                raise _BytesNeeded(node)
            self._charge_copy(found, copy)
            self._copy = None  # the tree's from here on
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

    def _copy_bytes(self, node: LowerFile) -> None:
        """Copy a host file's bytes, in pieces."""
        file = File(node.dev, node.ino, node.times, self.empty)
        self._copy = _Copy(node, file)
        fd = self._open_lower(node)
        try:
            offset = 0
            while data := os.pread(fd, PIECE_BYTES, offset):
                with self.lock:  # for the account, which the tree's other files have too
                    if file.write([data], offset) < len(data):
                        raise WasiError(Errno.NOSPC)
                offset += len(data)
                pause()
        finally:
            os.close(fd)

    def _discard_copy(self) -> None:
        """Free a copy that was not needed after all."""
        copy, self._copy = self._copy, None
        if copy is not None:
            with self.lock:
                copy.file.content.clear()
            self.free_dropped()

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
            candidates = self._candidates(directory, names)
            on_host = self._names_on_host(names) if is_below and len(candidates) > _MANY_NAMES else None
            parent = guest_text(names) if names else ""
            entries = self.entries_of(directory)
            for name in candidates:
                path = (*names, name)
                text = f"{parent}/{name.decode('utf-8', 'surrogateescape')}"
                room -= len(text)
                if room < 0:
                    raise WasiError(Errno.OVERFLOW)
                node = entries[name] if name in entries else self._visible(self.child, directory, name)
                may_be_below = is_below and (on_host is None or name in on_host)
                below = self._visible(self._lower_stat, path) if may_be_below else None
                if node is None:
                    if below is not None:
                        yield Change(text, "deleted")
                    continue
                if isinstance(node, Dir):
                    todo.append((node, path, below is not None and below.filetype is FileType.DIRECTORY))
                    if node.lower == path and below is not None:
                        continue
                yield Change(text, "added" if below is None else "modified")

    def _names_on_host(self, names: Names) -> AbstractSet[bytes] | None:
        """Return all names of a host directory: one listing is faster than to look for each of many; ``None``: cannot.

        Whoever asks for the changes may be an event loop, and a guest has made as many files as it may have.
        """
        try:
            token = self._lower.open_dir(names)
        except (OSError, WasiError):
            return None
        try:
            return {name for name, _, _ in self._lower.list(token, 1 << 62)}
        except OSError:
            return None
        finally:
            self._lower.release(token)

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
