"""Symbolic links made by guests: checks that none in a host directory leads out of it.

The guest could not follow such a link, but programs of the host could. Invariant: the target of a link goes up (``..``)
by no more directories than the link's directory is below the mount's root. In targets that guests may create ``..``
comes first, so the names after it start inside the mount, whatever links they lead through. The check is repeated when
a link, or a directory that contains links, is moved nearer to the root.

Race: the check and the change are two steps. Two sandboxes that change the same host directory at the same time can
move a link between them, so that it leads out; ``docs/files.md`` says so. No lock here could prevent it, as the host's
own programs may change the directory too.
"""

from __future__ import annotations

__all__ = ["check_moved", "check_target"]

import os
import stat
from typing import TYPE_CHECKING, Final

from isola_anyio.fairness import pause
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.host.resolver import DIR_FLAGS, FILE_FLAGS
from isola_anyio.wasi.volumes.paths import levels_up

if TYPE_CHECKING:
    from isola_anyio.wasi.volumes.host.resolver import Resolver
    from isola_anyio.wasi.volumes.paths import Names

CHECKED_ENTRIES_MAX: Final = 65_536
"""Entries of a directory, and components of their paths, checked before it is moved up; a guess: 0.1 s."""

_LIST_FLAGS: Final[int] = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | FILE_FLAGS


def check_target(root_fd: int, dir_fd: int, target: bytes) -> None:
    """Raise ``PERM`` unless a link to ``target`` may be in a directory at or below the root.

    The directory's depth is found by going up from it: the path that led there may have gone through links.
    """
    levels = levels_up(target)
    if levels and levels > _depth(root_fd, dir_fd):
        raise WasiError(Errno.PERM)


def check_moved(root_fd: int, from_fd: int, name: bytes, to_fd: int, resolver: Resolver) -> None:
    """Raise ``PERM`` if a link would lead out once this entry is in the directory ``to_fd``.

    Raises:
        WasiError: ``XDEV`` for a directory with too many entries to check, upon which programs copy instead.
    """
    mode = os.stat(name, dir_fd=from_fd, follow_symlinks=False).st_mode
    if not (stat.S_ISLNK(mode) or stat.S_ISDIR(mode)) or os.path.samestat(os.fstat(from_fd), os.fstat(to_fd)):
        return
    depth = _depth(root_fd, to_fd)
    if depth >= _depth(root_fd, from_fd):
        return
    if stat.S_ISLNK(mode):
        _check_link(from_fd, name, depth)
        return
    left = CHECKED_ENTRIES_MAX
    todo: list[Names] = [(name,)]
    while todo:
        names = todo.pop()
        left -= len(names) - 1  # each component is looked up again
        if left < 0:
            raise WasiError(Errno.XDEV)
        pinned = resolver.parent(from_fd, (*names, b"."), 0)
        try:
            fd = os.open(".", _LIST_FLAGS, dir_fd=pinned)
        finally:
            os.close(pinned)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    pause()
                    left -= 1
                    if left < 0:
                        raise WasiError(Errno.XDEV)
                    inner = os.fsencode(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        todo.append((*names, inner))
                    elif entry.is_symlink():
                        _check_link(fd, inner, depth + len(names))
        finally:
            os.close(fd)


def _check_link(dir_fd: int, name: bytes, depth: int) -> None:
    """Raise ``PERM`` if a link would lead out of the mount from a directory ``depth`` below its root.

    An absolute one cannot be a guest's, and leads out wherever it is.
    """
    target = os.readlink(name, dir_fd=dir_fd)
    if not target.startswith(b"/") and target.split(b"/").count(b"..") > depth:
        raise WasiError(Errno.PERM)


def _depth(root_fd: int, dir_fd: int) -> int:
    """Return how many directories an open one is below the root; ``PERM`` if it is not."""
    root = os.fstat(root_fd)
    fd = os.dup(dir_fd)
    try:
        depth = 0
        here = os.fstat(fd)
        while not os.path.samestat(here, root):
            parent = os.open("..", DIR_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = parent
            below, here = here, os.fstat(fd)
            if os.path.samestat(below, here):  # the host's own root
                raise WasiError(Errno.PERM)
            depth += 1
        return depth
    finally:
        os.close(fd)
