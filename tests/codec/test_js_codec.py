"""What JavaScript's own rules make of a value, and what guest code cannot break."""

from __future__ import annotations

from typing import Any

import pytest

from isola_anyio import codec
from isola_anyio.testing import equal_exact
from tests.codec.js_harness import JsCodec


def came_back(js: JsCodec, expression: str) -> Any:
    wire, error = js.encode(expression)
    assert error is None, error
    assert wire is not None
    return codec.decode(wire)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("undefined", None),
        ("{a: undefined, b: 1}", {"b": 1}),
        ("[undefined, , 1]", [None, None, 1]),
        ("new Date(0)", "1970-01-01T00:00:00.000Z"),
        ("{d: new Date(NaN)}", {"d": None}),
        ("{toJSON(key) { return {key, n: NaN, big: 2n ** 60n}; }}", {"key": "", "n": float("nan"), "big": 2**60}),
        ("{a: {toJSON(key) { return key; }}}", {"a": "a"}),
        ("[{toJSON(key) { return typeof key + key; }}]", ["string0"]),
        ("[new Number(NaN), new String('x'), new Boolean(false)]", [float("nan"), "x", False]),
        ("10n", 10),
        ("-(2n ** 53n)", -(2**53)),
        ("-(2n ** 53n) + 1n", -(2**53) + 1),
        ("2n ** 9000n", 2**9000),
        ("2 ** 53", 2**53),
        ("2 ** 70", 2.0**70),
        ("-1e300", -1e300),
        ("2 ** 53 - 1", 2**53 - 1),
        ("-(2 ** 60)", -(2**60)),
        ("1e20", 10**20),
        ("1e21", 1e21),
        ("-0", -0.0),
        ("[0, -0, {a: -0}]", [0, -0.0, {"a": -0.0}]),
        ("new (class A { x = 1; get y() { return 2; } })", {"x": 1}),
        ("Object.create(null)", {}),
        ("Object.create({inherited: 1})", {}),
        ("new Proxy({a: -0}, {})", {"a": -0.0}),
        ("Object.defineProperty({}, 'hidden', {value: 1})", {}),
        ("{b: 1, a: 2, 10: 3, 9: 4}", {"9": 4, "10": 3, "b": 1, "a": 2}),
        ("{$: 1n << 70n, $0$: 1, $1: 2}", {"$": 1 << 70, "$0$": 1, "$1": 2}),
        ("{a: {toJSON: () => ({$: NaN, $0$: 1})}}", {"a": {"$": float("nan"), "$0$": 1}}),
        ("{['__proto__']: NaN}", {"__proto__": float("nan")}),
        ("Object.assign(() => 1, {toJSON() { return 'fn'; }})", "fn"),
        ("{f: Object.assign(() => 1, {toJSON: (key) => [key, -0]})}", {"f": ["f", -0.0]}),
        ("{price: '$5', n: NaN}", {"price": "$5", "n": float("nan")}),
        ("{'$\"': NaN, 'a\"$0$b': '\\\\\"$1', $1: 1}", {'$"': float("nan"), 'a"$0$b': '\\"$1', "$1": 1}),
        ("new (class { get [Symbol.toStringTag]() { return 'Mine'; } x = 1; })", {"x": 1}),
        ("'\\ud800' + '\\u2028'", "\ud800\u2028"),
        ("['\\ud83d' + '\\ude00', new Uint8Array(1)]", ["😀", b"\0"]),
        ("['é日\\u{1f600}', new Uint8Array(1)]", ["é日😀", b"\0"]),
    ],
)
def test_a_javascript_value_comes_to_the_host(expression: str, expected: Any, js: JsCodec) -> None:
    assert equal_exact(came_back(js, expression), expected)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ("get x() { return ++n; }", {"x": 1}),
        ("get x() { return n++ ? NaN : 1; }", {"x": 1}),
        ("get x() { return n++ ? new Map() : 1; }, y: -0", {"x": 1, "y": -0.0}),
        ("a: {get x() { return [++n]; }}, b: {get y() { return ++n; }}, z: new Uint8Array(1)", None),
        ("a: new Proxy([1, 2], {get: (target, key) => (key === '0' ? ++n : target[key])})", {"a": [1, 2]}),
        ("a: new Proxy({x: 0}, {get: (target, key) => (key === 'toJSON' ? undefined : ++n)}), b: NaN", None),
        ("get x() { return codec.encode({y: [NaN], n: ++n}).length > 0; }, y: [-0]", {"x": True, "y": [-0.0]}),
    ],
)
def test_each_member_is_read_once(members: str, expected: Any, js: JsCodec) -> None:
    js.eval(f"globalThis.n = 0; globalThis.made = {{ {members} }}; 0")
    came = came_back(js, "made")
    if expected is not None:
        assert equal_exact(came, expected)
    assert js.eval("n") == members.count("++")


@pytest.mark.parametrize(
    ("expression", "label"),
    [
        ("Math", "Math"),
        ("JSON", "JSON"),
        ("Reflect", "Reflect"),
        ("new FinalizationRegistry(() => {})", "FinalizationRegistry"),
        ("new (class { get [Symbol.toStringTag]() { return 'URLSearchParams'; } #inside = 1; })", "URLSearchParams"),
        ("new (class { get [Symbol.toStringTag]() { return 'x'.repeat(99); } })", "x" * 40),
    ],
)
def test_an_object_that_shows_nothing_of_what_it_is_cannot_cross(expression: str, label: str, js: JsCodec) -> None:
    _, error = js.encode(f"{{a: [{expression}]}}")
    assert error is not None
    assert error[1].startswith(f"$.a[0]: {label} is not a value that can cross; ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "expression"),
    [
        (2**53 - 1, "value === 9007199254740991"),
        (2**53, "value === 9007199254740992n"),
        (-(2**70), "value === -(2n ** 70n)"),
        (1 << 9_000, "value === 1n << 9000n"),
        (2.0**53, "value === 2 ** 53"),
        (-0.0, "Object.is(value, -0)"),
        (float("nan"), "Number.isNaN(value)"),
        (b"abc", "value instanceof Uint8Array && value.length === 3 && value.byteOffset === 0"),
        (
            {"__proto__": b"x"},
            "Object.keys(value).join() === '__proto__' && Object.getPrototypeOf(value) === Object.prototype",
        ),
        ([1, [b"x"]], "Array.isArray(value) && value[1][0][0] === 120"),
        ({"id": 1234567890123456789}, "value.id === 1234567890123456789n"),
        ({"text": "1234567890123456789"}, "value.text === '1234567890123456789'"),
        ([0.1 + 0.2, 123456789012345.6], "value[0] === 0.1 + 0.2 && value[1] === 123456789012345.6"),
    ],
)
def test_a_host_value_comes_to_javascript(value: Any, expression: str, js: JsCodec) -> None:
    assert js.run(expression, codec.encode(value, dialect="js")) is True


def test_a_plain_value_stays_a_string(js: JsCodec) -> None:
    for expression in ("{a: [1, 2.5, 'é', null, true]}", "'x'", "1", "[]", "undefined"):
        assert js.eval(f"typeof codec.encode(({expression}))") == "string"


def test_text_that_arrives_as_bytes_is_read_too(js: JsCodec) -> None:
    text = '{"é":"日😀\\ud800"}'
    js._context.globals["raw"] = text.encode()
    assert js.eval('codec.decode(raw)["é"] === "日😀\\ud800"') is True


def test_the_size_limit_counts_bytes(js: JsCodec) -> None:
    for expression in (
        "'é'.repeat(100)",
        "['日'.repeat(50)]",
        "'\\u{1f600}x'.repeat(9)",
        "new Uint8Array(100)",
        "1n << 99n",
    ):
        wire, _ = js.encode(expression)
        assert wire is not None
        size = codec.payload_size(wire)
        assert js.eval(f"codec.encode({expression}, {size}).length > 0") is True
        made = f"(() => {{ try {{ codec.encode({expression}, {size - 1}); }} catch (e) {{ return e; }} }})()"
        assert js.eval(f"{made} instanceof RangeError") is True
        assert js.eval(f"{made}.message") == f"$: the value takes {size} bytes, over the limit of {size - 1}"
        assert js.eval(f"codec.isPayloadLimit({made})") is True
    assert js.eval("codec.isPayloadLimit(new RangeError())") is False
    assert js.eval("codec.isPayloadLimit(undefined)") is False


def test_replaced_built_ins_break_nothing() -> None:
    js = JsCodec(
        """
        const bad = () => { throw new Error("called"); };
        const types = [Object, Array, String, Number, BigInt, Map, Set, RegExp, Uint8Array, WeakSet, Reflect, JSON];
        for (const type of types) {
          for (const target of [type, type.prototype]) {
            if (target === undefined) continue;
            for (const name of Object.getOwnPropertyNames(target)) {
              const keep = ["prototype", "constructor", "name", "length", "lastIndex", "exec", "flags", "hasIndices",
                "global", "ignoreCase", "multiline", "dotAll", "unicode", "unicodeSets", "sticky", "source", "toJSON"];
              if (keep.includes(name) || type === Object || (type === Array && name === "includes")) continue;
              try { target[name] = bad; } catch {}
            }
          }
        }
        globalThis.body = (made) => made;
        globalThis.JSON = globalThis.Uint8Array = globalThis.BigInt = globalThis.Set = undefined;
        """
    )
    try:
        value = {"a": [1, 2**70, b"x", -0.0, "é"], "$": {"$": 1.5}, "t": memoryview(bytes(8)).cast("d")}
        assert equal_exact(codec.decode(js.there_and_back(codec.encode(value, dialect="js"))), value)
        _, error = js.encode("{a: [new Map()]}")
        assert error is not None
        assert error[1].startswith("$.a[0]: Map")
    finally:
        js.close()
