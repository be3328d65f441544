"""Mappings: what can be had of them, and that nothing stays of asking."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import pytest

from isola_anyio.engine.ffi import mapping

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def maps() -> int:
    return Path("/proc/self/maps").read_text().count("\n")


def test_maps_that_can_be_had_are_given_back() -> None:
    mapping.can_map(8)  # whatever Python itself maps for the first time
    before = maps()
    assert mapping.can_map(64)
    assert maps() <= before + 2


def test_as_many_are_asked_for_as_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    forbid = mapping.forbid

    def count(address: int, length: int) -> None:
        nonlocal most
        forbid(address, length)
        most = max(most, maps())

    before = maps()
    monkeypatch.setattr(mapping, "forbid", count)
    assert mapping.can_map(64)
    assert 62 <= most - before <= 66


@pytest.mark.parametrize("count", [1 << 17, 1 << 40], ids=["more than maps", "more than memory"])
def test_more_than_there_are_cannot_be_had(count: int) -> None:
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    assert not mapping.can_map(max(count, limit + 2))


def test_a_page_that_is_forbidden_is_no_mans() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        base = ctypes.addressof(ctypes.c_ubyte.from_buffer(memory))
        mapping.forbid(base, mmap.PAGESIZE)
        assert f"{base:x}-{base + mmap.PAGESIZE:x} ---" in Path("/proc/self/maps").read_text()
    with pytest.raises(OSError, match="mprotect"):
        mapping.forbid(1, mmap.PAGESIZE)  # no page begins there
