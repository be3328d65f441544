"""Let a guest change a host directory's files without changing the host's.

Files of the host are read where they are. The first change of one copies it into memory, where it is charged to the
sandbox; a deleted name is remembered as hidden. What was looked at and not changed costs nothing once it is let go.

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
from isola_anyio.wasi.volumes.interfaces import At
from isola_anyio.wasi.volumes.memory.content import NoContent
from isola_anyio.wasi.volumes.memory.nodes import Dir, File, FrozenDir, Link, Node
from isola_anyio.wasi.volumes.memory.tree import LISTED_BYTES_MAX
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume
from isola_anyio.wasi.volumes.paths import guest_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isola_anyio.wasi.volumes.descriptors import Descriptor
    from isola_anyio.wasi.volumes.host.volume import HostVolume
    from isola_anyio.wasi.volumes.interfaces import Volume
    from isola_anyio.wasi.volumes.memory.tree import Found
    from isola_anyio.wasi.volumes.paths import Names

P = ParamSpec("P")
T = TypeVar("T")

_COPY_BYTES: Final = 1 << 20

_ABSENT: Final = frozenset({Errno.NOENT, Errno.NOTDIR, Errno.LOOP, Errno.NAMETOOLONG})
"""What a host says of a path at which it has nothing.

A guest's own tree asks for such paths: through what is a link on the host (``LOOP``, as none is followed), and, once
directories were moved into each other, longer than any host's may be.
"""

_HIDDEN: Final = _ABSENT | {Errno.ACCES, Errno.PERM}
"""What a host says of a path at which there is nothing to be seen."""


def _says(error: OSError | WasiError, answers: frozenset[Errno]) -> bool:
    return (error.errno if isinstance(error, WasiError) else errno_of(error)) in answers


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between an overlay and the host directory below it.

    Attributes:
        path: from the mount's root, beginning with ``/``.
        kind: what happened to it.
    """

    path: str
    kind: Literal["added", "modified", "deleted"]


class LowerFile(Node):
    """A regular file of the host, not changed so far."""

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
    """Reads a host file through an overlay: its time stamps are set in the overlay, never on the host."""

    __slots__ = ("_found", "_volume")

    def __init__(self, volume: OverlayVolume, found: Found, shared: SharedFd, usage: FileUsage) -> None:
        super().__init__(shared, usage, alone=False)
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
                raise WasiError(Errno.ROFS)  # it has no place in the overlay any more
            self._found = found = found._replace(node=now)
            self._found = found._replace(node=volume.adopt(found))
            volume.stamp(self._found.existing(), atim, mtim)

    def fork(self, volumes: Callable[[Volume], Volume]) -> LowerFileDescriptor:
        volume = volumes(self._volume)
        assert isinstance(volume, OverlayVolume)
        twin = LowerFileDescriptor(volume, self._found._replace(parent=None), self._shared.retain(), volume.usage)
        twin.take_after(self)
        return twin


class OverlayVolume(MemoryVolume):
    """A tree in memory over a host directory; closes ``lower`` when it is closed."""

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
        self.nothing = NoContent(usage)

    def _new(self, usage: FileUsage, frozen: FrozenDir) -> OverlayVolume:
        return OverlayVolume(self._lower.share(), self.dev, usage, frozen, self.next_ino)

    def close(self) -> None:
        """Let go of the host's directory; what was changed, and the list of it, can still be read if it was viewed."""
        with self.lock, ExitStack() as last_first:
            last_first.callback(super().close)
            last_first.callback(self._lower.close)
            if self._viewed:
                try:
                    self._final = self.changes()
                except (OSError, WasiError) as exc:
                    self._final = exc.with_traceback(None)  # for whoever asks for the list
            self._closed = True

    # Looking through

    def _lower_stat(self, names: Names) -> Stat | None:
        if self._closed:
            return None
        try:
            return self._lower.stat(At(None, names, False, 0), False)
        except (OSError, WasiError) as exc:
            if _says(exc, _ABSENT):
                return None
            raise

    def child(self, at: Dir, name: bytes) -> Node | None:
        entries = self.entries_of(at)
        if name in entries or at.lower is None:
            return entries.get(name)
        names = (*at.lower, name)
        seen = self._seen.get(names)
        if seen is not None and not seen.anchored and seen.parent is at:
            return seen
        st = self._lower_stat(names)
        if st is None:
            return None
        times = (st.atim, st.mtim, st.ctim)
        if st.filetype is FileType.DIRECTORY:
            found = Dir(st.dev, st.ino, times, at)
            found.lower = names
            found.anchored = False
            self._seen[names] = found
            return found
        if st.filetype is FileType.SYMBOLIC_LINK:
            return Link(st.dev, st.ino, times, self._lower.readlink(At(None, names, False, 0)), st.nlink)
        if st.filetype is FileType.REGULAR_FILE:
            return LowerFile(st, names)
        return Node(st.dev, st.ino, times, st.nlink)  # a device or the like: it can be seen and removed

    def listing(self, at: Dir, limit: int) -> Iterator[tuple[bytes, int, FileType]]:
        left = limit
        for entry in super().listing(at, limit):
            left -= 1
            yield entry
        if at.lower is None or self._closed:
            return
        try:
            token = self._lower.open_dir(at.lower)
        except (FileNotFoundError, NotADirectoryError, WasiError):
            return
        try:
            entries = self.entries_of(at)
            for entry in self._lower.list(token, limit):
                if entry[0] not in entries:
                    left -= 1
                    if left < 0:
                        raise WasiError(Errno.OVERFLOW)
                    yield entry
        finally:
            self._lower.release(token)

    def name_of(self, at: Dir) -> bytes:
        return super().name_of(at) if at.anchored or not at.lower else at.lower[-1]

    def opened(self, found: Found, usage: FileUsage) -> Descriptor:
        node = found.node
        if not isinstance(node, LowerFile):
            return super().opened(found, usage)
        GuestFd.admit(usage)
        return LowerFileDescriptor(self, found, GuestFd(self._open_lower(node), usage), usage)

    def _open_lower(self, node: LowerFile) -> int:
        return self._lower.open_to_read(node.lower)

    # Changing

    def adopt_dir(self, at: Dir) -> Dir:
        if not at.anchored and at.parent is not None and at.lower:
            parent = self.adopt_dir(at.parent)
            name = at.lower[-1]
            self._admit(at, name)
            self.count += 1
            self.entries_of(parent)[name] = at
            at.anchored = True
        return at

    def adopt(self, found: Found, empty: bool = False) -> Node:
        node = found.existing()
        if isinstance(node, Dir):
            return self.adopt_dir(node)
        entries = self.entries_of(found.holder)
        if entries.get(found.name) is node:
            return node
        if isinstance(node, LowerFile):
            adopted: Node = File(node.dev, node.ino, node.times, self.nothing)
            self._charge_adopted(found, adopted)
            try:
                if not empty:
                    self._copy(node, adopted)
            except BaseException:
                self.count -= 1
                adopted.nlink = 0
                self.usage.hold(-adopted.cost)
                raise
        elif isinstance(node, Link):
            adopted = Link(node.dev, node.ino, node.times, node.target)
            self._charge_adopted(found, adopted)
        else:
            raise WasiError(Errno.ACCES)
        self.entries_of(self.adopt_dir(found.holder))[found.name] = adopted
        self.changed()
        return adopted

    def _charge_adopted(self, found: Found, node: Node) -> None:
        self._admit(node, found.name)
        self.count += 1

    def _copy(self, node: LowerFile, into: Node) -> None:
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

    def _put(self, at: Dir, name: bytes, node: Node) -> None:
        super()._put(self.adopt_dir(at), name, node)

    def _take(self, at: Dir, name: bytes) -> None:
        entries = self.entries_of(self.adopt_dir(at))
        if at.lower is not None and self._lower_stat((*at.lower, name)) is not None:
            entries[name] = None
        else:
            entries.pop(name, None)

    def _is_counted(self, found: Found) -> bool:
        return found.parent is not None and self.entries_of(found.parent).get(found.name) is found.node

    # What the host asks afterwards

    def changes(self) -> list[Change]:
        """Return every difference from the host directory, by path; of a new directory, all that is in it.

        Raises:
            WasiError: ``OVERFLOW`` when the paths are too many and too long to list.
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
            at, names, is_below = todo.pop()
            for name in self._own_and_new(at, names):
                path = (*names, name)
                text = guest_text(path)
                room -= len(text)
                if room < 0:
                    raise WasiError(Errno.OVERFLOW)
                node = self._seen_or_none(self.child, at, name)
                below = self._seen_or_none(self._lower_stat, path) if is_below else None
                if node is None:
                    if below is not None:
                        yield Change(text, "deleted")
                    continue
                if isinstance(node, Dir):
                    todo.append((node, path, below is not None and below.filetype is FileType.DIRECTORY))
                    if node.lower == path and below is not None:
                        continue
                yield Change(text, "added" if below is None else "modified")

    def _own_and_new(self, at: Dir, names: Names) -> dict[bytes, None]:
        """Return the names in a directory at ``names`` that may differ from what the host has there."""
        shown = dict.fromkeys(self.entries_of(at))
        if at.lower != names:  # moved here, or new: what shows through is new here too
            through = self._seen_or_none(lambda: [entry[0] for entry in self.listing(at, 1 << 62)])
            shown.update(dict.fromkeys(through or ()))
        return shown

    @staticmethod
    def _seen_or_none(look: Callable[P, T | None], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return what a look at the host gives, ``None`` where there is nothing to be seen."""
        try:
            return look(*args, **kwargs)
        except (OSError, WasiError) as exc:
            if _says(exc, _HIDDEN):
                return None
            raise
