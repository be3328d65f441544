"""Never give the processor back: loops in every part of a guest, each stopped by a cancellation or a budget."""

from __future__ import annotations

from typing import Any

from isola_anyio import CpuLimitError, FuelExhaustedError
from tests.hostile.attack import Attack, contained, either, gives, js, python, raises, stopped, stopped_after_grace

SOON = {"cancel_after": 0.2}
BUDGET = {"options": {"max_cpu": 0.1}}
used_up = raises(CpuLimitError, usable=False)


def looping(name: str, script: str, **rest: Any) -> Attack:
    """Goes on for ever until it is cancelled."""
    return python(name, script, stopped(), **{**SOON, **rest})


def looping_js(name: str, script: str, **rest: Any) -> Attack:
    """Goes on for ever until it is cancelled."""
    return js(name, script, stopped(), **{**SOON, **rest})


ATTACKS = [
    looping("an empty loop", "def attack():\n    while True: pass\n"),
    looping("an empty loop that is async", "async def attack():\n    while True: pass\n"),
    looping("a loop in a generator that never yields", "def attack():\n    while True: pass\n    yield\n"),
    looping("a loop while loading", "def attack(): pass\nwhile True: pass\n"),
    looping(
        "a loop that catches everything",
        "def attack():\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n",
    ),
    looping(
        "a loop in a finally",
        "def attack():\n    try:\n        raise ValueError\n    finally:\n        while True: pass\n",
    ),
    looping(
        "a loop in a destructor", "class A:\n    def __del__(self):\n        while True: pass\ndef attack():\n    A()\n"
    ),
    looping(
        "a loop in an exception's text",
        "class E(Exception):\n    def __str__(self):\n        while True: pass\ndef attack():\n    raise E\n",
    ),
    looping(
        "a loop in a result's iterator",
        "class R:\n    def __iter__(self): return self\n    def __next__(self):\n        while True: pass\ndef attack():\n    return R()\n",
    ),
    looping(
        "a loop in a dict's items",
        "class D(dict):\n    def items(self):\n        while True: pass\n    def __iter__(self):\n        while True: pass\n    def __len__(self): return 3\ndef attack():\n    while True: D(a=1)[0] if 0 in D(a=1) else list(D(a=1))\n",
    ),
    looping(
        "a loop in an import",
        "import sys\nclass F:\n    def find_spec(self, *a):\n        while True: pass\nsys.meta_path.insert(0, F())\ndef attack():\n    import nothing\n",
    ),
    looping(
        "a loop in a trace function",
        "import sys\ndef tracer(*a):\n    while True: pass\ndef attack():\n    sys.settrace(tracer)\n    (lambda: 1)()\n",
    ),
    looping(
        "a loop in a metaclass",
        "class M(type):\n    def __prepare__(name, bases):\n        while True: pass\ndef attack():\n    class A(metaclass=M): pass\n",
    ),
    looping("a sum without end, in C", "def attack():\n    return sum(range(10**15))\n"),
    looping("a power without end, in C", "def attack():\n    return pow(3, 10**8) % 7\n"),
    looping(
        "a regular expression that backtracks for ever",
        "import re\ndef attack():\n    return re.match('(a+)+$', 'a' * 60 + 'b')\n",
    ),
    looping(
        "a sort that never agrees",
        "import functools\ndef attack():\n    while True: sorted(range(10**6), key=functools.cmp_to_key(lambda a, b: 1))\n",
    ),
    looping("a search through everything", "def attack():\n    while True: ('a' * 10**6).find('a' * 10**5 + 'b')\n"),
    looping(
        "a membership test in an endless range", "import itertools\ndef attack():\n    return -1 in itertools.count()\n"
    ),
    looping(
        "a deque that eats itself",
        "import collections, itertools\ndef attack():\n    collections.deque(itertools.count(), maxlen=1)\n",
    ),
    looping(
        "hash collisions",
        "class K:\n    def __hash__(self): return 1\ndef attack():\n    d = {}\n    for n in range(10**9): d[K()] = n\n",
    ),
    looping(
        "an endless query",
        "import sqlite3\ndef attack():\n    sqlite3.connect(':memory:').execute('with recursive r(x) as (select 1 union all select x + 1 from r) select max(x) from r').fetchone()\n",
    ),
    looping(
        "matrices",
        "import numpy as np\ndef attack():\n    a = np.ones((700, 700))\n    while True: a = a @ a / 700\n",
        cancel_after=0.4,
    ),
    looping(
        "decimals of a billion digits",
        "import decimal\ndef attack():\n    decimal.getcontext().prec = 10**7\n    return str(decimal.Decimal(1) / 7)\n",
    ),
    looping("compression for ever", "import zlib\ndef attack():\n    while True: zlib.compress(bytes(10**7), 9)\n"),
    looping(
        "numbers read from text for ever",
        "import sys\nsys.set_int_max_str_digits(0)\ndef attack():\n    return int('9' * 3000000) % 7\n",
    ),
    looping("items nobody reads", "def attack():\n    while True: yield 1\n"),
    looping("items of an async generator nobody reads", "async def attack():\n    while True: yield 1\n"),
    looping(
        "tasks that only take turns", "import asyncio\nasync def attack():\n    while True: await asyncio.sleep(0)\n"
    ),
    looping(
        "tasks that make more tasks",
        "import asyncio\nasync def attack():\n    async def more():\n        asyncio.ensure_future(more())\n    await more()\n    await asyncio.sleep(1e6)\n",
    ),
    looping(
        "callbacks that call themselves",
        "import asyncio\nasync def attack():\n    loop = asyncio.get_running_loop()\n    def again(): loop.call_soon(again)\n    again()\n    await loop.create_future()\n",
    ),
    looping(
        "timers that are always due",
        "import asyncio\nasync def attack():\n    loop = asyncio.get_running_loop()\n    def again(): loop.call_at(loop.time() - 1, again)\n    again()\n    await loop.create_future()\n",
    ),
    looping(
        "a coroutine that never awaits what it says",
        "class A:\n    def __await__(self):\n        while True: yield\nasync def attack():\n    await A()\n",
    ),
    python(
        "a computation in the cleanup of a cancellation",
        "import asyncio\nasync def attack():\n    try:\n        await asyncio.sleep(1e6)\n    finally:\n        while True: pass\n",
        stopped_after_grace,
        **SOON,
    ),
    python(
        "a cancellation refused again and again",
        "import asyncio\nasync def attack():\n    while True:\n        try:\n            await asyncio.sleep(1e6)\n        except BaseException: pass\n",
        either(stopped_after_grace, stopped(within_s=1.5)),
        **SOON,
    ),
    python(
        "a wait that starts again when it is cancelled",
        "from sandbox.asyncio import hostcall\nasync def attack():\n    while True:\n        try:\n            await hostcall('never', 1)\n        except BaseException: pass\n",
        either(stopped_after_grace, stopped(within_s=1.5)),
        **SOON,
    ),
    python(
        "leftover tasks that never end",
        "import asyncio\nasync def stay():\n    while True:\n        try:\n            await asyncio.sleep(1e6)\n        except BaseException: pass\nasync def attack():\n    asyncio.ensure_future(stay())\n    await asyncio.sleep(0)\n    return 'done'\n",
        either(gives("done"), contained),
    ),
    python(
        "leftover tasks that compute when they are cancelled",
        "import asyncio\nasync def stay():\n    try:\n        await asyncio.sleep(1e6)\n    finally:\n        while True: pass\nasync def attack():\n    asyncio.ensure_future(stay())\n    await asyncio.sleep(0)\n    return 'done'\n",
        stopped(),
        **SOON,
    ),
    python("a budget of seconds", "def attack():\n    while True: pass\n", used_up, **BUDGET),
    python(
        "a budget used up in small turns",
        "import asyncio, time\nasync def attack():\n    while True:\n        end = time.perf_counter() + 0.005\n        while time.perf_counter() < end: pass\n        await asyncio.sleep(0.001)\n",
        used_up,
        **BUDGET,
    ),
    python(
        "a budget used up between hostcalls",
        "from sandbox.asyncio import hostcall\nasync def attack():\n    while True:\n        sum(range(10000))\n        await hostcall('echo', 1)\n",
        used_up,
        **BUDGET,
    ),
    python(
        "a budget used up between plain hostcalls",
        "from sandbox.asyncio import hostcall\nasync def attack():\n    while True:\n        sum(range(10000))\n        await hostcall('plain', 1)\n",
        used_up,
        **BUDGET,
    ),
    python(
        "a budget used up by items",
        "def attack():\n    while True:\n        sum(range(10000))\n        yield 1\n",
        used_up,
        **BUDGET,
    ),
    python(
        "a budget that waiting does not use",
        "import time, asyncio\nasync def attack():\n    time.sleep(0.15)\n    await asyncio.sleep(0.15)\n    return 'rested'\n",
        gives("rested"),
        **BUDGET,
    ),
    python(
        "an exception caught when the budget is used up",
        "def attack():\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n",
        used_up,
        **BUDGET,
    ),
    # --- JavaScript
    looping_js("an empty loop", "function attack() { for (;;); }"),
    looping_js("an empty loop that is async", "async function attack() { for (;;); }"),
    looping_js("a loop in a generator that never yields", "function* attack() { for (;;); }"),
    looping_js("a loop while loading", "function attack() {}\nfor (;;);"),
    looping_js(
        "a loop that catches everything",
        "function attack() { for (;;) { try { for (;;); } catch { } finally { continue } } }",
    ),
    looping_js("a loop in a getter of the result", "function attack() { return { get a() { for (;;); } } }"),
    looping_js("a loop in toJSON", "function attack() { return { toJSON() { for (;;); } } }"),
    looping_js("a loop in a proxy", "function attack() { return new Proxy({}, { ownKeys() { for (;;); } }) }"),
    looping_js(
        "a loop in an error's text",
        "function attack() { throw { get name() { for (;;); }, get message() { for (;;); }, toString() { for (;;); } } }",
    ),
    looping_js("a loop in then", "function attack() { return { then() { for (;;); } } }"),
    looping_js(
        "a loop in an iterator",
        "function attack() { return { next() { for (;;); }, [Symbol.iterator]() { return this } } }",
    ),
    looping_js(
        "microtasks that make more microtasks",
        "function attack() { const again = () => queueMicrotask(again); again(); return new Promise(() => {}) }",
    ),
    looping_js("promises that never settle into rest", "async function attack() { for (;;) await null }"),
    looping_js(
        "timers that are always due",
        "function attack() { const again = () => setTimeout(again, 0); again(); return new Promise(() => {}) }",
    ),
    looping_js(
        "an interval of nothing",
        "function attack() { for (let i = 0; i < 100; i++) setInterval(() => {}, 0); return new Promise(() => {}) }",
    ),
    looping_js(
        "a regular expression that backtracks for ever",
        "function attack() { return /(a+)+$/.test('a'.repeat(60) + 'b') }",
    ),
    looping_js(
        "a sort that never agrees",
        "function attack() { for (;;) Array.from({ length: 1e5 }, (_, i) => i).sort(() => 1) }",
    ),
    looping_js("big integers", "function attack() { let n = 3n; for (;;) n = (n * n * 7n) % (2n ** 9000n) }"),
    looping_js(
        "an array with four billion holes",
        "function attack() { const a = []; a.length = 2 ** 32 - 1; for (;;) a.indexOf(1) }",
    ),
    looping_js(
        "a search through everything",
        "function attack() { const s = 'a'.repeat(1e5); for (;;) s.lastIndexOf(s.slice(1) + 'b') + s.replaceAll('a', 'bb').length }",
    ),
    looping_js("items nobody reads", "function* attack() { for (;;) yield 1 }"),
    looping_js("items of an async generator nobody reads", "async function* attack() { for (;;) yield 1 }"),
    looping_js("evaluated code", "function attack() { return eval('for (;;);') }"),
    looping_js("constructed code", "function attack() { return new Function('for (;;);')() }"),
    looping_js(
        "finalizers that loop",
        "const registry = new FinalizationRegistry(() => { for (;;); });\nasync function attack() { for (;;) { registry.register({}, 1); await null } }",
    ),
    js(
        "a computation in the cleanup of a cancellation",
        "async function attack() { try { await new Promise(() => {}) } finally { for (;;); } }",
        either(stopped_after_grace, stopped(within_s=1.5)),
        **SOON,
    ),
    js(
        "a cancellation refused again and again",
        "async function attack() { for (;;) { try { await hostcall('never', 1) } catch { } } }",
        either(stopped_after_grace, stopped(within_s=1.5)),
        **SOON,
    ),
    js(
        "source full of what might be type arguments",
        "// " + "a<" * 200_000 + "\nfunction attack() { return 1 }",
        gives(1),
    ),
    js(
        "typed source whose regular expressions look like comments",
        "let x: number = 1; let s = `${[" + "/[/*]/," * 20_000 + "1]}`;\nfunction attack() { return 1 }",
        gives(1),
    ),
    js(
        "typed source of many templates in templates",
        "let x: number = 1; let s = " + "`${" * 100 + "1" + "}`" * 100 + ";\nfunction attack() { return 1 }",
        gives(1),
    ),
    js(
        "typed source of more tokens than there is time for",
        "let x: number = 1; let s = [" + "1," * 200_000 + "1];\nfunction attack() { for (;;); }",
        stopped(),
        **SOON,
    ),
    js(
        "typed source of more tokens than there is a budget for",
        "let x: number = 1; let s = [" + "1," * 200_000 + "1];\nfunction attack() { return 1 }",
        used_up,
        **BUDGET,
    ),
    js(
        "modules whose names go on and on",
        "async function attack() { for (let n = 0; n < 20; n++) await import('./' + 'a/'.repeat(1e6)).catch(() => {}); return 1 }",
        gives(1),
    ),
    js(
        "hosts whose names go on and on",
        "function attack() { let s = ''; for (let i = 0; i < 8000; i++) s += String.fromCharCode(0x4e00 + i); try { new URL('https://' + s) } catch { return 1 } }",
        gives(1),
    ),
    js(
        "hostcalls whose names go on and on",
        "async function attack() { await hostcall('['.repeat(5e6), 1).catch(() => {}); return 1 }",
        gives(1),
    ),
    js("a budget of seconds", "function attack() { for (;;); }", used_up, **BUDGET),
    js(
        "a budget used up in small turns",
        "async function attack() { for (;;) { const end = Date.now() + 5; while (Date.now() < end); await new Promise((r) => setTimeout(r, 1)) } }",
        used_up,
        **BUDGET,
    ),
    js(
        "a budget used up between hostcalls",
        "async function attack() { for (;;) { for (let i = 0; i < 10000; i++); await hostcall('echo', 1) } }",
        used_up,
        **BUDGET,
    ),
    js(
        "fuel used up in small turns",
        "async function attack() { for (;;) await new Promise((r) => setTimeout(r, 0)) }",
        raises(FuelExhaustedError, usable=False),
        metered=True,
        options={"max_fuel": 20_000_000},
    ),
    js(
        "fuel used up in a catch",
        "function attack() { for (;;) { try { for (;;); } catch { } } }",
        raises(FuelExhaustedError, usable=False),
        metered=True,
        options={"max_fuel": 20_000_000},
    ),
]
