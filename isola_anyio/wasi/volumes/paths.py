"""Guest paths: split into components, checked, and written as text."""

from __future__ import annotations

__all__ = ["Names", "guest_names", "guest_text", "levels_up", "split"]

from typing import TYPE_CHECKING, TypeAlias

from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from isola_anyio.wasi.volumes.budgets import FileLimits

Names: TypeAlias = tuple[bytes, ...]
"""Path components, outermost first; never ``b""`` or ``b"."``."""


def split(path: bytes, limits: FileLimits) -> tuple[Names, bool]:
    """Return a relative path's components, and whether it ends as a directory's (``x/``, ``x/.``).

    ``..`` is kept: where it leads depends on whether the component before it is a symbolic link.

    Raises:
        WasiError: ``NOENT`` for an empty path, ``INVAL`` for a NUL, ``PERM`` for an absolute path, ``NAMETOOLONG``.
    """
    if len(path) > limits.max_path_bytes:
        raise WasiError(Errno.NAMETOOLONG)
    if not path:
        raise WasiError(Errno.NOENT)
    if b"\0" in path:
        raise WasiError(Errno.INVAL)
    if path[0] == 0x2F:
        raise WasiError(Errno.PERM)
    parts = path.split(b"/")
    names = tuple([part for part in parts if part and part != b"."])
    if names and max(map(len, names)) > limits.max_name_bytes:
        raise WasiError(Errno.NAMETOOLONG)
    return names, parts[-1] in (b"", b".")


def levels_up(target: bytes) -> int:
    """Return how many times ``..`` begins a symbolic link's target.

    Raises:
        WasiError: ``PERM`` for an absolute target, and for one with ``..`` after a name: where that leads depends on
            what the name is, which may be a link.
    """
    if target.startswith(b"/"):
        raise WasiError(Errno.PERM)
    parts = [part for part in target.split(b"/") if part and part != b"."]
    up = parts.count(b"..")
    if parts[:up] != [b".."] * up:
        raise WasiError(Errno.PERM)
    return up


def guest_names(path: str) -> Names:
    """Return the components of an absolute guest path given by the host; ``ValueError`` unless it is plain."""
    names = tuple(part.encode("utf-8", "surrogateescape") for part in path.split("/") if part)
    if not path.startswith("/") or "\0" in path or b"." in names or b".." in names:
        raise ValueError(f"{path!r} is not an absolute guest path without '.', '..' and NUL")
    return names


def guest_text(names: Names) -> str:
    """Return components as an absolute path for the host to read; bytes that are not UTF-8 become surrogates."""
    return "/" + b"/".join(names).decode("utf-8", "surrogateescape")
