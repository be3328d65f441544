"""The globals, each claim an expression that is true in the guest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from isola_anyio import GuestError, LogEvent, MountConfig, SandboxTemplate

if TYPE_CHECKING:
    from pathlib import Path

CLAIMS = {
    "names": [
        """['hostcall', 'AbortController', 'AbortSignal', 'URL', 'URLSearchParams', 'setTimeout', 'clearTimeout',
          'setInterval', 'clearInterval', 'queueMicrotask', 'console', 'TextEncoder', 'TextDecoder', 'atob', 'btoa',
          'structuredClone', 'crypto', 'performance', 'DOMException', 'Event', 'EventTarget'].every(n => n in globalThis)""",
        "Object.getOwnPropertyNames(globalThis).every(n => !/isola|__/.test(n))",
        "Object.keys(globalThis).length === 0 || Object.keys(globalThis).every(n => n === 'check')",
        "globalThis.fetch === undefined && globalThis.process === undefined && globalThis.require === undefined",
        "(() => { const old = setTimeout; globalThis.setTimeout = 5; const ok = setTimeout === 5; globalThis.setTimeout = old; return ok })()",
    ],
    "base64": [
        "btoa('a') === 'YQ==' && atob('YQ==') === 'a' && atob(' Y Q\\n') === 'a' && btoa('') === ''",
        "btoa(null) === 'bnVsbA==' && atob('AAAA') === '\\0\\0\\0' && atob('/+8=') === '\\xff\\xef'",
        "throws(() => btoa('\\u0100'), 'InvalidCharacterError') && throws(() => atob('a'), 'InvalidCharacterError')",
        "throws(() => atob(), 'TypeError') && throws(() => btoa(), 'TypeError') && atob.length === 1",
        "throws(() => atob('YQ='), 'InvalidCharacterError') && throws(() => atob('_-=='), 'InvalidCharacterError')",
    ],
    "encoder": [
        "same([...new TextEncoder().encode('aé€😀')], [97, 195, 169, 226, 130, 172, 240, 159, 152, 128])",
        "same([...new TextEncoder().encode('\\ud800x')], [239, 191, 189, 120])",
        "new TextEncoder().encode().length === 0 && new TextEncoder().encoding === 'utf-8'",
        "new TextEncoder().encode('é'.repeat(100000)).length === 200000",
        "new TextEncoder().encode('a'.repeat(100000)).every(b => b === 97)",
        "(() => { const b = new Uint8Array(4); const r = new TextEncoder().encodeInto('a€é', b); return same([r.read, r.written, ...b], [2, 4, 97, 226, 130, 172]) })()",
        "(() => { const b = new Uint8Array(3); const r = new TextEncoder().encodeInto('😀', b); return same([r.read, r.written], [0, 0]) })()",
    ],
    "decoder": [
        "new TextDecoder().decode(new Uint8Array([97, 195, 169, 240, 159, 152, 128])) === 'aé😀'",
        "new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 97])) === 'a'",
        "new TextDecoder('utf-8', { ignoreBOM: true }).decode(new Uint8Array([0xef, 0xbb, 0xbf, 97])) === '\\ufeffa'",
        "new TextDecoder().decode(new Uint8Array([97, 0xff, 98])) === 'a\\ufffdb'",
        "new TextDecoder().decode(new Uint8Array([0xf0, 0x9f, 0x98])) === '\\ufffd'",
        "new TextDecoder().decode(new Uint8Array([0xed, 0xa0, 0x80])) === '\\ufffd\\ufffd\\ufffd'",
        "new TextDecoder().decode(new Uint8Array([0xc0, 0xaf, 0xe0, 0x80, 0xaf])) === '\\ufffd'.repeat(5)",
        "new TextDecoder().decode(new Uint8Array([0xf4, 0x90, 0x80, 0x80, 0x41])) === '\\ufffd\\ufffd\\ufffd\\ufffdA'",
        "throws(() => new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([0xff])), 'TypeError')",
        "(() => { const d = new TextDecoder(); return d.decode(new Uint8Array([0xf0, 0x9f]), { stream: true }) + d.decode(new Uint8Array([0x98, 0x80, 0xe2]), { stream: true }) + d.decode() === '😀\\ufffd' })()",
        "(() => { const d = new TextDecoder(); const bytes = new TextEncoder().encode('é€😀x'.repeat(50)); let s = ''; for (const b of bytes) s += d.decode(new Uint8Array([b]), { stream: true }); return s + d.decode() === 'é€😀x'.repeat(50) })()",
        "(() => { const d = new TextDecoder(); return d.decode(new Uint8Array([0xef]), { stream: true }) + d.decode(new Uint8Array([0xbb, 0xbf, 0x61]), { stream: true }) + d.decode() === 'a' })()",
        "new TextDecoder('utf-16le').decode(new Uint8Array([0x61, 0, 0x3d, 0xd8, 0, 0xde])) === 'a😀'",
        "new TextDecoder('utf-16be').decode(new Uint8Array([0, 0x61])) === 'a'",
        "new TextDecoder('utf-16').decode(new Uint8Array([0x61, 0, 0x3d])) === 'a\\ufffd'",
        "(() => { const d = new TextDecoder('utf-16le'); return d.decode(new Uint8Array([0x3d]), { stream: true }) + d.decode(new Uint8Array([0xd8, 0]), { stream: true }) + d.decode(new Uint8Array([0xde])) === '😀' })()",
        "new TextDecoder('latin1').decode(new Uint8Array([0xe9, 0x80, 0x99])) === 'é€™' && new TextDecoder('ascii').encoding === 'windows-1252'",
        "new TextDecoder(' UTF8 ').encoding === 'utf-8' && throws(() => new TextDecoder('klingon'), 'RangeError')",
        "new TextDecoder().decode(new TextEncoder().encode('x'.repeat(1e5)).buffer).length === 1e5",
        "new TextDecoder().decode(new DataView(new Uint8Array([1, 97, 98]).buffer, 1, 1)) === 'a' && new TextDecoder().decode() === ''",
        "throws(() => new TextDecoder().decode('text'), 'TypeError')",
    ],
    "clone": [
        "(() => { const a = { d: new Date(5), r: /x/gi, m: new Map([[{ k: 1 }, new Set([1])]]), n: null, u: undefined, b: 10n }; a.self = a; const c = structuredClone(a); return c !== a && c.self === c && c.d.getTime() === 5 && String(c.r) === '/x/gi' && [...c.m.values()][0].has(1) && 'u' in c && c.b === 10n })()",
        "(() => { const shared = {}; const c = structuredClone([shared, shared]); return c[0] === c[1] && c[0] !== shared })()",
        "(() => { const b = new Uint8Array([1, 2, 3]); const c = structuredClone({ b, same: b.buffer, part: b.subarray(1) }); return c.b.buffer === c.same && c.part.buffer === c.same && same([...c.part], [2, 3]) && c.b !== b })()",
        "(() => { const b = new ArrayBuffer(4); const c = structuredClone(b, { transfer: [b] }); return b.detached && c.byteLength === 4 })()",
        "(() => { const e = structuredClone(new RangeError('r', { cause: { a: 1 } })); return e instanceof RangeError && e.message === 'r' && e.cause.a === 1 })()",
        "(() => { class A { x = 1 } const c = structuredClone(new A()); return c.x === 1 && !(c instanceof A) })()",
        "(() => { const c = structuredClone([, 1]); return c.length === 2 && !(0 in c) })()",
        "structuredClone(Object(5)) instanceof Number && Object.is(structuredClone(-0), -0) && structuredClone('x') === 'x'",
        "throws(() => structuredClone(() => 1), 'DataCloneError') && throws(() => structuredClone({ a: Symbol() }), 'DataCloneError')",
        "throws(() => structuredClone(Promise.resolve()), 'DataCloneError') && throws(() => structuredClone(new WeakMap()), 'DataCloneError')",
        "throws(() => structuredClone({}, { transfer: [{}] }), 'DataCloneError') && throws(() => structuredClone(), 'TypeError')",
        "structuredClone(new DataView(new ArrayBuffer(4), 1, 2)).byteLength === 2 && structuredClone(new Float64Array([0.5]))[0] === 0.5",
    ],
    "abort": [
        "(() => { const c = new AbortController(); let n = 0; c.signal.onabort = () => n++; c.signal.addEventListener('abort', e => { n += e.type === 'abort' && e.target === c.signal && e.isTrusted ? 10 : 0 }); c.abort(); c.abort(); return n === 11 && c.signal.aborted && c.signal.reason.name === 'AbortError' })()",
        "(() => { const c = new AbortController(); c.abort('why'); return c.signal.reason === 'why' && throwsValue(() => c.signal.throwIfAborted(), 'why') })()",
        "AbortSignal.abort().aborted && AbortSignal.abort(5).reason === 5 && throws(() => new AbortSignal(), 'TypeError')",
        "(() => { const a = new AbortController(), b = new AbortController(); const any = AbortSignal.any([a.signal, b.signal]); let n = 0; any.addEventListener('abort', () => n++); b.abort('b'); a.abort('a'); return any.reason === 'b' && n === 1 })()",
        "AbortSignal.any([AbortSignal.abort('x')]).reason === 'x' && !AbortSignal.any([]).aborted",
        "(() => { const c = new AbortController(); const one = AbortSignal.any([c.signal]); const two = AbortSignal.any([one]); c.abort(7); return two.reason === 7 })()",
        "await (async () => { const s = AbortSignal.timeout(5); await new Promise(r => s.addEventListener('abort', r)); return s.reason.name === 'TimeoutError' && s.reason instanceof DOMException })()",
        "(() => { const c = new AbortController(); let n = 0; const t = new EventTarget(); t.addEventListener('x', () => n++, { signal: c.signal }); t.dispatchEvent(new Event('x')); c.abort(); t.dispatchEvent(new Event('x')); return n === 1 })()",
        "Object.prototype.toString.call(new AbortController().signal) === '[object AbortSignal]'",
    ],
    "events": [
        "(() => { const t = new EventTarget(); const seen = []; const f = () => seen.push('f'); t.addEventListener('x', f); t.addEventListener('x', f); t.addEventListener('x', { handleEvent(e) { seen.push(e.type) } }, { once: true }); t.dispatchEvent(new Event('x')); t.removeEventListener('x', f); t.dispatchEvent(new Event('x')); return same(seen, ['f', 'x']) })()",
        "(() => { const t = new EventTarget(); t.addEventListener('x', e => e.preventDefault()); return t.dispatchEvent(new Event('x', { cancelable: true })) === false && t.dispatchEvent(new Event('x')) })()",
        "(() => { const t = new EventTarget(); let n = 0; t.addEventListener('x', e => { n++; e.stopImmediatePropagation() }); t.addEventListener('x', () => n++); t.dispatchEvent(new Event('x')); return n === 1 })()",
        "throws(() => new EventTarget().dispatchEvent({}), 'TypeError') && throws(() => new Event(), 'TypeError')",
    ],
    "crypto": [
        "crypto.getRandomValues(new Uint8Array(8)).length === 8 && new Set(crypto.getRandomValues(new Uint32Array(64))).size > 60",
        "/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()) && crypto.randomUUID() !== crypto.randomUUID()",
        "throws(() => crypto.getRandomValues(new Float64Array(1)), 'TypeMismatchError') && throws(() => crypto.getRandomValues([]), 'TypeError')",
        "throws(() => crypto.getRandomValues(new DataView(new ArrayBuffer(8))), 'TypeMismatchError')",
        "throws(() => crypto.getRandomValues(new Uint8Array(65537)), 'QuotaExceededError') && crypto.getRandomValues(new Uint8Array(65536)).length === 65536",
        "(() => { const b = new Uint8Array(10); crypto.getRandomValues(b.subarray(2, 4)); return b[0] === 0 && b[9] === 0 })()",
    ],
    "time": [
        "(() => { const t = performance.now(); return t >= 0 && t < 60000 && performance.now() >= t })()",
        "Math.abs(performance.timeOrigin + performance.now() - Date.now()) < 1000",
        "Math.abs(new Date().getTime() - Date.now()) < 1000 && Date.now() > 1.7e12",
    ],
    "random": [
        "(() => { const all = Array.from({ length: 10000 }, Math.random); const mean = all.reduce((a, b) => a + b) / 10000; return all.every(x => x >= 0 && x < 1) && Math.abs(mean - 0.5) < 0.02 && new Set(all).size === 10000 })()",
    ],
    "url": [
        "new URL('../x?q#h', 'http://a.b/c/d/e').href === 'http://a.b/c/x?q#h' && String(new URL('HTTP://EX.com:80/%7Ea')) === 'http://ex.com/%7Ea'",
        "URL.canParse('x') === false && URL.canParse('x', 'http://a') && URL.parse('::') === null && URL.parse('a:b').href === 'a:b'",
        "throws(() => new URL('nope'), 'TypeError') && throws(() => new URL(), 'TypeError') && throws(() => { new URL('a:b').href = 'x' }, 'TypeError')",
        "(() => { const u = new URL('http://a/?x=1&y=2&x=3'); u.searchParams.append('z', 'a b&'); u.searchParams.delete('y'); return u.href === 'http://a/?x=1&x=3&z=a+b%26' && same(u.searchParams.getAll('x'), ['1', '3']) })()",
        "(() => { const u = new URL('http://a/?q=1'); const p = u.searchParams; u.search = '?r=2'; return p.get('r') === '2' && p === u.searchParams && p.size === 1 })()",
        "JSON.stringify({ u: new URL('http://a') }) === '{\"u\":\"http://a/\"}' && Object.keys(URL.prototype).includes('href')",
        "new URL('http://ÄÖ.example/').hostname === 'xn--4ca0b.example' && new URL('http://a\\u3002b/').hostname === 'a.b' && !URL.canParse('http://a\\ufffd/')",
        "new URL('http://faß.example').host === 'xn--fa-hia.example' && !URL.canParse('http://\\u05d0a/')",
        "new URL('http://0x7f.1/').host === '127.0.0.1' && new URL('http://[::ffff:1.2.3.4]').host === '[::ffff:102:304]'",
        "new URL('blob:https://a.b/c').origin === 'https://a.b' && new URL('data:x').origin === 'null' && new URL('file:///a').origin === 'null'",
    ],
    "params": [
        "String(new URLSearchParams({ a: '1', b: 'x y' })) === 'a=1&b=x+y' && String(new URLSearchParams([['a', 1], ['a', 2]])) === 'a=1&a=2'",
        "String(new URLSearchParams('?a=%zz&b=+%2B&c')) === 'a=%25zz&b=+%2B&c=' && new URLSearchParams('a=%F0%9F%98%80').get('a') === '😀'",
        "new URLSearchParams('a=%ff').get('a') === '\\ufffd' && String(new URLSearchParams({ a: \"!'()~*-._\" })) === 'a=%21%27%28%29%7E*-._'",
        "(() => { const p = new URLSearchParams('b=1&a=2&b=3'); p.sort(); const s = String(p); p.set('b', '9'); return s === 'a=2&b=1&b=3' && String(p) === 'a=2&b=9' && p.has('b', '9') && !p.has('b', '8') && p.size === 2 })()",
        "(() => { const p = new URLSearchParams('a=1&b=2'); const seen = []; p.forEach((v, k, o) => seen.push(k, v, o === p)); return same([...p], [['a', '1'], ['b', '2']]) && same([...p.keys()], ['a', 'b']) && same([...p.values()], ['1', '2']) && same(seen, ['a', '1', true, 'b', '2', true]) })()",
        "throws(() => new URLSearchParams([['a']]), 'TypeError') && throws(() => new URLSearchParams([1]), 'TypeError') && throws(() => new URLSearchParams().append('a'), 'TypeError')",
        "Object.prototype.toString.call(new URLSearchParams().entries()) === '[object URLSearchParams Iterator]' && String(new URLSearchParams(new URLSearchParams('x=1'))) === 'x=1'",
        "String(new URLSearchParams('\\ud800')) === '%EF%BF%BD=' && String(new URLSearchParams(null)) === 'null=' && String(new URLSearchParams(undefined)) === ''",
    ],
    "promise": [
        "Promise.name === 'Promise' && Promise.length === 1 && Object.keys(Promise).length === 0 && typeof Promise[Symbol.species] === 'function'",
        "new Promise(() => {}) instanceof Promise && (async () => {})() instanceof Promise && Object.getPrototypeOf(new Promise(() => {})) === Promise.prototype",
        "Object.prototype.toString.call(new Promise(() => {})) === '[object Promise]' && Reflect.ownKeys(new Promise(() => {})).length === 0",
        "throws(() => Promise(() => {}), 'TypeError') && throws(() => new Promise(), 'TypeError') && throws(() => new Promise({}), 'TypeError')",
        "(() => { const p = new Promise(() => {}); return Promise.resolve(p) === p && Promise.resolve((async () => {})()) !== p })()",
        "same(await Promise.all([1, Promise.resolve(2), new Promise(r => setTimeout(r, 1, 3))]), [1, 2, 3])",
        "await new Promise(() => { throw 7 }).catch(e => e) === 7 && await new Promise((r, j) => { r(1); j(2); r(3) }) === 1 && await Promise.reject(5).catch(e => e) === 5",
        "await new Promise(r => { r(8); throw 9 }) === 8 && await new Promise(r => r(Promise.resolve(6))) === 6 && await new Promise(r => r({ then: f => f(4) })) === 4",
        "await Promise.try((a, b) => a + b, 1, 2) === 3 && await Promise.any([Promise.reject(1), 2]) === 2 && await Promise.race([new Promise(() => {}), 1]) === 1",
        "(async () => { const { promise, resolve, reject } = Promise.withResolvers(); resolve(1); reject(2); return await promise === 1 && resolve.length === 1 })()",
        "(() => { class Mine extends Promise { extra() { return 1 } } const m = new Mine(() => {}); return m instanceof Mine && m instanceof Promise && m.then() instanceof Mine && Mine.resolve(1).extra() === 1 && Mine.all([]) instanceof Mine && Mine.withResolvers().promise.extra() === 1 && Mine.try(() => 1) instanceof Mine })()",
        "(async () => { const order = []; const p = new Promise(r => { order.push(1); r() }); (async () => { await p; order.push(3) })(); p.then(() => order.push(4)); order.push(2); await null; await null; return same(order, [1, 2, 3, 4]) })()",
    ],
    "dom exception": [
        "(() => { const e = new DOMException('m', 'AbortError'); return e instanceof Error && e.code === 20 && e.name === 'AbortError' && e.message === 'm' && String(e) === 'AbortError: m' })()",
    ],
}
HELPERS = """
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const throws = (f, name) => { try { f(); return false } catch (e) { return e.name === name } };
const throwsValue = (f, value) => { try { f(); return false } catch (e) { return e === value } };
async function check(source) { return await eval('(async () => (' + source + '))()') }
"""


@pytest.mark.slow
@pytest.mark.parametrize(("area", "claim"), [(area, claim) for area, claims in CLAIMS.items() for claim in claims])
async def test_the_globals_do_as_the_platform_says(template: SandboxTemplate, area: str, claim: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(HELPERS)
        assert await sandbox.run("check", claim) is True, area


LINES = {
    "'%s is %d, %i, %f, %j', 'x', 42.5, 42.9, '1.5', { a: 1 }, 'rest'": 'x is 42.5, 42, 1.5, {"a":1} rest',
    "'%o %O %c%%', [1], { a: 1 }, 'color: red'": "[ 1 ] { a: 1 } %",
    "'100%', 5": "100% 5",
    "'%s'": "%s",
    "1, 'two', null, undefined, true, -0, 10n, Symbol('s')": "1 two null undefined true -0 10n Symbol(s)",
    "{ a: 'x', 'b-c': [1, \"it's\"], f() {}, g: class A {}, n: { n: { n: { n: {} } } } }": (
        "{\n  a: 'x',\n  'b-c': [ 1, \"it's\" ],\n  f: [Function: f],\n  g: [class A],\n  n: { n: { n: { n: {} } } }\n}"
    ),
    "new Map([['a', { b: 1 }]]), new Set([1, 'x'])": "Map(1) { 'a' => { b: 1 } } Set(2) { 1, 'x' }",
    "(() => { const a = { n: 1 }; a.self = a; return a })()": "<ref *1> { n: 1, self: [Circular *1] }",
    "[, 1, , , 2], new Array(3)": "[ <1 empty item>, 1, <2 empty items>, 2 ] [ <3 empty items> ]",
    "new Uint8Array([1, 2]), new ArrayBuffer(2)": "Uint8Array(2) [ 1, 2 ] ArrayBuffer { byteLength: 2 }",
    "new (class Foo { x = 1; get y() { return 1 } }), Object.create(null)": "Foo { x: 1 } [Object: null prototype] {}",
    "{ get a() { return 1 }, set b(v) {} }": "{ a: [Getter], b: [Setter] }",
    "new Date(0), /x/g, new Date(NaN)": "1970-01-01T00:00:00.000Z /x/g Invalid Date",
    "new URL('http://a/b'), new URLSearchParams('a=1')": "URL { 'http://a/b' } URLSearchParams { 'a=1' }",
    "Object.assign(() => 1, { k: 1 }), async function af() {}": "[Function (anonymous)] { k: 1 } [AsyncFunction: af]",
    "new Proxy({ a: 1 }, { get() { throw 1 } })": "{ a: 1 }",
    "{ toString() { throw 1 } }, '\\n\\t'": "{ toString: [Function: toString] } \n\t",
    "['\\n\\t\\x01']": "[ '\\n\\t\\x01' ]",
    "": "",
}


@pytest.mark.parametrize("arguments", LINES)
async def test_console_shows_values_as_people_expect(template: SandboxTemplate, arguments: str) -> None:
    async with template.create() as sandbox:
        async with sandbox.load_stream(f"console.log({arguments})") as events:
            logs = [event.data async for event in events if isinstance(event, LogEvent)]
        assert logs == [LINES[arguments]]


async def test_console_shows_errors_with_the_users_frames(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        code = "function make() { return new TypeError('t', { cause: new Error('c') }) }\nconsole.log('got', make())"
        async with sandbox.load_stream(code, filename="c.js") as events:
            [line] = [event.data async for event in events if isinstance(event, LogEvent)]
        assert re.fullmatch(
            r"got TypeError: t\n    at make \(c\.js:1:\d+\)\n    at <eval> \(c\.js:2:\d+\) \{\n  \[cause\]: Error: c\n.*\}",
            line,
            re.DOTALL,
        )


async def test_a_trace_shows_the_users_frames_alone(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        code = "function inner() { console.trace('here', 1) }\n[0].forEach(inner)"
        async with sandbox.load_stream(code, filename="t.js") as events:
            [line] = [event.data async for event in events if isinstance(event, LogEvent)]
        assert re.fullmatch(r"Trace: here 1\n    at inner \(t\.js:1:\d+\)\n    at <eval> \(t\.js:2:\d+\)", line)


async def test_console_has_levels_and_helpers(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        code = """
        console.debug('d'); console.log('l'); console.info('i'); console.warn('w'); console.error('e');
        console.group('g'); console.log('in\\nside'); console.groupEnd(); console.log('out');
        console.assert(true); console.assert(false, 'why'); console.count(); console.count(); console.dir({ a: 1 });
        console.time('t'); console.timeEnd('t'); console.table([{ a: 1, b: 'x' }, { a: 2 }]);
        """
        async with sandbox.load_stream(code) as events:
            logs = [(event.level, event.data) async for event in events if isinstance(event, LogEvent)]
        assert logs[:5] == [("debug", "d"), ("info", "l"), ("info", "i"), ("warning", "w"), ("error", "e")]
        assert [text for _, text in logs[5:8]] == ["g", "  in\n  side", "out"]
        assert logs[8] == ("error", "Assertion failed: why")
        assert [text for _, text in logs[9:12]] == ["default: 1", "default: 2", "{ a: 1 }"]
        assert re.fullmatch(r"t: \d+\.\d+ms", logs[12][1])
        assert "│ (index) │ a │ b   │" in logs[13][1]


@pytest.mark.parametrize(
    ("expression", "remedy"),
    [
        ("new URLSearchParams('a=1')", "URLSearchParams is not a value that can cross; convert it with String()"),
        ("new AbortController()", "AbortController is not a value that can cross; send what you need of it"),
        ("AbortSignal.abort()", "AbortSignal is not"),
        ("new Event('x')", "Event is not"),
        ("new EventTarget()", "EventTarget is not"),
        ("new TextEncoder()", "TextEncoder is not"),
        ("new TextDecoder()", "TextDecoder is not"),
        ("crypto", "Crypto is not"),
        ("Math", "Math is not"),
    ],
)
async def test_a_global_object_that_would_cross_empty_is_refused(
    template: SandboxTemplate, expression: str, remedy: str
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(
            f"const f = () => ({{ rows: [{expression}] }}); const url = () => new URL('http://a')"
        )
        with pytest.raises(GuestError) as caught:
            await sandbox.run("f")
        assert caught.value.type == "TypeError"
        assert caught.value.message.startswith("$.rows[0]: " + remedy)
        assert await sandbox.run("url") == "http://a/"


async def test_an_exported_variable_is_what_the_module_made_of_it(template: SandboxTemplate, tmp_path: Path) -> None:
    tmp_path.joinpath("count.mjs").write_text("export let count = 0; export const more = () => ++count", "utf-8")
    async with template.create(mounts=[MountConfig(str(tmp_path), "/app")]) as sandbox:
        await sandbox.load_file("/app/count.mjs")
        await sandbox.load_script("const told = () => count; const set = value => { count = value }")
        await sandbox.run("more")
        assert await sandbox.run("told") == 1
        await sandbox.run("set", "mine")
        assert await sandbox.run("told") == "mine"


async def test_a_seed_repeats_the_guests_randomness(template: SandboxTemplate) -> None:
    draw = "const draw = () => [Math.random(), Math.random(), crypto.randomUUID()]"

    async def drawn(seed: int | None) -> object:
        async with template.create(seed=seed) as sandbox:
            await sandbox.load_script(draw)
            return await sandbox.run("draw")

    assert await drawn(1) == await drawn(1)
    assert await drawn(1) != await drawn(2)
    fresh = [await drawn(None) for _ in range(20)]
    assert len({str(one) for one in fresh}) == 20


SABOTAGE = [
    "JSON.parse = JSON.stringify = () => 'x'",
    "globalThis.JSON = undefined; globalThis.Reflect = undefined; globalThis.Object = undefined; globalThis.Promise = undefined",
    "Promise.prototype.then = () => 7; Promise.resolve = () => 8",
    "globalThis.Promise = class { constructor() { throw 1 } }; globalThis.WeakRef = null",
    "WeakRef.prototype.deref = () => { throw 1 }; Promise.prototype.constructor = WeakRef; Promise.withResolvers = 1",
    "Object.defineProperty(Promise.prototype, 'constructor', { get() { throw 1 } })",
    "Object.defineProperty(Promise, Symbol.species, { get() { throw 1 } })",
    "Array.prototype[Symbol.iterator] = () => { throw 1 }",
    "for (const key of Object.getOwnPropertyNames(Array.prototype)) if (key !== 'constructor' && key !== 'length') Array.prototype[key] = () => { throw 1 }",
    "for (const key of Object.getOwnPropertyNames(String.prototype)) if (key !== 'length') try { String.prototype[key] = () => { throw 1 } } catch {}",
    "for (const T of [Map, Set, WeakMap, WeakSet]) for (const key of Object.getOwnPropertyNames(T.prototype)) try { T.prototype[key] = () => { throw 1 } } catch {}",
    "for (let i = 0; i < 20; i++) Object.defineProperty(Object.prototype, i, { set() { throw 1 }, get() { return 'evil' }, configurable: true })",
    "for (const k of ['type', 'message', 'limit', 'value', 'done', 'next', 'then', 'toJSON', 'stream', 'resolve']) Object.defineProperty(Object.prototype, k, { set() { throw 1 }, configurable: true })",
    "Object.prototype.toJSON = () => 'evil'",
    "RegExp.prototype.exec = () => { throw 1 }; Symbol.prototype.toString = null",
    "Function.prototype.call = Function.prototype.apply = Function.prototype.bind = () => { throw 1 }",
    "Error.prepareStackTrace = () => { throw 1 }; Error.stackTraceLimit = 0",
    "globalThis.Error = class { constructor() { throw 1 } }; globalThis.Uint8Array = null",
    "globalThis[Symbol.for('isola.scope')](() => { throw 1 })",
    "Math.random = () => 5; performance.now = () => NaN; Date.now = () => NaN; globalThis.performance = null",
    "delete globalThis.eval; globalThis.console = null; globalThis.hostcall = null",
    "Object.freeze(globalThis)",
]


@pytest.mark.parametrize("sabotage", SABOTAGE)
async def test_a_guest_that_breaks_its_globals_breaks_only_itself(template: SandboxTemplate, sabotage: str) -> None:
    async def later(payload: object) -> object:
        return payload

    async with template.create(hostcalls={"now": lambda value: value, "later": later}) as sandbox:
        await sandbox.load_script(
            "const plain = (a, b) => ({ a, b }); const call = hostcall; async function both(x) { return [await call('now', x), await call('later', x)] }"
            "function* gen() { yield 1; yield [2] } const fail = () => { throw new RangeError('r') }"
        )
        try:
            await sandbox.load_script(sabotage)
        except Exception as exc:
            assert type(exc).__name__ == "GuestError"
        for name, arguments in (("plain", (1, [2, {"c": None}])), ("both", ({"x": 1},)), ("gen", ()), ("fail", ())):
            try:
                await sandbox.run(name, *arguments)
            except Exception as exc:
                assert type(exc).__name__ == "GuestError", (name, exc)
        assert not sandbox.broken
    async with template.create() as sandbox:
        await sandbox.load_script("const fine = () => JSON.stringify([1].map(x => x))")
        assert await sandbox.run("fine") == "[1]"


@pytest.mark.parametrize("sabotage", SABOTAGE[:11] + SABOTAGE[13:19])
async def test_plain_values_cross_whatever_the_guest_did(template: SandboxTemplate, sabotage: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("const plain = (a, b) => ({ a, b })")
        await sandbox.load_script(sabotage)
        if "toJSON" not in sabotage:
            assert await sandbox.run("plain", 1, [2, {"c": None}]) == {"a": 1, "b": [2, {"c": None}]}
