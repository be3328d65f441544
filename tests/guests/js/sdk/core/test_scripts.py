"""Scripts and functions: what persists, what a function may be, what its value is."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import (
    Arg,
    EndEvent,
    ErrorEvent,
    EventStream,
    GuestError,
    LogEvent,
    PayloadLimitError,
    ResultEvent,
    SandboxContext,
    SandboxTemplate,
    StreamArg,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FUNCTIONS = """
let counter = 0;
const limit = await Promise.resolve(3);
class Point { constructor(x) { this.x = x } }
function plain(a, b) { return [a, b, typeof Point] }
async function waits(a) { await null; return a + limit }
function* gen(n) { for (let i = 0; i < n; i++) yield i; return 'done' }
async function* agen(n) { for (let i = 0; i < n; i++) { await null; yield { i } } return 'adone' }
const arrow = (...all) => all;
function next() { return ++counter }
function thenable() { return { then(resolve) { resolve('thened') } } }
"""


async def test_names_of_every_kind_persist(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(FUNCTIONS)
        assert await sandbox.run("plain", 1, "two") == [1, "two", "function"]
        assert await sandbox.run("waits", 4) == 7
        assert await sandbox.run("next") == 1
        await sandbox.load_script("counter += 10; var late = () => [counter, limit, new Point(2).x]")
        assert await sandbox.run("late") == [11, 3, 2]
        assert await sandbox.run("next") == 12


async def test_state_never_leaks_to_another_sandbox(template: SandboxTemplate) -> None:
    async with template.create() as one, template.create() as other:
        await one.load_script("globalThis.secret = 1; function here() { return globalThis.secret }")
        await other.load_script("function here() { return globalThis.secret }")
        assert await one.run("here") == 1
        assert await other.run("here") is None


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("undefined", None),
        ("null", None),
        ("-0", -0.0),
        ("NaN", float("nan")),
        ("2n ** 70n", 2**70),
        ("'\\ud800'", "\ud800"),
        ("new Uint8Array([1, 2])", b"\x01\x02"),
        ("new Uint8Array([1, 2]).buffer", b"\x01\x02"),
        ("[undefined, 1]", [None, 1]),
        ("{ toJSON() { return 5 } }", 5),
        ("Promise.resolve('later')", "later"),
        ("{ then(resolve) { resolve('thened') } }", "thened"),
    ],
)
async def test_values_come_back(template: SandboxTemplate, expression: str, value: object) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(f"const give = () => ({expression})")
        result = await sandbox.run("give")
        assert repr(result) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -1, 2**53 - 1, 2**53, -(2**53), 2**70, -(2**200), 0.5, -0.0, float("inf"), float("-inf")),
        *("", "hé🙂", "\ud800", "a\0b", "\x1e\x1f", "\u2028", b"", b"\0\xff", [], {}),
        [[1, [2, {"a": None, "b": [b"x", 2**64]}]], "end"],
        {"z": 1, "a": 2, "__proto__": 3, "constructor": 4, "$": 5, "": 6},
        {"\ud800": 1},
    ],
)
async def test_values_go_there_and_back(template: SandboxTemplate, value: Any) -> None:
    async with template.create(hostcalls={"echo": lambda payload: payload}) as sandbox:
        await sandbox.load_script("const echo = (x) => x; const ask = (x) => hostcall('echo', x)")
        for name in ("echo", "ask"):
            result = await sandbox.run(name, value)
            assert repr(result) == repr(value)


async def test_arrays_cross_as_buffers(template: SandboxTemplate) -> None:
    numbers = array.array("d", [0.5, -1.5])
    async with template.create() as sandbox:
        await sandbox.load_script(
            "const look = (x) => [x.constructor.name, x[1]]; const make = () => new Int16Array([1, -2])"
        )
        assert await sandbox.run("look", numbers) == ["Float64Array", -1.5]
        made = await sandbox.run("make")
        assert isinstance(made, memoryview)
        assert (made.format, made.tolist()) == ("h", [1, -2])


async def collect(events: Any) -> list[Any]:
    async with events:
        return [event async for event in events]


@pytest.mark.parametrize(
    ("expression", "items", "final"),
    [
        ("(function*() { yield 1; yield 2; return 3 })()", [1, 2], 3),
        ("(async function*() { yield 1; yield 2; return 3 })()", [1, 2], 3),
        ("[1, 2][Symbol.iterator]()", [1, 2], None),
        ("new Map([['a', 1]]).entries()", [["a", 1]], None),
        ("[1, 2, 3].values().map(x => x * 2)", [2, 4, 6], None),
        (
            "{ n: 0, next() { return this.n++ < 2 ? { value: this.n, done: false } : { done: true, value: 'end' } } }",
            [1, 2],
            "end",
        ),
        ("(function*() { yield Promise.resolve(1); return Promise.resolve(2) })()", [1], 2),
        ("{ async *[Symbol.asyncIterator]() { yield 'x' } }", ["x"], None),
        ("Promise.resolve((function*() { yield 1 })())", [1], None),
    ],
)
async def test_iterators_are_streamed(
    template: SandboxTemplate, expression: str, items: list[object], final: object
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(f"const give = () => ({expression})")
        events = await collect(sandbox.run_stream("give"))
        assert [event.data for event in events if isinstance(event, ResultEvent)] == items
        assert isinstance(events[-1], EndEvent)
        assert events[-1].data == final
        assert await sandbox.run("give") == final


class Steps:
    """A hostcall that counts the guest's steps."""

    def __init__(self) -> None:
        self.taken = 0

    def __call__(self, _payload: object) -> None:
        self.taken += 1

    async def end(self, events: EventStream) -> None:
        """Wait until the guest is blocked on back pressure.

        No event tells that: the guest is taken for blocked when a while has passed in which it took no step.
        """
        await events.receive()
        before = -1
        while self.taken != before:
            before = self.taken
            await anyio.sleep(0.05)


async def test_a_consumer_that_stops_reading_stops_the_guest(template: SandboxTemplate) -> None:
    steps = Steps()
    async with template.create(hostcalls={"step": steps}) as sandbox:
        await sandbox.load_script("let made = 0; function* endless() { for (;;) { hostcall('step'); yield made++ } }")
        async with sandbox.run_stream("endless") as events:
            await steps.end(events)
        assert 3 <= steps.taken < 5000


@pytest.mark.slow
async def test_closing_a_stream_runs_the_generators_finally(template: SandboxTemplate) -> None:
    steps = Steps()
    async with template.create(hostcalls={"step": steps}) as sandbox:
        await sandbox.load_script(
            "const log = []; function* g() { try { for (;;) { hostcall('step'); yield 1 } } finally { log.push('plain') } }"
            "async function* a() { try { for (;;) { await hostcall('step'); yield 1 } } finally { log.push('async') } }"
            "const told = () => log"
        )
        for name in ("g", "a"):
            async with sandbox.run_stream(name) as events:
                await steps.end(events)
        assert await sandbox.run("told") == ["plain", "async"]


async def test_named_arguments_are_one_trailing_object(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("const all = (...given) => given")
        assert await sandbox.run("all", 1, b=2, c=[3]) == [1, {"b": 2, "c": [3]}]
        assert await sandbox.run("all", Arg(1), Arg(2, "x")) == [1, {"x": 2}]
        assert await sandbox.run("all") == []


async def test_streams_arrive_as_async_iterators(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(
            "async function sum(a, numbers, named) { let s = a; for await (const n of numbers) s += n;"
            " if (named) for await (const n of named.more) s += n; return s }"
            "async function first(numbers) { for await (const n of numbers) return n }"
            "async function ahead(numbers) { return (await Promise.all([numbers.next(), numbers.next(), numbers.next()]))"
            ".map(r => r.done ? 'end' : r.value) }"
        )
        stream = StreamArg.from_iterable
        assert await sandbox.run("sum", 1, stream(range(100))) == 1 + 4950
        assert await sandbox.run("sum", 1, stream([1]), stream([2, 3], name="more")) == 7
        assert await sandbox.run("first", stream(range(10))) == 0
        assert await sandbox.run("ahead", stream([7, 8])) == [7, 8, "end"]


async def test_a_producers_failure_reaches_the_loop(template: SandboxTemplate) -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise KeyError("producer")

    async with template.create() as sandbox:
        await sandbox.load_script(
            "let saw; async function eat(it) { try { for await (const x of it); } catch (e) { saw = [e.name, String(e)] } }"
            "const told = () => saw"
        )
        with pytest.raises(KeyError):
            await sandbox.run("eat", StreamArg.from_async_iterable(broken()))
        told: Any = await sandbox.run("told")
        assert told[0] == "KeyError"


async def test_an_unknown_name_is_a_reference_error(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        for name in ("nope", "no.pe", "1+1", "class", "a b"):
            with pytest.raises(GuestError) as caught:
                await sandbox.run(name)
            assert caught.value.type == "ReferenceError"
        await sandbox.load_script("let number = 5")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("number")
        assert caught.value.type == "TypeError"


@pytest.mark.parametrize(
    ("expression", "type_name", "where"),
    [
        ("new Map([[1, 2]])", "TypeError", ""),
        ("({ a: [1, () => 1] })", "TypeError", "$.a[1]"),
        ("Symbol('x')", "TypeError", ""),
        ("(() => { const a = {}; a.a = a; return a })()", "RangeError", ""),
    ],
)
async def test_what_cannot_cross_says_where(
    template: SandboxTemplate, expression: str, type_name: str, where: str
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(f"const give = () => {expression}; function* stream() {{ yield give() }}")
        for name in ("give", "stream"):
            with pytest.raises(GuestError) as caught:
                await sandbox.run(name)
            assert caught.value.type in (type_name, "TypeError")
            assert where in caught.value.message


async def test_a_value_over_max_payload_is_refused_and_the_sandbox_lives(template: SandboxTemplate) -> None:
    async with template.create(max_payload=10_000) as sandbox:
        await sandbox.load_script("const big = () => 'x'.repeat(20000); function* part() { yield big() }")
        for name in ("big", "part"):
            with pytest.raises(PayloadLimitError):
                await sandbox.run(name)
        await sandbox.load_script("const ok = () => 1")
        assert await sandbox.run("ok") == 1


@pytest.mark.slow
async def test_a_megabyte_crosses_both_ways(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("const echo = x => x")
        text = "hé🙂lo " * 200_000
        assert await sandbox.run("echo", text) == text
        assert await sandbox.run("echo", b"\0\xff" * 1_000_000) == b"\0\xff" * 1_000_000
        rows = [{"id": i, "name": f"row {i}"} for i in range(20_000)]
        assert await sandbox.run("echo", rows) == rows


async def test_a_prelude_is_in_every_sandbox(context: SandboxContext) -> None:
    prelude = """
    const table = new Map([['a', 1]]);
    let later = 0;
    await new Promise(resolve => setTimeout(resolve, 5));
    later = 42;
    function look(key) { return [table.get(key), later, Math.random()] }
    """
    template = await context.build_template("js", prelude=prelude)
    async with template.create() as one, template.create() as other:
        first: Any = await one.run("look", "a")
        second: Any = await other.run("look", "a")
        assert first[:2] == second[:2] == [1, 42]
        assert first[2] != second[2]
    template.close()


@pytest.mark.parametrize(
    ("prelude", "type_name"),
    [("let x = ;", "SyntaxError"), ("null.x", "TypeError"), ("await new Promise(() => {})", "Error")],
)
async def test_a_prelude_that_fails_makes_no_template(context: SandboxContext, prelude: str, type_name: str) -> None:
    with pytest.raises(GuestError) as caught:
        await context.build_template("js", prelude=prelude)
    assert caught.value.type == type_name


async def test_load_stream_shows_output(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        events = await collect(sandbox.load_stream("console.log('a'); await null; console.error('b'); 5"))
        assert [type(event) for event in events] == [LogEvent, LogEvent, EndEvent]
        events = await collect(sandbox.load_stream("console.warn('a'); null.x", filename="bad.js"))
        assert isinstance(events[-1], ErrorEvent)
        assert events[-1].exception.traceback.startswith("    at <eval> (bad.js:1:")


async def test_env_is_found_in_process(template: SandboxTemplate) -> None:
    async with template.create(env={"MODE": "test"}) as sandbox:
        await sandbox.load_script("const mode = () => process.env.MODE")
        assert await sandbox.run("mode") == "test"


async def test_the_templates_env_is_there_in_the_prelude_and_under_the_sandboxs(context: SandboxContext) -> None:
    template = await context.build_template(
        "js",
        env={"A": "1", "B": "é="},
        prelude="const early = { ...process.env }; const all = () => [early, process.env]",
    )
    async with template.create(env={"B": "2", "C": "3"}) as sandbox:
        assert await sandbox.run("all") == [{"A": "1", "B": "é="}, {"A": "1", "B": "2", "C": "3"}]
    async with template.create() as sandbox:
        assert await sandbox.run("all") == [{"A": "1", "B": "é="}] * 2
    template.close()
