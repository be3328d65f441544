"""Say too much, say it badly, and say it to nobody."""

from __future__ import annotations

from collections.abc import Callable

from isola_anyio import OutputLimitError
from tests.hostile.attack import MIB, Expectation, Outcome, contained, gives, js, python, raises, stopped

too_much = raises(OutputLimitError, usable=False)
SMALL = {"options": {"max_output": 100_000}}


def _text(kind: str) -> Callable[[Outcome], str]:
    def text_of(outcome: Outcome) -> str:
        return "".join(event.data for event in outcome.events if event.type == kind)  # type: ignore[misc]

    return text_of


def says(kind: str, expected: str) -> Expectation:
    """The stream has this text, and nothing else of the kind."""

    def check(outcome: Outcome) -> None:
        assert outcome.error is None, str(outcome)
        assert _text(kind)(outcome) == expected

    return check


def _at_most(outcome: Outcome) -> None:
    too_much(outcome)
    assert len(_text("stdout")(outcome)) <= 110_000


ATTACKS = [
    python("printing for ever", "def attack():\n    while True: print('x' * 1000)\n", too_much),
    python(
        "printing for ever to a reader",
        "def attack():\n    while True: print('x' * 1000)\n",
        _at_most,
        stream="read",
        **SMALL,
    ),
    python(
        "errors for ever",
        "import sys\ndef attack():\n    while True: print('x' * 1000, file=sys.stderr)\n",
        too_much,
        **SMALL,
    ),
    python(
        "logging for ever",
        "from sandbox.logging import info\ndef attack():\n    while True: info('x' * 1000)\n",
        too_much,
        **SMALL,
    ),
    python(
        "writing to the descriptor for ever",
        "import os\ndef attack():\n    while True: os.write(1, b'x' * 1000)\n",
        too_much,
        **SMALL,
    ),
    python(
        "empty writes for ever",
        "import os\ndef attack():\n    while True: os.write(1, b'')\n",
        stopped(),
        cancel_after=0.2,
        stream="read",
    ),
    python(
        "one write of a hundred megabytes",
        "import os\ndef attack():\n    os.write(1, bytes(100 << 20))\n",
        too_much,
        options={"max_memory": 400 * MIB},
        max_grown_bytes=260 * MIB,
    ),
    python(
        "one log message of fifty megabytes",
        "from sandbox import _port\ndef attack():\n    _port.log(_port.current_run, 1, 'x' * (50 << 20))\n",
        too_much,
        options={"max_memory": 400 * MIB},
        max_grown_bytes=400 * MIB,
    ),
    python(
        "sixteen megabytes that are no text",
        "import os\ndef attack():\n    return os.write(1, b'\\xff' * (16 << 20))\n",
        gives(16 << 20),
        stream="read",
        max_grown_bytes=500 * MIB,
    ),
    python(
        "a log message of sixteen megabytes that are no text",
        "import _host\nfrom sandbox import _port\ndef attack():\n    _host.call(b'\\x12' + _port.current_run.to_bytes(4, 'little') + b'\\x01' + b'\\xff' * ((16 << 20) - 1))\n",
        contained,
        stream="read",
        max_grown_bytes=500 * MIB,
    ),
    python(
        "characters cut in two",
        "import os\ndef attack():\n    for byte in 'ä€😀'.encode() * 50: os.write(1, bytes([byte]))\n    os.write(1, b'\\xf0\\x9f')\n",
        says("stdout", "ä€😀" * 50 + "\ufffd"),
        stream="read",
    ),
    python(
        "both streams torn into one another",
        "import os\ndef attack():\n    for byte in 'ä' .encode() * 50: os.write(1, bytes([byte])); os.write(2, bytes([byte]))\n",
        says("stderr", "ä" * 50),
        stream="read",
    ),
    python(
        "control characters",
        "def attack():\n    print('\\0\\x1b[2J\\x07\\r\\x9b\\u202e', end='')\n",
        says("stdout", "\0\x1b[2J\x07\r\x9b\u202e"),
        stream="read",
    ),
    python(
        "lone surrogates",
        "from sandbox.logging import info\ndef attack():\n    print('\\udc80\\udcff', end='')\n    info('\\ud800')\n    return 'said'\n",
        gives("said"),
        stream="read",
    ),
    python(
        "twenty thousand small events before they are read",
        "def attack():\n    for n in range(20000): yield n\n",
        lambda outcome: _check_count(outcome, 20000),
        stream="slowly",
    ),
    python(
        "large events before they are read",
        "def attack():\n    for n in range(40): yield 'x' * (4 << 20)\n",
        lambda outcome: _check_count(outcome, 40),
        stream="slowly",
        max_grown_bytes=600 * MIB,
    ),
    python(
        "prints that are not read, then a cancellation",
        "def attack():\n    while True: print('x' * 10000)\n",
        stopped(within_s=1.5),
        stream="slowly",
        cancel_after=0.1,
    ),
    python(
        "output after the end",
        "import asyncio, atexit\nasync def late():\n    try:\n        await asyncio.sleep(100)\n    finally:\n        print('late')\nasync def attack():\n    atexit.register(print, 'exit')\n    asyncio.ensure_future(late())\n    await asyncio.sleep(0)\n",
        contained,
        stream="read",
    ),
    python(
        "streams closed and replaced",
        "import sys, os\ndef attack():\n    sys.stdout.close()\n    sys.stderr = None\n    sys.stdout = open('/tmp/out', 'w')\n    print('lost')\n    return 'fine'\n",
        gives("fine"),
        stream="read",
    ),
    python(
        "streams that fail when they are flushed",
        "import sys\nclass Bad:\n    def write(self, text): raise SystemExit(3)\n    def flush(self): raise KeyboardInterrupt\ndef attack():\n    sys.stdout = sys.stderr = sys.__stdout__ = Bad()\n    return 'fine'\n",
        gives("fine"),
    ),
    python(
        "positioned writes to standard output",
        "import os\ndef attack():\n    errors = 0\n    for act in (lambda: os.pwrite(1, b'x', 0), lambda: os.lseek(1, 0, 0), lambda: os.ftruncate(1, 0), lambda: os.read(1, 1), lambda: os.write(0, b'x'), lambda: os.fsync(1) or 1 / 0):\n        try:\n            act()\n        except (OSError, ZeroDivisionError):\n            errors += 1\n    return [errors, os.read(0, 10).decode()]\n",
        gives([6, ""]),
    ),
    # --- JavaScript
    js("logging for ever", "function attack() { for (;;) console.log('x'.repeat(1000)) }", too_much, **SMALL),
    js("errors for ever", "function attack() { for (;;) console.error('x'.repeat(1000)) }", too_much, **SMALL),
    js(
        "empty messages for ever",
        "function attack() { for (;;) console.log('') }",
        contained,
        cancel_after=0.3,
        stream="read",
        **SMALL,
    ),
    js(
        "one message of ten megabytes",
        "function attack() { console.log('x'.repeat(10 << 20)); return 1 }",
        too_much,
        **SMALL,
    ),
    js(
        "objects that are dear to show",
        "function attack() { let o = {}; for (let i = 0; i < 18; i++) o = { a: o, b: o, c: [o, o] }; console.log(o); return 1 }",
        contained,
        stream="read",
        cancel_after=2.0,
    ),
    js(
        "objects that fight being shown",
        "function attack() { const bad = new Proxy({}, { get() { throw 1 }, ownKeys() { throw 2 }, getPrototypeOf() { throw 3 } }); const o = { get a() { throw bad }, [Symbol.toPrimitive]() { throw 5 }, toString: 7 }; for (const f of ['log', 'error', 'warn', 'info', 'debug']) { console[f](o, bad, Symbol(), null, -0, 1n, function () {}, [bad]); console[f]('%s %d %o %c %j', o, bad) } return 'said' }",
        gives("said"),
        stream="read",
    ),
    js(
        "a cycle shown",
        "function attack() { const o = {}; o.o = o; o.a = [o]; console.log(o); return 'said' }",
        gives("said"),
        stream="read",
    ),
    js(
        "control characters and surrogates",
        "function attack() { console.log('\\0\\x1b[2J\\ud800\\udfff\\ud83d'); return 'said' }",
        gives("said"),
        stream="read",
    ),
    js(
        "twenty thousand events before they are read",
        "function* attack() { for (let n = 0; n < 20000; n++) yield n }",
        lambda outcome: _check_count(outcome, 20000),
        stream="slowly",
    ),
    js(
        "messages that are not read, then a cancellation",
        "function attack() { for (;;) console.log('x'.repeat(10000)) }",
        stopped(within_s=1.5),
        stream="slowly",
        cancel_after=0.1,
    ),
    js(
        "a console replaced",
        "function attack() { globalThis.console = { log() { for (;;); } }; Object.freeze(globalThis); return 'fine' }",
        gives("fine"),
    ),
]


def _check_count(outcome: Outcome, count: int) -> None:
    assert outcome.error is None, str(outcome)
    assert sum(event.type == "result" for event in outcome.events) == count
