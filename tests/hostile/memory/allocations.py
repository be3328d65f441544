"""More memory than there is, deeper than any stack, and outside of what is one's own."""

from __future__ import annotations

from typing import Any

from isola_anyio import FuelExhaustedError, GuestError, MemoryLimitError
from tests.hostile.attack import Attack, contained, either, holds, js, python, raises, stopped

out_of_memory = raises(MemoryLimitError, usable=True)
refused = raises(GuestError, usable=True)


def grasping(name: str, expression: str, **rest: Any) -> Attack:
    """Python refuses this much at once, and the sandbox goes on."""
    return python(name, f"def attack():\n    return len({expression})\n", refused, **rest)


def too_deep(name: str, script: str, **rest: Any) -> Attack:
    """An error, or a wasm stack that is used up: contained either way."""
    return python(name, script, contained, **rest)


ATTACKS = [
    grasping("a terabyte of bytes", "bytearray(1 << 40)"),
    grasping("a list of a trillion", "[0] * 10**12"),
    grasping("a string of gigabytes", "'x' * (1 << 31)"),
    grasping("a formatted field of gigabytes", "f'{1:>{1 << 31}}'"),
    grasping("a number with a billion digits", "str(1 << (1 << 32))"),
    python(
        "a power without end of memory",
        "def attack():\n    return str(10 ** (10 ** 10))\n",
        either(out_of_memory, stopped()),
        cancel_after=0.5,
    ),
    grasping("an array of a trillion", "__import__('array').array('d', [0]) * 10**12"),
    grasping("numpy zeros", "__import__('numpy').zeros(10**12)"),
    grasping(
        "a decompression bomb",
        "__import__('zlib').decompress(__import__('zlib').compress(bytes(1 << 20)) , bufsize=1 << 31)",
    ),
    python(
        "a list that grows until it cannot",
        "def attack():\n    held = []\n    while True:\n        held.append(bytearray(1 << 20))\n",
        out_of_memory,
    ),
    python(
        "small objects until there are no more",
        "def attack():\n    held = []\n    while True:\n        held.append([held])\n",
        out_of_memory,
    ),
    python(
        "a dict that grows until it cannot",
        "def attack():\n    held = {}\n    while True:\n        held[len(held)] = str(len(held))\n",
        out_of_memory,
    ),
    python(
        "memory errors swallowed for ever",
        """
        def attack():
            held = []
            while True:
                try:
                    held.append(bytearray(1 << 22))
                except MemoryError:
                    held = held[: len(held) // 2]
        """,
        stopped(),
        cancel_after=0.4,
    ),
    python(
        "memory kept from run to run",
        """
        held = []
        def attack():
            try:
                while True:
                    held.append(bytearray(1 << 20))
            except MemoryError:
                return len(held)
        """,
        holds(lambda count: count < 128),
    ),
    python(
        "files first, then memory",
        """
        held = []
        def attack():
            files = 0
            try:
                while True:
                    with open(f"/tmp/{files}", "wb") as file:
                        file.write(bytes(1 << 20))
                    files += 1
            except OSError:
                pass
            try:
                while True:
                    held.append(bytearray(1 << 20))
            except MemoryError:
                return files + len(held)
        """,
        holds(lambda mebibytes: mebibytes < 128, usable=True),
    ),
    python(
        "memory again once files are gone",
        """
        import os
        def attack():
            with open("/tmp/large", "wb") as file:
                try:
                    while True:
                        file.write(bytes(1 << 20))
                except OSError:
                    pass
            try:
                return len(bytearray(16 << 20))
            except MemoryError:
                os.unlink("/tmp/large")
            return len(bytearray(16 << 20))
        """,
        holds(lambda length: length == 16 << 20, usable=True),
    ),
    python(
        "memory used up to the last byte",
        """
        held = []
        def attack():
            for size in (1 << 20, 1 << 12, 1 << 6, 1):
                try:
                    while True:
                        held.append(bytearray(size))
                except MemoryError:
                    pass
            raise ValueError("no room for the report either")
        """,
        contained,
    ),
    python(
        "a decompression bomb, streamed",
        """
        import zlib
        def attack():
            packed = zlib.compress(bytes(1 << 24), 9)
            for _ in range(3):
                packed = zlib.compress(packed * 1, 9)
            data = zlib.compress(b"\\0" * (64 << 20))
            out = []
            while True:
                out.append(zlib.decompress(data))
        """,
        out_of_memory,
    ),
    python(
        "a pickle that unfolds",
        """
        import pickle
        def attack():
            value = b"x" * 1000
            code = b"(lp0\\n"
            for _ in range(40):
                value = [value] * 10
            data = pickle.dumps(b"y")
            bomb = b"\\x80\\x04" + b"]" + b"(" + b"K\\x01" * 1000000 + b"e."
            nested = b"\\x80\\x04" + b"]" * 2000000 + b"."
            found = len(pickle.loads(bomb))
            try:
                pickle.loads(nested)
            except Exception:
                pass
            return found
        """,
        contained,
    ),
    python(
        "a million of laughs in XML",
        """
        def attack():
            from lxml import etree
            entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 20))
            text = f'<!DOCTYPE d [<!ENTITY l0 "{"x" * 100}">{entities}]><d>&l19;</d>'
            return len(etree.fromstring(text, etree.XMLParser(huge_tree=True)).text)
        """,
        contained,
        cancel_after=1.0,
    ),
    python(
        "sqlite blobs",
        """
        import sqlite3
        def attack():
            db = sqlite3.connect(":memory:")
            db.execute("create table t (b)")
            while True:
                db.execute("insert into t values (randomblob(10000000))")
        """,
        either(raises(GuestError, "OperationalError", "MemoryError", "DataError"), out_of_memory),
    ),
    python("recursion", "def attack():\n    return attack()\n", raises(GuestError, "RecursionError")),
    python(
        "recursion without a limit",
        "import sys\ndef attack():\n    sys.setrecursionlimit(10**9)\n    def f(n): return f(n + 1) + 1\n    return f(0)\n",
        contained,
    ),
    too_deep(
        "recursion in C",
        """
        import sys
        def attack():
            sys.setrecursionlimit(10**9)
            class A:
                def __getattr__(self, name): return getattr(self, name + "x")
                def __eq__(self, other): return self == other
                def __repr__(self): return repr([self])
            for act in (lambda: A() == A(), lambda: repr(A()), lambda: A().x):
                act()
        """,
    ),
    too_deep(
        "recursion through map and filter objects",
        """
        def attack():
            it = iter([1])
            for _ in range(200000):
                it = map(lambda x: x, it)
            return next(it)
        """,
    ),
    too_deep(
        "an expression of a million parentheses",
        "def attack():\n    return eval('(' * 1000000 + ')' * 1000000)\n",
    ),
    too_deep(
        "source nested beyond the compiler",
        """
        def attack():
            errors = 0
            for text in ("-" * 100000 + "1", "lambda: " * 50000 + "1", "[" * 5000 + "]" * 5000,
                         "a." * 100000 + "b", "f(" * 10000 + ")" * 10000, "if 1:\\n" * 3):
                try:
                    compile(text, "x", "exec")
                except (SyntaxError, RecursionError, MemoryError):
                    errors += 1
            return errors
        """,
    ),
    too_deep(
        "objects nested deeper than a destructor's stack",
        """
        def attack():
            value = None
            for _ in range(1000000):
                value = (value,)
            del value
            chain = {}
            for _ in range(300000):
                chain = {"a": chain}
            return "gone"
        """,
    ),
    too_deep(
        "a nested regular expression",
        "import re\ndef attack():\n    return re.compile('(' * 5000 + ')' * 5000).groups\n",
    ),
    too_deep(
        "JSON nested without end",
        "import json\ndef attack():\n    return json.loads('[' * 1000000 + ']' * 1000000)\n",
    ),
    python(
        "bytecode forged to read past its constants",
        """
        def attack():
            code = (lambda: 1).__code__
            results = []
            for opcode in range(256):
                forged = code.replace(co_code=bytes([opcode, 255]) * 8, co_stacksize=100)
                def f(): pass
                f.__code__ = forged
                if opcode in (100, 124):
                    try:
                        results.append(str(f()))
                    except BaseException as error:
                        results.append(type(error).__name__)
            return results
        """,
        contained,
    ),
    python(
        "bytecode of random bytes",
        """
        import random
        def attack():
            def f(a=1, b=2): return a + b
            for seed in range(200):
                raw = random.Random(seed).randbytes(64)
                try:
                    exec(f.__code__.replace(co_code=raw, co_stacksize=500, co_nlocals=2))
                except BaseException:
                    pass
            return "alive"
        """,
        contained,
        cancel_after=2.0,
    ),
    python(
        "marshalled nonsense",
        """
        import marshal, random
        def attack():
            good = marshal.dumps(compile("x = [1, 2, {'a': (3,)}]", "x", "exec"))
            for seed in range(2000):
                raw = bytearray(good)
                rng = random.Random(seed)
                for _ in range(3):
                    raw[rng.randrange(len(raw))] = rng.randrange(256)
                try:
                    marshal.loads(bytes(raw))
                except Exception:
                    pass
            return "alive"
        """,
        contained,
    ),
    python(
        "reading all of linear memory and beyond",
        """
        import numpy as np
        def attack():
            base = np.zeros(8, np.uint8)
            at = base.__array_interface__["data"][0]
            whole = np.lib.stride_tricks.as_strided(base[:1], (at,), (-1,))
            beyond = np.lib.stride_tricks.as_strided(base[:1], (1 << 30,), (1,))
            found = 0
            step = 1 << 20
            for start in range(0, at - step, step):
                found += b"canary-" in bytes(whole[start:start + step][::-1])
            return int(beyond[-1])
        """,
        either(raises(GuestError, "Trap", text="out of bounds"), holds(lambda value: True)),
    ),
    python(
        "writing over all of linear memory",
        """
        import numpy as np
        def attack():
            base = np.zeros(8, np.uint8)
            at = base.__array_interface__["data"][0]
            whole = np.lib.stride_tricks.as_strided(base[:1], (at,), (-1,))
            whole[:] = 0x41
        """,
        contained,
        cancel_after=1.0,
    ),
    python(
        "writing over the allocator's lists",
        """
        import numpy as np
        def attack():
            base = np.zeros(8, np.uint32)
            at = base.__array_interface__["data"][0]
            words = np.lib.stride_tricks.as_strided(base[:1], (at // 4 - 1024,), (-4,))
            rng = np.random.default_rng(1)
            held = []
            for _ in range(2000):
                place = int(rng.integers(0, len(words)))
                words[place] = at + int(rng.integers(-64, 64)) * 4
                held.append(bytearray(100))
            return "alive"
        """,
        contained,
        cancel_after=1.0,
    ),
    python(
        "wild reads of null and of the last page",
        """
        import numpy as np
        def attack():
            base = np.zeros(8, np.uint8)
            at = base.__array_interface__["data"][0]
            out = []
            for offset in (-at, 1 - at, (1 << 31) - 1, -(1 << 31), (1 << 32) - at - 1 - (1 << 32)):
                try:
                    out.append(int(np.lib.stride_tricks.as_strided(base[:1], (2,), (offset,))[1]))
                except (ValueError, OverflowError):
                    pass
            return len(out)
        """,
        contained,
    ),
    python(
        "crashes made to order",
        """
        import faulthandler
        def attack():
            faulthandler._read_null()
            faulthandler._stack_overflow()
            faulthandler._fatal_error_c_thread()
        """,
        contained,
    ),
    python("abort", "import os\ndef attack():\n    os.abort()\n", contained),
    python("a fatal error", "import faulthandler\ndef attack():\n    faulthandler._sigsegv()\n", contained),
    python(
        "a guest near its limit that is sent more",
        """
        held = []
        async def attack():
            from sandbox.asyncio import hostcall
            try:
                while True:
                    held.append(bytearray(1 << 20))
            except MemoryError:
                del held[-2:]
            return len(await hostcall("big", 50_000_000))
        """,
        contained,
    ),
    # --- JavaScript
    js(
        "an array of four billion",
        "function attack() { return new Array(2 ** 32 - 1).fill(0).length }",
        contained,
        cancel_after=3.0,
    ),
    js("a buffer of gigabytes", "function attack() { return new ArrayBuffer(2 ** 40).byteLength }", refused),
    js("a string of gigabytes", "function attack() { return 'x'.repeat(2 ** 30 - 1).length }", refused),
    js("a padded string of gigabytes", "function attack() { return 'x'.padEnd(2 ** 31).length }", refused),
    js(
        "an array that grows until it cannot",
        "function attack() { const held = []; for (;;) held.push(new Uint8Array(1 << 20)) }",
        out_of_memory,
    ),
    js(
        "small objects until there are no more",
        "function attack() { let held = null; for (;;) held = { held } }",
        out_of_memory,
    ),
    js(
        "strings joined until they cannot be",
        "function attack() { let text = 'x'; for (;;) text += text }",
        either(out_of_memory, refused),
    ),
    js(
        "memory errors swallowed for ever",
        """
        function attack() {
            let held = [];
            for (;;) { try { held.push(new Uint8Array(1 << 20)) } catch (error) { held = held.slice(0, held.length >> 1) } }
        }
        """,
        stopped(),
        cancel_after=0.4,
    ),
    js(
        "memory kept from run to run",
        """
        const held = [];
        function attack() { try { for (;;) held.push(new Uint8Array(1 << 16)) } catch (error) { return held.length } }
        """,
        contained,
    ),
    js("recursion", "function attack() { return attack() + 1 }", raises(GuestError, "RangeError", "InternalError")),
    js(
        "recursion in the engine",
        """
        function attack() {
            let errors = 0;
            const tries = [
                () => { const o = { toString() { return String(o) } }; return String(o) },
                () => { const p = new Proxy({}, { get(t, k, r) { return r[k] } }); return p.x },
                () => { const o = { get x() { return this.x } }; return o.x },
                () => JSON.parse("[".repeat(1e6)),
                () => JSON.stringify({ toJSON() { return [this] } }),
                () => { let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return JSON.stringify(a) },
                () => { let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return a.flat(Infinity) },
                () => { let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return String(a) },
                () => { let f = () => 1; for (let i = 0; i < 1e5; i++) f = f.bind(null); return f() },
                () => { class A extends Array { constructor() { super(); new A() } } new A() },
                () => new RegExp("(".repeat(1e5) + ")".repeat(1e5)),
                () => new Function("(".repeat(1e5) + ")".repeat(1e5)),
                () => new Function("return " + "-".repeat(1e5) + "1"),
                () => new Function("a?.".repeat(1e5) + "b"),
                () => [..."x".repeat(10)].sort(function f() { return [2, 1].sort(f)[0] }),
                () => "x".replace(/x/, function f() { return "x".replace(/x/, f) }),
                () => Reflect.construct(function F() { return Reflect.construct(F, []) }, []),
            ];
            for (const run of tries) { try { run() } catch (error) { errors++ } }
            return errors;
        }
        """,
        contained,
    ),
    js(
        "a prototype chain without end",
        """
        function attack() {
            let o = {};
            for (let i = 0; i < 200000; i++) o = Object.create(o);
            return o.missing === undefined && !("x" in o) && (o instanceof Array) === false;
        }
        """,
        contained,
        cancel_after=2.0,
    ),
    js(
        "objects nested deeper than the collector's stack",
        """
        function attack() {
            let o = null;
            for (let i = 0; i < 300000; i++) o = { o };
            o = null;
            return "gone";
        }
        """,
        contained,
    ),
    js(
        "a cloned structure that is too deep",
        """
        function attack() {
            let a = [];
            for (let i = 0; i < 1e5; i++) a = [a];
            return structuredClone(a);
        }
        """,
        contained,
    ),
    js(
        "typed arrays over their buffer's end",
        """
        function attack() {
            let errors = 0;
            const buffer = new ArrayBuffer(16, { maxByteLength: 64 });
            const view = new DataView(buffer);
            const array = new Uint8Array(buffer);
            for (const run of [
                () => view.getUint32(2 ** 32 - 2), () => view.getUint32(-1), () => view.setFloat64(12, 1),
                () => new Uint32Array(buffer, 2), () => new Uint32Array(buffer, 0, 2 ** 30),
                () => array.set([1, 2, 3], 2 ** 31), () => array.copyWithin(2 ** 31, 0),
                () => { array.sort(() => { buffer.resize?.(0); return 1 }); throw 1 },
                () => { array.fill({ valueOf() { buffer.resize?.(1); return 7 } }); throw 1 },
                () => { buffer.transfer?.(); array[3] = 1; throw 1 },
                () => structuredClone(buffer, { transfer: [buffer] }), () => new Uint8Array(-1), () => array.at(1e300).x,
            ]) { try { run() } catch (error) { errors++ } }
            return errors;
        }
        """,
        holds(lambda errors: errors >= 11, usable=True),
    ),
    js(
        "a decoder given gigabytes",
        """
        function attack() {
            let text = "a".repeat(1 << 20);
            for (;;) text = new TextDecoder().decode(new TextEncoder().encode(text + text));
        }
        """,
        either(out_of_memory, refused),
    ),
    js(
        "a map that grows until it cannot",
        "function attack() { const map = new Map(); for (let i = 0;; i++) map.set('k' + i, [i]) }",
        out_of_memory,
    ),
    js(
        "closures and promises until there are no more",
        "async function attack() { const held = []; for (;;) held.push(new Promise((r) => { held.r = r })) }",
        out_of_memory,
    ),
    js(
        "a guest near its limit that is sent more",
        """
        async function attack() {
            const held = [];
            try { for (;;) held.push(new Uint8Array(1 << 20)) } catch (error) { held.length -= 2 }
            return (await hostcall("big", 20000000)).length;
        }
        """,
        contained,
    ),
    js(
        "fuel",
        "function attack() { for (;;); }",
        raises(FuelExhaustedError, usable=False),
        metered=True,
        options={"max_fuel": 20_000_000},
    ),
]
