"""Mounts: which files a sandbox sees, at which guest paths, and what it may do with them.

A ``MountConfig`` is plain data, checked when it is made; the host's file is opened when a sandbox is, so it must exist
then. A ``MemoryMount`` is the same with the files themselves, which live in memory as long as it does.
``docs/files.md`` says what each permission means for each operation.
"""

from __future__ import annotations

__all__ = ["DEFAULT_MEMORY_BYTES", "MemoryMount", "MountConfig", "bind", "bind_all", "validate_mounts"]

import os
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, Literal, final, get_args

from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.kinds import is_a, text_of
from isola_anyio.wasi.files.mount_table import BoundMount, device_of
from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage
from isola_anyio.wasi.volumes.host.volume import HostVolume, MountedFileVolume
from isola_anyio.wasi.volumes.interfaces import Permissions, Volume
from isola_anyio.wasi.volumes.memory.overlay import OverlayVolume
from isola_anyio.wasi.volumes.memory.view import READ_BYTES_MAX, TreeAccess
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume
from isola_anyio.wasi.volumes.paths import guest_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from isola_anyio.wasi.volumes.paths import Names

Access = Literal["read", "write", "read-write"]
Mode = Literal["direct", "overlay", "memory"]

DEFAULT_MEMORY_BYTES: Final = 64 << 20
"""Default for the bytes of a memory mount; a guess."""

_CODE_SUFFIXES: Final = (".py", *EXTENSION_SUFFIXES, *BYTECODE_SUFFIXES)
_BYTECODE_DIRECTORY: Final = "__pycache__"  # compared without regard to case, as some file systems do


@dataclass(frozen=True)
class MountConfig:
    """A host directory or file that guests see at a path of theirs.

    Attributes:
        host: the directory or file; relative ones are taken from the working directory when the sandbox starts.
        guest: absolute path at which the guest finds it, without ``.`` and ``..``.
        dir_perms: ``"read"``: list, stat and read links; ``"write"``: create, rename and remove entries.
        file_perms: ``"read"``: open for reading; ``"write"``: open for writing, truncate, set time stamps.
        mode: ``"direct"``: the guest works on the host's files; ``"overlay"``: it reads them, and its changes stay in
            the sandbox's memory (``sandbox.mount(guest)`` shows them).
        allow_sensitive: let the guest write where Python on the host imports from, or to this library's cache. Writing
            there is running code on the host; without this it is refused.

    Raises:
        InvalidArgumentError: for a value of the wrong type or form.
    """

    host: str | os.PathLike[str]
    guest: str
    dir_perms: Access = "read"
    file_perms: Access = "read"
    mode: Mode = field(default="direct", kw_only=True)
    allow_sensitive: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("guest", "dir_perms", "file_perms", "mode"):  # of an enum of texts, the text
            if (text := text_of(getattr(self, name))) is not None:
                object.__setattr__(self, name, text)
        _check_guest(self.guest)
        self._check_host()
        for name, value in (("dir_perms", self.dir_perms), ("file_perms", self.file_perms)):
            if type(value) is not str or value not in get_args(Access):
                raise InvalidArgumentError(f"{name}={clip(value)} is not one of 'read', 'write', 'read-write'")
        if type(self.allow_sensitive) is not bool:
            raise InvalidArgumentError(f"allow_sensitive={clip(self.allow_sensitive)} is not True or False")

    def _check_host(self) -> None:
        if type(self.mode) is not str or self.mode not in ("direct", "overlay"):
            raise InvalidArgumentError(
                f"mode={clip(self.mode)} is not 'direct' or 'overlay'; a mount in memory is MountConfig.memory(guest)"
            )
        try:
            host = os.fspath(self.host)
        except Exception:  # noqa: BLE001 - of no path, a TypeError; of a stranger's, anything
            host = None
        if type(host) is not str:
            raise InvalidArgumentError(f"host={clip(self.host)} is not a str or a path object")
        if not host or "\0" in host:
            raise InvalidArgumentError(f"host={clip(host)} is not a path: it is empty or has a NUL in it")

    @staticmethod
    def memory(
        guest: str, *, max_bytes: int = DEFAULT_MEMORY_BYTES, files: Mapping[str, bytes] | None = None
    ) -> MemoryMount:
        """Return a mount that lives in memory, which the host can read and change while guests use it.

        The object *is* the files: every sandbox it is given to works on the same ones.

        Args:
            guest: absolute path at which guests find it.
            max_bytes: what it may hold, counting some hundred bytes for each file.
            files: its files at first: path from its root to bytes.

        Raises:
            InvalidArgumentError: for a value of the wrong type or form, and for files it has no room for.
        """
        if type(max_bytes) is not int or max_bytes <= 0:
            raise InvalidArgumentError(f"max_bytes={clip(max_bytes)} is not a positive number of bytes")
        _check_guest(guest)
        volume = MemoryVolume(FileUsage(FileLimits(max_memory_bytes=max_bytes)), device_of(guest_names(guest)))
        mount = MemoryMount(
            host="",
            guest=guest,
            dir_perms="read-write",
            file_perms="read-write",
            mode="memory",
            _volume=volume,
            _access=TreeAccess(volume),
        )
        for path, data in (files or {}).items():
            if type(path) is not str or type(data) not in (bytes, bytearray, memoryview):
                raise InvalidArgumentError(f"files[{clip(path)}] is not bytes under a str path")
            try:
                mount.write(path, bytes(data))
            except (OSError, ValueError) as exc:
                raise InvalidArgumentError(f"files[{clip(path)}] cannot be put into the mount: {exc}") from exc
        return mount


@final
@dataclass(frozen=True, eq=False)
class MemoryMount(MountConfig):
    """A mount whose files are in memory: its configuration, and the files. Made by ``MountConfig.memory``.

    Its methods may be called from any thread, also while guests use the files; paths are from the mount's root. Its
    ``mode`` is ``"memory"`` and its ``host`` empty. It is equal to nothing but itself: another one has other files.
    """

    _volume: MemoryVolume = field(kw_only=True, repr=False)
    _access: TreeAccess = field(kw_only=True, repr=False)

    def __post_init__(self) -> None:
        """Check nothing: ``MountConfig.memory`` has."""

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def read(self, path: str, *, max_bytes: int = READ_BYTES_MAX) -> bytes:
        """Return a file's bytes; ``OSError`` as from ``open``, and ``EFBIG`` for one of more than ``max_bytes``."""
        return self._access.read(path, max_bytes=max_bytes)

    def write(self, path: str, data: bytes) -> None:
        """Write a file, with missing directories on the way; ``OSError`` (``ENOSPC``) past ``max_bytes``."""
        self._access.write(path, data)

    def list(self, path: str = "/") -> list[str]:
        """Return the paths of all files below a directory, in order; ``OSError`` (``EOVERFLOW``) past 32 MiB."""
        return self._access.list(path)

    def remove(self, path: str) -> None:
        """Remove a file, or an empty directory."""
        self._access.remove(path)


def _permissions(config: MountConfig) -> Permissions:
    return Permissions(
        dir_read="read" in config.dir_perms,
        dir_write="write" in config.dir_perms,
        file_read="read" in config.file_perms,
        file_write="write" in config.file_perms,
    )


def _check_guest(guest: object) -> None:
    if type(guest) is not str:
        raise InvalidArgumentError(f"guest={clip(guest)} is not a str")
    try:
        names = guest_names(guest)
    except ValueError:
        raise InvalidArgumentError(
            f"guest={clip(guest)} is not an absolute path without '.', '..' and NUL, such as '/data'"
        ) from None
    if not names:
        raise InvalidArgumentError(f"guest={clip(guest)} is the root, which holds the guest's own files; use '/data'")
    if "//" in guest or guest.endswith("/"):
        raise InvalidArgumentError(
            f"guest={clip(guest)} is not written plainly; use {'/' + os.fsdecode(b'/'.join(names))!r}"
        )
    if names[0] == b"dev":
        raise InvalidArgumentError(f"guest={clip(guest)} is below '/dev', which is for devices; use '/data'")


def validate_mounts(mounts: Any) -> tuple[MountConfig, ...]:
    """Return the mounts as a tuple.

    Raises:
        InvalidArgumentError: unless it is a sequence of ``MountConfig`` with different guest paths.
    """
    try:
        given: list[Any] | None = None if is_a(mounts, (str, bytes, dict)) else list(mounts)
    except Exception:  # noqa: BLE001 - it cannot be iterated, or a stranger's iterator fails
        given = None
    if given is None:
        raise InvalidArgumentError(f"mounts={clip(mounts)} is not a sequence of MountConfig")
    taken: dict[Names, MountConfig] = {}
    for mount in given:
        if not is_a(mount, MountConfig):
            raise InvalidArgumentError(f"mounts has {clip(mount)} in it, which is not a MountConfig")
        point = guest_names(mount.guest)
        if point in taken:
            raise InvalidArgumentError(f"two mounts are at {clip(mount.guest)}; give each its own guest path")
        taken[point] = mount
    return tuple(taken.values())


def _refuse_sensitive(host: str, sensitive: Iterable[str]) -> None:
    """Raise for a directory from which Python on the host would import what the guest writes, or that is ``sensitive``.

    That is a directory of ``sys.path`` or one above it, anything below where packages are installed, and a directory
    below one of ``sys.path`` that has code in it. One without code, such as ``data`` beside a script, is allowed. A
    place for bytecode is code whatever is in it: Python looks there for that of a module beside it.
    """
    real = os.path.realpath(host)
    installed = {os.path.realpath(directory) for directory in sysconfig.get_paths().values()}
    sensitive = (*sensitive, *filter(None, [sys.pycache_prefix]))
    for entry in (*sys.path, *sensitive):
        code = os.path.realpath(entry or os.getcwd())  # noqa: PTH109 - strings throughout
        is_all_code = code in installed or entry in sensitive
        if _is_within(code, real) or (_is_within(real, code) and (is_all_code or _has_code(real))):
            raise InvalidArgumentError(
                f"host={host!r} would let the guest write at {code!r}, where Python on the host imports from or this"
                " library keeps code; mount another directory, use mode='overlay', or pass allow_sensitive=True"
            )


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def _has_code(path: str) -> bool:
    if any(part.casefold() == _BYTECODE_DIRECTORY for part in PurePath(path).parts):
        return True
    try:
        with os.scandir(path) as entries:
            return any(_is_code(entry.name) for entry in entries)
    except NotADirectoryError:
        return path.endswith(_CODE_SUFFIXES)
    except OSError:  # it cannot be mounted either, and the error of opening it says why
        return False


def _is_code(name: str) -> bool:
    return name.endswith(_CODE_SUFFIXES) or name.casefold() == _BYTECODE_DIRECTORY


def bind(config: MountConfig, *, sensitive: Iterable[str] = ()) -> BoundMount:
    """Open a mount's files, for one file system, which closes them.

    Args:
        config: the mount.
        sensitive: directories, besides those Python imports from, that are refused for writing (the library's cache).

    Raises:
        InvalidArgumentError: when there is no such file or directory, it cannot be opened, or it is refused.
    """
    perms = _permissions(config)
    point = guest_names(config.guest)
    if isinstance(config, MemoryMount):
        return BoundMount(point, config._volume, perms)  # noqa: SLF001 - its own module
    host = os.fspath(config.host)
    if sys.platform == "win32":
        raise InvalidArgumentError(
            f"host={host!r}: host directories cannot be mounted on Windows, which has no way to confine a path to one;"
            " use MountConfig.memory(guest, files=...)"
        )
    overlay = config.mode == "overlay"
    if (perms.dir_write or perms.file_write) and not overlay and not config.allow_sensitive:
        _refuse_sensitive(host, sensitive)
    try:
        volume = _open(host, point, perms, overlay=overlay)
    except OSError as exc:
        raise InvalidArgumentError(
            f"host={host!r} cannot be mounted: {exc.strerror or exc}; it must be a directory or a regular file that"
            " exists when the sandbox starts"
        ) from exc
    return BoundMount(point, volume, perms, private=overlay)


def _open(host: str, point: Names, perms: Permissions, *, overlay: bool) -> Volume:
    try:
        volume = HostVolume(host)
    except NotADirectoryError:
        if overlay:
            raise InvalidArgumentError(f"host={host!r} is not a directory; mode='overlay' needs one") from None
        return MountedFileVolume(host, perms)
    return OverlayVolume(volume, device_of(point)) if overlay else volume


def bind_all(mounts: Sequence[MountConfig], *, sensitive: Iterable[str] = ()) -> list[BoundMount]:
    """Bind several mounts; when one fails those already open are closed."""
    sensitive = tuple(sensitive)
    bound: list[BoundMount] = []
    try:
        bound.extend(bind(config, sensitive=sensitive) for config in mounts)
    except BaseException:
        for mount in bound:
            mount.volume.close()
        raise
    return bound
