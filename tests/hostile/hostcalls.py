"""Through the only way out: names, payloads, answers, and calls nobody waits for."""

from __future__ import annotations

from typing import Any

from isola_anyio import CpuLimitError, GuestError
from tests.hostile.attack import MIB, Attack, Expectation, contained, either, gives, holds, js, python, raises, stopped

CALL = "from sandbox.asyncio import hostcall\nimport asyncio\nimport sandbox\n"
MANY = "a thousand handlers of the host's own are cancelled at once, as max_hostcalls allows"
hostcall_failed = raises(GuestError, "HostcallError", usable=True)


def calling(name: str, body: str, expect: Expectation, **rest: Any) -> Attack:
    """An async function with ``hostcall`` at hand."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    return python(name, f"{CALL}async def attack():\n{lines}", expect, **rest)


def calling_js(name: str, body: str, expect: Expectation, **rest: Any) -> Attack:
    """An async function."""
    return js(name, f"async function attack() {{ {body} }}", expect, **rest)


LARGE_BY_HAND = """
import _host, struct
BODY = b"[" + b"[]," * 2_500_000 + b"1]"
def attack():
    op = 100_000
    while True:
        op += 1
        _host.call(struct.pack("<BIH", 0x10, op, 5) + b"plain" + BODY)
"""
"""Seven megabytes that take long to decode: an interrupt that comes meanwhile finds the guest in a door call."""

ATTACKS = [
    python("large calls by hand one after another, cancelled", LARGE_BY_HAND, stopped(within_s=1.5), cancel_after=0.7),
    python(
        "a budget used up by large calls by hand",
        LARGE_BY_HAND,
        raises(CpuLimitError, usable=False),
        options={"max_cpu": 0.5},
    ),
    calling(
        "large calls that are never started",
        "tasks = [asyncio.ensure_future(hostcall('never', [[]] * 1_000_000)) for n in range(8)]\nawait asyncio.sleep(10)",
        either(contained, stopped(within_s=0.3)),
        options={"max_hostcalls": 1},
        cancel_after=1.0,
        max_grown_bytes=1000 * MIB,
    ),
    calling("a name the host does not have", "return await hostcall('nothing', 1)", hostcall_failed),
    calling(
        "names that are attributes",
        "found = []\nfor name in ('__class__', 'get', 'keys', '', '__init__', 'echo\\0', 'ECHO', 'echo.__globals__'):\n    try:\n        found.append(await hostcall(name, 1))\n    except sandbox.HostcallError as error:\n        pass\nreturn found",
        gives([]),
    ),
    calling("a name of sixty-five thousand bytes", "return await hostcall('x' * 65535, 1)", hostcall_failed),
    calling(
        "a name too long for its frame",
        "return await hostcall('x' * 65536, 1)",
        raises(GuestError, "ValueError", usable=True),
    ),
    calling("a name that is no text", "return await hostcall('\\ud800\\udfff', 1)", hostcall_failed),
    calling("a name that is no name", "return await hostcall(7, 1)", raises(GuestError, "TypeError", usable=True)),
    calling(
        "a payload that cannot cross",
        "return await hostcall('echo', {1, 2})",
        raises(GuestError, "TypeError", usable=True),
    ),
    calling(
        "a payload over the limit",
        "return await hostcall('echo', 'x' * 2000)",
        contained,
        options={"max_payload": 1000},
    ),
    calling(
        "a payload over the limit, past the check",
        "from sandbox import _port\n_port.max_payload = 1 << 40\nreturn await hostcall('echo', 'x' * 2000)",
        hostcall_failed,
        options={"max_payload": 1000},
    ),
    calling(
        "an answer over the limit", "return await hostcall('big', 2000)", hostcall_failed, options={"max_payload": 1000}
    ),
    calling("an answer that cannot cross", "return await hostcall('unspeakable', 1)", hostcall_failed),
    calling(
        "what a handler's failure tells",
        "try:\n    await hostcall('fail', 1)\nexcept sandbox.HostcallError as error:\n    return [error.type, error.message, str(error.__cause__), [str(v) for v in vars(error).values()]]",
        holds(lambda value: value[0] == "Clumsy" and "harness" not in str(value)),
    ),
    calling(
        "a hundred thousand calls at once",
        "tasks = [asyncio.ensure_future(hostcall('never', n)) for n in range(100000)]\nawait asyncio.sleep(0)\nreturn len(tasks)",
        either(contained, stopped(within_s=0.3)),
        cancel_after=3.0,
        max_grown_bytes=450 * MIB,
        max_gap_s=0.15,
        reason=MANY,
    ),
    calling(
        "calls nobody waits for, dropped from the end",
        "tasks = [asyncio.ensure_future(hostcall('never', n)) for n in range(15000)]\nawait asyncio.sleep(0.2)\nfor task in reversed(tasks):\n    task.cancel()\nawait asyncio.gather(*tasks, return_exceptions=True)\nreturn 'dropped'",
        either(gives("dropped"), contained),
        options={"max_memory": 400 * MIB},
        max_grown_bytes=700 * MIB,
        max_gap_s=0.15,
        reason=MANY,
    ),
    calling(
        "calls with large payloads nobody waits for",
        "payload = bytes(1 << 20)\nmade = 0\ntasks = []\nfor n in range(300):\n    tasks.append(asyncio.ensure_future(hostcall('never', payload)))\n    await asyncio.sleep(0)\nreturn len(tasks)",
        contained,
        cancel_after=2.0,
        max_grown_bytes=450 * MIB,
    ),
    calling(
        "answers that are asked for and not read",
        "import _host\nfrom sandbox import _port\nname = b'\\3\\0big'\nfor op in range(1000000, 1000300):\n    _host.call(b'\\x10' + op.to_bytes(4, 'little') + name + b'1000000')\nreturn 'asked'",
        contained,
        max_grown_bytes=450 * MIB,
    ),
    calling(
        "many calls in parallel",
        "return sum(await asyncio.gather(*[hostcall('echo', n) for n in range(3000)]))",
        gives(sum(range(3000))),
    ),
    calling(
        "calls one after another, cancelled", "while True:\n    await hostcall('echo', 1)", stopped(), cancel_after=0.2
    ),
    calling(
        "plain calls one after another, cancelled",
        "while True:\n    await hostcall('plain', 1)",
        stopped(),
        cancel_after=0.2,
    ),
    calling(
        "calls that fail one after another, cancelled",
        "while True:\n    try:\n        await hostcall('nothing', 1)\n    except sandbox.HostcallError: pass",
        stopped(),
        cancel_after=0.2,
    ),
    calling(
        "a call that never comes back, cancelled",
        "return await hostcall('never', 1)",
        stopped(usable=True),
        cancel_after=0.1,
    ),
    calling(
        "a call left behind",
        "asyncio.ensure_future(hostcall('never', 1))\nawait asyncio.sleep(0)\nreturn 'left'",
        gives("left"),
    ),
    calling(
        "a call dropped again and again",
        "import _host\nfrom sandbox import _port\nasyncio.ensure_future(hostcall('never', 1))\nawait asyncio.sleep(0.05)\nop = _port.operations.last\nframe = b'\\x17' + op.to_bytes(4, 'little')\nfor _ in range(300000): _host.call(frame)\nreturn 'dropped'",
        gives("dropped"),
    ),
    calling(
        "an answer changed by its caller",
        "a = await hostcall('echo', {'a': [1]})\na['a'].append(2)\nreturn await hostcall('echo', a)",
        gives({"a": [1, 2]}),
    ),
    calling(
        "calls with deep payloads",
        "a = []\nfor _ in range(499): a = [a]\nb = await hostcall('echo', a)\ndepth = 0\nwhile b:\n    b = b[0]\n    depth += 1\nreturn depth",
        gives(499),
    ),
    python(
        "blocking calls from a destructor",
        f"{CALL}from sandbox.asyncio import run\nclass A:\n    def __del__(self):\n        try:\n            run(hostcall('never', 1))\n        except BaseException: pass\ndef attack():\n    A()\n    return 'gone'\n",
        stopped(within_s=1.5),
        cancel_after=0.2,
    ),
    python(
        "a loop inside a loop",
        f"{CALL}from sandbox.asyncio import run\nasync def attack():\n    return run(hostcall('echo', 1))\n",
        raises(GuestError, "RuntimeError"),
    ),
    python(
        "blocking calls without end, cancelled",
        f"{CALL}from sandbox.asyncio import run\ndef attack():\n    while True: run(hostcall('echo', 1))\n",
        stopped(),
        cancel_after=0.2,
    ),
    # --- JavaScript
    calling_js("a name the host does not have", "return await hostcall('nothing', 1)", hostcall_failed),
    calling_js(
        "names that are attributes",
        "const found = []; for (const name of ['__proto__', 'constructor', 'get', '', 'toString', 'echo\\0', {}, null, undefined, 7]) { try { found.push(await hostcall(name, 1)) } catch { } } return found",
        gives([]),
    ),
    calling_js("a name of a megabyte", "return await hostcall('x'.repeat(1 << 20), 1)", raises(GuestError)),
    calling_js(
        "a name with separators of the wire",
        "const found = []; for (const name of ['echo\\x1f1', 'echo\\x1e', '\"', '\\\\', 'echo 1', '\\ud800', '\\x1f']) { try { found.push(await hostcall(name, 1)) } catch { } } return found",
        gives([]),
    ),
    calling_js("a name whose text fails", "return await hostcall({ toString() { throw 1 } }, 1)", raises(GuestError)),
    calling_js("a payload that cannot cross", "return await hostcall('echo', () => 1)", contained),
    calling_js(
        "a payload over the limit",
        "return await hostcall('echo', 'x'.repeat(2000))",
        contained,
        options={"max_payload": 1000},
    ),
    calling_js(
        "an answer over the limit", "return await hostcall('big', 2000)", hostcall_failed, options={"max_payload": 1000}
    ),
    calling_js("an answer that cannot cross", "return await hostcall('unspeakable', 1)", hostcall_failed),
    calling_js(
        "what a handler's failure tells",
        "try { await hostcall('fail', 1) } catch (error) { return [error.name, error.message, error.stack, Object.entries(error)] }",
        holds(lambda value: value[0] == "HostcallError" and "harness" not in str(value)),
    ),
    calling_js(
        "twenty thousand calls at once",
        "for (let n = 0; n < 20000; n++) hostcall('never', n); return 'asked'",
        either(contained, stopped(within_s=0.3)),
        cancel_after=2.0,
        max_gap_s=0.15,
        reason=MANY,
    ),
    calling_js(
        "calls with large payloads nobody waits for",
        "const payload = new Uint8Array(1 << 20); for (let n = 0; n < 300; n++) { hostcall('never', payload); await null } return 'asked'",
        contained,
        cancel_after=2.0,
        max_grown_bytes=450 * MIB,
    ),
    calling_js(
        "many calls in parallel",
        "return (await Promise.all(Array.from({ length: 3000 }, (_, n) => hostcall('echo', n)))).length",
        gives(3000),
    ),
    calling_js("calls one after another, cancelled", "for (;;) await hostcall('echo', 1)", stopped(), cancel_after=0.2),
    calling_js(
        "a call that never comes back, cancelled",
        "return await hostcall('never', 1)",
        stopped(usable=True),
        cancel_after=0.1,
    ),
    calling_js("a call left behind", "hostcall('never', 1); return 'left'", gives("left")),
    calling_js(
        "an answer's prototype polluted",
        "const a = await hostcall('echo', JSON.parse('{\"__proto__\": {\"x\": 1}}')); return [({}).x === undefined, a.x === undefined || Object.hasOwn(a, '__proto__')]",
        gives([True, True]),
    ),
    calling_js(
        "promises replaced",
        "const real = hostcall; globalThis.Promise = class { then() { for (;;); } }; return await real('echo', 1)",
        either(gives(1), contained, stopped()),
        cancel_after=0.5,
    ),
]
