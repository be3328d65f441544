"""Say what a source of files must be able to do, and what may be done with it.

A *volume* is a tree of files from one source: a host directory, one host file, memory, an archive. A *mount* shows a
volume at a guest path, under permissions. Paths reach a volume as plain components, confined to it: a volume follows
its own symbolic links but never lets one lead out (``PERM``).
"""

# ruff: noqa: ARG002, B027 - the base class refuses or ignores; it needs none of the arguments

from __future__ import annotations

__all__ = ["At", "Crossing", "How", "Permissions", "Volume"]

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from isola_anyio.wasi.abi import FileType, Stat
    from isola_anyio.wasi.volumes.budgets import FileUsage
    from isola_anyio.wasi.volumes.descriptors import Descriptor
    from isola_anyio.wasi.volumes.paths import Names


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a mount allows; see ``docs/files.md`` for what each of the four means for every operation."""

    dir_read: bool = True
    dir_write: bool = False
    file_read: bool = True
    file_write: bool = False

    @property
    def write_refusal(self) -> WasiError:
        """The answer to a change that is not allowed: ``ROFS`` if nothing may be changed, else ``ACCES``."""
        return WasiError(Errno.ACCES if self.dir_write or self.file_write else Errno.ROFS)


class At(NamedTuple):
    """Where in a volume: components from a directory of it.

    Attributes:
        start: the volume's own token for a directory; ``None`` is its root.
        names: components from there, possibly with ``..``.
        slash: the path ended as a directory's does.
        links: symbolic links that may still be followed.
    """

    start: Any
    names: Names
    slash: bool
    links: int


class How(NamedTuple):
    """How to open: what ``path_open`` asked, after the mount's permissions were looked up."""

    read: bool
    write: bool
    create: bool
    exclusive: bool
    truncate: bool
    directory: bool
    follow: bool
    flags: int
    perms: Permissions

    def check_file(self) -> None:
        """Raise unless the permissions let a regular file be opened this way."""
        perms = self.perms
        if self.read and not perms.file_read:
            raise WasiError(Errno.ACCES)
        if (self.write or self.truncate) and not perms.file_write:
            raise perms.write_refusal

    def check_create(self, at: At) -> None:
        """Raise unless the permissions let a new regular file be made, and its name can be one's."""
        if at.slash or self.directory:
            raise WasiError(Errno.ISDIR if at.slash else Errno.INVAL)
        if not self.perms.dir_write:
            raise self.perms.write_refusal
        self.check_file()

    def check_directory(self) -> None:
        """Raise if what was asked makes no sense for a directory that exists."""
        if self.create and self.exclusive:
            raise WasiError(Errno.EXIST)
        if self.write or self.truncate or (self.create and not self.directory):
            raise WasiError(Errno.ISDIR)


class Crossing(Exception):  # noqa: N818 - a detour, not an error
    """Resolution came upon a directory that another mount covers.

    Attributes:
        names: the covered path, from the volume's root.
        rest: what was still to be resolved.
    """

    def __init__(self, names: Names, rest: Names) -> None:
        super().__init__(names, rest)
        self.names = names
        self.rest = rest


class Volume(ABC):
    """A tree of files from one source.

    Every operation raises ``WasiError``, or a host's ``OSError``, when it is refused. The base class is a volume in
    which nothing can be changed.

    Attributes:
        is_on_disk: what is made in it takes room on a disk of the host's.
    """

    is_on_disk: ClassVar[bool] = False

    @abstractmethod
    def canonical(self, at: At, follow: bool, covered: AbstractSet[Names], prefix: Names) -> Names:
        """Return the path's components from the start, free of links and ``..``; the last need not exist.

        Raises:
            Crossing: when the way leads to one of ``covered``, which like ``prefix`` (the start) is from the root.
        """

    @abstractmethod
    def open(self, at: At, how: How, usage: FileUsage) -> Descriptor | Any:
        """Open a file and return its descriptor, or a directory and return its token."""

    @abstractmethod
    def stat(self, at: At, follow: bool) -> Stat:
        """Tell about what is there."""

    @abstractmethod
    def stat_dir(self, start: Any) -> Stat:
        """Tell about an open directory."""

    @abstractmethod
    def list(self, start: Any, limit: int) -> Iterator[tuple[bytes, int, FileType]]:
        """Yield ``(name, ino, type)`` of each entry of an open directory, without ``.`` and ``..``.

        To be used up, or let go of, at once: a lock or a host directory is held meanwhile.
        """

    @abstractmethod
    def readlink(self, at: At) -> bytes:
        """Return a symbolic link's target."""

    def mkdir(self, at: At) -> None:
        """Create a directory."""
        raise WasiError(Errno.ROFS)

    def rmdir(self, at: At) -> None:
        """Remove an empty directory."""
        raise WasiError(Errno.ROFS)

    def unlink(self, at: At) -> None:
        """Remove anything but a directory."""
        raise WasiError(Errno.ROFS)

    def symlink(self, at: At, target: bytes) -> None:
        """Create a symbolic link; ``PERM`` for a target that leads above the root from there."""
        raise WasiError(Errno.ROFS)

    def link(self, old: At, new: At, follow: bool) -> None:
        """Give a file another name."""
        raise WasiError(Errno.ROFS)

    def rename(self, old: At, new: At) -> None:
        """Move within the volume, replacing what may be replaced."""
        raise WasiError(Errno.ROFS)

    def set_times(self, at: At, follow: bool, atim: int | None, mtim: int | None, perms: Permissions) -> None:
        """Set time stamps (ns); ``None`` leaves one alone. Files need ``file_write``, directories ``dir_write``."""
        raise perms.write_refusal

    def set_dir_times(self, start: Any, atim: int | None, mtim: int | None) -> None:
        """Set time stamps of an open directory."""
        raise WasiError(Errno.ROFS)

    def sync_dir(self, start: Any) -> None:
        """Make an open directory's entries durable, where that means something."""

    def fork(self, usage: FileUsage) -> Volume:
        """Return the volume for a forked sandbox when its state is private."""
        return self

    def charge_to(self, usage: FileUsage) -> None:
        """Account for private state with its sandbox; called once, before the volume is used."""

    def twin(self, start: Any, other: Volume) -> Any:
        """Return an open directory's token for a second descriptor, in this volume or a fork of it."""
        return start

    def release(self, start: Any) -> None:
        """Give an open directory's token back."""

    def close(self) -> None:
        """Release host resources; descriptors still open keep theirs."""
