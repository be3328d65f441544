"""The table of runtimes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from isola_anyio.errors import InvalidArgumentError
from isola_anyio.runtimes.pins import PINS, pick


def test_every_pin_is_filed_under_its_own_name_and_complete() -> None:
    for runtime, releases in PINS.items():
        for version, pin in releases.items():
            assert (pin.runtime, pin.version) == (runtime, version)
            for digest in (pin.wheel_sha256, *(file.sha256 for file in pin.files)):
                assert re.fullmatch("[0-9a-f]{64}", digest)
            assert pin.wheel_bytes > 0
            assert all(file.size > 0 and file.name and "/" not in file.name for file in pin.files)
            assert "memory" in pin.exports


def test_the_files_are_found_under_the_names_that_the_guests_expect() -> None:
    assert pick("python").library.name == "python-stdlib.zip"
    assert pick("js").library.name == "_transform.wasm"


def test_the_key_changes_with_the_bytes() -> None:
    pin = pick("js")
    assert pin.key.startswith("js-0.2.6-")
    assert replace(pin, main=replace(pin.main, sha256="0" * 64)).key != pin.key


def test_a_version_is_picked_by_its_name_and_the_last_one_by_default() -> None:
    old, new = replace(pick("js"), version="1"), replace(pick("js"), version="2")
    pins = {"js": {"1": old, "2": new}}
    assert pick("js", pins=pins) is new
    assert pick("js", "1", pins) is old
    with pytest.raises(InvalidArgumentError, match="known: '1', '2'"):
        pick("js", "3", pins)
