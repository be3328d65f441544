"""A value that cannot cross is refused with its place, its fault and a remedy, in the same words on both sides."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import pickle
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given

from isola_anyio import codec
from isola_anyio.testing import Uncrossable, uncrossable

if TYPE_CHECKING:
    from types import ModuleType

    from tests.codec.js_harness import JsCodec

DIALECTS: tuple[codec.Dialect, ...] = ("python", "js")


@dataclasses.dataclass
class Row:
    id: int


class Shade(enum.Enum):
    DARK = 1


@pytest.mark.slow
@given(case=uncrossable())
def test_the_path_leads_to_the_fault(case: Uncrossable, guest: ModuleType) -> None:
    for dialect in DIALECTS:
        with pytest.raises(codec.EncodeError) as host_error:
            codec.encode(case.value, dialect=dialect)
        assert host_error.value.path == case.path
        assert host_error.value.kind == case.kind
    with pytest.raises(guest.EncodeError) as guest_error:
        guest.encode(case.value)
    assert str(guest_error.value) == str(host_error.value)
    assert guest_error.value.kind == case.kind
    builtin = guest_error.value.as_builtin()
    assert type(builtin) is (TypeError if case.kind == "type" else ValueError)
    assert str(builtin) == str(host_error.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"rows": [0, 1, 2, {"id": {1}}]}, "$.rows[3].id: set is not a value that can cross; convert it to a list"),
        ([deque()], "$[0]: collections.deque is not a value that can cross; convert it to a list"),
        ({"a": {1: 2}}, "$.a: the key 1 is of type int; keys must be str"),
        ({True: 1}, "$: the key True is of type bool; keys must be str"),
        ({b"k": 1}, "$: the key b'k' is of type bytes; keys must be str"),
        ({"a b": [1j]}, '$["a b"][0]: complex is not a value that can cross; convert it to a list of two floats'),
        ({"é": print}, '$["\\u00e9"]: builtin_function_or_method is not a value that can cross; send what it returns'),
        (decimal.Decimal(1), "$: decimal.Decimal is not a value that can cross; convert it to a str or a float"),
        (dt.date(2024, 1, 1), "$: datetime.date is not a value that can cross; convert it with .isoformat()"),
        (int, "$: type is not a value that can cross; send its name"),
        (np.datetime64("2024-01-01"), "$: numpy.datetime64 is not a value that can cross; convert it with .item()"),
        (
            np.array(["a"], dtype=object),
            "$: numpy.ndarray of object is not a value that can cross; convert it with .tolist()",
        ),
        (
            np.array(["2024-01-01"], dtype="M8[s]"),
            "$: numpy.ndarray of datetime64[s] is not a value that can cross; convert it with .astype('int64')",
        ),
        (
            np.zeros(2, dtype="g"),
            "$: numpy.ndarray of float128 is not a value that can cross; convert it with .astype('float64')",
        ),
    ],
    ids=lambda case: case[:30] if isinstance(case, str) else "",
)
def test_the_message_says_where_what_and_what_to_do(value: Any, text: str, guest: ModuleType) -> None:
    for module in (codec, guest):
        with pytest.raises(module.EncodeTypeError) as info:
            module.encode(value)
        assert str(info.value) == text
        assert isinstance(info.value, TypeError)


def test_dataclasses_and_enums_have_their_own_remedies(guest: ModuleType) -> None:
    for module in (codec, guest):
        with pytest.raises(TypeError, match=r"convert it with dataclasses\.asdict\(\)"):
            module.encode(Row(1))
        with pytest.raises(TypeError, match=r"send its \.value"):
            module.encode(Shade.DARK)


def test_a_released_memoryview_is_refused(guest: ModuleType) -> None:
    view = memoryview(b"x")
    view.release()
    for module in (codec, guest):
        with pytest.raises(TypeError, match=r"^\$\[0\]: memoryview is not a value that can cross; .*released"):
            module.encode([view])


def test_a_value_met_twice_is_no_cycle(guest: ModuleType) -> None:
    twice = [b"x"]
    assert codec.decode(guest.encode([twice, {"a": twice}])) == [[b"x"], {"a": [b"x"]}]
    assert guest.decode(codec.encode([twice, twice])) == [[b"x"], [b"x"]]


def test_the_root_of_a_path_can_be_named() -> None:
    with pytest.raises(codec.EncodeError, match=r"^argument 2\[0\]: set"):
        codec.encode([set()], root="argument 2")


def test_errors_survive_pickling() -> None:
    for error in (codec.EncodeTypeError("$.a", "no"), codec.TooLarge("$", 5, 4)):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.path) == (type(error), str(error), error.path)


def test_errors_whose_names_lie_do_not_break_the_message(guest: ModuleType) -> None:
    class Sly:
        def __repr__(self) -> str:
            raise RuntimeError

        def __hash__(self) -> int:
            return 1

    for module in (codec, guest):
        with pytest.raises(TypeError, match=r"the key .* is of type .*Sly; keys must be str"):
            module.encode({Sly(): 1})


@pytest.mark.parametrize(
    ("expression", "name", "message"),
    [
        ("{rows: [1, {id: new Map()}]}", "TypeError", "$.rows[1].id: Map is not a value that can cross; "),
        ("[new Set()]", "TypeError", "$[0]: Set is not a value that can cross; convert it to an array"),
        ("[() => 1]", "TypeError", "$[0]: function is not a value that can cross; send what it returns"),
        ("{f() {}}", "TypeError", "$.f: function"),
        ("Symbol('s')", "TypeError", "$: symbol"),
        ("{a: {[Symbol('s')]: 1}}", "TypeError", "$.a: the key Symbol(s) is a symbol"),
        ("Promise.resolve()", "TypeError", "$: Promise is not a value that can cross; await it first"),
        ("{'é b': new WeakMap()}", "TypeError", '$["\\u00e9 b"]: WeakMap'),
        ("[/x/]", "TypeError", "$[0]: RegExp"),
        ("[new TypeError('x')]", "TypeError", "$[0]: Error"),
        ("[[].values()]", "TypeError", "$[0]: Iterator"),
        ("(function* () {})()", "TypeError", "$: Iterator"),
        ("(async function* () {})()", "TypeError", "$: AsyncIterator"),
        ("(() => { const a = {}; a.b = [a]; return a; })()", "TypeError", "$.b[0]: the value contains itself"),
        (
            "(() => { let a = []; for (let i = 0; i < 500; i++) a = [a]; return a; })()",
            "RangeError",
            "$" + "[0]" * 16 + "..." + "[0]" * 16 + ": nested deeper than 500 levels; flatten it",
        ),
        ("(() => { let a = {}; for (let i = 0; i < 1e5; i++) a = {a}; return a; })()", "RangeError", "$.a.a"),
    ],
)
def test_javascript_is_told_where_what_and_what_to_do(expression: str, name: str, message: str, js: JsCodec) -> None:
    wire, error = js.encode(expression)
    assert wire is None
    assert error is not None
    assert error[0] == name
    assert error[1].startswith(message)


def test_both_guests_write_paths_alike(guest: ModuleType, js: JsCodec) -> None:
    for keys in (["a", "b c", "é", '"', "\x00", "k" * 60, "$x", "9"], ["x"] * 40):
        value: Any = set()
        for key in reversed(keys):
            value = {key: value}
        with pytest.raises(guest.EncodeError) as info:
            guest.encode(value)
        built = "new Set()"
        for key in reversed(keys):
            built = f"{{{codec.encode(key).decode()}: {built}}}"
        _, error = js.encode(built)
        assert error is not None
        assert error[1].partition(": Set")[0] == info.value.path
