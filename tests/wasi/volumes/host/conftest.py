"""A guest with a host directory, resolved in each way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from isola_anyio.mounts import MountConfig
from tests.wasi.client import Guest


@pytest.fixture
def data(shared: Path, make_guest: Callable[..., Guest], resolver: str) -> Guest:
    return make_guest(MountConfig(shared, "/data", "read-write", "read-write"))
