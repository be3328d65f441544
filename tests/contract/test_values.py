"""Section 4: what crosses, as what, and what is refused with its place named."""

from __future__ import annotations

import array
import collections
import enum
import math
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pytest

from isola_anyio import Arg, GuestError, InvalidArgumentError, StreamArg
from tests.loops import ONE_LOOP
from tests.waiting import Signal, cancel_when

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from isola_anyio import Sandbox, SandboxTemplate

CODE = {
    "python": """
from sandbox.asyncio import hostcall
def echo(x): return x
async def through_host(x): return await hostcall("echo", x)
def partial(x): yield x
def kind(x): return type(x).__name__
def named(**names): return list(names.items())
async def collect(items, most=None):
    got = []
    async for item in items:
        got.append(item)
        if most is not None and len(got) >= most: break
    return got
async def swallow(items):
    try:
        async for item in items: pass
    except BaseException: pass
    return "swallowed"
async def both(a, b): return [[x async for x in a], [x async for x in b]]
def nest(n):
    value = []
    for _ in range(n - 1): value = [value]
    return value
""",
    "js": """
function echo(x) { return x }
async function through_host(x) { return await hostcall("echo", x) }
function* partial(x) { yield x }
function kind(x) { return x.constructor.name }
function named(names) { return Object.entries(names) }
async function collect(items, most) {
    const got = [];
    for await (const item of items) { got.push(item); if (most && got.length >= most) break }
    return got;
}
async function swallow(items) { try { for await (const item of items); } catch {} return "swallowed" }
async function both(a, b) { return [await collect(a), await collect(b)] }
function nest(n) { let value = []; for (let i = 1; i < n; i++) value = [value]; return value }
""",
}
EXACT: list[Any] = [
    *(None, True, False, 0, -1, 2**53 - 1, -(2**53), 2**63, -(2**64), 10**400),
    *(0.5, 0.1, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan),
    *("", "\0", "é€\U0001f600", "\ud800", "a\ude00\ud83d", "\u2028", '"\\/\b\n', "\ufeff"),
    *([], {}, [[]], {"": 1}, {"z": 1, "a": {"m": [None]}}, {"__proto__": {"x": 1}}, {"then": 1, "constructor": 2}),
    *(b"", bytes(range(256)), [b"a", {"k": b"v"}, 10**30, "\udc00", math.nan], {"$": 1, "\ud800": b""}),
]


class Text(str):
    __slots__ = ()


class Number(enum.IntEnum):
    THREE = 3


ALIKE: list[tuple[Any, Any]] = [
    (Text("x"), "x"),
    (Number.THREE, 3),
    ((1, (2,)), [1, [2]]),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (bytearray(b"xy"), b"xy"),
    (memoryview(b"wxyz")[::2], b"wy"),
]
RING: list[Any] = []
RING.append(RING)
REFUSED: list[Any] = [
    *({1: 2}, {None: 1}, {b"k": 1}, {1, 2}, frozenset(), object(), len, RING, iter([]), range(3), 1j, Ellipsis),
    *(datetime.now(UTC), Decimal(1), collections.deque([1])),
]


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right) or (math.isnan(left) and math.isnan(right))
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.fixture
async def sandbox(template: SandboxTemplate, runtime: str) -> AsyncIterator[Sandbox]:
    async with template.create(hostcalls={"echo": lambda payload: payload}) as sandbox:
        await sandbox.load_script(CODE[runtime])
        yield sandbox


async def test_every_value_comes_back_as_it_went(sandbox: Sandbox) -> None:
    for value in EXACT:
        assert same(await sandbox.run("echo", value), value)
        assert same(await sandbox.run("through_host", [value]), [value])
        async with sandbox.run_stream("partial", value) as events:
            assert same((await events.receive()).data, value)


async def test_subclasses_and_kinds_of_bytes_cross_as_their_base(sandbox: Sandbox) -> None:
    for value, base in ALIKE:
        assert same(await sandbox.run("echo", value), base)


async def test_what_cannot_cross_is_refused_with_its_place(sandbox: Sandbox) -> None:
    for value in REFUSED:
        with pytest.raises(InvalidArgumentError, match=r"\.rows\[1\]\.id"):
            await sandbox.run("echo", {"rows": [0, {"id": value}]})
        with pytest.raises(InvalidArgumentError):
            await sandbox.run("echo", x=value)
    assert await sandbox.run("echo", 1) == 1


async def test_five_hundred_levels_cross_and_one_more_does_not(sandbox: Sandbox) -> None:
    value: Any = await sandbox.run("through_host", nested(500))
    for _ in range(499):
        (value,) = value
    assert value == []
    with pytest.raises(InvalidArgumentError, match="500"):
        await sandbox.run("echo", nested(501))
    with pytest.raises(GuestError, match="500") as caught:
        await sandbox.run("nest", 501)
    assert caught.value.type in {"ValueError", "TypeError", "RangeError"}


@ONE_LOOP
@pytest.mark.parametrize("code", "bhHiIlLqQfd")
async def test_arrays_keep_their_type_and_items(sandbox: Sandbox, code: str) -> None:
    items = array.array(code, [0, 1, 2, 100])
    back = await sandbox.run("echo", items)
    assert isinstance(back, memoryview)
    assert np.asarray(back).dtype == np.asarray(items).dtype
    assert back.tolist() == items.tolist()


@pytest.mark.slow
@ONE_LOOP
@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"])
async def test_numpy_arrays_keep_dtype_shape_and_items_whatever_their_strides(
    python: SandboxTemplate, dtype: str
) -> None:
    base = (np.arange(24) % 2).astype(dtype)
    grid = base.reshape(4, 6)
    async with python.create() as sandbox:
        await sandbox.load_script(CODE["python"])
        for given in (grid, base.reshape(2, 3, 4), grid.T, grid[1:3, ::2], grid[::-1, ::-2], np.asfortranarray(grid)):
            back = await sandbox.run("echo", given)
            assert isinstance(back, memoryview)
            seen = np.asarray(back)
            assert np.shares_memory(seen, np.asarray(back))
            assert (seen.dtype, seen.shape) == (given.dtype, given.shape)
            assert np.array_equal(seen, given)


@ONE_LOOP
@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("{a: undefined, b: 1}", {"b": 1}),
        ("[undefined, 1]", [None, 1]),
        ("undefined", None),
        ("[{toJSON(key) { return key }}]", ["0"]),
        ("{a: {toJSON() { return undefined }}, b: 1}", {"b": 1}),
        ("new Date(0)", "1970-01-01T00:00:00.000Z"),
        ("[5n, 2n ** 64n]", [5, 2**64]),
        ("new Uint8Array([9, 8, 7]).subarray(1)", b"\x08\x07"),
        ("new Uint8Array([1, 2]).buffer", b"\x01\x02"),
        ("{b: 1, 2: 2, a: 3, 1: 4}", {"1": 4, "2": 2, "b": 1, "a": 3}),
    ],
)
async def test_javascript_values_follow_json_stringify(javascript: SandboxTemplate, source: str, value: Any) -> None:
    async with javascript.create() as sandbox:
        await sandbox.load_script(f"function get() {{ return ({source}) }}")
        assert same(await sandbox.run("get"), value)


@ONE_LOOP
@pytest.mark.parametrize(
    "source", ["() => 1", "Symbol()", "new Set([1])", "new Map()", "(() => {const a = []; a[0] = a; return a})()"]
)
async def test_javascript_values_that_cannot_cross_are_type_errors(javascript: SandboxTemplate, source: str) -> None:
    async with javascript.create() as sandbox:
        await sandbox.load_script(f"function get() {{ return {{rows: [1, {{id: {source}}}]}} }}")
        with pytest.raises(GuestError, match=r"\.rows\[1\]\.id") as caught:
            await sandbox.run("get")
        assert caught.value.type in {"TypeError", "RangeError"}


async def test_names_may_be_anything_and_only_once(sandbox: Sandbox) -> None:
    names: dict[str, Any] = {"name": 1, "self": 2, "a b": 3, "class": 4}
    assert await sandbox.run("named", **names) == [list(pair) for pair in names.items()]
    assert await sandbox.run("named", Arg(1, "x"), y=2) == [["x", 1], ["y", 2]]
    for twice in ([Arg(1, "a"), Arg(2, "a")], [StreamArg.from_iterable([1], name="a"), Arg(2, "a")]):
        with pytest.raises(InvalidArgumentError, match="a"):
            await sandbox.run("named", *twice)
    with pytest.raises(InvalidArgumentError):
        await sandbox.run("named", Arg(1, "a"), a=2)
    with pytest.raises(InvalidArgumentError):
        await sandbox.run("echo", [Arg(1)])


@pytest.mark.slow
async def test_streams_arrive_from_all_that_can_be_iterated(sandbox: Sandbox) -> None:
    async def counted(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    assert await sandbox.run("collect", StreamArg.from_iterable(range(3000))) == list(range(3000))
    assert await sandbox.run("collect", StreamArg.from_async_iterable(counted(300), capacity=1)) == list(range(300))
    pair = [StreamArg.from_iterable([b"x", None]), StreamArg.from_async_iterable(counted(2))]
    assert await sandbox.run("both", *pair) == [[b"x", None], [0, 1]]
    send, receive = anyio.create_memory_object_stream[int](3)
    with send:
        send.send_nowait(7)
    assert await sandbox.run("collect", receive) == [7]


async def test_a_producer_that_fails_fails_the_run_whatever_the_guest_made_of_it(sandbox: Sandbox) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise LookupError("the producer's")

    for name in ("collect", "swallow"):
        with pytest.raises(LookupError, match="the producer's"):
            await sandbox.run(name, StreamArg.from_iterable(failing()))
    assert await sandbox.run("collect", StreamArg.from_iterable([7])) == [7]


async def test_a_guest_that_stops_early_stops_its_producer(sandbox: Sandbox) -> None:
    taken: list[int] = []
    ended: list[str] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                taken.append(0)
                yield 0
        finally:
            ended.append("plain")

    waits = Signal()

    async def waiting() -> AsyncIterator[int]:
        try:
            yield 0
            waits.set()
            await anyio.sleep_forever()
        finally:
            ended.append("async")

    assert await sandbox.run("collect", StreamArg.from_iterable(endless(), capacity=4), 2) == [0, 0]
    assert len(taken) < 50
    assert await sandbox.run("collect", StreamArg.from_async_iterable(waiting()), 1) == [0]
    await waits.next()
    again = StreamArg.from_async_iterable(waiting())
    await cancel_when(waits.wait, lambda: sandbox.run("collect", again))
    assert ended == ["plain", "async", "async"]


async def test_no_producer_starts_when_an_argument_is_invalid(sandbox: Sandbox) -> None:
    started: list[str] = []

    def producer() -> Iterator[int]:
        started.append("started")
        yield 1

    with pytest.raises(InvalidArgumentError):
        await sandbox.run("both", StreamArg.from_iterable(producer()), {1, 2})
    with pytest.raises(InvalidArgumentError, match=r"\.a\[0\]"):
        await sandbox.run("collect", StreamArg.from_iterable([1, {"a": [object()]}]))
    assert not started
