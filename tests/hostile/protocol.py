"""Knock on the door by hand: every kind of frame, malformed, at the wrong time, or for somebody else."""

from __future__ import annotations

from typing import Any

from isola_anyio import GuestError
from tests.hostile.attack import MIB, Attack, Expectation, contained, either, gives, js, python, raises, stopped

HEAD = """
import _host
from sandbox import _port
def knock(kind, body=b"", number=None):
    number = _port.current_run if number is None else number
    return _host.call(bytes((kind,)) + number.to_bytes(4, "little") + body)
def attack():
"""
tampered = raises(GuestError, "ProtocolError", usable=False)


def knocking(name: str, body: str, expect: Expectation = tampered, **rest: Any) -> Attack:
    """Python with a hand on the door."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    return python(name, f"import asyncio, struct\n{HEAD}{lines}", expect, **rest)


ATTACKS = [
    *(knocking(f"a frame of {length} bytes", f"_host.call(b'\\x13' * {length})") for length in range(5)),
    knocking("kinds of frames there are none of", "knock(0x7F)"),
    knocking("the host's own kinds", "knock(0x04, b'[\"attack\", [], {}, []]')"),
    knocking("kinds that only another guest has", "knock(0x1A, b'65536')\nreturn 1", contained),
    knocking("another run's result", "knock(0x13, b'1', number=_port.current_run + 1)"),
    knocking("an earlier run's result", "knock(0x13, b'1', number=0)"),
    knocking("another run's item", "knock(0x11, b'1', number=0xFFFFFFFF)"),
    knocking("two results", "knock(0x13, b'1')\nknock(0x13, b'2')"),
    knocking("a hostcall after the result", "knock(0x13, b'1')\nknock(0x10, b'\\4\\0echo1', number=77)"),
    knocking("an item after the result", "knock(0x13, b'1')\nknock(0x11, b'2')"),
    knocking("a park after the result", "knock(0x13, b'1')\nknock(0x15, struct.pack('<dB', 0, 0))"),
    knocking("a result after a park", "knock(0x15, struct.pack('<dB', 0, 0))\nknock(0x13, b'1')"),
    knocking("a wait after a park", "knock(0x15, struct.pack('<dB', 0, 0))\nknock(0x16, struct.pack('<dB', 0, 0))"),
    knocking("a park of another length", "knock(0x15, b'123')"),
    knocking("a park until no number", "knock(0x15, struct.pack('<dB', float('nan'), 0))"),
    knocking("a wait until no number", "knock(0x16, struct.pack('<dB', float('nan'), 255))"),
    knocking("a wait for another run", "knock(0x16, struct.pack('<dB', 0, 0), number=0)"),
    knocking(
        "waits of every length",
        "for seconds in (0.0, -0.0, 1e-300, -1e300):\n    if seconds >= 0: knock(0x16, struct.pack('<dB', seconds, 254))\nreturn 'waited'",
        gives("waited"),
    ),
    knocking(
        "a wait for ever", "knock(0x16, struct.pack('<dB', float('inf'), 0))", stopped(within_s=1.5), cancel_after=0.1
    ),
    knocking(
        "a wait of centuries", "knock(0x16, struct.pack('<dB', 1e308, 0))", stopped(within_s=1.5), cancel_after=0.1
    ),
    knocking(  # it is told, ignores it, and is stopped when the grace is over
        "waits without end",
        "while True: knock(0x16, struct.pack('<dB', 0, 0))",
        stopped(within_s=1.5),
        cancel_after=0.2,
    ),
    knocking(
        "a park until the end of time",
        "async def never(): pass\nknock(0x15, struct.pack('<dB', 1e308, 0))",
        either(tampered, stopped(within_s=1.5)),
        cancel_after=0.2,
    ),
    knocking("a stream there is none of", "knock(0x18, b'\\0\\0\\0\\0', number=5)"),
    knocking("a stream without a number", "knock(0x18, b'', number=5)"),
    knocking("a stream there is none of, stopped", "knock(0x19, number=3)"),
    knocking(
        "operations dropped that never were",
        "for op in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF): knock(0x17, number=op)\nreturn 'dropped'",
        gives("dropped"),
    ),
    knocking("drops without end", "while True: knock(0x17, number=5)", stopped(), cancel_after=0.2),
    knocking("one operation twice", "knock(0x10, b'\\5\\0never1', number=9)\nknock(0x10, b'\\5\\0never1', number=9)"),
    knocking(
        "operations with numbers of the host's",
        "for op in (0, 0xFFFFFFFF): knock(0x10, b'\\5\\0never1', number=op)\nreturn 'asked'",
        gives("asked"),
    ),
    knocking("a hostcall without a name", "knock(0x10, b'', number=9)"),
    knocking("a hostcall whose name ends behind its frame", "knock(0x10, b'\\xff\\xffecho', number=9)"),
    knocking(
        "a hostcall with a name that is no text",
        "return knock(0x10, b'\\4\\0\\xff\\xfe\\xfd\\xfc1', number=9)[0]",
        gives(1),
    ),
    knocking(
        "a hostcall with a payload that is none",
        "return [knock(0x10, b'\\4\\0echo' + body, number=9)[0] for body in (b'', b'{', b'\\xfe', b'1 2', b'[' * 1000)]",
        gives([1] * 5),
    ),
    knocking("log levels there are none of", "knock(0x12, b'\\x09x')"),
    knocking(
        "a log message without anything",
        "knock(0x12, b'')\nknock(0x12, b'\\0')\nreturn 'logged'",
        gives("logged"),
        stream="read",
    ),
    knocking("a failure that is not described", "knock(0x14, b'7')"),
    knocking("a failure described by a list", "knock(0x14, b'[1]')"),
    knocking(
        "a failure described by millions of lists",
        "knock(0x14, b'{\"type\":[' + b'[],' * 3000000 + b'[]]}')",
        contained,
    ),
    knocking(
        "a failure with fields of other types",
        'knock(0x14, b\'{"type":7,"message":null,"traceback":{},"limit":[]}\')',
        raises(GuestError),
    ),
    knocking(
        "a failure that claims a limit",
        'knock(0x14, b\'{"type":"X","message":"y","traceback":"","limit":"cpu"}\')',
        tampered,
    ),
    knocking(
        "a frame of seventy megabytes",
        "_host.call(b'\\x13' + _port.current_run.to_bytes(4, 'little') + bytes(70 << 20))",
        contained,
        options={"max_memory": 400 * MIB},
        max_grown_bytes=500 * MIB,
    ),
    knocking(
        "items although there is no room",
        "for n in range(3000): knock(0x11, b'1')\nreturn 'sent'",
        gives("sent"),
        stream="slowly",
    ),
    knocking(
        "messages although there is no room",
        "for n in range(3000): knock(0x12, b'\\1x')\nreturn 'sent'",
        gives("sent"),
        stream="slowly",
    ),
    knocking(
        "nothing at the end of a turn",
        "import _reactor\n_reactor.turn.__globals__['_isola_dispatch'] = lambda message: None\nfrom sandbox import _run\n_run.current = None\n_run.Run.step = lambda self: None\nraise SystemExit",
        contained,
    ),
    knocking(
        "things that are no bytes",
        "refused = 0\nfor frame in (None, 7, 'text', [1], 1.5, object()):\n    try:\n        _host.call(frame)\n    except (TypeError, BufferError): refused += 1\nreturn refused",
        gives(6),
    ),
    knocking(
        "every kind with bodies of noise",
        "import random\nrng = random.Random(1)\nfor _ in range(3000):\n    _host.call(bytes((0x10,)) + rng.randbytes(rng.randrange(4, 40)))\nreturn 'alive'",
        contained,
        cancel_after=3.0,
    ),
    js(
        "the SDK's functions called with nonsense",
        "function attack() { let frames = []; Error.prepareStackTrace = (e, f) => { frames = f; return '' }; void new Error('x').stack; Error.prepareStackTrace = undefined; let calls = 0; for (const frame of frames) { let f; try { f = frame.getFunction() } catch { } if (typeof f !== 'function' || f === attack) continue; for (const args of [[], [1], ['\\x13' + '1 1'], ['\\x04'], [null, null], [{}, []], [''], ['\\xff'.repeat(100)]]) { try { f(...args); calls++ } catch { calls++ } } } return 'alive' }",
        contained,
        cancel_after=1.0,
    ),
    js(
        "the hidden registry of scopes called",
        "function attack() { const f = globalThis[Symbol.for('isola.scope')]; for (const args of [[], [1], [() => 1], [(n) => { throw 1 }], [null], [{}], [(n) => n]]) { try { f?.(...args) } catch { } } return 'alive' }",
        contained,
    ),
    js(
        "the hidden registry of scopes replaced",
        "globalThis[Symbol.for('isola.scope')] = () => { for (;;); };\nfunction attack() { return 'alive' }",
        contained,
        cancel_after=0.5,
    ),
]
