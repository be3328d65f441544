"""``MemoryTree``: a tree of nodes in memory, how paths are found in it, what it costs, and how it is forked.

``freeze`` makes an immutable copy of the tree and keeps it until something changes; ``fork`` starts a new tree from
that copy and thaws a directory only when its entries are first needed.

One lock covers a tree: a memory mount is shared by sandboxes on several threads, and read and changed by the host.
Methods of this module expect it to be held unless they take it; those of ``MemoryVolume``, which guests reach, take it.
It is reentrant, as the host's view holds it over several operations.
"""

# ruff: noqa: ARG002, D102 - overrides do what the base class documents; some are for an overlay to override in turn

from __future__ import annotations

__all__ = ["LISTED_BYTES_MAX", "NODE_COST_BYTES", "Found", "MemoryTree"]

import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from isola_anyio.fairness import yield_gil
from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.budgets import free_entries
from isola_anyio.wasi.volumes.interfaces import STEPS_MAX, Crossing, Volume, VolumePath
from isola_anyio.wasi.volumes.memory.content import Content, NoContent
from isola_anyio.wasi.volumes.memory.nodes import (
    Dir,
    File,
    Frozen,
    FrozenDir,
    FrozenFile,
    FrozenLink,
    Link,
    Node,
    Times,
    freeze_tree,
    levels_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from isola_anyio.wasi.volumes.budgets import FileUsage
    from isola_anyio.wasi.volumes.paths import Names

NODE_COST_BYTES: Final = 512
"""Charged for each file, directory or link besides its bytes and its name: the objects that make it, rounded up."""

LISTED_BYTES_MAX: Final = 32 << 20
"""Bytes of paths in one list for the host: 1 KiB for each of as many entries as a tree may have.

The list is made on the caller's event loop, and the pages for its text are what takes long: 60 ms for 49 MiB.
"""

_MANY_ENTRIES: Final = 256
_ROOT_INO: Final = 1
_NONE_COVERED: Final[frozenset[tuple[bytes, ...]]] = frozenset()


class Found(NamedTuple):
    """Where a path led.

    Attributes:
        parent: the directory that has, or would have, the entry; ``None`` when the path led to where it started.
        name: the entry's name.
        node: ``None`` when only the last component does not exist.
        names: the path from the start, free of links and ``..``.
    """

    parent: Dir | None
    name: bytes
    node: Node | None
    names: Names

    @property
    def holder(self) -> Dir:
        """The directory that has, or would have, the entry; ``BUSY`` when there is none."""
        if self.parent is None:
            raise WasiError(Errno.BUSY)
        return self.parent

    def existing(self) -> Node:
        """Return the node, or raise ``NOENT``."""
        if self.node is None:
            raise WasiError(Errno.NOENT)
        return self.node


class MemoryTree(Volume):
    """A tree of nodes; ``MemoryVolume`` adds the operations of guests.

    Attributes:
        lock: held while the tree is read or changed.
        usage: charged for what the tree does not share with a template.
        count: number of entries, in memory.
        next_ino: inode number of the next node.
        empty: the bytes of every file that has none.
    """

    def __init__(self, usage: FileUsage, dev: int, frozen: FrozenDir | None = None, next_ino: int = 2) -> None:
        self.lock = threading.RLock()
        self.count: int = 0
        self.usage = usage
        self.dev = dev
        self.next_ino = next_ino
        self.empty = NoContent(usage)
        self._viewed = False
        self._thawed: dict[tuple[int, int], File | Link] = {}
        self._frozen = frozen
        if frozen is None:
            self.root = Dir(dev, _ROOT_INO, self._stamps(), None)
        else:
            self.root = Dir(frozen.dev, frozen.ino, frozen.times, None, frozen)

    # Frozen and live

    def now_ns(self) -> int:
        """Return the time for stamps."""
        return time.time_ns()

    def changed(self) -> None:
        """Drop the frozen copy; called after every change."""
        self._frozen = None

    def fork(self, usage: FileUsage) -> Self:
        """Return a tree with the same content, changed apart from this one."""
        with self.lock:
            child = self._new(usage, self.freeze())
            child.count = self.count
            return child

    @property
    def counters(self) -> tuple[int, int]:
        """``next_ino`` and ``count``, for a dump."""
        return self.next_ino, self.count

    def restored(self, usage: FileUsage, frozen: FrozenDir, next_ino: int, count: int) -> Self:
        """Return a volume like this one with the content of a dump."""
        volume = self._new(usage, frozen)
        volume.next_ino = next_ino
        volume.count = count
        return volume

    def _new(self, usage: FileUsage, frozen: FrozenDir) -> Self:
        return type(self)(usage, self.dev, frozen, self.next_ino)

    def freeze(self) -> FrozenDir:
        """Return an immutable copy of the tree; the same object until something changes."""
        with self.lock:
            if self._frozen is None:
                self._frozen = freeze_tree(self.root)
            return self._frozen

    def thaw_file(self, frozen: FrozenFile) -> File:
        """Return the live file for a frozen one: the same object for each of its names and descriptors."""
        node = self._thawed.get((frozen.dev, frozen.ino))
        if not isinstance(node, File):
            node = File(frozen.dev, frozen.ino, frozen.times, Content(self.usage, frozen.content), frozen.nlink)
            self._thawed[frozen.dev, frozen.ino] = node
        return node

    def _thaw(self, frozen: Frozen, parent: Dir) -> Node:
        if isinstance(frozen, FrozenFile):
            return self.thaw_file(frozen)
        if isinstance(frozen, FrozenDir):
            return Dir(frozen.dev, frozen.ino, frozen.times, parent, frozen)
        assert isinstance(frozen, FrozenLink)
        link = self._thawed.get((frozen.dev, frozen.ino))
        if not isinstance(link, Link):
            link = Link(frozen.dev, frozen.ino, frozen.times, frozen.target, frozen.nlink)
            self._thawed[frozen.dev, frozen.ino] = link
        return link

    def free_dropped(self) -> None:
        """Free what an operation has dropped, once it has given up the lock."""
        if self.usage.dropped:
            self.usage.free()

    def view(self) -> None:
        """Keep the content after ``close``: the host has a view, and may use it after the guest's end."""
        self._viewed = True

    def close(self) -> None:
        """Free the whole tree now: directories and their parents are cycles, left to a garbage collection otherwise."""
        # Without the lock: who has no view of it has no way to it any more.
        if self._viewed:
            return
        todo = [self.root]
        for directory in todo:
            directory.parent = directory.pending = None
            todo.extend(node for node in directory.entries.values() if isinstance(node, Dir))
            yield_gil()
        for directory in todo:
            entries = directory.entries
            for node in entries.values():
                if isinstance(node, File):
                    node.content.clear()
            self.free_dropped()
            free_entries(entries)
        free_entries(self._thawed)

    def path_of(self, directory: Dir) -> Names | None:
        """Return a directory's path from the root; ``None`` when it was removed."""
        names: list[bytes] = []
        while directory.parent is not None:
            names.append(self.name_of(directory))
            directory = directory.parent
        return None if directory.removed else tuple(reversed(names))

    def dir_at(self, names: Names | None) -> Dir:
        """Return the directory at a path; for none, or ``None``, a new one that counts as removed."""
        node = None if names is None else self.find(VolumePath(None, names, False, 0), False).node
        if isinstance(node, Dir):
            return node
        gone = Dir(self.dev, self.new_ino(), self._stamps(), None)
        gone.removed = True
        return gone

    def dup_token(self, token: Dir | None, volume: Volume) -> Dir | None:
        if volume is self or token is None:
            return token
        assert isinstance(volume, MemoryTree)
        with self.lock:
            return volume.dir_at(self.path_of(token))

    def entries_of(self, directory: Dir) -> dict[bytes, Node | None]:
        """Return the entries that the tree has of a directory in memory, thawed."""
        pending = directory.pending
        if pending is not None:
            directory.pending = None
            for name, frozen in pending.entries.items():
                directory.entries[name] = None if frozen is None else self._thaw(frozen, directory)
        return directory.entries

    # Overridden by an overlay

    def child(self, directory: Dir, name: bytes) -> Node | None:
        """Return the node of that name, if there is one."""
        return self.entries_of(directory).get(name)

    def listing(self, directory: Dir, limit: int) -> Iterator[tuple[bytes, int, FileType]]:
        """Yield every entry's name, ino and type; ``OVERFLOW`` past ``limit``.

        The lock must be held for the call, and may be given up then: entries in memory are those of this moment.
        """
        entries = self.entries_of(directory)
        if len(entries) > limit:
            raise WasiError(Errno.OVERFLOW)
        known: Iterable[tuple[bytes, Node | None]] = list(entries.items())
        if len(entries) > _MANY_ENTRIES:  # as many pairs would start a garbage collection
            known = zip(list(entries), list(entries.values()), strict=True)
        return ((name, node.ino, node.filetype) for name, node in known if node is not None)

    def is_empty(self, directory: Dir) -> bool:
        """Return whether a directory has no entries."""
        return not self.entries_of(directory)

    def copy_up(self, found: Found, empty: bool = False) -> Node:
        """Return the found node as one that may be changed: an overlay copies it up, with no bytes if ``empty``."""
        return found.existing()

    def copy_up_dir(self, directory: Dir) -> Dir:
        """Return a directory as one that may be changed, as ``copy_up`` does."""
        return directory

    def name_of(self, directory: Dir) -> bytes:
        """Return a directory's name in its parent."""
        assert directory.parent is not None
        return next(name for name, node in self.entries_of(directory.parent).items() if node is directory)

    def _put(self, directory: Dir, name: bytes, node: Node) -> None:
        if directory.removed:
            raise WasiError(Errno.NOENT)
        self.entries_of(directory)[name] = node

    def _take(self, directory: Dir, name: bytes) -> None:
        del self.entries_of(directory)[name]

    # Finding

    def find(
        self, path: VolumePath, follow: bool, covered: AbstractSet[Names] = _NONE_COVERED, prefix: Names = ()
    ) -> Found:
        """Resolve a path, following links in the middle always and at the end if ``follow``.

        Raises:
            Crossing: when the path leads to one of ``covered``, which like ``prefix`` (the start) is from the root.
            WasiError: ``NOENT``, ``NOTDIR``, ``LOOP``; ``PERM`` for a path that leads above the start.
        """
        start: Dir = path.start or self.root
        dirs = [start]
        names: list[bytes] = []
        todo = list(reversed(path.names))
        links = path.links
        steps = STEPS_MAX - len(todo)
        depths = {len(each) - len(prefix) for each in covered} if covered else None
        while todo:
            name = todo.pop()
            if name == b"..":
                if not names:
                    raise WasiError(Errno.PERM)
                dirs.pop()
                names.pop()
                continue
            if depths and len(names) + 1 in depths and (*prefix, *names, name) in covered:
                raise Crossing((*prefix, *names, name), tuple(reversed(todo)))
            here = dirs[-1]
            node = self.child(here, name)
            if isinstance(node, Dir):
                dirs.append(node)
                names.append(name)
            elif node is None:
                if todo:
                    raise WasiError(Errno.NOENT)
                return Found(here, name, None, (*names, name))
            elif isinstance(node, Link) and (todo or follow):
                links -= 1
                if links < 0:
                    raise WasiError(Errno.LOOP)
                if node.target.startswith(b"/"):
                    raise WasiError(Errno.PERM)
                parts = node.target.split(b"/")
                steps -= len(parts)
                if steps < 0:
                    raise WasiError(Errno.LOOP)
                todo.extend([part for part in reversed(parts) if part and part != b"."])
            elif todo:
                raise WasiError(Errno.NOTDIR)
            else:
                return Found(here, name, node, (*names, name))
        if not names:
            return Found(None, b"", start, ())
        return Found(dirs[-2], names[-1], dirs[-1], tuple(names))

    def find_entry(self, path: VolumePath) -> Found:
        """Resolve a path without following a link at its end."""
        found = self.find(path, False)
        if path.slash and found.node is not None and not isinstance(found.node, Dir):
            raise WasiError(Errno.NOTDIR)
        return found

    def canonical(self, path: VolumePath, follow: bool, covered: AbstractSet[Names], prefix: Names) -> Names:
        with self.lock:
            return self.find(path, follow, covered, prefix).names

    # Creating and removing nodes

    def _charge(self, node: Node, name: bytes) -> None:
        """Charge for a new node; ``NOSPC`` past a budget."""
        if self.count >= self.usage.limits.max_entries:
            raise WasiError(Errno.NOSPC)
        cost = NODE_COST_BYTES + len(name) + node.size * (node.filetype is FileType.SYMBOLIC_LINK)
        self.usage.hold(cost)
        node.cost = cost

    def check_depth(self, holder: Dir, node: Dir) -> None:
        """Raise ``NAMETOOLONG`` if directories would be nested too deeply with ``node``, and all in it, in ``holder``.

        Walking a tree costs its depth times its size. That paths are bounded does not bound the depth: a guest can move
        directories into each other by short paths from open directories.
        """
        self.check_levels(holder, levels_of(node))

    def check_levels(self, holder: Dir, levels: int) -> None:
        """Raise ``NAMETOOLONG`` if ``levels`` nested directories in ``holder`` would be too deep."""
        if holder.depth + levels > self.usage.limits.max_tree_depth:
            raise WasiError(Errno.NAMETOOLONG)

    def _insert(self, found: Found, node: Node) -> None:
        """Add a new node to its directory."""
        holder = found.holder
        if holder.removed:
            raise WasiError(Errno.NOENT)
        if isinstance(node, Dir):
            self.check_depth(holder, node)
        self._charge(node, found.name)
        self._put(holder, found.name, node)
        self.count += 1
        holder.touch(node.times[1])
        self.changed()

    def _is_counted(self, found: Found) -> bool:
        """Return whether the found entry is in ``count``: all but those of an overlay's host directory."""
        return True

    def _drop_name(self, node: Node, *, counted: bool) -> None:
        """Count a name of the node less, and give back what nothing leads to any more."""
        self.count -= counted
        node.nlink -= 1
        if node.nlink <= 0:
            self.usage.hold(-node.cost)
            node.cost = 0
            self._thawed.pop((node.dev, node.ino), None)
        if isinstance(node, File):
            node.discard_if_unused()
        elif isinstance(node, Dir):
            node.removed = True
            node.parent = node.lower = None

    def new_ino(self) -> int:
        """Return an inode number that no node of this tree, or of those it was forked from, has had."""
        ino = self.next_ino
        self.next_ino += 1
        return ino

    def _stamps(self) -> Times:
        now = self.now_ns()
        return (now, now, now)

    def stamp(self, node: Node, atim: int | None, mtim: int | None) -> None:
        """Set a node's times."""
        old = node.times
        node.times = (old[0] if atim is None else atim, old[1] if mtim is None else mtim, self.now_ns())
        self.changed()
