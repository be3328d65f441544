"""Does a guest get its stream arguments item by item, and is nothing of their producers left?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint

from isola_anyio import Arg, GuestError, InvalidArgumentError, StreamArg, build_template
from tests.waiting import Signal, cancel_when, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from isola_anyio import SandboxTemplate

CODE = """
import asyncio
from sandbox import StreamError
async def collect(stream): return [x async for x in stream]
def collect_plain(stream): return list(stream)
async def two(a, b): return [[x async for x in a], [x async for x in b]]
async def both_at_once(a, b):
    async def read(s): return [x async for x in s]
    return await asyncio.gather(read(a), read(b))
async def named(x, *, rows, factor=1): return [x, factor, [r async for r in rows]]
async def first(stream):
    async for x in stream: return x
def first_plain(stream):
    for x in stream: return x
async def double(stream):
    async for x in stream: yield 2 * x
async def swallow(stream):
    got = []
    try:
        async for x in stream: got.append(x)
    except StreamError as error:
        got.append([error.type, error.message])
    return got
async def fails(stream):
    async for x in stream: raise ValueError("guest")
async def ignores(stream): return "ignored"
async def waits(stream):
    async for x in stream: pass
    await asyncio.sleep(60)
def value(): return 5
"""


async def items(n: int, log: list[str] | None = None) -> AsyncIterator[int]:
    try:
        for i in range(n):
            await checkpoint()
            yield i
    finally:
        if log is not None:
            log.append("closed")


async def test_a_stream_arrives_whole_and_in_order(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        for how in ("collect", "collect_plain"):
            for n in (0, 1, 255, 256, 257, 3000):
                assert await sandbox.run(how, StreamArg.from_iterable(range(n))) == list(range(n))
                assert await sandbox.run(how, StreamArg.from_async_iterable(items(n))) == list(range(n))
            values = [None, 1.5, "ä", b"\0", [1, {"a": [2]}], {"k": None}]
            assert await sandbox.run(how, StreamArg.from_iterable(values)) == values


@pytest.mark.slow
async def test_several_and_named_streams_reach_their_parameters(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        one, two = StreamArg.from_iterable("abc"), StreamArg.from_async_iterable(items(3))
        assert await sandbox.run("two", one, two) == [["a", "b", "c"], [0, 1, 2]]
        big = [StreamArg.from_iterable(range(2000), capacity=1) for _ in range(2)]
        assert await sandbox.run("both_at_once", *big) == [list(range(2000))] * 2
        stream = StreamArg.from_iterable(range(2), name="rows")
        assert await sandbox.run("named", 7, stream, Arg(3, "factor")) == [7, 3, [0, 1]]
        assert await sandbox.run("named", 7, rows=StreamArg.from_iterable(range(2))) == [7, 1, [0, 1]]


async def test_an_anyio_receive_stream_is_a_stream_argument(template: SandboxTemplate) -> None:
    send, receive = anyio.create_memory_object_stream[int](4)

    async def produce() -> None:
        async with send:
            for i in range(20):
                await send.send(i)

    async with template.create() as sandbox, anyio.create_task_group() as group:
        await sandbox.load_script(CODE)
        group.start_soon(produce)
        assert await sandbox.run("collect", receive) == list(range(20))
    with pytest.raises(anyio.ClosedResourceError):
        receive.receive_nowait()


async def test_items_flow_while_the_producer_goes_on(template: SandboxTemplate) -> None:
    send, receive = anyio.create_memory_object_stream[int](0)
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        async with send, sandbox.run_stream("double", receive) as events:
            for i in range(5):
                with anyio.fail_after(5):
                    await send.send(i)
                    assert (await events.receive()).data == 2 * i


TAKERS = {
    "python": """
from sandbox.asyncio import hostcall, run
async def take(stream):
    async for item in stream:
        if not await hostcall("taken", item): return
def take_plainly(stream):
    for item in stream:
        if not run(hostcall("taken", item)): return
""",
    "js": """
async function take(stream) {
  for await (const item of stream) if (!await hostcall("taken", item)) return
}
""",
}


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "how"), [("python", "take"), ("python", "take_plainly"), ("js", "take")])
@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 1024])
async def test_a_producer_is_no_further_ahead_of_the_guests_loop_than_its_capacity(
    template: SandboxTemplate, runtime: Literal["python", "js"], how: str, capacity: int
) -> None:
    produced = 0
    ahead: list[int] = []

    async def produce() -> AsyncIterator[int]:
        nonlocal produced
        while True:
            produced += 1
            yield produced

    async def taken(item: int) -> bool:
        for _ in range(20):  # the producer goes as far as it may meanwhile
            await checkpoint()
        ahead.append(produced - item)
        return item < 40

    chosen = template if runtime == "python" else await build_template(runtime)
    async with chosen.create(hostcalls={"taken": taken}) as sandbox:
        await sandbox.load_script(TAKERS[runtime])
        with anyio.fail_after(30):
            await sandbox.run(how, StreamArg.from_async_iterable(produce(), capacity=capacity))
    assert len(ahead) == 40
    assert max(ahead) <= capacity
    assert max(ahead) >= min(capacity, 20) // 2  # and it does not make the guest wait for each


@pytest.mark.parametrize("how", ["first", "first_plain", "ignores", "fails"])
async def test_a_producer_is_closed_when_the_guest_stops_early(template: SandboxTemplate, how: str) -> None:
    log: list[str] = []

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                await checkpoint()
                yield 1
        finally:
            log.append("async closed")

    def endless_plain() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            log.append("closed")

    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        for stream in (StreamArg.from_async_iterable(endless()), StreamArg.from_iterable(endless_plain())):
            with anyio.fail_after(10):
                if how == "fails":
                    with pytest.raises(GuestError, match="guest"):
                        await sandbox.run(how, stream)
                else:
                    assert await sandbox.run(how, stream) in (1, "ignored")
        assert await sandbox.run("value") == 5
    assert log == ["async closed", "closed"] or how == "ignores"


async def test_a_producers_failure_reaches_the_guest_and_is_what_run_raises(template: SandboxTemplate) -> None:
    class Broken(Exception):
        pass

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise Broken("pipe")

    def broken_plain() -> Iterator[int]:
        yield 1
        raise Broken("pipe")

    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        for how in ("collect", "collect_plain", "swallow", "double", "two"):
            for stream in (StreamArg.from_async_iterable(broken()), StreamArg.from_iterable(broken_plain())):
                args = [stream, StreamArg.from_iterable(range(3))] if how == "two" else [stream]
                with anyio.fail_after(10), pytest.raises(Broken, match="pipe"):
                    await sandbox.run(how, *args)
                assert not sandbox.broken
        async with sandbox.run_stream("swallow", StreamArg.from_async_iterable(broken())) as events:
            with pytest.raises(Broken):
                async for _ in events:
                    pass


async def test_an_item_that_cannot_cross_is_an_invalid_argument_with_its_place(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        for how in ("collect", "swallow"):
            with pytest.raises(InvalidArgumentError, match="item 3"):
                await sandbox.run(how, StreamArg.from_iterable([0, 1, 2, {1}, 4]))
        assert await sandbox.run("value") == 5


async def test_an_invalid_argument_starts_no_producer(template: SandboxTemplate) -> None:
    started: list[int] = []

    def watch() -> Iterator[int]:
        started.append(1)
        yield 1

    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        with pytest.raises(InvalidArgumentError, match="argument 1"):
            await sandbox.run("two", StreamArg.from_iterable(watch()), {1})
        with pytest.raises(InvalidArgumentError, match="twice"):
            await sandbox.run("named", 1, StreamArg.from_iterable(watch(), name="rows"), Arg(2, "rows"))
    assert started == []


async def test_a_stream_for_a_function_that_does_not_take_it_is_closed(template: SandboxTemplate) -> None:
    log: list[str] = []
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        with pytest.raises(GuestError) as caught:
            await sandbox.run("value", StreamArg.from_async_iterable(items(10**9, log)))
        assert caught.value.type == "TypeError"
        with pytest.raises(GuestError):
            await sandbox.run("nowhere", StreamArg.from_async_iterable(items(10**9, log)))


async def test_cancelling_the_run_leaves_no_producer(template: SandboxTemplate) -> None:
    log: list[str] = []
    waits = Signal()

    async def forever() -> AsyncIterator[int]:
        try:
            yield 1
            waits.set()
            await anyio.sleep_forever()
        finally:
            log.append("closed")

    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        for number, how in enumerate(("collect", "collect_plain"), 1):
            stream = StreamArg.from_async_iterable(forever())
            await cancel_when(waits.next, partial(sandbox.run, how, stream))
            assert log == ["closed"] * number
            assert not sandbox.broken
        assert await sandbox.run("value") == 5


async def test_a_stale_stream_of_an_earlier_run_says_it_is_over(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(
            CODE
            + """
kept = None
async def keep(stream):
    global kept
    kept = stream
    return await anext(stream)
async def reuse(stream):
    stale = [x async for x in kept]
    return [stale, [x async for x in stream]]
"""
        )
        assert await sandbox.run("keep", StreamArg.from_iterable(range(10))) == 0
        assert await sandbox.run("reuse", StreamArg.from_iterable("ab")) == [[], ["a", "b"]]


@pytest.mark.parametrize("how", ["late", "late_plain"])
async def test_a_cancelled_guest_never_takes_what_it_got_for_the_whole_stream(
    template: SandboxTemplate, how: str
) -> None:
    """Its producers end first: a guest that was computing, and reads only then, saw the stream end as if it were whole."""

    async def endless() -> AsyncIterator[int]:
        yield 1
        await anyio.sleep_forever()

    async with template.create() as sandbox:
        await sandbox.load_script("""
seen = []
def begin():
    open("/tmp/here", "w").close()
    for _ in range(3000): pass
def late_plain(stream):
    begin()
    try:
        for x in stream: pass
        seen.append("whole")
    except BaseException as error:
        seen.append(type(error).__name__)
        raise
async def late(stream):
    begin()
    try:
        async for x in stream: pass
        seen.append("whole")
    except BaseException as error:
        seen.append(type(error).__name__)
        raise
def told():
    found = list(seen)
    seen.clear()
    import os
    os.unlink("/tmp/here")
    return found
""")
        here = sandbox.mount("/tmp").list
        for _ in range(20):
            await cancel_when(lambda: until(here), lambda: sandbox.run(how, StreamArg.from_async_iterable(endless())))
            assert await sandbox.run("told") == ["CancelledError"]
