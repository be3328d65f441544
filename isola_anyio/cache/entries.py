"""Entries: the files of one cache directory, found, checked and replaced."""

from __future__ import annotations

__all__ = [
    "DEFAULT_CACHE_DIR",
    "Cache",
    "CacheDir",
    "CacheKind",
    "DefaultCacheDir",
    "cache_directory",
    "entry_key",
    "open_cache",
]

import contextlib
import enum
import hashlib
import os
import re
import shutil
import tempfile
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, Self, get_args

import platformdirs
from filelock import FileLock

from isola_anyio.cache.digests import OnBytes, Record, hash_file, read_record, stamp
from isola_anyio.cache.locks import BuildLock, Scratch, sweep
from isola_anyio.cache.private import (
    NOFOLLOW,
    claim_directory,
    is_private_directory,
    is_private_file,
    open_private,
    path_argument,
    refuse_foreign_links,
    remove,
)
from isola_anyio.errors import InvalidArgumentError, clip

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

CacheKind = Literal["runtimes", "code", "images"]
"""What an entry is: a file of a runtime, native code, the memory image of a template."""

KINDS: Final[tuple[CacheKind, ...]] = get_args(CacheKind)
COMMIT_WAIT_S: Final = 5.0  # a guess; the lock is held for a few system calls
KEY_PATTERN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
SUFFIX_PATTERN: Final = re.compile(r"(\.[A-Za-z0-9_-]+)*")


class DefaultCacheDir(enum.Enum):
    """The type of ``DEFAULT_CACHE_DIR``."""

    DEFAULT = "<default>"

    def __repr__(self) -> str:
        return self.value


DEFAULT_CACHE_DIR: Final = DefaultCacheDir.DEFAULT
"""``$XDG_CACHE_HOME/isola-anyio`` or ``~/.cache/isola-anyio``, or the platform's own place for caches."""

CacheDir = str | os.PathLike[str] | DefaultCacheDir | None
"""A directory, the default one, or None for one that is gone when the cache is closed."""


def cache_directory(cache_dir: object) -> Path | None:
    """Return the absolute path that ``cache_dir=`` names, ``None`` for ``None``. Nothing is made or looked at.

    Raises:
        InvalidArgumentError: it is no path, or the default one and this user has no home directory.
    """
    if cache_dir is None:
        return None
    if isinstance(cache_dir, DefaultCacheDir):
        default = platformdirs.user_cache_path("isola-anyio", appauthor=False)
        if default.parts[0] == "~":
            raise InvalidArgumentError(
                "cache_dir: this user has no home directory for the default one; give a directory"
            )
        return default.absolute()
    return path_argument("cache_dir", cache_dir, "a directory's path or None")


def open_cache(cache_dir: CacheDir = DEFAULT_CACHE_DIR) -> Cache:
    """Open the cache at ``cache_dir``, making what is missing of it and sweeping what dead processes left.

    A directory of ours that others may use is tightened. None gives a private temporary directory, which
    ``Cache.close`` removes.

    Raises:
        InvalidArgumentError: ``cache_dir`` has a wrong type, cannot be made, belongs to another user or is reached
            through a symbolic link of another user's.
    """
    root = cache_directory(cache_dir)
    try:
        if root is None:
            cache = Cache(Path(tempfile.mkdtemp(prefix="isola-anyio-")), temporary=True)
        else:
            refuse_foreign_links(root)
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            claim_directory(root, dedicated={entry.name for entry in root.iterdir()} <= set(KINDS))
            cache = Cache(root, temporary=False)
        for kind in KINDS:
            refuse_foreign_links(cache.root / kind)
            (cache.root / kind).mkdir(mode=0o700, exist_ok=True)
            claim_directory(cache.root / kind, dedicated=True)
    except OSError as exc:
        raise InvalidArgumentError(
            f"cache_dir {clip(cache_dir if root is None else os.fspath(root))} cannot be used: {exc}; "
            "give a directory that can be made and written, or cache_dir=None to keep nothing"
        ) from exc
    cache.sweep()
    return cache


class Cache:
    """Entries of one cache directory. Every method may be called from any thread; those that hash or write block."""

    def __init__(self, root: Path, *, temporary: bool) -> None:
        self.root = root
        self.temporary = temporary
        self._close_is_due = temporary
        self._finalizer = weakref.finalize(self, _remove_tree_of, os.getpid(), root) if temporary else None

    def __repr__(self) -> str:
        return f"<Cache {os.fspath(self.root)!r}{' (temporary)' if self.temporary else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_close_is_due", False):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    def close(self) -> None:
        """Remove the directory if it is a temporary one. A second close does nothing."""
        self._close_is_due = False
        if self._finalizer is not None:
            self._finalizer()

    @property
    def closed(self) -> bool:
        """Whether it was a temporary cache, and is gone."""
        return self._finalizer is not None and not self._finalizer.alive

    def leave_to_collector(self) -> None:
        """Let a temporary directory go with the last reference to this object, without a ``ResourceWarning``."""
        self._close_is_due = False

    def path(self, kind: CacheKind, key: str, suffix: str = "") -> Path:
        """Return where the entry is or would be. A key may hold one ``/``, which makes a private subdirectory."""
        if kind not in KINDS or not KEY_PATTERN.fullmatch(key) or not SUFFIX_PATTERN.fullmatch(suffix):
            raise ValueError(f"not a cache entry's name: {kind!r}, {key!r}, {suffix!r}")
        self._check_open()
        return self.root / kind / f"{key}{suffix}"

    def lookup(
        self,
        kind: CacheKind,
        key: str,
        suffix: str = "",
        *,
        sha256: str | None = None,
        verify: bool = False,
        on_bytes: OnBytes | None = None,
    ) -> Path | None:
        """Return the entry's path if it is whole and ours, else remove it and return None.

        With ``sha256`` it must also have that digest. The file is hashed when its stamp proves nothing, or always with
        ``verify``; what is read from the path afterwards is what was checked, as only our user can write there.
        """
        path = self.path(kind, key, suffix)
        for _ in range(2):  # again when a builder replaced the entry while it was looked at
            record = read_record(_record_of(path))
            found = None
            try:
                found = path.lstat()
                sound = is_private_file(found) and self._is_sound_parent(kind, path.parent)
                if sound and record is not None and sha256 in (None, record.sha256) and found.st_size == record.size:
                    if not verify and record.covers(found):
                        return path
                    fresh = hash_file(path, on_bytes)
                    if fresh.sha256 == record.sha256:
                        self._refresh(kind, path, fresh)
                        return path
            except FileNotFoundError:
                return None
            except OSError:
                pass  # unreadable, or changed while it was hashed: as doubtful as a wrong digest
            if self._discard_unchanged(kind, path, found, record):
                return None
        return None

    def read_verified(self, kind: CacheKind, key: str, suffix: str = "") -> bytes | None:
        """Return the entry's bytes after checking that very copy's digest; None, and no entry, when in doubt."""
        path = self.path(kind, key, suffix)
        record = read_record(_record_of(path))
        try:
            found = path.lstat()
            if record is not None and is_private_file(found) and found.st_size == record.size:
                with open_private(path) as file:
                    content = file.read()
                if hashlib.sha256(content).hexdigest() == record.sha256:
                    return content
        except OSError:
            return None
        self._discard_unchanged(kind, path, found, record)
        return None

    def store_file(
        self,
        kind: CacheKind,
        key: str,
        suffix: str,
        writer: Callable[[BinaryIO], object],
        *,
        sha256: str | None = None,
    ) -> Path:
        """Make or replace an entry with what ``writer`` puts into the file it is given, and return its path.

        Nothing is seen of the entry before ``writer`` has returned and the file is synced; if it raises, nothing is
        left. Give ``sha256`` when ``writer`` itself makes sure of it, to save reading the file again.

        Raises:
            OSError: the file could not be written, with the system's reason (``ENOSPC`` and so on).
        """
        target = self.path(kind, key, suffix)
        if target.parent != self.root / kind:
            if os.path.lexists(target.parent) and not self._is_sound_parent(kind, target.parent):
                remove(target.parent)
            target.parent.mkdir(mode=0o700, exist_ok=True)
        with Scratch(self.root / kind) as scratch:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | NOFOLLOW
            with os.fdopen(os.open(scratch.path, flags, 0o600), "w+b") as file:
                writer(file)
                file.flush()
                if not self.temporary:
                    os.fsync(file.fileno())
            if sha256 is None:
                sha256 = hash_file(scratch.path).sha256
            with self._committing(kind):
                if target.is_dir() and not target.is_symlink():
                    remove(target)
                scratch.path.replace(target)
                self._write_record(_record_of(target), Record.of(sha256, target.lstat()))
        return target

    def discard(self, kind: CacheKind, key: str, suffix: str = "") -> None:
        """Remove an entry, and its subdirectory if that is now empty; an entry that is not there is no error."""
        path = self.path(kind, key, suffix)
        with contextlib.suppress(OSError), self._committing(kind):
            remove(path)
            remove(_record_of(path))
            if path.parent != self.root / kind:
                path.parent.rmdir()

    def scratch(self, kind: CacheKind) -> Scratch:
        """Return a new private directory beside the entries of ``kind``; closing it removes it."""
        self._check_open()
        scratch = Scratch(self.root / kind)
        try:
            scratch.path.mkdir(mode=0o700)
        except BaseException:
            scratch.close()
            raise
        return scratch

    def digest_of(self, path: Path, on_bytes: OnBytes | None = None) -> str:
        """Return the SHA-256 of a file that is not the cache's, hashing it only if it changed since it was last asked.

        Raises:
            OSError: the file cannot be read.
        """
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        seen = self.root / "runtimes" / f".seen-{name}"
        found = path.stat()
        record = _seen_here.get(name) or read_record(seen)
        if record is None or not record.covers(found):
            record = hash_file(path, on_bytes, follow_links=True)
            if not self.closed:
                with contextlib.suppress(OSError):
                    self._write_record(seen, record)
        _seen_here[name] = record
        return record.sha256

    def building(self, kind: CacheKind, key: str) -> BuildLock:
        """Return the lock for building ``key``: ``async with cache.building("code", key)``, look up again, build.

        One holder at a time among all tasks, threads and processes; the holder must not ask for it again. Waiting for
        it can be cancelled. Entering raises ``OSError`` when the lock file cannot be made.
        """
        self.path(kind, key)  # refuses a key that is no name
        return BuildLock(self.root / kind / f".lock-{key.replace('/', '+')}")

    def sweep(self) -> None:
        """Remove temporaries whose makers are gone."""
        for kind in KINDS:
            sweep(self.root / kind)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self!r} is closed")  # going on would make its directory anew

    def _is_sound_parent(self, kind: CacheKind, parent: Path) -> bool:
        # The directory of the kind was claimed when the cache was opened, and may be a link of the user's own.
        return parent == self.root / kind or is_private_directory(parent.lstat())

    @contextlib.contextmanager
    def _committing(self, kind: CacheKind) -> Generator[None]:
        with FileLock(self.root / kind / ".commit", timeout=COMMIT_WAIT_S, mode=0o600, thread_local=False):
            yield

    def _refresh(self, kind: CacheKind, path: Path, fresh: Record) -> None:
        with contextlib.suppress(OSError), self._committing(kind):
            if fresh.fits(path.lstat()):
                self._write_record(_record_of(path), fresh)

    def _discard_unchanged(
        self, kind: CacheKind, path: Path, found: os.stat_result | None, record: Record | None
    ) -> bool:
        """Remove a doubtful entry; False when it is no longer the one that was looked at."""
        with contextlib.suppress(OSError), self._committing(kind):
            if found is not None and (stamp(path.lstat()) != stamp(found) or read_record(_record_of(path)) != record):
                return False
            remove(path)
            remove(_record_of(path))
        return True

    def _write_record(self, target: Path, record: Record) -> None:
        # Not synced: a record that a crash loses or tears is a miss.
        with Scratch(self.root / target.relative_to(self.root).parts[0]) as scratch:
            with os.fdopen(os.open(scratch.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW, 0o600), "wb") as file:
                file.write(record.to_bytes())
            scratch.path.replace(target)


_seen_here: Final[dict[str, Record]] = {}
"""What ``Cache.digest_of`` found in this process: a temporary cache has nothing else to remember it by."""


def entry_key(*parts: str) -> str:
    """Name an entry after everything it depends on."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.digest")


def _remove_tree_of(pid: int, path: Path) -> None:
    if os.getpid() == pid:  # a forked child inherits the finalizer, not the directory
        shutil.rmtree(path, ignore_errors=True)
