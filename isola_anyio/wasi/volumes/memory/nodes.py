"""Nodes of an in-memory tree, live and frozen.

A live tree is made of nodes. A frozen tree is made of immutable records that any number of forks share; a fork turns a
record back into a node when it first needs it, so forking costs the same however large the tree is.
"""

# ruff: noqa: D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = [
    "Dir",
    "File",
    "Frozen",
    "FrozenDir",
    "FrozenFile",
    "FrozenLink",
    "Link",
    "Node",
    "Times",
    "freeze_tree",
    "levels_of",
]

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from isola_anyio.fairness import pause
from isola_anyio.wasi.abi import FileType, Stat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from isola_anyio.wasi.volumes.memory.content import FileBytes, FrozenContent
    from isola_anyio.wasi.volumes.paths import Names


Times: TypeAlias = tuple[int, int, int]
"""Access, modification and change time in ns since 1970. The garbage collector does not track a plain tuple of ints."""


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """What every frozen node has."""

    dev: int
    ino: int
    nlink: int
    times: Times


@dataclass(frozen=True, slots=True, eq=False)
class FrozenFile(Frozen):
    """A regular file."""

    content: FrozenContent


@dataclass(frozen=True, slots=True, eq=False)
class FrozenLink(Frozen):
    """A symbolic link."""

    target: bytes


@dataclass(frozen=True, slots=True, eq=False)
class FrozenDir(Frozen):
    """A directory.

    Attributes:
        entries: nodes by name; in an overlay ``None`` hides a name of the host directory below.
        lower: in an overlay, path of that host directory; ``None`` when there is none.
    """

    entries: Mapping[bytes, Frozen | None]
    lower: Names | None = None


class Node:
    """One file, directory or link in memory.

    Attributes:
        cost: bytes charged for the node itself; 0 for one that is shared with a template.
    """

    __slots__ = ("cost", "dev", "ino", "nlink", "times")

    filetype: ClassVar[FileType] = FileType.UNKNOWN

    def __init__(self, dev: int, ino: int, times: Times, nlink: int = 1) -> None:
        self.dev = dev
        self.ino = ino
        self.times = times
        self.nlink = nlink
        self.cost = 0

    @property
    def size(self) -> int:
        """Size in bytes, as in ``Stat``."""
        return 0

    def stat(self) -> Stat:
        """Return the node's ``Stat``."""
        return Stat(self.dev, self.ino, self.filetype, self.nlink, self.size, *self.times)

    def touch(self, now_ns: int) -> None:
        """Set modification and change time."""
        self.times = (self.times[0], now_ns, now_ns)


class File(Node):
    """A regular file whose bytes are in memory."""

    __slots__ = ("content", "open_count")

    filetype: ClassVar[FileType] = FileType.REGULAR_FILE

    def __init__(self, dev: int, ino: int, times: Times, content: FileBytes, nlink: int = 1) -> None:
        super().__init__(dev, ino, times, nlink)
        self.content = content
        self.open_count = 0

    @property
    def size(self) -> int:
        return self.content.size

    def opened(self) -> None:
        """Count a descriptor: a file without a name keeps its bytes while one is open."""
        self.open_count += 1

    def closed(self) -> None:
        """Count a descriptor less, and free the bytes if nothing leads to the file any more."""
        self.open_count -= 1
        self.discard_if_unused()

    def discard_if_unused(self) -> None:
        """Free the bytes when the file has neither a name nor a descriptor."""
        if not self.nlink and not self.open_count:
            self.content.clear()

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill the views from ``offset``."""
        return self.content.read(views, offset)

    def write(self, views: Sequence[memoryview | bytes], offset: int) -> int:
        """Take the views' bytes at ``offset``."""
        self.content = self.content.writable()
        return self.content.write(views, offset)

    def resize(self, size: int) -> None:
        """Cut or extend."""
        if size != self.content.size:
            self.content = self.content.writable()
            self.content.resize(size)

    def freeze(self) -> FrozenFile:
        """Return an immutable record of the file."""
        return FrozenFile(self.dev, self.ino, self.nlink, self.times, self.content.freeze())


class Link(Node):
    """A symbolic link."""

    __slots__ = ("target",)

    filetype: ClassVar[FileType] = FileType.SYMBOLIC_LINK

    def __init__(self, dev: int, ino: int, times: Times, target: bytes, nlink: int = 1) -> None:
        super().__init__(dev, ino, times, nlink)
        self.target = target

    @property
    def size(self) -> int:
        return len(self.target)


class Dir(Node):
    """A directory. Its entries are for its volume only, which may have to thaw them or merge in those of the host.

    Attributes:
        parent: ``None`` for a root and for a removed directory.
        removed: it has no name any more, and takes no new entries.
        entries: nodes by name; in an overlay ``None`` hides a name of the host directory below.
        pending: the frozen directory whose entries are still to be thawed into ``entries``; ``None`` when they are.
        lower: in an overlay, path of the host directory whose entries show through; ``None`` when there is none.
        anchored: it is in its parent's ``entries``; in an overlay, a directory of the host that nobody changed is not.
    """

    __slots__ = ("__weakref__", "anchored", "entries", "lower", "parent", "pending", "removed")

    filetype: ClassVar[FileType] = FileType.DIRECTORY

    def __init__(self, dev: int, ino: int, times: Times, parent: Dir | None, frozen: FrozenDir | None = None) -> None:
        super().__init__(dev, ino, times)
        self.parent = parent
        self.removed = False
        self.anchored = True
        self.entries: dict[bytes, Node | None] = {}
        self.pending = frozen
        self.lower: Names | None = None if frozen is None else frozen.lower

    @property
    def depth(self) -> int:
        """How many directories this one is in."""
        count = 0
        directory = self.parent
        while directory is not None:
            count += 1
            directory = directory.parent
        return count

    def is_within(self, other: Dir) -> bool:
        """Return whether this is ``other`` or below it."""
        directory: Dir | None = self
        while directory is not None:
            if directory is other:
                return True
            directory = directory.parent
        return False


def levels_of(top: Dir) -> int:
    """Return how deep directories are nested, ``top`` included; thaws nothing.

    The lock need not be held: of a tree that is changed meanwhile, the answer is that of some moment between.
    """
    levels = 0
    level: list[Dir | FrozenDir] = [top]
    while level:
        levels += 1
        below: list[Dir | FrozenDir] = []
        for each in level:
            known = each.pending or each if isinstance(each, Dir) else each
            # Copied in one operation, as somebody may change it.
            below += [node for node in list(known.entries.values()) if isinstance(node, (Dir, FrozenDir))]
            pause()
        level = below
    return levels


def freeze_tree(root: Dir) -> FrozenDir:
    """Return an immutable copy of a live tree; subtrees that were never thawed are shared with it."""
    # Not recursive: a guest may nest directories deeper than Python's stack.
    order: list[Dir] = [root]
    for directory in order:
        if directory.pending is None:
            order.extend(node for node in directory.entries.values() if isinstance(node, Dir))
    done: dict[int, Frozen] = {}  # by identity, as are files: two names of one file stay one file
    files: dict[int, FrozenFile] = {}
    for directory in reversed(order):  # what is in a directory comes before it
        if directory.pending is not None:
            done[id(directory)] = directory.pending
            continue
        entries: dict[bytes, Frozen | None] = {}
        for name, node in directory.entries.items():
            if isinstance(node, File):
                entries[name] = files.get(id(node)) or files.setdefault(id(node), node.freeze())
            elif isinstance(node, Link):
                entries[name] = FrozenLink(node.dev, node.ino, node.nlink, node.times, node.target)
            else:
                entries[name] = None if node is None else done[id(node)]
        done[id(directory)] = FrozenDir(
            directory.dev, directory.ino, directory.nlink, directory.times, entries, directory.lower
        )
    top = done[id(root)]
    assert isinstance(top, FrozenDir)
    return top
