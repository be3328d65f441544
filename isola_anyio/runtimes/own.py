"""Own runtimes: a module that the caller unpacked or built, and its library.

They are the caller's: nothing is compared with a pin, and only the exports that the host calls must be there.
"""

from __future__ import annotations

__all__ = ["Own", "find_own"]

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isola_anyio.errors import RuntimeUnavailableError, clip
from isola_anyio.runtimes.wasm import MalformedModuleError, export_names, has_start_function

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio.cache import Cache
    from isola_anyio.runtimes.pins import Pin, PinnedFile
    from isola_anyio.runtimes.worker import Meter


@dataclass(frozen=True)
class Own:
    """The caller's files; ``lib_sha256`` is None when there is no library, which only JavaScript can do without."""

    path: Path
    lib_dir: Path
    sha256: str
    lib_sha256: str | None


def find_own(pin: Pin, cache: Cache, given: Path, lib_dir: Path | None, meter: Meter) -> Own:
    """Find the module at or below ``given``, and the library in ``lib_dir`` or beside the module.

    Raises:
        RuntimeUnavailableError: a file is missing or unreadable, or the module lacks an export or starts itself.
    """
    try:
        path = _find_module(pin, given)
        library = _find_library(pin, lib_dir or path.parent, optional=pin.runtime != "python" and lib_dir is None)
        files = (path,) if library is None else (path, library)
        meter.begin("verify", sum(file.stat().st_size for file in files))
        sha256 = cache.digest_of(path, meter.advance)
        lib_sha256 = None if library is None else cache.digest_of(library, meter.advance)
    except OSError as exc:
        raise RuntimeUnavailableError(
            f"the {pin.runtime} runtime at {clip(os.fspath(given))} is unreadable: {exc}"
        ) from exc
    meter.finish()
    return Own(path, path.parent if library is None else library.parent, sha256, lib_sha256)


def _find_module(pin: Pin, given: Path) -> Path:
    path = _locate(given, pin.main) if given.is_dir() else given
    if path is None or not path.is_file():
        raise RuntimeUnavailableError(
            f"runtime_path {clip(os.fspath(given))} "
            + (f"holds neither {pin.main.name} nor {pin.main.member}" if path is None else "is not a file")
            + f"; give the module of the {pin.runtime} runtime, or the directory that holds it"
        )
    try:
        exported = export_names(path)
        starts_itself = has_start_function(path)
    except MalformedModuleError as exc:
        raise RuntimeUnavailableError(f"{clip(os.fspath(path))} is no WebAssembly module: {exc}") from exc
    if missing := [name for name in pin.exports if name not in exported]:
        raise RuntimeUnavailableError(
            f"{clip(os.fspath(path))} is no {pin.runtime} runtime: it does not export {', '.join(missing)}"
        )
    # It would run whenever a sandbox is made, in the event loop and with the interpreter's lock held, where nobody can
    # interrupt it: sandboxes are made there because nothing of a guest runs until its first turn.
    if starts_itself:
        raise RuntimeUnavailableError(
            f"{clip(os.fspath(path))} has a start function, which no {pin.runtime} runtime may have; build it as a "
            "reactor, whose initialisation is an export"
        )
    return path


def _find_library(pin: Pin, directory: Path, *, optional: bool) -> Path | None:
    library = _locate(directory, pin.library)
    if library is None and not optional:
        raise RuntimeUnavailableError(
            f"{pin.library.name} is not in {clip(os.fspath(directory))}; "
            "give the directory that holds it as runtime_lib_dir"
        )
    return library


def _locate(directory: Path, file: PinnedFile) -> Path | None:
    """Find a file in a directory, or in an unpacked wheel of which the directory is the top."""
    return next((path for path in (directory / file.name, directory / file.member) if path.is_file()), None)
