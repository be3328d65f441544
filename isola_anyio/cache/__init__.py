"""Cache: files that are expensive to make, in one private directory, trusted only while that is warranted.

Layout: ``runtimes/``, ``code/`` and ``images/`` below the cache directory, each 0700 and ours. An entry is the file
``<kind>/<key><suffix>`` with a record ``<file>.digest`` beside it (SHA-256, and the file's stamp when that digest was
last seen to be true). Names that begin with a dot are the cache's own: locks, temporaries, digests of others' files.

What is defended against, and how:

* Another user: the directories are 0700 and owned by us, entries are regular files of ours that nobody else may write,
  and no symbolic link is followed. Whoever can act as our user can also change this library; nothing here stops that.
* A crash, a full disk, two writers: entries appear by ``rename`` of a complete, synced file. The rename and the record
  are one step to everybody else, under a commit lock held for a few system calls.
* Truncation and changed bytes: any write moves size, mtime or ctime, so the stamp no longer fits and the file is hashed
  again. A stamp taken within two seconds of the file's last change proves nothing (clocks tick coarsely; git calls such
  entries racily clean), so it is not believed either. ``verify=True`` hashes always, which also finds rotten media.

Any doubt is a miss: the entry is removed and ``lookup`` gives None.
"""

from __future__ import annotations

__all__ = [
    "DEFAULT_CACHE_DIR",
    "BuildLock",
    "Cache",
    "CacheDir",
    "CacheKind",
    "DefaultCacheDir",
    "Scratch",
    "SharedTemporaryCache",
    "cache_directory",
    "entry_key",
    "open_cache",
]

from isola_anyio.cache.entries import (
    DEFAULT_CACHE_DIR,
    Cache,
    CacheDir,
    CacheKind,
    DefaultCacheDir,
    cache_directory,
    entry_key,
    open_cache,
)
from isola_anyio.cache.locks import BuildLock, Scratch
from isola_anyio.cache.shared import SharedTemporaryCache
