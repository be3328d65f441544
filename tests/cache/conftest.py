"""A cache directory for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from isola_anyio.cache import Cache, open_cache

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """Open one."""
    with open_cache(tmp_path / "cache") as opened:
        yield opened
