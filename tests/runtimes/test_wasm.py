"""Exports and start functions, of modules that are well and of files that are anything."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isola_anyio.runtimes.pins import PINS
from isola_anyio.runtimes.resolve import resolve_runtime
from isola_anyio.runtimes.wasm import MalformedModuleError, export_names, has_start_function

from .conftest import EXPORTS, wasm_module

if TYPE_CHECKING:
    from pathlib import Path

HEADER = b"\0asm\1\0\0\0"


def names_in(tmp_path: Path, content: bytes) -> frozenset[str]:
    path = tmp_path / "some.wasm"
    path.write_bytes(content)
    return export_names(path)


def test_the_names_are_read(tmp_path: Path) -> None:
    assert names_in(tmp_path, wasm_module()) == set(EXPORTS)
    assert names_in(tmp_path, wasm_module(("é", ""), padding=90)) == {"é", ""}
    assert names_in(tmp_path, HEADER) == set()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADER, False),
        (HEADER + b"\0\x02\x01\x08", False),
        (HEADER + b"\x08\x01\0", True),
        (wasm_module(), False),
        (wasm_module() + b"\x08\x01\0", True),
        (HEADER + b"\x08\x01\0" + wasm_module()[len(HEADER) :], True),
    ],
)
def test_a_start_function_is_found(tmp_path: Path, content: bytes, expected: bool) -> None:
    path = tmp_path / "some.wasm"
    path.write_bytes(content)
    assert has_start_function(path) is expected


async def test_the_pinned_js_runtime_exports_what_is_needed_of_it(tmp_path: Path) -> None:
    bundle = await resolve_runtime("js", cache_dir=tmp_path)
    assert export_names(bundle.path) >= set(PINS["js"]["0.2.6"].exports)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin"),
        (b"\0asn\1\0\0\0", "does not begin"),
        (b"\0asm\x0d\0\1\0", "component"),
        (b"\0asm\1", "not a core module"),
        (HEADER + b"\7", "cut short"),
        (HEADER + b"\7\x80\x80\x80\x80\x10", "more than 32 bits"),
        (HEADER + b"\7\x80\x80\x80\x80\x80\x01", "more than 32 bits"),
        (HEADER + b"\1\xff\xff\xff\xff\x0f", "cut short"),
        (HEADER + b"\7\x01\x01", "damaged|cut short"),
        (HEADER + b"\7\x05\x01\x7fabc", "damaged"),
        (HEADER + b"\7\x05\x01\x01\xff\0\0", "damaged"),
        (HEADER + b"\7\x05\x01\x01a\x09\0", "damaged"),
        (HEADER + b"\7\x01\0\7\x01\0", "repeated"),
        (HEADER + b"\7\x05\xff\xff\xff\xff\x0f", "damaged|cut short"),
    ],
)
def test_a_malformed_file_is_said_to_be(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(MalformedModuleError, match=message):
        names_in(tmp_path, content)


@given(tail=st.binary(max_size=60))
def test_no_file_does_more_than_be_refused(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    for content in (HEADER + tail, HEADER + b"\7" + bytes([len(tail)]) + tail):
        with contextlib.suppress(MalformedModuleError):
            names_in(tmp_path_factory.getbasetemp(), content)
