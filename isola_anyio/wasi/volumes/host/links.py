"""Keep the symbolic links that a guest makes in a host directory from leading out of it.

The guest could not follow one that does, but programs of the host could. What holds it is one thing: no link's target
goes up by more directories than its own is below the mount's. Going up comes first in a target that a guest may make,
so wherever its names lead, through links too, they start from within. It has to hold again whenever a link, or a
directory that has links in it, is moved nearer to the top.

All this looks at one moment; two sandboxes that change the same directory at once may slip through between two looks.
"""

from __future__ import annotations

__all__ = ["check_moved", "check_target"]

import os
import stat
from typing import TYPE_CHECKING, Final

from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.host.resolver import DIR_FLAGS, FILE_FLAGS
from isola_anyio.wasi.volumes.paths import levels_up

if TYPE_CHECKING:
    from isola_anyio.wasi.volumes.host.resolver import Resolver
    from isola_anyio.wasi.volumes.paths import Names

LOOKED_AT_MAX: Final = 65_536
"""Entries of a directory, and names on the way to them, that are looked at before it is moved up; a guess: a tenth of a
second."""

_LIST_FLAGS: Final[int] = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | FILE_FLAGS


def check_target(root_fd: int, dir_fd: int, target: bytes) -> None:
    """Raise ``PERM`` unless a link to ``target`` may be in a directory at or below the root.

    How deep the directory is the path to it does not tell, which may lead through links: it is gone up from.
    """
    levels = levels_up(target)
    if levels and levels > _depth(root_fd, dir_fd):
        raise WasiError(Errno.PERM)


def check_moved(root_fd: int, from_fd: int, name: bytes, to_fd: int, resolver: Resolver) -> None:
    """Raise ``PERM`` if a link would lead out once this entry is in the directory ``to_fd``.

    Raises:
        WasiError: ``XDEV`` for a directory with too much in it to look at, upon which programs copy.
    """
    mode = os.stat(name, dir_fd=from_fd, follow_symlinks=False).st_mode
    if not (stat.S_ISLNK(mode) or stat.S_ISDIR(mode)) or os.path.samestat(os.fstat(from_fd), os.fstat(to_fd)):
        return
    depth = _depth(root_fd, to_fd)
    if depth >= _depth(root_fd, from_fd):
        return
    if stat.S_ISLNK(mode):
        _check_kept(from_fd, name, depth)
        return
    left = LOOKED_AT_MAX
    todo: list[Names] = [(name,)]
    while todo:
        names = todo.pop()
        left -= len(names) - 1  # each is looked up from the top again
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
                    left -= 1
                    if left < 0:
                        raise WasiError(Errno.XDEV)
                    inner = os.fsencode(entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        todo.append((*names, inner))
                    elif entry.is_symlink():
                        _check_kept(fd, inner, depth + len(names))
        finally:
            os.close(fd)


def _check_kept(dir_fd: int, name: bytes, depth: int) -> None:
    """Refuse to have a link in a directory so deep; one that is absolute, which is the host's own, leads out anyway."""
    target = os.readlink(name, dir_fd=dir_fd)
    if not target.startswith(b"/") and target.split(b"/").count(b"..") > depth:
        raise WasiError(Errno.PERM)


def _depth(root_fd: int, dir_fd: int) -> int:
    """Return how many directories an open one is below the root; ``PERM`` if it is not."""
    root = os.fstat(root_fd)
    at = os.dup(dir_fd)
    try:
        depth = 0
        here = os.fstat(at)
        while not os.path.samestat(here, root):
            above = os.open("..", DIR_FLAGS, dir_fd=at)
            os.close(at)
            at = above
            below, here = here, os.fstat(at)
            if os.path.samestat(below, here):  # the host's own root
                raise WasiError(Errno.PERM)
            depth += 1
        return depth
    finally:
        os.close(at)
