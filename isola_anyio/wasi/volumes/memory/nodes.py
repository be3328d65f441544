"""Name the nodes of an in-memory file tree, and freeze one for forks to share.

A live tree is made of nodes. A frozen one is made of immutable records, which forks turn back into nodes when they
first come upon them, so that a fork costs the same however much its template's tree holds.
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

from isola_anyio.wasi.abi import FileType, Stat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from isola_anyio.wasi.volumes.memory.content import FileBytes, FrozenContent
    from isola_anyio.wasi.volumes.paths import Names


Times: TypeAlias = tuple[int, int, int]
"""Access, modification and change time in ns since 1970. A plain tuple of ints costs garbage collections nothing."""


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
    """A directory; ``None`` marks a name that an overlay hides, ``lower`` the host directory that shows through."""

    entries: Mapping[bytes, Frozen | None]
    lower: Names | None = None


class Node:
    """One file, directory or link in memory."""

    __slots__ = ("cost", "dev", "ino", "nlink", "times")

    filetype: ClassVar[FileType] = FileType.UNKNOWN

    def __init__(self, dev: int, ino: int, times: Times, nlink: int = 1) -> None:
        self.dev = dev
        self.ino = ino
        self.times = times
        self.nlink = nlink
        self.cost = 0  # bytes charged for the node itself; none for one shared with a template

    @property
    def size(self) -> int:
        """Bytes, as ``stat`` tells them."""
        return 0

    def stat(self) -> Stat:
        """Tell about the node."""
        return Stat(self.dev, self.ino, self.filetype, self.nlink, self.size, *self.times)

    def touch(self, now_ns: int) -> None:
        """Note a change of what the node holds."""
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
        """Count a descriptor: the bytes of a file with no name live as long as one is open."""
        self.open_count += 1

    def closed(self) -> None:
        """Give a descriptor back."""
        self.open_count -= 1
        self.discard_if_unused()

    def discard_if_unused(self) -> None:
        """Free the bytes when neither a name nor a descriptor leads here."""
        if not self.nlink and not self.open_count:
            self.content.clear()

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill the views from ``offset``."""
        return self.content.read(views, offset)

    def write(self, views: Sequence[memoryview | bytes], offset: int) -> int:
        """Take the views' bytes at ``offset``."""
        self.content = self.content.begun()
        return self.content.write(views, offset)

    def resize(self, size: int) -> None:
        """Cut or extend."""
        if size != self.content.size:
            self.content = self.content.begun()
            self.content.resize(size)

    def freeze(self) -> FrozenFile:
        """Return the file as it is now."""
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
    """A directory: names to nodes. ``parent`` is ``None`` for a root and for a removed directory.

    Only its volume looks into it: ``entries`` may still be ``pending`` (those of a frozen directory, not thawed yet),
    and in an overlay ``None`` hides a name of the ``lower`` host directory, which shows through otherwise; one that was
    only looked at there is not ``anchored`` in its parent's entries.
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
        at = self.parent
        while at is not None:
            count += 1
            at = at.parent
        return count

    def is_within(self, other: Dir) -> bool:
        """Tell whether this is ``other`` or below it."""
        at: Dir | None = self
        while at is not None:
            if at is other:
                return True
            at = at.parent
        return False


def levels_of(top: Dir) -> int:
    """Return how many directories lie below one another at most, beginning with ``top``; thaws nothing."""
    levels = 0
    here: list[Dir | FrozenDir] = [top]
    while here:
        levels += 1
        looked_at = [at.pending or at if isinstance(at, Dir) else at for at in here]
        here = [node for at in looked_at for node in at.entries.values() if isinstance(node, Dir | FrozenDir)]
    return levels


def freeze_tree(root: Dir) -> FrozenDir:
    """Return a live tree as it is now, never to change."""
    # Not recursive: a guest may nest directories deeper than Python's stack.
    order: list[Dir] = [root]
    for at in order:
        if at.pending is None:
            order.extend(node for node in at.entries.values() if isinstance(node, Dir))
    done: dict[int, Frozen] = {}
    files: dict[int, FrozenFile] = {}  # by identity
    for at in reversed(order):
        if at.pending is not None:
            done[id(at)] = at.pending
            continue
        entries: dict[bytes, Frozen | None] = {}
        for name, node in at.entries.items():
            if isinstance(node, File):
                entries[name] = files.get(id(node)) or files.setdefault(id(node), node.freeze())
            elif isinstance(node, Link):
                entries[name] = FrozenLink(node.dev, node.ino, node.nlink, node.times, node.target)
            else:
                entries[name] = None if node is None else done[id(node)]
        done[id(at)] = FrozenDir(at.dev, at.ino, at.nlink, at.times, entries, at.lower)
    top = done[id(root)]
    assert isinstance(top, FrozenDir)
    return top
