"""Doctor: whether this machine can run sandboxes, and how well. It looks, and changes nothing.

Each thing looked at is a :class:`DoctorCheck`. One that is not ok says what to do about it; ``essential`` tells a
machine that cannot run sandboxes from one that runs them with less.
"""

from __future__ import annotations

__all__ = ["DoctorCheck", "DoctorReport", "doctor"]

import importlib.metadata
import os
import platform
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from isola_anyio.building import Recipe
from isola_anyio.cache import DEFAULT_CACHE_DIR, Cache, DefaultCacheDir, cache_directory
from isola_anyio.cache.private import is_private_directory, refuse_foreign_links
from isola_anyio.engine import ffi
from isola_anyio.engine.image import COPY_SWITCH
from isola_anyio.errors import InvalidArgumentError
from isola_anyio.guests.kinds import drivers
from isola_anyio.runtimes.pins import pick
from isola_anyio.runtimes.resolve import RuntimeBundle
from isola_anyio.wasi.volumes.host import openat2

if TYPE_CHECKING:
    from isola_anyio.cache import CacheDir
    from isola_anyio.runtimes.pins import Pin

MAX_MAP_COUNT: Final = Path("/proc/sys/vm/max_map_count")
ENOUGH_MAPS: Final = 65_530
"""Linux's own default; a sandbox takes a handful of mappings, so this is good for thousands at once."""
FREE_BYTES: Final = 1 << 30
"""Runtimes, the compiler's output and a few images, with room to spare; a guess."""


@final
@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        ok: whether it is as it should be.
        detail: what was found.
        remedy: what to do when it is not ok; empty otherwise.
        essential: whether sandboxes cannot run without it.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    essential: bool = False


@final
@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What :func:`doctor` found; ``str()`` of it is what the command line prints."""

    checks: tuple[DoctorCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether sandboxes run here: every essential check is ok."""
        return all(check.ok for check in self.checks if check.essential)

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        lines: list[str] = []
        for check in self.checks:
            mark = "ok  " if check.ok else ("FAIL" if check.essential else "note")
            lines.append(f"{mark}  {check.name:<{width}}  {check.detail}")
            if check.remedy:
                lines.append(f"{'':4}  {'':<{width}}  hint: {check.remedy}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks]}


def doctor(*, cache_dir: CacheDir = DEFAULT_CACHE_DIR) -> DoctorReport:
    """Look at everything the library depends on here, and say what is missing and what to do about it.

    It reads versions, sizes, permissions and names; it makes, fetches, compiles and hashes nothing, and takes
    milliseconds.

    Args:
        cache_dir: the cache directory to look at, as ``build_template`` takes it.

    Raises:
        InvalidArgumentError: ``cache_dir`` is not a path.
    """
    root, homeless = _root_of(cache_dir)
    checks = [
        *_versions(),
        _platform(),
        _mapping(),
        _confinement(),
        _cpu_clocks(),
        *_map_count(),
        *homeless,
    ]
    if root is not None:
        checks += [_cache(root), _space(root)]
    checks += [_runtime(pick(name), root) for name in drivers()]
    return DoctorReport(tuple(checks))


# --- what is installed -----------------------------------------------------------------------------------------------


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> list[DoctorCheck]:
    own = _version_of("isola-anyio")
    engine = _version_of("wasmtime")
    known = engine in ffi.CHECKED_ON
    checks = [
        DoctorCheck("isola-anyio", ok=True, detail=own or "a checkout that is not installed", essential=True),
        DoctorCheck(
            "python",
            ok=sys.version_info >= (3, 11),
            detail=f"{platform.python_version()} ({platform.python_implementation()})",
            remedy="" if sys.version_info >= (3, 11) else "run it with Python 3.11 or later",
            essential=True,
        ),
        DoctorCheck(
            "wasmtime",
            ok=known,
            detail=str(engine),
            remedy=""
            if known
            else f"its private names were checked on {', '.join(ffi.CHECKED_ON)}; prefer that release",
        ),
        DoctorCheck("anyio", ok=True, detail=str(_version_of("anyio")), essential=True),
    ]
    trio = _version_of("trio")
    checks.append(
        DoctorCheck(
            "trio",
            ok=trio is not None,
            detail=trio or "not installed; programs that run on asyncio do not need it",
            remedy="" if trio else "pip install 'isola-anyio[trio]'",
        )
    )
    return checks


# --- what the platform can do ----------------------------------------------------------------------------------------


def _platform() -> DoctorCheck:
    wide = sys.maxsize > 1 << 32
    return DoctorCheck(
        "platform",
        ok=wide,
        detail=f"{sys.platform} {platform.machine()}, {os.cpu_count() or 1} processors",
        remedy="" if wide else "each sandbox reserves 4 GiB of addresses: run a 64-bit Python",
        essential=True,
    )


def _mapping() -> DoctorCheck:
    switched_off = bool(os.environ.get(COPY_SWITCH))
    if ffi.IMAGE_MAPPING and not switched_off:
        return DoctorCheck("image mapping", ok=True, detail="templates are mapped copy-on-write")
    return DoctorCheck(
        "image mapping",
        ok=False,
        detail="each sandbox copies its template's whole image: slower to create, and more memory",
        remedy=f"unset {COPY_SWITCH}" if switched_off else "Linux and macOS can map it",
    )


def _confinement() -> DoctorCheck:
    if openat2.available():
        return DoctorCheck("openat2", ok=True, detail="the kernel confines guests' paths to their mounts")
    return DoctorCheck(
        "openat2",
        ok=False,
        detail="not available: guests' paths are resolved one component at a time; as strict, but slower",
        remedy="it takes Linux 5.6 and, in a container, a system call filter that allows it",
    )


def _cpu_clocks() -> DoctorCheck:
    if hasattr(time, "pthread_getcpuclockid"):
        return DoctorCheck("thread CPU clocks", ok=True, detail="max_cpu is measured on the guest's own thread")
    return DoctorCheck(
        "thread CPU clocks",
        ok=False,
        detail="not available: max_cpu is measured by the wall clock while the guest computes",
        remedy="leave slack in max_cpu on a busy machine",
    )


def _map_count() -> list[DoctorCheck]:
    try:
        found = int(MAX_MAP_COUNT.read_text("ascii"))
    except (OSError, ValueError):
        return []  # not Linux
    enough = found >= ENOUGH_MAPS
    return [
        DoctorCheck(
            "vm.max_map_count",
            ok=enough,
            detail=f"{found}; bounds how many sandboxes live at once",
            remedy="" if enough else f"sysctl vm.max_map_count={ENOUGH_MAPS}",
        )
    ]


# --- what is on disk -------------------------------------------------------------------------------------------------


def _root_of(cache_dir: CacheDir) -> tuple[Path | None, list[DoctorCheck]]:
    """Return the cache's directory, and a failed check where this user has none by default."""
    try:
        return cache_directory(cache_dir), []
    except InvalidArgumentError as exc:
        if not isinstance(cache_dir, DefaultCacheDir):
            raise  # the caller's mistake, and nothing about this machine
        remedy = "give a cache_dir, or set XDG_CACHE_HOME"
        return None, [DoctorCheck("cache directory", ok=False, detail=str(exc), remedy=remedy, essential=True)]


def _cache(root: Path) -> DoctorCheck:
    try:
        refuse_foreign_links(root)
        found = root.stat()
    except FileNotFoundError:
        parent = _existing(root)
        writable = os.access(parent, os.W_OK | os.X_OK)
        return DoctorCheck(
            "cache directory",
            ok=writable,
            detail=f"{root}: does not exist yet" + ("" if writable else f", and {parent} cannot be written"),
            remedy="" if writable else "give another cache_dir, or set XDG_CACHE_HOME",
            essential=True,
        )
    except (OSError, InvalidArgumentError) as exc:
        return DoctorCheck(
            "cache directory", ok=False, detail=str(exc), remedy="give another cache_dir", essential=True
        )
    usable = os.access(root, os.R_OK | os.W_OK | os.X_OK)
    private = is_private_directory(found)
    detail = f"{root}: mode {found.st_mode & 0o7777:04o}, user id {found.st_uid}"
    if usable and private:
        return DoctorCheck("cache directory", ok=True, detail=detail, essential=True)
    remedy = f"chmod 700 {root}" if usable else "give another cache_dir, or set XDG_CACHE_HOME"
    reason = (
        "other users may write it, and native code is loaded from it" if usable else "it cannot be read and written"
    )
    return DoctorCheck("cache directory", ok=False, detail=f"{detail}; {reason}", remedy=remedy, essential=True)


def _existing(path: Path) -> Path:
    """Return the nearest directory above ``path`` that is there."""
    return next((parent for parent in path.parents if parent.exists()), Path(path.anchor))


def _space(root: Path) -> DoctorCheck:
    free = shutil.disk_usage(root if root.exists() else _existing(root)).free
    enough = free >= FREE_BYTES
    return DoctorCheck(
        "free space",
        ok=enough,
        detail=f"{free >> 20} MiB where the cache is",
        remedy="" if enough else f"make room: fetching and compiling a runtime can take {FREE_BYTES >> 20} MiB",
    )


def _runtime(pin: Pin, root: Path | None) -> DoctorCheck:
    where = _whereabouts(pin, root)
    compiled = where is not None and _is_compiled(pin, root)
    state = "compiled" if compiled else "not compiled yet"
    detail = f"{pin.version}: {where}, {state}" if where else f"{pin.version}: fetched and compiled on first use"
    remedy = "" if compiled else f"isola-anyio fetch {pin.runtime}"
    return DoctorCheck(f"runtime {pin.runtime}", ok=compiled, detail=detail, remedy=remedy)


def _whereabouts(pin: Pin, root: Path | None) -> str | None:
    """Say where a runtime's files are; their digests are checked when they are used."""
    if _version_of(pin.distribution) == pin.distribution_version:
        return f"installed as {pin.requirement}"
    if root is not None and all((root / "runtimes" / pin.key / file.name).is_file() for file in pin.files):
        return "in the cache"
    return None


def _is_compiled(pin: Pin, root: Path | None) -> bool:
    if root is None:
        return False
    driver = drivers()[pin.runtime]
    bundle = RuntimeBundle(pin.runtime, pin.version, root, root, pin.main.sha256, pin.library.sha256)
    recipe = Recipe(driver, bundle, metered=False, max_memory=driver.default_max_memory, prelude=None)
    return Cache(root, temporary=False).path("code", recipe.code_key, ".cwasm").is_file()
