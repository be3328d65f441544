"""Keep a tree of nodes in memory, and fork it in no time.

``freeze`` makes an immutable picture of the tree and remembers it until something changes; ``fork`` starts a new tree
from that picture and thaws a directory only when it is first looked into.

One lock covers a tree, because a memory mount may be shared by sandboxes on several threads and read by the host.
"""

# ruff: noqa: ARG002, D102 - overrides do what the base class documents; some are for an overlay to override in turn

from __future__ import annotations

__all__ = ["LISTED_BYTES_MAX", "NODE_COST_BYTES", "Found", "MemoryTree"]

import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.interfaces import At, Crossing, Volume
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
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from isola_anyio.wasi.volumes.budgets import FileUsage
    from isola_anyio.wasi.volumes.paths import Names

NODE_COST_BYTES: Final = 512
"""Charged for each file, directory or link besides its bytes and its name: the objects that make it, rounded up."""

LISTED_BYTES_MAX: Final = 64 << 20
"""Bytes of paths that the host is told at once; a guess: two kilobytes for each of as many entries as there may be."""

_ROOT_INO: Final = 1
_NONE_COVERED: Final[frozenset[tuple[bytes, ...]]] = frozenset()


class Found(NamedTuple):
    """Where a path led: ``node`` is ``None`` when only the last component is missing; ``parent`` is for a start."""

    parent: Dir | None
    name: bytes
    node: Node | None
    names: Names

    @property
    def holder(self) -> Dir:
        """The directory that has, or would have, the entry."""
        if self.parent is None:
            raise WasiError(Errno.BUSY)
        return self.parent

    def existing(self) -> Node:
        """Return the node, or raise ``NOENT``."""
        if self.node is None:
            raise WasiError(Errno.NOENT)
        return self.node


class MemoryTree(Volume):
    """The tree itself: its nodes, how they are found, and what they cost; ``memfs`` adds what guests do with it.

    Attributes:
        lock: held around every look at the tree and every change of it.
        usage: charged for what the tree holds beyond what it shares.
        count: entries of the tree.
        next_ino: the number the next node gets.
    """

    def __init__(self, usage: FileUsage, dev: int, frozen: FrozenDir | None = None, next_ino: int = 2) -> None:
        self.lock = threading.RLock()
        self.count: int = 0
        self.usage = usage
        self.dev = dev
        self.next_ino = next_ino
        self.nothing = NoContent(usage)
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
        """Forget the picture; called after every change."""
        self._frozen = None

    def fork(self, usage: FileUsage) -> Self:
        """Return a tree that starts as this one is and goes its own way."""
        with self.lock:
            child = self._new(usage, self.freeze())
            child.count = self.count
            return child

    @property
    def counters(self) -> tuple[int, int]:
        """The next node number and how many entries there are."""
        return self.next_ino, self.count

    def revived(self, usage: FileUsage, frozen: FrozenDir, next_ino: int, count: int) -> Self:
        """Return such a volume as a dump left it."""
        volume = self._new(usage, frozen)
        volume.next_ino = next_ino
        volume.count = count
        return volume

    def _new(self, usage: FileUsage, frozen: FrozenDir) -> Self:
        return type(self)(usage, self.dev, frozen, self.next_ino)

    def freeze(self) -> FrozenDir:
        """Return the tree as it is now, never to change; the same object while nothing changes."""
        with self.lock:
            if self._frozen is None:
                self._frozen = freeze_tree(self.root)
            return self._frozen

    def thaw_file(self, frozen: FrozenFile) -> File:
        """Return the live file for a frozen one, the same however it is reached."""
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

    def view(self) -> None:
        """Note that the host looks in too, perhaps after the guest's end: closing takes nothing away then."""
        self._viewed = True

    def close(self) -> None:
        """Let go of everything at once: directories and their parents would wait for a garbage collection."""
        with self.lock:
            if self._viewed:
                return
            todo = [self.root]
            for at in todo:
                at.parent = at.pending = None
                todo.extend(node for node in at.entries.values() if isinstance(node, Dir))
            for at in todo:
                entries = at.entries
                while entries:  # one by one: other threads must not stand still while a hundred thousand are freed
                    entries.popitem()
            self._thawed.clear()

    def path_of(self, at: Dir) -> Names | None:
        """Return a directory's path from the root; ``None`` when it was removed."""
        names: list[bytes] = []
        while at.parent is not None:
            names.append(self.name_of(at))
            at = at.parent
        return None if at.removed else tuple(reversed(names))

    def dir_at(self, names: Names | None) -> Dir:
        """Return the directory at a path; one that is removed already when there is none."""
        node = None if names is None else self.find(At(None, names, False, 0), False).node
        if isinstance(node, Dir):
            return node
        gone = Dir(self.dev, self.new_ino(), self._stamps(), None)
        gone.removed = True
        return gone

    def twin(self, start: Dir | None, other: Volume) -> Dir | None:
        if other is self or start is None:
            return start
        assert isinstance(other, MemoryTree)
        with self.lock:
            return other.dir_at(self.path_of(start))

    def entries_of(self, at: Dir) -> dict[bytes, Node | None]:
        """Return a directory's own entries, thawed."""
        pending = at.pending
        if pending is not None:
            at.pending = None
            for name, frozen in pending.entries.items():
                at.entries[name] = None if frozen is None else self._thaw(frozen, at)
        return at.entries

    # What an overlay does otherwise

    def child(self, at: Dir, name: bytes) -> Node | None:
        """Return the node of that name, if there is one."""
        return self.entries_of(at).get(name)

    def listing(self, at: Dir, limit: int) -> Iterator[tuple[bytes, int, FileType]]:
        """Yield every entry's name, ino and type; ``OVERFLOW`` past ``limit``. The lock must be held meanwhile."""
        entries = self.entries_of(at)
        if len(entries) > limit:
            raise WasiError(Errno.OVERFLOW)
        return ((name, node.ino, node.filetype) for name, node in entries.items() if node is not None)

    def is_empty(self, at: Dir) -> bool:
        """Tell whether a directory has no entries."""
        return next(self.listing(at, 1 << 62), None) is None

    def adopt(self, found: Found, empty: bool = False) -> Node:
        """Return the found node, now one of this tree's own; ``empty`` says that its bytes are about to go."""
        return found.existing()

    def adopt_dir(self, at: Dir) -> Dir:
        """Return a directory, now one of this tree's own."""
        return at

    def name_of(self, at: Dir) -> bytes:
        """Return a directory's name in its parent."""
        assert at.parent is not None
        return next(name for name, node in self.entries_of(at.parent).items() if node is at)

    def _put(self, at: Dir, name: bytes, node: Node) -> None:
        if at.removed:
            raise WasiError(Errno.NOENT)
        self.entries_of(at)[name] = node

    def _take(self, at: Dir, name: bytes) -> None:
        del self.entries_of(at)[name]

    # Finding

    def find(self, at: At, follow: bool, covered: AbstractSet[Names] = _NONE_COVERED, prefix: Names = ()) -> Found:
        """Resolve a path, following links in the middle always and at the end when asked to.

        Raises:
            WasiError: ``NOENT``, ``NOTDIR``, ``LOOP``; ``PERM`` for a way that leads above the start.
        """
        start: Dir = at.start or self.root
        dirs = [start]
        names: list[bytes] = []
        todo = list(reversed(at.names))
        links = at.links
        while todo:
            name = todo.pop()
            if name == b"..":
                if not names:
                    raise WasiError(Errno.PERM)
                dirs.pop()
                names.pop()
                continue
            if covered and (*prefix, *names, name) in covered:
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
                parts = [part for part in node.target.split(b"/") if part and part != b"."]
                todo.extend(reversed(parts))
            elif todo:
                raise WasiError(Errno.NOTDIR)
            else:
                return Found(here, name, node, (*names, name))
        if not names:
            return Found(None, b"", start, ())
        return Found(dirs[-2], names[-1], dirs[-1], tuple(names))

    def find_entry(self, at: At) -> Found:
        """Resolve a path whose last component is meant itself, not what it links to."""
        found = self.find(at, False)
        if at.slash and found.node is not None and not isinstance(found.node, Dir):
            raise WasiError(Errno.NOTDIR)
        return found

    def canonical(self, at: At, follow: bool, covered: AbstractSet[Names], prefix: Names) -> Names:
        with self.lock:
            return self.find(at, follow, covered, prefix).names

    # Making and unmaking nodes

    def _admit(self, node: Node, name: bytes) -> None:
        """Charge for a new node."""
        if self.count >= self.usage.limits.max_entries:
            raise WasiError(Errno.NOSPC)
        cost = NODE_COST_BYTES + len(name) + node.size * (node.filetype is FileType.SYMBOLIC_LINK)
        self.usage.hold(cost)
        node.cost = cost

    def check_depth(self, holder: Dir, node: Dir) -> None:
        """Refuse to put a directory, with all that is in it, where directories would nest too deeply.

        Whoever goes through a tree pays for its depth times its size. Paths are bounded, but a guest that moves
        directories into each other needs none that is long.
        """
        if holder.depth + levels_of(node) > self.usage.limits.max_tree_depth:
            raise WasiError(Errno.NAMETOOLONG)

    def _insert(self, found: Found, node: Node) -> None:
        """Give a new node its entry."""
        holder = found.holder
        if holder.removed:
            raise WasiError(Errno.NOENT)
        if isinstance(node, Dir):
            self.check_depth(holder, node)
        self._admit(node, found.name)
        self._put(holder, found.name, node)
        self.count += 1
        holder.touch(node.times[1])
        self.changed()

    def _is_counted(self, found: Found) -> bool:
        """Tell whether the found entry is one of this tree's own, counted when it was made."""
        return True

    def _forget(self, node: Node, *, counted: bool) -> None:
        """Account for one name less."""
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
        """Return a number no node of this tree or of those it was forked from has had."""
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
