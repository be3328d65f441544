"""Let a guest change a host directory's files without changing the host's.

Files of the host are read where they are. The first change of one copies it into memory, where it is charged to the
sandbox; a deleted name is remembered as hidden. What was looked at and not changed costs nothing once it is let go.

As in Linux's overlayfs, a descriptor opened for reading before a file was first changed keeps reading the host's bytes.
"""

# ruff: noqa: D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["Change", "OverlayVolume"]

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal
from weakref import WeakValueDictionary

from isola_anyio.wasi.abi import FileType, Stat
from isola_anyio.wasi.content import NoContent
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.hostio import SharedFd
from isola_anyio.wasi.hostopen import HostFile
from isola_anyio.wasi.limits import FileLimits, FileUsage
from isola_anyio.wasi.memfs import MemoryVolume
from isola_anyio.wasi.paths import guest_text
from isola_anyio.wasi.tree import Dir, File, FrozenDir, Link, Node
from isola_anyio.wasi.volume import At

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isola_anyio.wasi.descriptors import Descriptor
    from isola_anyio.wasi.hostfs import HostVolume
    from isola_anyio.wasi.memtree import Found
    from isola_anyio.wasi.paths import Names
    from isola_anyio.wasi.volume import Volume

_COPY_BYTES: Final = 1 << 20


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
        self._final: list[Change] | None = None
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
        with self.lock:
            if self._viewed:
                self._final = self.changes()
            self._closed = True
            self._lower.close()
            super().close()

    # Looking through

    def _lower_stat(self, names: Names) -> Stat | None:
        if self._closed:
            return None
        try:
            return self._lower.stat(At(None, names, False, 0), False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except WasiError as exc:
            if exc.errno in (Errno.NOENT, Errno.NOTDIR):
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
        return LowerFileDescriptor(self, found, SharedFd(self._open_lower(node)), usage)

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
        """Return every difference from the host directory, by path; of a new directory, all that is in it."""
        found: list[Change] = []
        with self.lock:
            if self._final is not None:
                return list(self._final)
            todo: list[tuple[Dir, Names]] = [(self.root, ())]
            while todo:
                at, names = todo.pop()
                shown = dict.fromkeys(self.entries_of(at))
                if at.lower != names:  # moved here, or new: what shows through is new here too
                    shown.update(dict.fromkeys(entry[0] for entry in self.listing(at, 1 << 62)))
                for name in shown:
                    node = self.child(at, name)
                    path = (*names, name)
                    below = self._lower_stat(path)
                    if node is None:
                        if below is not None:
                            found.append(Change(guest_text(path), "deleted"))
                        continue
                    if isinstance(node, Dir):
                        todo.append((node, path))
                        if node.lower == path and below is not None:
                            continue
                    kind: Literal["added", "modified"] = "added" if below is None else "modified"
                    found.append(Change(guest_text(path), kind))
        return sorted(found, key=lambda change: change.path)
