"""What tests of the cache do again and again."""

from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio.cache import Cache

posix = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are POSIX's")


def store(cache: Cache, content: bytes = b"content", key: str = "key") -> Path:
    """Put an entry into the cache."""
    return cache.store_file("code", key, ".bin", lambda file: file.write(content))


def mode(path: Path) -> int:
    """Return a file's permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def names(cache: Cache) -> set[str]:
    """Return the names of all compiled code that is kept."""
    return {path.name for path in (cache.root / "code").iterdir() if path.name != ".commit"}
