"""Private files: paths that callers give, and which files and directories nobody but our user can have changed."""

from __future__ import annotations

__all__ = [
    "NOFOLLOW",
    "claim_directory",
    "is_private_directory",
    "is_private_file",
    "open_private",
    "path_argument",
    "refuse_foreign_links",
    "remove",
]

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO, Final, cast

from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.kinds import text_of

NOFOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Flags for every file opened in the cache."""

MAX_LINKS: Final = 40  # Linux's own limit on symbolic links in one path
ROOT_UID: Final = 0


def path_argument(name: str, value: object, expected: str) -> Path:
    """Return the absolute path that an argument gives, or raise ``InvalidArgumentError`` naming the argument."""
    try:
        given: object = os.fspath(cast("str", value))
    except Exception:  # noqa: BLE001 - of no path, a TypeError; of a stranger's, anything
        given = None
    text = text_of(given) or ""
    if not text or "\0" in text:
        raise InvalidArgumentError(f"{name} must be {expected}, not {clip(value)}")
    return Path(text).absolute()


def is_private_file(found: os.stat_result) -> bool:
    """Whether it is a regular file of ours that nobody else may write."""
    return stat.S_ISREG(found.st_mode) and _is_ours(found) and not _others_may_write(found)


def is_private_directory(found: os.stat_result) -> bool:
    """Whether it is a directory of ours that nobody else may write."""
    return stat.S_ISDIR(found.st_mode) and _is_ours(found) and not _others_may_write(found)


def open_private(path: Path) -> BinaryIO:
    """Open for reading, without buffering and without following a symbolic link at the end of ``path``."""
    return os.fdopen(os.open(path, os.O_RDONLY | NOFOLLOW), "rb", buffering=0)


def claim_directory(path: Path, *, dedicated: bool) -> None:
    """Refuse a directory that is not ours; take from others what they may do in it.

    One that holds other things than a cache (not ``dedicated``) loses no more than its write bits, and a sticky one
    (as ``/tmp`` is to root) is refused: tightening it would break other programs.
    """
    found = path.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
    if not _is_ours(found):
        raise InvalidArgumentError(
            f"cache_dir: {clip(os.fspath(path))} belongs to user id {found.st_uid}, not to us ({os.geteuid()}); native "
            "code is loaded from there, so give a directory of your own, or cache_dir=None to keep nothing"
        )
    if os.name != "posix" or not found.st_mode & 0o077:
        return
    if _others_may_write(found) and found.st_mode & stat.S_ISVTX:
        raise InvalidArgumentError(
            f"cache_dir: {clip(os.fspath(path))} is shared with other users; "
            f"give a directory below it, such as {clip(os.fspath(path / 'isola-anyio'))}"
        )
    path.chmod(0o700 if dedicated else stat.S_IMODE(found.st_mode) & ~0o022)


def refuse_foreign_links(path: Path) -> None:
    """Refuse an absolute path that another user could lead elsewhere: each link in it must be ours or root's."""
    if not hasattr(os, "geteuid"):
        return
    trusted = {ROOT_UID, os.geteuid()}
    done, todo, links = Path(path.anchor), list(reversed(path.parts[1:])), 0
    while todo:
        name = todo.pop()
        if name == "..":
            done = done.parent
            continue
        step = done / name
        try:
            found = step.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISLNK(found.st_mode):
            done = step
            continue
        if found.st_uid not in trusted:
            raise InvalidArgumentError(
                f"cache_dir {clip(os.fspath(path))} is reached through {clip(os.fspath(step))}, a symbolic link of "
                f"user id {found.st_uid}; give the directory itself, or one of your own"
            )
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
        target = step.readlink()
        if target.is_absolute():
            done = Path(target.anchor)
        todo.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))


def remove(path: Path) -> None:
    """Remove a file, link or whole directory, as far as that is possible."""
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _is_ours(found: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


def _others_may_write(found: os.stat_result) -> bool:
    return os.name == "posix" and bool(found.st_mode & 0o022)
