"""Locks: one builder at a time for each entry, and temporary names whose holders can be known to be gone.

Both are file locks, which all tasks, threads and processes that use the same cache respect, and which the kernel
releases when a process ends, however it ends.
"""

from __future__ import annotations

__all__ = ["TEMPORARY_PREFIX", "BuildLock", "Scratch", "sweep"]

import contextlib
import os
import secrets
import threading
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.lowlevel
from filelock import FileLock, Timeout

from isola_anyio.cache.private import remove

if TYPE_CHECKING:
    from pathlib import Path

TEMPORARY_PREFIX: Final = ".tmp-"
LOCK_SUFFIX: Final = ".lock"
POLL_MIN_S: Final = 0.01
POLL_MAX_S: Final = 0.1
"""How often a waiting builder tries again, from the first time to the last; guesses between latency and cost."""


class Scratch:
    """A temporary name in ``directory`` that no sweep touches as long as this process holds it.

    A lock file beside it says that its holder is alive: it is locked before the name is used and removed after it. A
    process id in the name would not do, as containers that share a cache number their processes each for itself.
    """

    def __init__(self, directory: Path) -> None:
        while True:
            self.path = directory / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            self._lock = FileLock(f"{self.path}{LOCK_SUFFIX}", mode=0o600, thread_local=False)
            with contextlib.suppress(Timeout):
                self._lock.acquire(blocking=False)
                if os.path.lexists(self._lock.lock_file):
                    return
                # A sweep removed the lock file between its creation and the locking: take another name.
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove whatever is at the name, file or directory. A second close does nothing."""
        if self._lock.is_locked:
            remove(self.path)
            self._lock.release()
            remove(_lock_of(self.path))


def sweep(directory: Path) -> None:
    """Remove the temporaries in ``directory`` whose holders are gone."""
    with contextlib.suppress(OSError):
        for found in [path for path in directory.iterdir() if path.name.startswith(TEMPORARY_PREFIX)]:
            if found.suffix == LOCK_SUFFIX:
                lock = FileLock(found, mode=0o600, thread_local=False)
                with contextlib.suppress(OSError), lock.acquire(blocking=False):
                    remove(found.with_suffix(""))
                    remove(found)
            elif not os.path.lexists(_lock_of(found)):
                remove(found)  # the lock is made before the name is used and removed after it


class BuildLock:
    """The right to build one entry, as an async context manager; see ``Cache.building``.

    Polled, because nothing that belongs to one event loop can wake a task of another, let alone another process, and
    a thread that waits in ``flock`` cannot be cancelled. The order of waiters is not kept.
    """

    def __init__(self, lock_path: Path) -> None:
        self._path = lock_path
        self._lock = FileLock(lock_path, mode=0o600, thread_local=False)

    async def __aenter__(self) -> Self:
        """Wait for the lock; when cancelled, nothing is held."""
        await anyio.lowlevel.checkpoint()
        delay_s = POLL_MIN_S
        while not self._acquire_nowait():
            await anyio.sleep(delay_s)
            delay_s = min(delay_s * 2, POLL_MAX_S)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Release the lock, without waiting for anything."""
        try:
            self._lock.release()
        finally:
            _forget(self._path)

    def _acquire_nowait(self) -> bool:
        with _locked_guard:
            if self._path in _locked_here:
                return False
            _locked_here.add(self._path)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            _forget(self._path)
            return False
        except BaseException:
            _forget(self._path)
            raise
        return True


# flock would do alone; the set spares waiters in this process the system calls.
_locked_here: Final[set[Path]] = set()
_locked_guard = threading.Lock()


def _forget(path: Path) -> None:
    with _locked_guard:
        _locked_here.discard(path)


def _forget_locks_after_fork() -> None:
    global _locked_guard  # noqa: PLW0603 - another thread may have held the old one when the process forked
    _locked_guard = threading.Lock()
    _locked_here.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks_after_fork)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}{LOCK_SUFFIX}")
