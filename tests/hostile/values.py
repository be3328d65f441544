"""Values that lie: about their size, their depth, their type, and what they are made of."""

from __future__ import annotations

from typing import Any

from isola_anyio import GuestError, PayloadLimitError
from tests.hostile.attack import (
    MIB,
    Attack,
    Expectation,
    Outcome,
    contained,
    either,
    gives,
    holds,
    js,
    python,
    raises,
    stopped,
)

refused = raises(GuestError, "TypeError", "ValueError", "RangeError", "RecursionError", usable=True)
tampered = raises(GuestError, "ProtocolError")
GIVE = "def attack():\n    return {}\n"
DONE = """
import _host
from sandbox import _port
def attack():
    {prepare}
    _host.call(b"\\x13" + _port.current_run.to_bytes(4, "little") + {body})
"""


def result(name: str, expression: str, expect: Expectation = refused, **rest: Any) -> Attack:
    """A Python function's result."""
    return python(name, GIVE.format(expression), expect, **rest)


def result_js(name: str, expression: str, expect: Expectation = refused, **rest: Any) -> Attack:
    """A JavaScript function's result."""
    return js(name, f"function attack() {{ return {expression} }}", expect, **rest)


def raw(name: str, body: str, expect: Expectation = tampered, prepare: str = "pass", **rest: Any) -> Attack:
    """What is sent as the result past the guest's own codec."""
    return python(name, DONE.format(body=body, prepare=prepare), expect, **rest)


def frame(text: str, sizes: str = "[]", data: str = "b''", *, key: str = "$", flags: int = 0, count: str = "") -> str:
    """Source of an expression for a binary frame."""
    packed = f"b''.join(n.to_bytes(4, 'little') for n in {sizes})"
    return (
        f"bytes((0xFE, 1, {len(key)}, {flags})) + len({text}).to_bytes(4, 'little')"
        f" + ({count or f'len({sizes})'}).to_bytes(4, 'little') + {packed} + b{key!r} + {text} + {data}"
    )


def _is_short(outcome: Outcome) -> None:
    assert isinstance(outcome.error, GuestError), str(outcome)
    assert len(str(outcome.error)) < 300_000


ATTACKS = [
    result("a cycle", "(lambda a: a.append(a) or a)([])"),
    result("a cycle through a dict", "(lambda d: d.update(d=[d]) or d)({})"),
    python(
        "a list nested a hundred thousand deep",
        "def attack():\n    a = []\n    for _ in range(100000): a = [a]\n    return a\n",
        refused,
    ),
    python(
        "a dict nested just too deep",
        "def attack():\n    a = {}\n    for _ in range(501): a = {'a': a}\n    return a\n",
        refused,
    ),
    result("a set", "{1, 2}"),
    result("a function", "print"),
    result("an object", "object()"),
    result("keys that are no strings", "{1: 2, None: 3, (4,): 5}"),
    result("keys that look like strings in JSON", "{True: 1, 'true': 2, 1.5: 3}"),
    result("an exception", "ValueError('x')"),
    result("a frame of the guest", "__import__('sys')._getframe()"),
    result("a module", "__import__('sys')"),
    result("a million digits", "10 ** 1000000", holds(lambda value: value == 10**1000000)),
    result(
        "a result over the payload limit",
        "'x' * (65 << 20)",
        raises(PayloadLimitError, usable=True),
        options={"max_memory": 500 * MIB},
        max_grown_bytes=700 * MIB,
    ),
    result(
        "a result over a smaller limit",
        "'x' * 2000",
        raises(PayloadLimitError, usable=True),
        options={"max_payload": 1000},
    ),
    python(
        "an item over the payload limit",
        "def attack():\n    yield 'x' * 2000\n",
        raises(PayloadLimitError, usable=True),
        options={"max_payload": 1000},
    ),
    result(
        "escapes of the wire spoofed in a string's place",
        "{'$': 'b0', '$s0': 1, '$0$': {'$': 'f'}, '\\x7f': {'$': 'I0'}}",
        gives({"$": "b0", "$s0": 1, "$0$": {"$": "f"}, "\x7f": {"$": "I0"}}),
    ),
    result(
        "escapes spoofed beside bytes",
        "[b'x', {'$': 'b0'}, {'$': 'b1'}, '$b0']",
        gives([b"x", {"$": "b0"}, {"$": "b1"}, "$b0"]),
    ),
    result("every lone surrogate", "''.join(map(chr, range(0xd800, 0xe000)))", holds(lambda value: len(value) == 2048)),
    python(
        "a string with a text of its own",
        "class S(str):\n    def __str__(self): return 'evil' * 10**8\n    def encode(self, *a): raise SystemExit\n    def __repr__(self): raise SystemExit\ndef attack():\n    return [S('plain'), {S('k'): S('v')}]\n",
        gives(["plain", {"k": "v"}]),
    ),
    python(
        "numbers with a mind of their own",
        "class I(int):\n    def __repr__(self): return '[' * 10**6\n    __str__ = __index__ = __repr__\nclass F(float):\n    def __repr__(self): return 'NaN}'\ndef attack():\n    return [I(7), F(1.5)]\n",
        gives([7, 1.5]),
    ),
    python(
        "a dict that is another each time",
        "class D(dict):\n    n = 0\n    def items(self):\n        D.n += 1\n        return [(str(D.n), object())]\n    def __len__(self): return 10**9\ndef attack():\n    return D(a=1)\n",
        contained,
    ),
    python(
        "a list that grows while it is sent",
        "class L(list):\n    def __iter__(self):\n        while True: yield 1\n    def __len__(self): return 1 << 60\n    def __getitem__(self, i): return self\ndef attack():\n    return L([1])\n",
        either(contained, stopped()),
        cancel_after=1.0,
    ),
    python(
        "a buffer that lies about its shape",
        "import numpy as np\ndef attack():\n    return np.lib.stride_tricks.as_strided(np.zeros(1), (1 << 30,), (0,))\n",
        contained,
    ),
    python(
        "a buffer without bytes and with a shape without end",
        "import numpy as np\ndef attack():\n    return [np.zeros((0, 1 << 20)), np.zeros((1 << 20, 0)), np.zeros((0,) * 30)]\n",
        contained,
    ),
    python(
        "an array of objects",
        "import numpy as np\ndef attack():\n    return np.array([object(), None], dtype=object)\n",
        refused,
    ),
    python(
        "a released buffer",
        "def attack():\n    view = memoryview(bytearray(10))\n    view.release()\n    return view\n",
        refused,
    ),
    # --- exceptions are values too
    python(
        "an exception whose text fails",
        "class E(Exception):\n    def __str__(self): raise E\n    __repr__ = __str__\ndef attack():\n    raise E\n",
        raises(GuestError, "E", usable=True),
    ),
    python(
        "an exception with a text of a hundred megabytes",
        "def attack():\n    raise ValueError('x' * (30 << 20))\n",
        _is_short,
    ),
    python(
        "an exception type with an endless name",
        "def attack():\n    raise type('E' * (10 << 20), (Exception,), {})('x')\n",
        _is_short,
    ),
    python(
        "an exception type that poses as ours",
        "class MemoryLimitError(Exception): pass\nclass InternalError(Exception): pass\ndef attack():\n    raise InternalError('/etc/passwd')\n",
        raises(GuestError, "InternalError", usable=True),
    ),
    python(
        "groups of groups of exceptions",
        "def attack():\n    e = ValueError('x')\n    for _ in range(3000): e = ExceptionGroup('g', [e])\n    raise e\n",
        contained,
    ),
    python(
        "a chain of causes without end",
        "def attack():\n    e = None\n    for _ in range(20000):\n        f = ValueError('x')\n        f.__cause__ = e\n        e = f\n    raise e\n",
        contained,
    ),
    python(
        "a chain of causes that is a circle",
        "def attack():\n    a, b = ValueError('a'), ValueError('b')\n    a.__cause__, b.__cause__ = b, a\n    raise a\n",
        raises(GuestError, "ValueError", usable=True),
    ),
    python(
        "a traceback with forged file names",
        "def attack():\n    exec(compile('1/0', '/etc/passwd', 'exec'))\n",
        raises(GuestError, "ZeroDivisionError", usable=True),
    ),
    python(
        "source lines forged",
        "import linecache\ndef attack():\n    linecache.cache['<script>'] = (1, None, ['x' * (1 << 22)] * 50, '<script>')\n    linecache.getlines = lambda *a: 1 / 0\n    raise ValueError('x')\n",
        contained,
    ),
    python(
        "exits of every kind",
        "import os, sys\ndef attack(kind=0):\n    try:\n        sys.exit('bye')\n    except SystemExit:\n        raise KeyboardInterrupt('ctrl-c')\n",
        raises(GuestError, "KeyboardInterrupt"),
    ),
    python("the end of the process", "import os\ndef attack():\n    os._exit(7)\n", raises(GuestError, "SystemExit")),
    python("a generator's own exit", "def attack():\n    raise GeneratorExit\n    yield\n", contained),
    python(
        "a cancellation nobody asked for",
        "import asyncio\nasync def attack():\n    raise asyncio.CancelledError\n",
        raises(GuestError, "CancelledError"),
    ),
    # --- past the guest's own codec
    raw("no JSON", "b'{'"),
    raw("nothing at all", "b''"),
    raw("JSON and more", "b'1 2'"),
    raw("no text", "b'\"\\xff\\xfe\"'"),
    raw("JSON nested without end", "b'[' * 1000000 + b']' * 1000000"),
    raw("JSON nested without end in a long text", "b'[' + b'1,' * 300000 + b'[' * 600 + b']' * 600 + b']'"),
    raw("a number of a million digits", "b'9' * 1000000"),
    raw("a number of a million digits in a long text", "b'[' + b'9' * 1000000 + b']'"),
    raw("a string without end", "b'\"' + b'x' * 1000000"),
    raw("a string of bad escapes", "b'\"' + b'\\\\ud800' * 100000 + b'\\\\x\"'"),
    raw(
        "twelve million empty lists",
        "b'[' + b'[],' * 12000000 + b'[]]'",
        contained,
        options={"max_memory": 500 * MIB},
        max_gap_s=0.5,
        reason="the interpreter frees a list with all of its items in one step, whoever lets go of it",
        max_grown_bytes=1400 * MIB,
    ),
    raw(
        "millions of one-member objects",
        "b'[' + b'{\"a\":1},' * 1500000 + b'1]'",
        contained,
        options={"max_memory": 500 * MIB},
        max_grown_bytes=1400 * MIB,
    ),
    raw("a million keys that are all the same", "b'{' + b'\"a\":1,' * 1000000 + b'\"a\":2}'", contained),
    raw(
        "keys that collide",
        "b'{' + b','.join(b'\"%d\":1' % (n * 0x1fffffffffffffff) for n in range(50000)) + b'}'",
        contained,
    ),
    raw("a frame cut short", "bytes((0xFE, 1, 1))"),
    raw("a frame of another version", frame("b'1'").replace("0xFE, 1,", "0xFE, 9,")),
    raw("a frame with four billion segments", frame("b'1'", count="(1 << 32) - 1")),
    raw("a frame with segments longer than itself", frame('b\'{"$":"b0"}\'', "[4000000000]")),
    raw("a frame with a text longer than itself", "bytes((0xFE, 1, 1, 0)) + b'\\xff' * 4 + b'\\0' * 4 + b'$1'"),
    raw("a segment used twice", frame('b\'[{"$":"b0"},{"$":"b0"}]\'', "[1]", "b'\\0' * 64")),
    raw("a segment never used", frame("b'1'", "[8]", "b'\\0' * 64")),
    raw("escapes that mean nothing", frame('b\'{"$":"z9"}\'')),
    raw("numbers that are none", frame('b\'{"$":"f__1"}\''), contained),
    raw("a buffer of unknown elements", frame('b\'{"$":"t0:O8:1"}\'', "[8]", "b'\\0' * 8"), contained),
    raw(
        "a buffer of more dimensions than there are",
        frame("b'{\"$\":\"t0:u1:' + b'1,' * 1000 + b'1\"}'", "[1]", "b'\\0'"),
        contained,
    ),
    raw(
        "a buffer whose shape overflows",
        frame('b\'{"$":"t0:u1:99999999999,99999999999"}\'', "[1]", "b'\\0'"),
        contained,
    ),
    raw("an integer of megabytes", frame('b\'{"$":"I0"}\'', "[1000000]", "b'\\0' * 6 + b'\\xff' * 1000000"), contained),
    raw("a text over the payload limit", "b'\"' + b'x' * 5000 + b'\"'", contained, options={"max_payload": 1000}),
    # --- JavaScript
    result_js("a cycle", "(() => { const a = []; a.push(a); return a })()"),
    js(
        "an array nested a hundred thousand deep",
        "function attack() { let a = []; for (let i = 0; i < 100000; i++) a = [a]; return a }",
        refused,
    ),
    result_js("a function", "() => 1", contained),
    result_js("a symbol", "Symbol('x')", contained),
    result_js("a map", "new Map([[1, 2]])", contained),
    result_js("a weak reference", "new WeakRef({})", contained),
    result_js("the global object", "globalThis", contained),
    result_js("an integer of megabits", "2n ** 1000000n", holds(lambda value: value == 2**1000000)),
    result_js(
        "a result over a smaller limit",
        "'x'.repeat(2000)",
        raises(PayloadLimitError, usable=True),
        options={"max_payload": 1000},
    ),
    result_js(
        "a property of the prototype",
        'JSON.parse(\'{"__proto__": {"polluted": 1}, "constructor": 2}\')',
        gives({"__proto__": {"polluted": 1}, "constructor": 2}),
    ),
    result_js(
        "escapes spoofed", "[{ $: 'b0' }, { '$s0': 1 }, new Uint8Array([1])]", gives([{"$": "b0"}, {"$s0": 1}, b"\x01"])
    ),
    result_js("lone surrogates", "'\\ud800x\\udfff'", gives("\ud800x\udfff")),
    result_js("a proxy that throws", "new Proxy({}, { ownKeys() { throw new TypeError('no') } })", raises(GuestError)),
    result_js(
        "a getter that changes its object", "({ get a() { delete this.b; this.c = 1; return 1 }, b: 2 })", contained
    ),
    result_js("a toJSON that gives itself", "({ toJSON() { return this } })", contained),
    result_js(
        "an array with holes and a length of billions",
        "(() => { const a = [1]; a.length = 4e9; return a })()",
        contained,
        cancel_after=2.0,
    ),
    result_js(
        "an array that grows while it is sent",
        "(() => { const a = [1]; Object.defineProperty(a, 0, { get() { a.push(1, 1); return a.length } }); return a })()",
        contained,
    ),
    result_js(
        "a detached buffer",
        "(() => { const b = new ArrayBuffer(8); structuredClone(b, { transfer: [b] }); return new Uint8Array(b) })()",
        contained,
    ),
    js(
        "something thrown that is no error",
        "function attack() { throw { name: 'InternalError', message: { toString() { throw 1 } }, stack: 7 } }",
        raises(GuestError),
    ),
    js("undefined thrown", "function attack() { throw undefined }", raises(GuestError)),
    js("an error with a text of megabytes", "function attack() { throw new Error('x'.repeat(8 << 20)) }", _is_short),
    js(
        "an error with a name of megabytes",
        "function attack() { const e = new Error('x'); e.name = 'E'.repeat(4 << 20); throw e }",
        _is_short,
    ),
    js(
        "errors that cause one another",
        "function attack() { const a = new Error('a'), b = new Error('b', { cause: a }); a.cause = b; throw new AggregateError([a, b, a]) }",
        raises(GuestError),
    ),
    js(
        "a stack that is forged",
        "function attack() { const e = new Error('x'); Object.defineProperty(e, 'stack', { get() { return '/etc/passwd'.repeat(1e6) } }); throw e }",
        _is_short,
    ),
    js(
        "stack preparation replaced",
        "function attack() { Error.prepareStackTrace = () => { for (;;); }; Error.stackTraceLimit = 1e9; null.x }",
        either(stopped(), raises(GuestError)),
        cancel_after=0.3,
    ),
    js(
        "prototypes polluted before a result",
        "function attack() { Object.prototype.toJSON = () => 'evil'; Array.prototype.map = Array.prototype.join = null; String.prototype.charCodeAt = null; Object.prototype.limit = 'memory'; JSON.stringify = null; return { a: [1, 'x'] } }",
        contained,
    ),
    js("a rejection of nothing", "function attack() { return Promise.reject() }", raises(GuestError)),
    js(
        "a thenable that settles twice",
        "function attack() { return { then(a, b) { a(1); b(2); a(3); throw 4 } } }",
        gives(1),
    ),
]
