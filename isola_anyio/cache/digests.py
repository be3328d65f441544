"""Digests: what a file's SHA-256 was, and whether the file can have changed since."""

from __future__ import annotations

__all__ = ["CHUNK_BYTES", "OnBytes", "Record", "hash_file", "read_record", "stamp"]

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Self

from isola_anyio.cache.private import is_private_file, open_private

if TYPE_CHECKING:
    from pathlib import Path

OnBytes = Callable[[int], None]
"""Called in the hashing thread with the size of each chunk; raising from it stops the hashing."""

CHUNK_BYTES: Final = 1 << 20
SETTLE_NS: Final = 2_000_000_000  # the coarsest timestamps in use, FAT's
NEVER: Final = 0


@dataclass(frozen=True)
class Record:
    """A digest, and the stamp of the file it was true of.

    ``checked_ns`` is the wall clock when hashing began, or 0 when the digest was not taken from that file on disk.
    """

    sha256: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    checked_ns: int

    @classmethod
    def of(cls, sha256: str, found: os.stat_result, *, checked_ns: int = NEVER) -> Self:
        """Make a record of the file that ``found`` describes."""
        return cls(sha256, *stamp(found), checked_ns)

    def fits(self, found: os.stat_result) -> bool:
        """Whether this is a record of that very state of that very file."""
        return (self.device, self.inode, self.size, self.mtime_ns, self.ctime_ns) == stamp(found)

    def covers(self, found: os.stat_result) -> bool:
        """Whether the file is unchanged since the digest was true, with no room for a change in the same tick."""
        return self.fits(found) and self.checked_ns - max(self.mtime_ns, self.ctime_ns) > SETTLE_NS

    def to_bytes(self) -> bytes:
        """Return the record as ``read_record`` reads it."""
        return json.dumps(asdict(self)).encode()


def stamp(found: os.stat_result) -> tuple[int, int, int, int, int]:
    """Return what a change of the file's content cannot leave as it was."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def hash_file(path: Path, on_bytes: OnBytes | None = None, *, follow_links: bool = False) -> Record:
    """Hash a file.

    Raises:
        OSError: it cannot be read, or changed meanwhile.
    """
    checked_ns = time.time_ns()
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) if follow_links else open_private(path) as file:
        before = os.fstat(file.fileno())
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
        if stamp(os.fstat(file.fileno())) != stamp(before):
            raise OSError(errno.EAGAIN, "changed while it was read", os.fspath(path))
    return Record.of(digest.hexdigest(), before, checked_ns=checked_ns)


def read_record(path: Path) -> Record | None:
    """Read a record; None for one that is missing, damaged or not ours."""
    try:
        if not is_private_file(path.lstat()):
            return None
        record = Record(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    # Annotations promise nothing about what a file held.
    fields: dict[str, object] = asdict(record)
    sound = isinstance(fields.pop("sha256"), str) and all(type(number) is int for number in fields.values())
    return record if sound else None
