"""JavaScript: the same of its engine, more memory, deeper stacks, buffers past their end."""

from __future__ import annotations

from isola_anyio import FuelExhaustedError, GuestError
from tests.hostile.attack import contained, either, holds, js, raises, stopped
from tests.hostile.memory.expectations import out_of_memory, refused

ATTACKS = [
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
