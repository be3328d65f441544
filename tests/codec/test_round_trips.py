"""Every value of the domain comes back as the model says, between the host and either guest."""

from __future__ import annotations

import enum
import math
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given

from isola_anyio import codec
from isola_anyio.testing import equal_exact, expected_round_trip, js_values, json_values

if TYPE_CHECKING:
    from types import ModuleType

    from tests.codec.js_harness import JsCodec


class Colour(enum.IntEnum):
    RED = 7


class Word(str):
    __slots__ = ()


class Point(NamedTuple):
    x: int
    y: list[int]


EDGES: list[Any] = [
    None,
    True,
    0,
    -1,
    2**53 - 1,
    2**53,
    -(2**53),
    2**64,
    10**4299,
    10**4300,
    -(10**6000),
    1 << 100_000,
    -(1 << 100_000),
    0.0,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    0.1 + 0.2,
    2.0**53,
    2.0**60,
    1e16,
    1e21,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "\x00\x1f\x7f\u2028\u2029\ufeff",
    "\ud800",
    "\udc00\ud800",
    "\ud83d\ude00",
    "a\ud83d\ude00b😀",
    "é",
    "日本語",
    b"",
    b"\x00\xff" * 100,
    bytearray(b"abc"),
    memoryview(b"abcdef")[::2],
    memoryview(b"abc").cast("c"),
    [],
    {},
    (1, (2,)),
    Point(1, [2]),
    OrderedDict(b=1, a=2),
    Colour.RED,
    [Colour.RED, True, Word("w"), {Word("k"): Word("v")}],
    {"$": 1},
    {"$": "b0"},
    {"$": {"$": b"x"}},
    {"$": b"x", "$0$": 1, "$1$": {"$": 2**70}},
    {"$0$s0": 1, "\ud83d\ude00": {"$": "\ud83d\ude00"}},
    {"__proto__": {"__proto__": b"x"}, "constructor": 1, "toString": None},
    {"10": 1, "9": 2, "b": 3, "01": 4, "a": 5, "4294967294": 6, "4294967295": 7},
    {"t": 1, "true": 2, "null": 3, "NaN": 4, "1.5": 5, "": 6, "-": 7},
    [[[]], {}, [{}]],
    {"a": [b"x", math.nan, {"b": bytearray(b"y")}], "c": -0.0},
]


def ident(value: Any) -> str:
    return repr(value)[:30] if not isinstance(value, int) else f"int{value.bit_length()}"


@pytest.mark.parametrize("value", EDGES, ids=ident)
def test_an_edge_of_the_domain_crosses_to_the_python_guest_and_back(value: Any, guest: ModuleType) -> None:
    expected = expected_round_trip(value, "python")
    there = guest.decode(codec.encode(value))
    assert equal_exact(there, expected)
    assert equal_exact(codec.decode(guest.encode(there)), expected)
    assert equal_exact(codec.decode(guest.encode(value)), expected)
    assert equal_exact(codec.decode(codec.encode(value)), expected)


@pytest.mark.parametrize("value", EDGES, ids=ident)
def test_an_edge_of_the_domain_crosses_to_the_javascript_guest_and_back(value: Any, js: JsCodec) -> None:
    back = codec.decode(js.there_and_back(codec.encode(value, dialect="js")))
    assert equal_exact(back, expected_round_trip(value, "js"))


@pytest.mark.slow
@given(value=json_values())
def test_any_value_crosses_to_the_python_guest_and_back(value: Any, guest: ModuleType) -> None:
    expected = expected_round_trip(value, "python")
    there = guest.decode(codec.encode(value))
    assert equal_exact(there, expected)
    assert equal_exact(codec.decode(guest.encode(there)), expected)


@pytest.mark.slow
@given(value=json_values())
def test_any_value_crosses_to_the_javascript_guest_and_back(value: Any, js: JsCodec) -> None:
    back = codec.decode(js.there_and_back(codec.encode(value, dialect="js")))
    assert equal_exact(back, expected_round_trip(value, "js"))


@given(value=js_values())
def test_a_javascript_value_comes_back_as_it_was(value: Any, js: JsCodec) -> None:
    assert equal_exact(codec.decode(js.there_and_back(codec.encode(value, dialect="js"))), value)


@given(value=json_values())
def test_a_borrowed_view_decodes_to_the_same_and_is_not_kept(value: Any, guest: ModuleType) -> None:
    raw = bytearray(b"\0\0\0\0\0" + guest.encode(value))
    found = codec.decode(memoryview(raw)[5:])
    raw[:] = bytes(len(raw))
    assert equal_exact(found, expected_round_trip(value, "python"))


def test_a_plain_value_is_plain_json() -> None:
    assert codec.encode({"a": [1, 2.5, None, True, "x"]}) == b'{"a":[1,2.5,null,true,"x"]}'
    assert codec.encode("é") == '"é"'.encode()


def test_the_depth_limit_is_exact_on_every_side(guest: ModuleType, js: JsCodec) -> None:
    value: Any = b"leaf"
    for level in range(500):
        value = [value] if level % 2 else {"a": value}
    assert codec.decode(guest.encode(value)) == value
    assert guest.decode(codec.encode(value)) == value
    assert codec.decode(js.there_and_back(codec.encode(value, dialect="js"))) == value
    for encode in (codec.encode, guest.encode):
        with pytest.raises(ValueError, match="nested deeper than 500 levels"):
            encode([value])


def test_the_protocols_own_levels_do_not_count_as_nesting(guest: ModuleType, js: JsCodec) -> None:
    value: Any = None
    for _ in range(500):
        value = [value]
    call = ["name", [value], {}, []]
    assert guest.decode(codec.encode(call, wrap=2)) == call
    assert js.run("value[1][0].length", codec.encode(call, dialect="js", wrap=2)) == 1
    with pytest.raises(codec.EncodeError):
        codec.encode(["name", [[value]], {}, []], wrap=2)
    with pytest.raises(codec.EncodeError):
        codec.encode(call, wrap=1)


def test_ints_cross_whatever_the_program_set_the_digit_limit_to(guest: ModuleType) -> None:
    values = [10**639, 10**700, -(10**4299), 10**4300, 10**9000, [7, -1]]
    before = sys.get_int_max_str_digits()
    plain = codec.encode(values[:3])
    try:
        for limit in (640, 0, 10_000):
            sys.set_int_max_str_digits(limit)
            assert codec.decode(guest.encode(values)) == values
            assert guest.decode(codec.encode(values)) == values
            assert codec.decode(plain) == values[:3]
            assert codec.decode(codec.encode(values, dialect="js")) == values
    finally:
        sys.set_int_max_str_digits(before)


def test_a_text_of_endless_digits_is_refused_even_where_the_program_allows_them() -> None:
    before = sys.get_int_max_str_digits()
    try:
        for limit in (0, 4300):
            sys.set_int_max_str_digits(limit)
            with pytest.raises(codec.CodecError, match="int"):
                codec.decode(b"[" + b"9" * 5000 + b"]")
    finally:
        sys.set_int_max_str_digits(before)


def test_size_over_the_limit_says_both_numbers(guest: ModuleType) -> None:
    value = ["x" * 100, b"y" * 100]
    for encode in (codec.encode, guest.encode):
        size = len(encode(value))
        assert encode(value, max_bytes=size)
        with pytest.raises(ValueError, match=f"the value takes {size} bytes, over the limit of {size - 1}") as info:
            encode(value, max_bytes=size - 1)
        assert (info.value.size, info.value.limit) == (size, size - 1)  # type: ignore[attr-defined]
    with pytest.raises(codec.TooLarge):
        codec.decode(b"[1,2]", max_bytes=4)


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        ("x" * 50, 50),
        ("é" * 50, 100),
        ("", 0),
        (b"x" * 50, 50),
        (b"", 0),
        (memoryview(bytes(48)).cast("d"), 48),
        ("\ud800\udc00" * 10, 60),
        (["x"], 5),
        (12345, 5),
    ],
)
def test_what_is_one_piece_counts_only_what_it_holds(value: object, counts: int, guest: ModuleType) -> None:
    for encode in (codec.encode, guest.encode):
        assert codec.payload_size(encode(value)) == counts
        wire = encode(value, max_bytes=counts)
        codec.decode(wire, max_bytes=counts)
        with pytest.raises(ValueError, match=f"takes {counts} bytes, over the limit of {counts - 1}"):
            encode(value, max_bytes=counts - 1)
        with pytest.raises(codec.TooLarge):
            codec.decode(wire, max_bytes=counts - 1)


def test_several_segments_count_with_their_frame() -> None:
    wire = codec.encode([b"x", b"y"])
    assert codec.payload_size(wire) == len(wire)


def test_a_frame_that_lies_about_its_segment_counts_all_the_same() -> None:
    wire = bytearray(codec.encode(bytes(5000)))
    wire[12:16] = bytes(4)
    assert codec.payload_size(bytes(wire)) > 4500
    for cut in range(20):
        assert codec.payload_size(bytes(wire[:cut])) <= 20
