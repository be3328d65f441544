"""Failures: type, message, the user's frames; memory and stack; rejections nobody handles."""

from __future__ import annotations

from typing import Any

import pytest

from isola_anyio import GuestError, LogEvent, MemoryLimitError, SandboxTemplate


async def failure(template: SandboxTemplate, code: str, filename: str = "app.js") -> GuestError:
    async with template.create() as sandbox:
        with pytest.raises(GuestError) as caught:
            await sandbox.load_script(code, filename=filename)
            await sandbox.run("f")
        return caught.value


@pytest.mark.parametrize(
    ("code", "type_name", "message", "traceback"),
    [
        ("function f() {\n  null.x }", "TypeError", "cannot read property 'x' of null", "    at f (app.js:2:"),
        ("async function f() {\n await 1;\n throw new RangeError('r') }", "RangeError", "r", "    at f (app.js:3:"),
        (
            "class Mine extends Error {}\nfunction f() {\n  throw new Mine('m')\n}",
            "Mine",
            "m",
            "    at Mine (app.js:1:",
        ),
        ("function f() { const e = new Error('n'); e.name = 'Named'; throw e }", "Named", "n", None),
        ("function f() { throw 'text' }", "Error", "text", ""),
        ("function f() { throw undefined }", "Error", "undefined", ""),
        ("function f() { throw { code: 7 } }", "Object", "{ code: 7 }", ""),
        ("function f() { throw new DOMException('d', 'DataError') }", "DataError", "d", None),
        ("let x = ;", "SyntaxError", "unexpected token in expression: ';'", None),
        ("\n\nlet y = 1;\nlet z = }", "SyntaxError", "unexpected token in expression: '}'", None),
        ("\nfunction g() { missing }\ng()", "ReferenceError", "missing is not defined", None),
        ("function f() { return Promise.reject(new TypeError('p')) }", "TypeError", "p", None),
        ("function* f() { yield 1; throw new EvalError('e') }", "EvalError", "e", None),
        ("async function* f() { yield 1; throw new EvalError('e') }", "EvalError", "e", None),
    ],
)
async def test_a_failure_is_described(
    template: SandboxTemplate, code: str, type_name: str, message: str, traceback: str | None
) -> None:
    error = await failure(template, code)
    assert error.type == type_name
    assert error.message == message
    if traceback is not None:
        assert error.traceback.startswith(traceback) if traceback else not error.traceback
    assert "isola:" not in error.traceback
    assert "(native)" not in error.traceback


async def test_a_traceback_has_every_file_the_user_named(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("function inner() {\n  throw new Error('x')\n}", filename="lib/inner.js")
        await sandbox.load_script("\nfunction outer() { [1].forEach(() => inner()) }", filename="my <file>.js")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("outer")
        files = [line.rpartition(" (")[2].rpartition(":")[0] for line in caught.value.traceback.splitlines()]
        assert files == ["lib/inner.js:2", "my <file>.js:2", "my <file>.js:2"]
        await sandbox.load_script("const stack = () => new Error('s').stack", filename="here.js")
        assert "(here.js:1:" in str(await sandbox.run("stack"))


async def test_a_cause_is_told_too(template: SandboxTemplate) -> None:
    error = await failure(
        template, "function f() {\n try { null.x } catch (e) {\n throw new Error('outer', { cause: e }) } }"
    )
    assert [line.rpartition(":")[0] for line in error.traceback.splitlines()] == [
        "    at f (app.js:3",
        "Caused by: TypeError",
        "    at f (app.js:2",
    ]


@pytest.mark.parametrize(
    ("thrown", "lines"),
    [
        (
            "new AggregateError([new TypeError('a'), 7, new Error('b', { cause: new Error('c') })], 'all')",
            ["Error 1 of 3: TypeError: a", "Error 2 of 3: 7", "Error 3 of 3: Error: b", "Caused by: Error: c"],
        ),
        (
            "new SuppressedError(new Error('later'), new Error('first'), 's')",
            ["Caused by: Error: later", "Suppressed: Error: first"],
        ),
        ("(() => { const e = new Error('e'); e.cause = e; return e })()", []),
        (
            "(() => { const e = new Error('e'), c = new Error('c', { cause: e }); e.cause = c; return e })()",
            ["Caused by: Error: c"],
        ),
        (
            "new AggregateError(Array.from({ length: 99 }, (_, i) => new Error(i)), 'many')",
            [f"Error {i} of 99: Error: {i - 1}" for i in range(1, 9)],
        ),
    ],
)
async def test_what_is_behind_an_error_is_told_once(template: SandboxTemplate, thrown: str, lines: list[str]) -> None:
    error = await failure(
        template,
        "globalThis.SuppressedError ??= class SuppressedError extends Error {"
        " constructor(error, suppressed, message) { super(message); Object.assign(this, { error, suppressed }) } };"
        f"function f() {{ throw {thrown} }}",
    )
    assert [line for line in error.traceback.splitlines() if not line.startswith("    at ")] == lines


async def test_hostile_errors_are_described_all_the_same(template: SandboxTemplate) -> None:
    for thrown in (
        "new Proxy({}, { get() { throw 1 }, getPrototypeOf() { throw 2 } })",
        "{ get message() { throw 1 }, get name() { throw 1 } }",
        "Object.assign(Object.create(null), { toString: null })",
        "Object.defineProperty(new Error(), 'message', { get() { throw 1 } })",
        "Object.defineProperty(new Error('x'), 'stack', { get() { throw 1 } })",
        "Object.defineProperty(new Error(), 'errors', { get() { throw 1 } })",
        "Object.assign(new Error(), { errors: new Proxy([], { get() { throw 1 } }) })",
        "new Error('x'.repeat(1e6))",
    ):
        error = await failure(template, f"function f() {{ throw {thrown} }}")
        assert error.type
        assert len(error.message) < 20_000


@pytest.mark.slow
async def test_running_out_of_memory_is_an_error_of_the_guests(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(
            "function eat() { const all = []; for (;;) all.push(new Uint8Array(1 << 20)) }"
            "function nest() { let s = 'x'; for (;;) s += s }"
            "function small() { const all = []; for (;;) all.push({ a: all.length }) }"
            "const fine = () => 'fine'"
        )
        for name in ("eat", "small"):
            with pytest.raises(MemoryLimitError):
                await sandbox.run(name)
            assert await sandbox.run("fine") == "fine"
        with pytest.raises(GuestError):
            await sandbox.run("nest")
        assert await sandbox.run("fine") == "fine"
        assert not sandbox.broken


@pytest.mark.slow
async def test_an_argument_that_finds_no_room_is_a_memory_error(template: SandboxTemplate) -> None:
    for value in ("x" * (20 << 20), "x" * (2 << 20), b"x" * (20 << 20), b"x" * (2 << 20), list(range(500_000))):

        def now(_payload: object, value: Any = value) -> Any:
            return value

        async def later(_payload: object, value: Any = value) -> Any:
            return value

        async with template.create(max_memory=4 << 20, hostcalls={"now": now, "later": later}) as sandbox:
            await sandbox.load_script(
                "const size = x => x.length; const ask = async name => (await hostcall(name)).length"
            )
            with pytest.raises(MemoryLimitError):
                await sandbox.run("size", value)
            for name in ("now", "later"):
                with pytest.raises(GuestError) as caught:
                    await sandbox.run("ask", name)
                assert caught.value.type in ("HostcallError", "InternalError")
            assert await sandbox.run("size", "abc") == 3


@pytest.mark.slow
async def test_a_result_that_finds_no_room_is_a_memory_error(template: SandboxTemplate) -> None:
    async with template.create(max_memory=8 << 20, hostcalls={"echo": lambda x: x}) as sandbox:
        await sandbox.load_script(
            """
            const text = n => 'x'.repeat(n);
            const bytes = n => new Uint8Array(n);
            function* items(n) { yield 'x'.repeat(n) }
            const ask = n => hostcall('echo', 'x'.repeat(n));
            const say = n => console.log('x'.repeat(n));
            """
        )
        for name in ("text", "bytes", "items", "ask", "say"):
            for size in (1 << 20, 2 << 20, 3 << 20, 5 << 20):
                try:
                    await sandbox.run(name, size)
                except GuestError as exc:
                    assert exc.type in ("InternalError", "HostError", "HostcallError", "MemoryError")
            assert not sandbox.broken, name
            assert await sandbox.run("text", 3) == "xxx"


async def test_source_that_finds_no_room_is_a_memory_error(template: SandboxTemplate) -> None:
    async with template.create(max_memory=4 << 20) as sandbox:
        with pytest.raises(MemoryLimitError):
            await sandbox.load_script("let a = 1;" + " " * (1 << 20))
        with pytest.raises(GuestError):
            await sandbox.load_script("let b = 1;\n" * 20_000)
        await sandbox.load_script("const ok = () => 1")
        assert await sandbox.run("ok") == 1


OVERFLOWS = [
    "function f() { return f() + 1 }",
    "function f() { [1].forEach(f) }",
    "function f() { return `${{ toString: f }}` }",
    "const p = new Proxy({}, { get: (t, k, r) => r[k] }); const f = () => p.x",
    "const o = { get x() { return this.x } }; const f = () => o.x",
    "const f = () => 'a'.replace(/a/, f)",
    "class A { constructor() { new A() } } const f = () => new A()",
    "const f = () => JSON.parse('['.repeat(1e5))",
    # JSON.stringify takes time quadratic in the depth: most of the stack is used up before it.
    """let o = {}; for (let i = 0; i < 1e4; i++) o = { o };
    const f = (n = 2500) => n === 0 ? JSON.stringify(o).length : f(n - 1) + 1""",
    "const f = () => new RegExp('('.repeat(1e5))",
    "async function f() { await f() }",
    "function* f() { yield* f() }",
]


@pytest.mark.parametrize("code", OVERFLOWS)
async def test_a_stack_overflow_is_an_error_of_the_guests(template: SandboxTemplate, code: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(code + "\nconst fine = () => 'fine'")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("f")
        assert caught.value.type in ("RangeError", "InternalError", "SyntaxError")
        assert await sandbox.run("fine") == "fine"


async def logs(template: SandboxTemplate, code: str) -> list[tuple[str, str]]:
    async with template.create() as sandbox:
        await sandbox.load_script(code, filename="app.js")
        async with sandbox.run_stream("f") as events:
            return [(event.level, event.data) async for event in events if isinstance(event, LogEvent)]


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("function f() { Promise.reject(new Error('lost')) }", ["Unhandled rejection: Error: lost"]),
        (
            "function f() { (async () => { await 1; throw new TypeError('lost') })() }",
            ["Unhandled rejection: TypeError: lost"],
        ),
        ("function f() { Promise.reject(7) }", ["Unhandled rejection: 7"]),
        ("function f() { const p = Promise.reject(new Error('kept')); p.catch(() => {}) }", []),
        (
            "async function f() { const p = Promise.reject(new Error('kept')); await null; try { await p } catch {} }",
            [],
        ),
        ("function f() { queueMicrotask(() => { throw new Error('micro') }) }", ["Uncaught Error: micro"]),
        (
            "const f = () => new Promise(done => { setTimeout(() => { done(); throw new Error('timer') }, 1) })",
            ["Uncaught Error: timer"],
        ),
        ("function f() { hostcall('nobody') }", ["Unhandled rejection: HostcallError: "]),
        ("function f() { hostcall('nobody').catch(() => {}) }", []),
    ],
)
async def test_what_nobody_handles_is_reported(template: SandboxTemplate, code: str, lines: list[str]) -> None:
    told = await logs(template, code)
    assert [level for level, _ in told] == ["error"] * len(lines)
    for (_, text), line in zip(told, lines, strict=True):
        assert text.startswith(line)
        assert "isola:" not in text
    if lines and "new" in code:
        assert "app.js" in told[0][1]
