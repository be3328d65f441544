"""The security page says what the code does: its limits are the code's, and the tests it points at are there."""

from __future__ import annotations

import re
from pathlib import Path

from isola_anyio import events
from isola_anyio.limits import Limits
from isola_anyio.run import hostcalls
from isola_anyio.wasi.volumes.budgets import NEW_ENTRY_BYTES, FileLimits

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/security.md").read_text("utf-8")


def test_every_limit_is_listed_with_its_default() -> None:
    sandbox, files = Limits(max_memory=0), FileLimits()
    for name in Limits.__slots__:
        default = getattr(sandbox, name)
        shown = "the template's" if name == "max_memory" else "none" if default is None else f"{default:,}"
        assert re.search(rf"^\| `{name}` \| {re.escape(shown)}", PAGE, re.MULTILINE), (name, shown)
    for name in (
        "max_open_files",
        "max_host_files",
        "max_entries",
        "max_tree_depth",
        "max_memory_bytes",
        "max_written_bytes",
    ):
        assert re.search(rf"^\| `{name}` [^|]*\| {getattr(files, name):,} ", PAGE, re.MULTILINE), name


def test_the_bounds_in_the_text_are_the_codes() -> None:
    for number in (events.CAPACITY_EVENTS, events.CAPACITY_BYTES, hostcalls.PENDING_BYTES, NEW_ENTRY_BYTES):
        assert f"{number:,}" in PAGE


def test_every_test_it_points_at_is_there() -> None:
    named = set(re.findall(r"`(tests/[\w/.]+)`", PAGE))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
