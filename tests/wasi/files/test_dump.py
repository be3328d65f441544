"""Dumps: a damaged one, or one of other mounts, is an error; the rest is tested with forks."""

from __future__ import annotations

from pathlib import Path

import pytest

from isola_anyio.wasi.files.dump import dump_files, load_files
from isola_anyio.wasi.files.filesystem import FileSystem
from tests.wasi.client import Guest
from tests.wasi.files.conftest import base_files


@pytest.mark.parametrize("cut", [0, 4, 8, 40, -1])
def test_a_damaged_dump_is_a_value_error(template: Guest, shared: Path, library_file: Path, cut: int) -> None:
    data = dump_files(template.files)
    for bad in (data[:cut], b"\xff" * 64 + data, data.replace(b'"format":1', b'"format":0')):
        base = base_files(shared, library_file)
        with pytest.raises(ValueError):  # noqa: PT011 - the text may be the JSON decoder's
            load_files(base, bad)
        base.close()


def test_a_dump_of_other_mounts_is_a_value_error(template: Guest) -> None:
    base = FileSystem.base()
    with pytest.raises(ValueError, match="these files"):
        load_files(base, dump_files(template.files))
    base.close()


def test_the_same_state_dumps_to_the_same_bytes(template: Guest) -> None:
    assert dump_files(template.files) == dump_files(template.files)
