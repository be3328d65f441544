"""Sections 8 and 9: what a guest finds in its own world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio import GuestError, LogEvent
from tests.loops import ONE_LOOP

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

pytestmark = ONE_LOOP  # a guest's own world

PYTHON: dict[str, tuple[str, Any]] = {
    "gather": ("async def f(x): await asyncio.sleep(0); return x\n return await asyncio.gather(f(1), f(2))", [1, 2]),
    "wait_for": ("try: await asyncio.wait_for(asyncio.sleep(9), 0.01)\n except TimeoutError: return 'late'", "late"),
    "timeout": (
        "try:\n  async with asyncio.timeout(0.01): await asyncio.sleep(9)\n except TimeoutError: return 'late'",
        "late",
    ),
    "TaskGroup": (
        "async with asyncio.TaskGroup() as group: task = group.create_task(asyncio.sleep(0, 5))\n return task.result()",
        5,
    ),
    "Queue": ("q = asyncio.Queue(1)\n asyncio.ensure_future(q.put(3))\n return await q.get()", 3),
    "json": (
        "from sandbox.serde import dumps, loads\n x = {'é': [1.5, None]}\n return loads(dumps(x, 'json'), 'json') == x",
        True,
    ),
    "yaml": (
        "from sandbox.serde import dumps, loads\n x = {'a': ['1', 'no', '']}\n return loads(dumps(x, 'yaml'), 'yaml') == x",
        True,
    ),
    "cbor": (
        "from sandbox.serde import dumps, loads\n x = {'a': [b'x', 2**70, -5]}\n return loads(dumps(x, 'cbor'), 'cbor') == x",
        True,
    ),
    "cbor without lengths": (
        "from sandbox.serde import loads\n return loads(b'\\x9f\\x01\\xbf\\x61a\\x9f\\xff\\xff\\x7f\\x61b\\x61c\\xff\\xff', 'cbor')",
        [1, {"a": []}, "bc"],
    ),
    "no such format": (
        "from sandbox.serde import dumps, loads\n try: dumps(1, 'xml')\n except ValueError as e: return 'xml' in str(e)",
        True,
    ),
    "yaml as it was written": (
        "from sandbox.serde import dumps\n return dumps({'b': 1, 'a': 'é😀'}, 'yaml')",
        "b: 1\na: é😀\n",
    ),
    "ValueError for what has no form": (
        """
 from sandbox.serde import dumps
 said = []
 for format in ('json', 'yaml', 'cbor'):
  for bad in (object(), {'a': 1j}, dumps):
   try: said.append(dumps(bad, format))
   except ValueError as error: said.append(str(error) > '')
 return said""",
        [True] * 9,
    ),
    "ValueError for what is not of the format": (
        """
 from sandbox.serde import loads
 said = []
 bad = {
  'json': ('{', '', '[' * 100000, b'\\xff'),
  'yaml': ('a: [', '!!timestamp x', '!!int', '[' * 2000, '!!python/object:os.x {}', b'\\xff\\xff'),
  'cbor': (b'', b'\\xff', b'\\x81', b'\\xa1\\x80\\x01', b'\\xbf\\x80\\x01\\xff', b'\\x61\\xff', b'\\x81' * 1000, b'\\x81\\xff', b'\\x9f\\x01'),
 }
 for format, values in bad.items():
  for value in values:
   try: said.append(loads(value, format))
   except ValueError: pass
 for format, value in (('json', 5), ('yaml', 5), ('cbor', 5), ('cbor', 'text')):
  try: said.append(loads(value, format))
  except TypeError: pass
 return said""",
        [],
    ),
    "to_thread, which runs the function at once": (
        "import contextvars\n v = contextvars.ContextVar('v', default=0); v.set(1)\n return await asyncio.to_thread(lambda a, b: [a, b, v.get()], 2, b=3)",
        [2, 3, 1],
    ),
    "a home": (
        "import os, pathlib\n home = pathlib.Path.home(); (home / 'f').write_text('x')\n return [str(home), os.path.expanduser('~/f')]",
        ["/tmp", "/tmp/f"],
    ),
    "logging": (
        "import sandbox.logging as log\n return [callable(getattr(log, n)) for n in ('debug', 'info', 'warning', 'error')]",
        [True] * 4,
    ),
    "numpy": ("import numpy as np\n return float(np.linalg.det(np.eye(3)))", 1.0),
    "pandas": ("import pandas as pd\n return int(pd.DataFrame({'a': [1, 2]}).a.sum())", 3),
    "a file of its own": (
        "import tempfile\n with tempfile.TemporaryFile() as f: f.write(b'x'); f.seek(0); return f.read()",
        b"x",
    ),
    "no network": (
        "import socket\n try: socket.socket().connect(('192.0.2.1', 80))\n except OSError: return 'none'",
        "none",
    ),
}
JAVASCRIPT: dict[str, tuple[str, Any]] = {
    "setTimeout": ("return await new Promise((done) => setTimeout((a, b) => done([a, b]), 1, 1, 2))", [1, 2]),
    "clearTimeout": (
        "let n = 0; clearTimeout(setTimeout(() => n++, 1)); await new Promise((d) => setTimeout(d, 9)); return n",
        0,
    ),
    "setInterval": (
        "let n = 0; await new Promise((d) => { const t = setInterval(() => { if (++n === 3) { clearInterval(t); d() } }, 1) }); return n",
        3,
    ),
    "order": (
        "const o = []; setTimeout(() => o.push('t'), 0); queueMicrotask(() => o.push('m')); await new Promise((d) => setTimeout(d, 9)); return o",
        ["m", "t"],
    ),
    "TextEncoder": ("return new TextEncoder().encode('é\\ud800')", "é\ufffd".encode()),
    "TextDecoder": (
        "const d = new TextDecoder(); return d.decode(new Uint8Array([0xe2, 0x82]), {stream: true}) + d.decode(new Uint8Array([0xac]))",
        "€",
    ),
    "base64": ("return [btoa('hello'), atob(' aGVs bG8 ')]", ["aGVsbG8=", "hello"]),
    "bad base64": ("try { btoa('€') } catch (e) { return e.name }", "InvalidCharacterError"),
    "structuredClone": (
        "const x = {m: new Map([[1, new Set([2])]])}; x.x = x; const y = structuredClone(x); return [y !== x, y.x === y, y.m.get(1).has(2)]",
        [True] * 3,
    ),
    "not cloned": ("try { structuredClone(() => 1) } catch (e) { return e.name }", "DataCloneError"),
    "randomUUID": (
        "return /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID())",
        True,
    ),
    "getRandomValues": (
        "const a = new Uint32Array(4); return crypto.getRandomValues(a) === a && a.some(Boolean)",
        True,
    ),
    "performance": (
        "const t = performance.now(); await new Promise((d) => setTimeout(d, 9)); return performance.now() - t > 5",
        True,
    ),
    "AbortController": (
        "const c = new AbortController(); let n = 0; c.signal.addEventListener('abort', () => n++); c.abort(); c.abort(); return [n, c.signal.aborted, c.signal.reason.name]",
        [1, True, "AbortError"],
    ),
    "AbortSignal": ("return [AbortSignal.abort(5).reason, AbortSignal.any([AbortSignal.abort(6)]).reason]", [5, 6]),
    "URL": (
        "const u = new URL('../b?x=1#h', 'http://u@Example.com:8080/a/c/d'); return [u.href, u.origin, u.searchParams.get('x')]",
        ["http://u@example.com:8080/a/b?x=1#h", "http://example.com:8080", "1"],
    ),
    "no URL": ("try { new URL('nope') } catch (e) { return e.name }", "TypeError"),
    "URLSearchParams": (
        "const p = new URLSearchParams({b: 'x y'}); p.append('a', 'é'); p.sort(); return String(p)",
        "a=%C3%A9&b=x+y",
    ),
}
TYPESCRIPT = """
interface Point { x: number; y?: string }
enum Colour { Red, Green = "g" }
abstract class Base<T> { constructor(private readonly v: T) {} get(): T { return this.v } }
class Leaf extends Base<string> {}
const get = <T,>(x: T): T => x;
function use(p: Point, ...more: number[]): unknown[] {
    return [p.x + more.length!, Colour.Red, Colour.Green, new Leaf("z").get(), get(7) as number];
}
function fail(p: Point): void {
    throw new TypeError("here");
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", PYTHON)
async def test_python_has(python: SandboxTemplate, name: str) -> None:
    body, value = PYTHON[name]
    async with python.create() as sandbox:
        await sandbox.load_script(f"import asyncio\nasync def test():\n {body}")
        assert await sandbox.run("test") == value


@pytest.mark.parametrize("name", JAVASCRIPT)
async def test_javascript_has(javascript: SandboxTemplate, name: str) -> None:
    body, value = JAVASCRIPT[name]
    async with javascript.create() as sandbox:
        await sandbox.load_script(f"async function test() {{ {body} }}")
        assert await sandbox.run("test") == value


async def test_plain_python_drives_coroutines(python: SandboxTemplate) -> None:
    async with python.create(hostcalls={"echo": lambda payload: payload}) as sandbox:
        await sandbox.load_script("""
import asyncio
from sandbox.asyncio import hostcall, run
async def items():
    for n in range(3): yield n
def plain(): return [run(hostcall("echo", 5)), list(run(items())), asyncio.run(hostcall("echo", 6))]
""")
        assert await sandbox.run("plain") == [5, [0, 1, 2], 6]


async def test_pythons_logs_take_arguments_as_format_does_and_fields_by_name(python: SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script("""
import sandbox.logging as log
def main():
    log.debug("{} of {}", 1, "two")
    log.info("%s of %d%%", "one", 2)
    log.warning("100%")
    log.error("failed", user="Ann", message=lambda: 2 + 2)
    log.info(5)
    log.info("{}", "{}", n=None)
""")
        async with sandbox.run_stream("main") as events:
            logs = [(event.level, event.data) async for event in events if isinstance(event, LogEvent)]
    assert logs == [
        ("debug", "1 of two"),
        ("info", "one of 2%"),
        ("warning", "100%"),
        ("error", "failed user='Ann' message=4"),
        ("info", "5"),
        ("info", "{} n=None"),
    ]


async def test_typescript_runs_and_its_errors_have_its_lines(javascript: SandboxTemplate) -> None:
    async with javascript.create() as sandbox:
        await sandbox.load_script(TYPESCRIPT, filename="a.ts")
        assert await sandbox.run("use", {"x": 1}, 2, 3) == [3, 0, "g", "z", 7]
        with pytest.raises(GuestError, match="here") as caught:
            await sandbox.run("fail", {"x": 1})
        assert "a.ts:11" in caught.value.traceback
