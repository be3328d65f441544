"""Strategies for testing what you send through a sandbox, with `hypothesis <https://hypothesis.readthedocs.io>`_.

    from hypothesis import given
    from isola_anyio.testing import equal_exact, expected_round_trip, json_values

    @given(json_values())
    def test_my_handler(value): ...

The library's own tests use them, and `expected_round_trip` is the model they compare with.
"""

from __future__ import annotations

__all__ = [
    "Uncrossable",
    "buffers",
    "equal_exact",
    "expected_round_trip",
    "js_values",
    "json_values",
    "scalars",
    "uncrossable",
]

import datetime as dt
import decimal
import math
import struct
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

from isola_anyio.codec.errors import Step, format_path

try:
    from hypothesis import strategies as st
except ImportError as exc:
    raise ImportError("isola_anyio.testing needs hypothesis; pip install isola-anyio[testing]") from exc

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DrawFn, SearchStrategy

# Untyped, because narrowing Any to "dict of unknowns" helps nobody.
_DICT: Final = cast("type[Any]", dict)
_LIST: Final = cast("type[Any]", list)
_JS_DIGITS_END: Final = 1e21
"""From this number on JavaScript writes integral numbers with an exponent."""
_MAX_ARRAY_INDEX: Final = 2**32 - 2
_LETTERS: Final = "bBhHiIlLqQfd"


def _text(max_size: int) -> SearchStrategy[str]:
    # Surrogates, which st.text() leaves out, and what JSON escapes.
    return st.text(st.characters() | st.sampled_from('\ud83d\ude00\ud800\udfff"\\\x00\x7f\u2028$'), max_size=max_size)


def scalars() -> SearchStrategy[Any]:
    """Return values without parts: ``None``, bools, ints of any size, every float, strs with surrogates, bytes."""
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([2**53 - 1, 2**53, -(2**53), 2**63, -(2**64), 10**700, -(10**4299)]),
        st.floats(),
        st.sampled_from([-0.0, 5e-324, 2.0**53, 1e16, 1e21, 0.1 + 0.2]),
        _text(20),
        st.binary(max_size=40),
    )


@st.composite
def buffers(draw: DrawFn) -> memoryview:
    """Return typed buffers of every element type that needs no numpy, in zero to three dimensions."""
    letter: str = draw(st.sampled_from([*_LETTERS, "?"]))
    size = struct.calcsize(letter)
    shape: list[int] = draw(st.lists(st.integers(1, 4), max_size=3))
    data: bytes = draw(st.binary(min_size=math.prod(shape) * size, max_size=math.prod(shape) * size))
    if letter == "?":
        data = bytes(byte & 1 for byte in data)
    return cast("memoryview", cast("Any", memoryview(data)).cast(letter, shape))


def json_values(*, max_leaves: int = 30, with_buffers: bool = True) -> SearchStrategy[Any]:
    """Return values that cross to and from a Python guest; `expected_round_trip` says what they come back as.

    Args:
        max_leaves: how many scalars a value has at most.
        with_buffers: whether typed buffers are among them.
    """
    leaves = scalars() | buffers() if with_buffers else scalars()
    return _nested(leaves, max_leaves)


def js_values(*, max_leaves: int = 30) -> SearchStrategy[Any]:
    """Return values that come back from a JavaScript guest exactly as they were.

    It leaves out what JavaScript cannot tell apart or keep: integral floats below 1e21, keys that look like array
    indices, pairs of surrogates that stand for one character, and shapes.
    """
    leaves = scalars().filter(lambda leaf: equal_exact(leaf, expected_round_trip(leaf, "js")))
    keys = _text(8).filter(lambda key: not _is_index(key) and _merged(key) == key)
    return _nested(leaves, max_leaves, keys)


def _nested(
    leaves: SearchStrategy[Any], max_leaves: int, keys: SearchStrategy[str] | None = None
) -> SearchStrategy[Any]:
    if keys is None:
        keys = st.sampled_from(["$", "$0$", "$s0", "", "a", "__proto__", "7", "true"]) | _text(8)
    return st.recursive(
        leaves,
        lambda children: st.lists(children, max_size=5) | st.dictionaries(keys, children, max_size=5),
        max_leaves=max_leaves,
    )


class Uncrossable(NamedTuple):
    """A value that cannot cross.

    Attributes:
        value: the value.
        path: where in it the fault is.
        kind: ``"type"`` if it is of a type that cannot cross, ``"value"`` if it is a cycle or too deep.
    """

    value: Any
    path: str
    kind: Literal["type", "value"]


def _function() -> None:
    pass


_BAD_LEAVES: Final[tuple[Callable[[], object], ...]] = (
    set,
    object,
    lambda: _function,
    lambda: 1j,
    lambda: decimal.Decimal("1.5"),
    lambda: dt.date(2024, 2, 29),
    lambda: iter([1]),
    lambda: range(3),
    lambda: memoryview(b"").cast("B").release,
)


@st.composite
def uncrossable(draw: DrawFn) -> Uncrossable:
    """Return values with one fault: a wrong type, a key that is not a str, a cycle, or nesting deeper than 500."""
    fault = draw(st.sampled_from(["leaf", "leaf", "key", "cycle", "depth"]))
    kind: Literal["type", "value"] = "value"
    steps: list[Step] = []
    inner: list[Any] = []
    value: Any = inner
    if fault == "leaf":
        value = cast("Any", draw(st.sampled_from(_BAD_LEAVES))())
        kind = "type"
    elif fault == "key":
        value, kind = {draw(st.sampled_from([1, None, True, 1.5, math.nan, -7, (1,)])): None}, "type"
    elif fault == "depth":
        # One list too many, wherever the whole is put.
        for _ in range(500):
            value = [value]
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            before: list[Any] = draw(st.lists(st.integers() | st.text(max_size=3), max_size=3))
            value = [*before, value, 1]
            steps.insert(0, len(before))
        else:
            key = draw(st.sampled_from(["a", "rows", "$", "two words", "", "é", "7"]))
            outer: dict[str, Any] = {"before": "1", key: value, "after": [{}]}
            value = outer
            steps.insert(0, key)
    if fault == "cycle":
        inner.append(value)
        steps.append(0)
        if value is not inner:
            return Uncrossable(value, format_path("$", steps), kind)
    elif fault == "depth":
        steps = [*steps, *[0] * 500][:500]
    return Uncrossable(value, format_path("$", steps), kind)


def expected_round_trip(value: Any, runtime: Literal["python", "js"]) -> Any:
    """Return what comes back for ``value`` from a guest function that returns its argument."""
    js = runtime == "js"
    top: list[Any] = [None]
    left: list[tuple[Any, Any, Any]] = [(value, top, 0)]  # a value, and the container and place of its result
    while left:
        item, holder, at = left.pop()
        if isinstance(item, _DICT):
            names = {_merged(name) if js else "".join(name): part for name, part in item.items()}
            order = sorted(filter(_is_index, names), key=int) if js else []
            made: Any = dict.fromkeys([*order, *names])
            left += [(part, made, name) for name, part in names.items()]
        elif isinstance(item, (_LIST, tuple)):
            made = [None] * len(item)
            left += [(part, made, index) for index, part in enumerate(item)]
        else:
            made = _expected_leaf(item, js=js)
        holder[at] = made
    return top[0]


def _expected_leaf(value: Any, *, js: bool) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int.__index__(value)
    if isinstance(value, float):
        number = float.__mul__(value, 1.0)
        becomes_int = js and number.is_integer() and abs(number) < _JS_DIGITS_END and not _is_minus_zero(number)
        return int(number) if becomes_int else number
    if isinstance(value, str):
        return _merged(value) if js else "".join(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    view = memoryview(value)
    data = view.tobytes()
    letters = view.format.lstrip("@=<")
    if isinstance(value, memoryview) and view.ndim == 1 and letters in {"B", "c"}:
        return data
    if not js:
        return view
    # A flat typed array; bytes and bools are a Uint8Array, which comes back as bytes.
    return data if letters in {"B", "c", "?"} else cast("Any", memoryview(data)).cast(letters)


def _is_minus_zero(number: float) -> bool:
    return number == 0 and math.copysign(1, number) < 0


def _merged(text: str) -> str:
    """Return ``text`` with every pair of surrogates as the one character that it is in UTF-16."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _is_index(key: str) -> bool:
    """Whether ``key`` is an array index, which a JavaScript object lists before other keys."""
    return key.isascii() and key.isdigit() and str(int(key[:11])) == key and int(key) <= _MAX_ARRAY_INDEX


def equal_exact(left: Any, right: Any) -> bool:
    """Whether two values are the same to the bit: types, order of keys, ``-0.0``, ``nan``, shapes of buffers."""
    pairs: list[tuple[Any, Any]] = [(left, right)]
    while pairs:
        ours, theirs = pairs.pop()
        if isinstance(ours, memoryview) or isinstance(theirs, memoryview):
            if not _equal_buffers(ours, theirs):
                return False
        elif type(ours) is not type(theirs):
            return False
        elif isinstance(ours, _DICT):
            if list(ours) != list(theirs):
                return False
            pairs += zip(ours.values(), theirs.values(), strict=True)
        elif isinstance(ours, _LIST):
            if len(ours) != len(theirs):
                return False
            pairs += zip(ours, theirs, strict=True)
        elif isinstance(ours, float):
            if struct.pack("<d", ours) != struct.pack("<d", theirs) and not (math.isnan(ours) and math.isnan(theirs)):
                return False
        elif ours != theirs:
            return False
    return True


def _equal_buffers(left: Any, right: Any) -> bool:
    if not isinstance(left, memoryview) or not isinstance(right, memoryview):
        return False
    sort: dict[str, str] = {**dict.fromkeys("bhilq", "i"), **dict.fromkeys("BHILQ", "u")}
    ours, theirs = (form.lstrip("@=<") for form in (left.format, right.format))
    same = left.itemsize == right.itemsize and left.shape == right.shape
    return same and sort.get(ours, ours) == sort.get(theirs, theirs) and left.tobytes() == right.tobytes()
