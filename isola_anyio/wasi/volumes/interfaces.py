"""Volumes and descriptors: what a source of files, and what a guest has open in it, must be able to do.

A *volume* is a tree of files from one source: a host directory, one host file, memory, an archive. A *mount* shows a
volume at a guest path, under permissions. Paths reach a volume as plain components, confined to it: a volume follows
its own symbolic links but never lets one lead out (``PERM``). A *descriptor* is what a volume gives for an open file.

The two types stand in one file because each names the other: a volume opens descriptors, and a descriptor is forked
together with its volume.
"""

# ruff: noqa: ARG002, B027 - the base classes refuse or ignore; they need none of the arguments

from __future__ import annotations

__all__ = [
    "READ_ONLY",
    "READ_WRITE",
    "STEPS_MAX",
    "Crossing",
    "Descriptor",
    "Grant",
    "OpenRequest",
    "Permissions",
    "Volume",
    "VolumePath",
]

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from isola_anyio.wasi.abi import FileType, Rights
from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from isola_anyio.wasi.abi import Stat
    from isola_anyio.wasi.volumes.budgets import FileUsage
    from isola_anyio.wasi.volumes.paths import Names


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a mount allows; ``docs/files.md`` says what each of the four means for every operation."""

    dir_read: bool = True
    dir_write: bool = False
    file_read: bool = True
    file_write: bool = False

    @property
    def write_refusal(self) -> WasiError:
        """The answer to a change that is not allowed: ``ROFS`` if nothing may be changed, else ``ACCES``."""
        return WasiError(Errno.ACCES if self.dir_write or self.file_write else Errno.ROFS)


READ_ONLY: Final = Permissions()
READ_WRITE: Final = Permissions(True, True, True, True)


STEPS_MAX: Final = 4096
"""Components walked while one path is resolved, those of the links' targets included, dots too (``LOOP`` past it).

Twice what a path of the greatest length has. Forty links whose targets are that long lead through 80,000, each of them
looked up under the interpreter's lock and the lock of a tree.
"""


class VolumePath(NamedTuple):
    """A path inside a volume: components relative to a directory of it.

    Attributes:
        start: the volume's own token for the directory; ``None`` is its root.
        names: components from there, possibly with ``..``.
        slash: the path ended with a slash (or ``/.``), so it must lead to a directory.
        links: symbolic links that may still be followed.
    """

    start: Any
    names: Names
    slash: bool
    links: int


# Grant and OpenRequest are named tuples because every `path_open` makes one of each: a frozen dataclass of as many
# fields takes three times as long to make.


class Grant(NamedTuple):
    """What a new descriptor may do. Descriptors are made with it, and a dup gets its original's.

    Attributes:
        base: rights of the descriptor.
        inheriting: rights of descriptors opened through it.
        flags: ``FdFlags``.
        perms: permissions of the mount it is opened in.
        guest: the path it is opened by, from the root; ``None`` for what has no path.
    """

    base: int
    inheriting: int = 0
    flags: int = 0
    perms: Permissions = READ_ONLY
    guest: Names | None = None


class OpenRequest(NamedTuple):
    """What ``path_open`` was asked, before rights and permissions are looked up.

    Attributes:
        follow: a symbolic link at the end is followed.
        create: a missing file is created.
        exclusive: with ``create``, a file that exists is refused.
        truncate: the file is cut to nothing.
        directory: anything but a directory is refused.
        base: rights wanted of the descriptor.
        inheriting: rights wanted of descriptors opened through it.
        flags: ``FdFlags``.
    """

    follow: bool = True
    create: bool = False
    exclusive: bool = False
    truncate: bool = False
    directory: bool = False
    base: int = 0
    inheriting: int = 0
    flags: int = 0

    def check_file(self, grant: Grant) -> None:
        """Raise unless the permissions let an existing regular file be opened with the granted rights."""
        perms = grant.perms
        if grant.base & Rights.FD_READ and not perms.file_read:
            raise WasiError(Errno.ACCES)
        if (self.truncate or grant.base & Rights.FD_WRITE) and not perms.file_write:
            raise perms.write_refusal

    def check_create(self, path: VolumePath, grant: Grant) -> None:
        """Raise unless the permissions let a new regular file be made, and the path can be a file's."""
        if path.slash or self.directory:
            raise WasiError(Errno.ISDIR if path.slash else Errno.INVAL)
        if not grant.perms.dir_write:
            raise grant.perms.write_refusal
        self.check_file(grant)

    def check_directory(self, grant: Grant) -> None:
        """Raise if an existing directory cannot be opened this way."""
        if self.create and self.exclusive:
            raise WasiError(Errno.EXIST)
        if self.truncate or grant.base & Rights.FD_WRITE or (self.create and not self.directory):
            raise WasiError(Errno.ISDIR)


class Crossing(Exception):  # noqa: N818 - a detour, not an error
    """Resolution came upon a path that another mount covers.

    Attributes:
        names: the covered path, from the volume's root.
        rest: components still to be resolved.
    """

    def __init__(self, names: Names, rest: Names) -> None:
        super().__init__(names, rest)
        self.names = names
        self.rest = rest


class Descriptor:
    """An open file, directory or stream; this base refuses everything.

    Used by the guest's thread only; what descriptors share (host descriptors, nodes in memory) has locks of its own.

    Attributes:
        base: rights of this descriptor; a guest may drop some.
        inheriting: rights of descriptors opened through it; a guest may drop some.
        flags: ``FdFlags`` as the guest last set them.
        perms: permissions of the mount it was opened in.
        guest: the path it was opened by, from the root; ``None`` for what has no path.
    """

    __slots__ = ("base", "flags", "guest", "inheriting", "perms")

    filetype: ClassVar[FileType] = FileType.UNKNOWN

    def __init__(self, grant: Grant) -> None:
        self.base, self.inheriting, self.flags, self.perms, self.guest = grant

    def grant(self) -> Grant:
        """Return what this descriptor may do now, for a dup of it."""
        return Grant(self.base, self.inheriting, self.flags, self.perms, self.guest)

    def stat(self) -> Stat:
        """Return the ``Stat`` of what is open."""
        raise WasiError(Errno.BADF)

    def read(self, views: Sequence[memoryview]) -> int:
        """Fill the views from the current offset; return how many bytes, 0 at the end."""
        raise WasiError(Errno.BADF)

    def write(self, views: Sequence[memoryview]) -> int:
        """Take the views' bytes at the current offset, or the end when appending; return how many."""
        raise WasiError(Errno.BADF)

    def pread(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill the views from ``offset``; return how many bytes."""
        raise WasiError(Errno.BADF)

    def pwrite(self, views: Sequence[memoryview], offset: int) -> int:
        """Take the views' bytes at ``offset``; return how many."""
        raise WasiError(Errno.BADF)

    def seek(self, delta: int, whence: int) -> int:
        """Move the offset and return it."""
        raise WasiError(Errno.BADF)

    def set_flags(self, flags: int) -> None:
        """Change ``FdFlags``."""
        self.flags = flags

    def set_size(self, size: int) -> None:
        """Cut or extend to ``size`` bytes."""
        raise WasiError(Errno.INVAL)

    def allocate(self, offset: int, n: int) -> None:
        """Extend the file to ``offset + n`` bytes unless it is as long."""
        raise WasiError(Errno.BADF)

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        """Set time stamps (ns); ``None`` keeps one."""
        raise WasiError(Errno.BADF)

    def sync(self, data_only: bool) -> None:
        """Make written bytes durable, where that means something."""

    def fork(self, volumes: Callable[[Volume], Volume]) -> Descriptor | None:
        """Return a dup for a forked guest, ``None`` to leave it closed there; ``volumes`` maps volumes to forks."""
        return None

    def close(self) -> None:
        """Release what the descriptor holds; called once."""


class Volume(ABC):
    """A tree of files from one source.

    Every operation raises ``WasiError``, or a host's ``OSError``, when it is refused. The base class is a volume in
    which nothing can be changed. A *token* stands for an open directory of the volume; ``None`` is its root.

    Attributes:
        is_on_disk: new entries take room on a disk of the host's.
    """

    is_on_disk: ClassVar[bool] = False

    @abstractmethod
    def canonical(self, path: VolumePath, follow: bool, covered: AbstractSet[Names], prefix: Names) -> Names:
        """Return the path's components from the start, free of links and ``..``; the last need not exist.

        Raises:
            Crossing: when the path leads to one of ``covered``, which like ``prefix`` (the start) is from the root.
        """

    @abstractmethod
    def open(self, path: VolumePath, request: OpenRequest, grant: Grant, usage: FileUsage) -> Descriptor | Any:
        """Open a file and return its descriptor, complete; or a directory and return its token."""

    @abstractmethod
    def stat(self, path: VolumePath, follow: bool) -> Stat:
        """Return the ``Stat`` of what the path leads to."""

    @abstractmethod
    def stat_dir(self, token: Any) -> Stat:
        """Return the ``Stat`` of an open directory."""

    @abstractmethod
    def list(self, token: Any, limit: int) -> Iterator[tuple[bytes, int, FileType]]:
        """Yield ``(name, ino, type)`` of each entry of an open directory, without ``.`` and ``..``.

        To be exhausted, or dropped, at once: a lock or a host directory is held meanwhile. ``OVERFLOW`` past ``limit``.
        """

    @abstractmethod
    def readlink(self, path: VolumePath) -> bytes:
        """Return a symbolic link's target."""

    def mkdir(self, path: VolumePath) -> None:
        """Create a directory."""
        raise WasiError(Errno.ROFS)

    def rmdir(self, path: VolumePath) -> None:
        """Remove an empty directory."""
        raise WasiError(Errno.ROFS)

    def unlink(self, path: VolumePath) -> None:
        """Remove anything but a directory."""
        raise WasiError(Errno.ROFS)

    def symlink(self, path: VolumePath, target: bytes) -> None:
        """Create a symbolic link; ``PERM`` for a target that leads above the root from there."""
        raise WasiError(Errno.ROFS)

    def link(self, old: VolumePath, new: VolumePath, follow: bool) -> None:
        """Give a file another name."""
        raise WasiError(Errno.ROFS)

    def rename(self, old: VolumePath, new: VolumePath) -> None:
        """Move within the volume, replacing what may be replaced."""
        raise WasiError(Errno.ROFS)

    def set_times(self, path: VolumePath, follow: bool, atim: int | None, mtim: int | None, perms: Permissions) -> None:
        """Set time stamps (ns); ``None`` keeps one. Files need ``file_write``, directories ``dir_write``."""
        raise perms.write_refusal

    def set_dir_times(self, token: Any, atim: int | None, mtim: int | None) -> None:
        """Set time stamps of an open directory."""
        raise WasiError(Errno.ROFS)

    def sync_dir(self, token: Any) -> None:
        """Make an open directory's entries durable, where that means something."""

    def fork(self, usage: FileUsage) -> Volume:
        """Return the volume for a forked guest when its state is private."""
        return self

    def charge_to(self, usage: FileUsage) -> None:
        """Charge private state to a guest's budget; called once, before the volume is used."""

    def dup_token(self, token: Any, volume: Volume) -> Any:
        """Return a second token for an open directory, in ``volume``: this one or a fork of it."""
        return token

    def release(self, token: Any) -> None:
        """Give an open directory's token back."""

    def close(self) -> None:
        """Release host resources; open descriptors keep theirs."""
