"""A large value is written piece by piece, to the same text, and never far from its pauses."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isola_anyio import codec
from isola_anyio.codec import plain
from isola_anyio.codec.chunked import writer
from isola_anyio.testing import equal_exact, json_values
from tests.codec.chunked.test_text_parts import LONG
from tests.timing import SLACK

PIECE_S = 0.02
"""For which one piece, a call into C, may hold the interpreter; between them others get it as from any Python code."""


def pieces_of(value: Any, dialect: codec.Dialect) -> tuple[bytes, list[float], int]:
    """Encode; give the wire, the CPU seconds that each piece took, and the number of pauses."""
    times: list[float] = []
    pauses: list[None] = []
    write_part = writer._Writer._part

    def timed(self: Any, *args: Any, **options: Any) -> None:
        began = time.thread_time()
        write_part(self, *args, **options)
        times.append(time.thread_time() - began)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer._Writer, "_part", timed)
        wire = codec.encode(value, dialect=dialect, pause=lambda: pauses.append(None))
    return wire, times, len(pauses)


LARGE: dict[str, Any] = {
    **LONG,
    "escapes at the end": [*range(200_000), b"x", float("nan"), 2**70],
    "escapes at the start": [b"x", *range(200_000)],
    "bytes": [b""] * 50_000,
    "tuple": tuple(range(20_000)),
    "nested tuples": [tuple(range(5_000))] * 5,
    "shared": [[["x" * 9] * 40] * 40] * 40,
    "surrogate pairs": ["\ud800\udc00" * 100_000, {"\ud800\udc00" * 70_000: "\udc00\ud800" * 99_999}],
    "halves at the cut": "x" * (writer._STR_CHARS - 1) + "\ud800\udc00" + "y" * 200_000,
    "brackets": "[{" * 200_000,
    "unsafe ints": [2**60] * 20_000,
    "huge key": {"k" * 1_000_000: {"a": 1}},
    "huge keys of empties": {"k" * 300_000: {}, "l" * 300_000: []},
}


SEGMENTS = {("python", "surrogate pairs"), ("python", "halves at the cut")}
"""What crosses beside a short text, as it is."""


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("dialect", ["python", "js"])
def test_pieces_make_the_same_bytes(name: str, dialect: codec.Dialect) -> None:
    value = LARGE[name]
    assert not codec.is_small(value)
    wire, times, pauses = pieces_of(value, dialect)
    plain = codec.encode(value, dialect=dialect)
    # Of a value with surrogates only the parts that hold some are written in ASCII.
    assert wire == plain or equal_exact(codec.decode(wire), codec.decode(plain))
    assert pauses or (dialect, name) in SEGMENTS
    assert max(times, default=0) < PIECE_S * SLACK


@pytest.mark.slow
@given(value=json_values(max_leaves=60), small=st.integers(0, 8), items=st.integers(1, 5), chars=st.integers(1, 4))
@pytest.mark.parametrize("dialect", ["python", "js"])
def test_pieces_of_any_size_make_the_same_bytes(
    value: Any, small: int, items: int, chars: int, dialect: codec.Dialect
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "SMALL", 0)
        patch.setattr(writer, "SMALL", small)
        patch.setattr(writer, "_ITEMS", items)
        patch.setattr(writer, "_STR_CHARS", chars)
        patch.setattr(writer, "_CHARS_PER_UNIT", 1)
        wire = codec.encode(value, dialect=dialect, pause=lambda: None)
    whole = codec.encode(value, dialect=dialect)
    assert wire == whole or equal_exact(codec.decode(wire), codec.decode(whole))


def cycle() -> Any:
    value: list[Any] = [0] * 10_000
    value.append(value)
    return value


def too_deep() -> Any:
    value: Any = [0] * 10_000
    for _ in range(500):
        value = [value]
    return value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (cycle(), r"\$\[10000\]: the value contains itself"),
        (too_deep(), "nested deeper than 500 levels"),
        ([*range(10_000), {1}], r"\$\[10000\]: set is not"),
        ({"a": [0] * 10_000, 1: 2}, "the key 1 is of type int"),
        ([{1: 2}] * 10_000, r"\$\[0\]: the key 1 is of type int"),
        (dict.fromkeys([*map(str, range(10_000)), None]), "the key None"),
    ],
)
def test_what_cannot_cross_is_refused_in_the_same_words(value: Any, words: str) -> None:
    for pause in (None, lambda: None):
        with pytest.raises(codec.EncodeError, match=words):
            codec.encode(value, pause=pause)


def test_as_deep_as_may_be_is_written_in_pieces() -> None:
    value: Any = [0] * 10_000
    for _ in range(499):
        value = [value]
    assert codec.encode(value, pause=lambda: None) == codec.encode(value)


def test_a_pause_that_raises_ends_the_encoding() -> None:
    class Stopped(BaseException):
        pass

    for value in ([0] * 200_000, [b"x"] * 50_000, "x" * 2_000_000):
        looks: list[int] = []

        def pause(looks: list[int] = looks) -> None:
            looks.append(1)
            if len(looks) == 3:
                raise Stopped

        with pytest.raises(Stopped):
            codec.encode(value, pause=pause)
        assert len(looks) == 3


@pytest.mark.parametrize(
    ("value", "small"),
    [
        (None, True),
        (5, True),
        ([0] * 4000, True),
        ([0] * 5000, False),
        ({"a": [[1.5] * 100] * 10}, True),
        ([[[]] * 100] * 100, False),
        ("x" * 100_000, True),
        ("x" * 200_000, False),
        ({"x" * 200_000: 1}, False),
        (b"x" * (1 << 20), True),
        (bytearray(1 << 25), False),
        (memoryview(bytes(1 << 25)), False),
        ([object()], True),
    ],
)
def test_small_is_what_takes_no_time(value: Any, small: bool) -> None:
    assert codec.is_small(value) is small


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2_000, 14_000])
def test_long_ints_weigh_what_writing_them_takes(bits: int) -> None:
    few, many = [1 << bits], [1 << bits] * 4000
    assert codec.is_small(few)
    assert not codec.is_small(many)
    _, times, pauses = pieces_of(many, "python")
    assert pauses
    assert max(times) < PIECE_S * SLACK
