"""The fast path is the slow path, only faster: the same bytes, values and errors, in one Python call."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isola_anyio import codec
from isola_anyio.codec.decoding import decode_any
from isola_anyio.codec.encoding import encode_any
from isola_anyio.codec.jsontext import MAX_DEPTH
from isola_anyio.testing import equal_exact, json_values
from tests.codec.test_round_trips import EDGES

KEYS = st.text() | st.integers() | st.none() | st.booleans() | st.floats() | st.sampled_from(["1", "true", "-", "NaN"])
UNCROSSABLE = st.recursive(
    json_values(max_leaves=5) | st.sampled_from([{1}, object, 1j]) | st.integers(1, 9).map(lambda n: n * 10**4299),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(KEYS, items, max_size=3),
    max_leaves=10,
)


def outcome(work: Callable[[], Any]) -> tuple[str, Any]:
    """What ``work`` returns or raises, in a form that can be compared."""
    try:
        return "value", work()
    except codec.CodecError as exc:
        return type(exc).__name__, str(exc)


def nested(depth: int) -> Any:
    value: Any = 0
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def cycle() -> Any:
    value: list[Any] = [1]
    value.append(value)
    return value


ODD: dict[str, Any] = {
    "as deep as may be": nested(500),
    "too deep": nested(501),
    "many brackets": [[]] * 501,
    "brackets in a str": ["[" * 501],
    "cycle": cycle(),
    "keys like constants": {"1": 1, "true": {"null": "NaN"}},
    "key of an int": {1: 1},
    "key of None": {"a": {None: 1}},
    "keys of both kinds": {"1": 1, 1: 2},
    "longest int that is digits": 10**4299,
    "shortest int that is bytes": 10**4300,
    "unsafe int": 2**53,
    "digits in a str": ["1234567890123456", ",1234567890123456,"],
    "nan": [math.nan],
    "surrogate pair": "\ud800\udc00",
    "surrogates": "\udc00\ud800",
    "a key that is a surrogate pair": {"\ud800\udc00": 1},
}


def assert_either_way_is_the_same(value: Any, dialect: codec.Dialect) -> None:
    fast = outcome(lambda: codec.encode(value, dialect=dialect))
    assert fast == outcome(lambda: encode_any(value, "$", MAX_DEPTH, None, js=dialect == "js"))


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["python", "js"])
@given(value=UNCROSSABLE)
def test_encoding_is_the_same_by_either_way(value: Any, dialect: codec.Dialect) -> None:
    assert_either_way_is_the_same(value, dialect)


@pytest.mark.parametrize("dialect", ["python", "js"])
@pytest.mark.parametrize("name", ODD)
def test_encoding_odd_values_is_the_same_by_either_way(name: str, dialect: codec.Dialect) -> None:
    assert_either_way_is_the_same(ODD[name], dialect)


@pytest.mark.parametrize("value", EDGES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("dialect", ["python", "js"])
@pytest.mark.parametrize("limit", [640, 0, 10_000])
def test_encoding_is_the_same_whatever_the_limit_of_digits(value: Any, dialect: codec.Dialect, limit: int) -> None:
    before = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(limit)
        assert_either_way_is_the_same(value, dialect)
    finally:
        sys.set_int_max_str_digits(before)


@given(
    data=st.binary(max_size=60)
    | st.text(st.sampled_from('[]{}",:\\1u0 ae-')).map(str.encode)
    | json_values(max_leaves=10).map(codec.encode)
)
@example(b"")
@example(b"1 ")
@example(b"[1")
@example(b'"\xff"')
@example(b"[" * 501 + b"]" * 501)
@example(b"[" * 500 + b"]" * 500)
@example(b'"' + b"[" * 501 + b'"')
@example(b"[" + b"[]," * 501 + b"[]]")
@example(b"9" * 4301)
def test_decoding_is_the_same_by_either_way(data: bytes) -> None:
    kind, fast = outcome(lambda: codec.decode(data))
    slow_kind, slow = outcome(lambda: decode_any(data, None))
    assert kind == slow_kind
    assert equal_exact(fast, slow)


def test_a_small_value_costs_one_python_call_each_way_and_one_more_to_be_weighed() -> None:
    value = ["add", [1, 2.5, "x", None], {"a": {"b": True}}, []]
    wire = codec.encode(value)
    called: list[str] = []

    def trace(frame: Any, event: str, _argument: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)

    def pause() -> None:
        pass

    calls: dict[str, Callable[[], Any]] = {
        "encode": lambda: codec.encode(value, max_bytes=1000, wrap=2),
        "encode for js": lambda: codec.encode(value, dialect="js"),
        "encode with a pause": lambda: codec.encode(value, pause=pause),
        "decode": lambda: codec.decode(wire, pause=pause),
        "decode a view": lambda: codec.decode(memoryview(wire)),
    }
    counts: dict[str, int] = {}
    for name, call in calls.items():
        called.clear()
        sys.setprofile(trace)
        try:
            call()
        finally:
            sys.setprofile(None)
        counts[name] = len(called) - 1  # the lambda
    assert counts == {
        "encode": 1,
        "encode for js": 1,
        "encode with a pause": 2,
        "decode": 1,
        "decode a view": 1,
    }
    assert json.loads(wire) == value
