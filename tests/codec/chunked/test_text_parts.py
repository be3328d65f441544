"""A text longer than one part is read part by part, to the same value, and never far from its pauses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isola_anyio import codec
from isola_anyio.codec.chunked import text_parts
from isola_anyio.testing import equal_exact, expected_round_trip, json_values

if TYPE_CHECKING:
    from types import ModuleType


def deep(size: int) -> Any:
    value: Any = list(range(size))
    for level in range(490):
        value = [value, level] if level % 2 else {"a": 1, "b": value, "c": level}
    return value


LONG: dict[str, Any] = {
    "ints": list(range(120_000)),
    "rows": [{"id": i, "name": 'n,"[]{\\' * (i % 5), "t": [i, [i, {"$": i}]], "e": {}} for i in range(8_000)],
    "fields": {f"k{i}": {"v": [None, True, "x" * (i % 900)]} for i in range(2_000)},
    "one string": 'é"\\' * 300_000,
    "emoji": ["😀" * 100_000, "\ud800" * 70_000, "a\\\\" * 90_000],
    "long keys": {"k" * 300_000: "v" * 300_000, "a": [{"\ud800" + "z" * 300_000: [1, 2]}, {"é" * 99_999: {}}]},
    "deep": deep(60_000),
    "dollars": {"$": list(range(60_000)), "$0$": "$" * 300_000, "b": b"123"},
    "middling strings": ["x" * (i * 977 % 70_000) for i in range(30)],
    "backslashes": [["\\" * (i * 977 % 70_000)] for i in range(30)],
    "quotes": [{"a" * (i * 977 % 50_000): '"' * (i * 577 % 70_000)} for i in range(20)],
    "empties": [[] for _ in range(150_000)],
    "pairs of surrogates": [["\ud83d\ude00", "a" * 300_000, "b"], {"\ud83d\ude00" * 9: list(range(60_000))}],
    "same keys": [{"a": {"a": [{"a": "a" * (i % 100)}]}} for i in range(8_000)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_a_long_value_comes_back_whole(name: str, guest: ModuleType) -> None:
    value = LONG[name]
    wire = guest.encode(value)
    pauses: list[int] = []
    found = codec.decode(wire, pause=lambda: pauses.append(1))
    assert equal_exact(found, value)
    assert len(wire) > text_parts.PART_BYTES
    assert pauses
    assert equal_exact(codec.decode(memoryview(bytearray(wire))), value)


@settings(max_examples=40)
@given(value=json_values(max_leaves=60), cut_at=st.integers(1, 40), part=st.integers(41, 200))
def test_cutting_anywhere_changes_nothing(value: Any, cut_at: int, part: int, guest: ModuleType) -> None:
    wire = guest.encode(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_parts, "CUT_BYTES", cut_at)
        patch.setattr(text_parts, "PART_BYTES", part + 100_000)
        patch.setattr(text_parts, "LONG_STR_BYTES", cut_at)
        patch.setattr(text_parts, "STR_RUN_BYTES", 13)
        patch.setattr(text_parts, "_STEP_BYTES", 7)
        patch.setattr(text_parts, "_LAST_BYTES", part)
        patch.setattr("isola_anyio.codec.decoding.PART_BYTES", 0)
        patch.setattr("isola_anyio.codec.plain.PART_BYTES", 0)
        found = codec.decode(wire)
    assert equal_exact(found, expected_round_trip(value, "python"))


@given(text=st.text(st.sampled_from('[]{}",:\\1u0 a')), seed=st.sampled_from([b"[1,2,3]", b'{"a":[1,{"b":2}],"c":""}']))
def test_a_malformed_text_stays_malformed_when_cut(text: str, seed: bytes) -> None:
    data = seed[:-1] + b"," + text.encode() + seed[-1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_parts, "CUT_BYTES", 3)
        patch.setattr(text_parts, "_STEP_BYTES", 2)
        patch.setattr(text_parts, "_LAST_BYTES", 5)
        patch.setattr("isola_anyio.codec.decoding.PART_BYTES", 0)
        patch.setattr("isola_anyio.codec.plain.PART_BYTES", 0)
        try:
            found = codec.decode(data)
        except codec.CodecError:
            return
    assert equal_exact(found, json.loads(data))


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 400_000,
        b"[" + b"1" * 400_000 + b"]",
        b"[" + b" " * 400_000 + b"]",
        b'["' + b"x" * 400_000,
        b'["' + b"\\" * 400_001 + b'"]',
        b'["' + b"\\u12" * 100_000 + b'"]',
        b'["' + b"\x80" * 400_000 + b'"]',
        b'["' + b"\x01" * 400_000 + b'"]',
        b"[1," * 130_000,
        b"[" + b"1," * 200_000 + b"]",
        b"[" + b"1," * 200_000 + b"}",
        b"[" + b'"a""b"' * 80_000 + b"]",
        b"[" + b"1," * 200_000 + b"2]]",
        b"{" + b'"a":1,' * 80_000 + b"2}",
        b"{" + b"[1,2]," * 80_000 + b"2}",
        b"]," * 200_000,
    ],
    ids=range(16),
)
def test_a_long_text_that_is_no_value_is_refused(text: bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.decode(text)


def test_depth_is_exact_across_parts() -> None:
    filler = b"[1]," * 80_000
    assert codec.decode(b"[" * 499 + filler + b"[1]" + b"]" * 499)
    with pytest.raises(codec.CodecError, match="nested deeper than 500 levels"):
        codec.decode(b"[" * 500 + filler + b"[1]" + b"]" * 500)


def test_a_late_duplicate_key_cannot_confuse_the_parts() -> None:
    many = b",".join(b"[%d]" % i for i in range(60_000))
    wire = b'{"a":{"x":[' + many + b'],"x":[' + many + b']},"a":1}'
    assert codec.decode(wire) == {"a": 1}


def test_a_pause_that_raises_ends_the_decoding() -> None:
    class Stopped(BaseException):
        pass

    looks: list[int] = []

    def pause() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise Stopped

    for wire in (b"[" + b"[]," * 400_000 + b"1]", b'["' + b"x" * 2_000_000 + b'"]'):
        looks.clear()
        with pytest.raises(Stopped):
            codec.decode(wire, pause=pause)
        assert len(looks) == 3
