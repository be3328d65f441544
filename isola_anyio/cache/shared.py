"""Shared temporary cache: one directory for all holders, removed with the last of them.

For templates that are to leave nothing behind. They share a directory so that each runtime is compiled once; a
directory of each template's own would cost a minute of compiling for every one.
"""

from __future__ import annotations

__all__ = ["SharedTemporaryCache"]

import threading
from typing import TYPE_CHECKING

from isola_anyio.cache.entries import open_cache

if TYPE_CHECKING:
    from isola_anyio.cache.entries import Cache


class SharedTemporaryCache:
    """A reference count and the temporary cache it counts. Every method may be called from any thread.

    Whoever holds gets the cache, and gives it back with :meth:`release`, once. The directory is made for the first
    holder and removed after the last; the next holder gets a new one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # for both fields
        self._cache: Cache | None = None
        self._holders = 0

    def hold(self) -> Cache:
        """Count another holder and return the cache, made if there is none."""
        with self._lock:
            if self._cache is None:
                self._cache, self._holders = open_cache(None), 0
                # Holders that are never closed do not release it: the directory then goes with the last reference to
                # the cache, or at exit, without a ResourceWarning about an object that users never see.
                self._cache.leave_to_collector()
            self._holders += 1
            return self._cache

    def release(self, cache: Cache) -> None:
        """Count one holder of ``cache`` less; the directory goes with the last."""
        with self._lock:
            if cache is not self._cache:  # :meth:`close` was quicker, and the count is another cache's by now
                return
            self._holders -= 1
            if self._holders:
                return
            self._cache = None
        cache.close()  # outside the lock: it removes a tree

    def close(self) -> None:
        """Remove the directory whoever holds it; what they have open of it stays readable to them."""
        with self._lock:
            cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()
