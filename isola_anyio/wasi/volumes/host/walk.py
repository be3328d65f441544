"""``WalkResolver``: paths resolved one component at a time, where the kernel cannot confine a whole path.

Every step opens one plain name in an open directory (``openat`` with ``O_NOFOLLOW``). Symbolic links are read and
resolved here, and ``..`` goes back to the directory the walk came from, which is still open.

Race: another program may replace a name between the ``stat`` that says what it is and the ``open`` or ``readlink`` that
relies on it. Those then fail, as a link is not followed and a file is no directory, and the name is looked up again, up
to ``_SWAPS`` times in a walk. So a replaced name is at worst not found; it never leads out.
"""

# ruff: noqa: D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["WalkResolver", "walk"]

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from isola_anyio.fairness import pause
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.host import resolver as resolve
from isola_anyio.wasi.volumes.host.resolver import DIR_FLAGS, FILE_FLAGS, Resolver, Target, admit
from isola_anyio.wasi.volumes.interfaces import STEPS_MAX, Crossing

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from isola_anyio.wasi.volumes.paths import Names

MAX_DEPTH: Final = 256
"""Directories held open during one walk; deeper paths are ``NAMETOOLONG``. Real trees are far less deep."""

_SWAPS: Final = 32
"""Times in one walk that a name may be replaced between a check and its use; a guess."""
_SWAPPED: Final = (errno.EINVAL, errno.ELOOP, errno.ENOTDIR)  # no link any more, now a link, no directory any more


class WalkEnd(NamedTuple):
    """Where a walk ended.

    Attributes:
        parent: descriptor of the last directory; the caller closes it.
        name: the last component, in ``parent``; empty when the path led to ``parent`` itself.
        st: ``stat`` of ``name``; ``None`` when it does not exist.
        names: the path from the start, free of links and ``..``.
    """

    parent: int
    name: bytes
    st: os.stat_result | None
    names: Names


def walk(
    dir_fd: int,
    names: Names,
    follow: bool,
    links: int,
    covered: AbstractSet[Names] = frozenset(),
    prefix: Names = (),
) -> WalkEnd:
    """Resolve names below a directory.

    Raises:
        Crossing: when the path leads to one of ``covered``, which like ``prefix`` (``dir_fd``) is from the root.
        WasiError: ``PERM`` for a path that leads out; and ``OSError`` from the host.
    """
    stack = [os.open(".", DIR_FLAGS, dir_fd=dir_fd)]
    passed: list[bytes] = []
    todo = list(reversed(names))
    swaps = _SWAPS
    steps = STEPS_MAX - len(todo)
    depths = {len(each) - len(prefix) for each in covered} if covered else None
    try:
        while todo:
            name = todo.pop()
            pause()
            if name == b"..":
                if not passed:
                    raise WasiError(Errno.PERM)
                passed.pop()
                os.close(stack.pop())
                continue
            here = stack[-1]
            if depths and len(passed) + 1 in depths and (*prefix, *passed, name) in covered:
                raise Crossing((*prefix, *passed, name), tuple(reversed(todo)))
            try:
                st = admit(os.stat(name, dir_fd=here, follow_symlinks=False))
            except FileNotFoundError:
                if todo:
                    raise
                return WalkEnd(stack.pop(), name, None, (*passed, name))
            if stat.S_ISLNK(st.st_mode) and (todo or follow):
                links -= 1
                if links < 0:
                    raise WasiError(Errno.LOOP)
                try:
                    target = os.readlink(name, dir_fd=here)
                except OSError as exc:
                    swaps -= 1
                    if exc.errno not in _SWAPPED or not swaps:
                        raise
                    todo.append(name)
                    continue
                if target.startswith(b"/"):
                    raise WasiError(Errno.PERM)
                parts = target.split(b"/")
                steps -= len(parts)
                if steps < 0:
                    raise WasiError(Errno.LOOP)
                todo.extend([part for part in reversed(parts) if part and part != b"."])
            elif not todo:
                return WalkEnd(stack.pop(), name, st, (*passed, name))
            elif not stat.S_ISDIR(st.st_mode):
                raise WasiError(Errno.NOTDIR)
            elif len(stack) >= MAX_DEPTH:
                raise WasiError(Errno.NAMETOOLONG)
            else:
                try:
                    stack.append(os.open(name, DIR_FLAGS, dir_fd=here))
                    passed.append(name)
                except OSError as exc:
                    swaps -= 1
                    if exc.errno not in _SWAPPED or not swaps:
                        raise
                    todo.append(name)
        return WalkEnd(stack.pop(), b"", None, tuple(passed))
    finally:
        for fd in stack:
            os.close(fd)


class WalkResolver(Resolver):
    """Resolves by walking; ``pins``: what is found can be held without opening it (``O_PATH``)."""

    def __init__(self, *, pins: bool | None = None) -> None:
        self._pins = resolve.HAS_PINS if pins is None else pins

    def look(self, dir_fd: int, names: Names, follow: bool, links: int) -> Target:
        end = walk(dir_fd, names, follow, links)
        parent = end.parent
        try:
            if not end.name:
                found = os.fstat(parent)
                if self._pins:
                    fd, parent = parent, -1
                    return Target(found, fd)
                held, parent = parent, -1
                return Target(found, parent=held, name=b".")
            if end.st is None:
                raise WasiError(Errno.NOENT)
            if self._pins:
                fd = os.open(end.name, resolve.O_PATH | resolve.FILE_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
                try:
                    st = admit(os.fstat(fd))
                    if stat.S_ISLNK(st.st_mode) and not stat.S_ISLNK(end.st.st_mode):
                        raise WasiError(Errno.AGAIN)
                except BaseException:
                    os.close(fd)
                    raise
                return Target(st, fd)
            held, parent = parent, -1
            return Target(end.st, parent=held, name=end.name)
        finally:
            if parent >= 0:
                os.close(parent)

    def parent(self, dir_fd: int, names: Names, links: int) -> int:
        end = walk(dir_fd, names[:-1], True, links)
        if not end.name:
            return end.parent
        try:
            if end.st is None:
                raise WasiError(Errno.NOENT)
            return os.open(end.name, DIR_FLAGS, dir_fd=end.parent)
        finally:
            os.close(end.parent)

    def create(self, dir_fd: int, names: Names, follow: bool, links: int, flags: int) -> int:
        end = walk(dir_fd, names, follow, links)
        try:
            if not end.name:
                raise WasiError(Errno.ISDIR)
            flags |= FILE_FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            return os.open(end.name, flags, 0o666, dir_fd=end.parent)
        finally:
            os.close(end.parent)
