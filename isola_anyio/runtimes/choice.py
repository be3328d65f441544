"""Runtime choice: which runtime a caller asked for, with every argument checked before any file is looked at.

Pure: neither a loop nor the disk is asked.
"""

from __future__ import annotations

__all__ = ["RuntimeChoice", "choose_runtime"]

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from isola_anyio.cache.private import path_argument
from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.kinds import text_of
from isola_anyio.runtimes.pins import PINS, pick

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from isola_anyio.runtimes.pins import Pin, Pins

SHA256_PATTERN: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """A checked request for a runtime.

    Attributes:
        pin: the release asked for; of the caller's own files, the release whose shape they have.
        version: the version that the caller named, ``None`` for the default.
        releases: every pinned release of this runtime, by version.
        path: the caller's own module, or the directory that holds it; ``None``: the pinned release is used.
        lib_dir: the directory of the own module's library; ``None``: beside the module.
        sha256: what the module's digest must be, in lower case, besides what the pin says; ``None``: no more.
    """

    pin: Pin
    version: str | None
    releases: Mapping[str, Pin]
    path: Path | None = None
    lib_dir: Path | None = None
    sha256: str | None = None


def choose_runtime(
    runtime: object,
    *,
    version: object = None,
    runtime_path: object = None,
    runtime_lib_dir: object = None,
    runtime_digest: object = None,
    pins: Pins = PINS,
) -> RuntimeChoice:
    """Check what a caller asks for.

    Raises:
        InvalidArgumentError: there is no such runtime or version, a path or digest is none, or ``runtime_lib_dir`` is
            given without a ``runtime_path``.
    """
    pin = pick(runtime, version, pins)
    sha256 = _digest_argument(runtime_digest)
    path = lib_dir = None
    if runtime_path is not None:
        path = path_argument("runtime_path", runtime_path, "the path of a module or of a directory that holds it")
    if runtime_lib_dir is not None:
        if path is None:
            raise InvalidArgumentError(
                f"runtime_lib_dir {clip(runtime_lib_dir)} goes with a runtime_path; give both, or neither"
            )
        expected = f"the path of the directory that holds {pin.library.name}"
        lib_dir = path_argument("runtime_lib_dir", runtime_lib_dir, expected)
    named = None if version is None else pin.version
    return RuntimeChoice(pin, named, pins[pin.runtime], path, lib_dir, sha256)


def _digest_argument(value: object) -> str | None:
    if value is None:
        return None
    text = text_of(value) or ""
    if not SHA256_PATTERN.fullmatch(text):
        raise InvalidArgumentError(f"runtime_digest must be a SHA-256 in 64 hex digits, not {clip(value)}")
    return text.lower()
