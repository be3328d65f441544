"""What does a consumer see of a run while it goes on?"""

from __future__ import annotations

import gc
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import ObjectReceiveStream
from anyio.lowlevel import checkpoint

from isola_anyio import (
    EndEvent,
    ErrorEvent,
    Event,
    GuestError,
    LogEvent,
    OutputLimitError,
    ResultEvent,
    SandboxBusyError,
    SandboxClosedError,
    StderrEvent,
    StdoutEvent,
    StreamClosedError,
)
from isola_anyio import events as events_module
from tests.waiting import Never, cancel_when, until

if TYPE_CHECKING:
    from isola_anyio import EventStream, SandboxTemplate

CODE = """
import asyncio, os, sys
from sandbox import logging
from sandbox.asyncio import hostcall
def everything():
    print("one")
    print("two", file=sys.stderr)
    logging.debug("three %d", 3); logging.info("i"); logging.warning("w"); logging.error("e")
    yield 4
    print("five", end="")
    yield 6
    print(" and", end="")
    print("seven", file=sys.stderr, end="")
    logging.info("eight")
    print("nine")
def count(n):
    for i in range(n): yield i
async def acount(n):
    for i in range(n): yield i
def fail():
    print("before")
    yield 1
    1/0
def halves():
    raw = "zwölf €uro 😀".encode()
    for i in range(len(raw)): os.write(1, raw[i:i+1])
    os.write(2, b"\\xe2\\x82")
def flood():
    while True: print("x" * 100)
def big(n):
    while True: yield "y" * n
async def waits():
    await hostcall("never")
def value(): return 5
"""


async def collect(stream: EventStream) -> list[Event]:
    async with stream:
        return [event async for event in stream]


async def test_all_kinds_of_events_come_in_the_guests_order(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        got = await collect(sandbox.run_stream("everything"))
    joined: list[tuple[str, Any]] = []
    for event in got:
        if joined and event.type in ("stdout", "stderr") and joined[-1][0] == event.type:
            joined[-1] = (event.type, joined[-1][1] + event.data)
        else:
            joined.append((event.type, event.data))
    assert joined == [
        ("stdout", "one\n"),
        ("stderr", "two\n"),
        ("log", "three 3"),
        ("log", "i"),
        ("log", "w"),
        ("log", "e"),
        ("result", 4),
        ("stdout", "five"),
        ("result", 6),
        ("stdout", " and"),
        ("stderr", "seven"),
        ("log", "eight"),
        ("stdout", "nine\n"),
        ("end", None),
    ]
    assert [e.level for e in got if isinstance(e, LogEvent)] == ["debug", "info", "warning", "error", "info"]


async def test_characters_written_byte_by_byte_are_never_split(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        got = await collect(sandbox.run_stream("halves"))
        out = [event.data for event in got if isinstance(event, StdoutEvent)]
        assert out == list("zwölf €uro 😀")
        # What never became a character is shown at the end, and does not reach into the next run.
        assert got[-2:] == [StderrEvent(data="\ufffd"), EndEvent(data=None)]
        assert StderrEvent not in map(type, await collect(sandbox.run_stream("value")))


async def test_load_stream_gives_a_scripts_output_as_events(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        got = await collect(sandbox.load_stream("print('loading')\nawait __import__('asyncio').sleep(0)\nx = 1"))
        assert got == [StdoutEvent(data="loading\n"), EndEvent(data=None)]
        got = await collect(sandbox.load_stream("print('loading')\n1/0", filename="f.py"))
        assert isinstance(got[-1], ErrorEvent)
        assert 'File "f.py", line 2' in got[-1].exception.traceback


async def test_an_error_event_is_the_last_and_carries_the_exception(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        got = await collect(sandbox.run_stream("fail"))
        assert [event.type for event in got] == ["stdout", "result", "error"]
        last = got[-1]
        assert isinstance(last, ErrorEvent)
        assert last.data == "ZeroDivisionError: division by zero"
        assert last.exception.type == "ZeroDivisionError"
        stream = sandbox.run_stream("count", 1)
        assert isinstance(stream, ObjectReceiveStream)
        assert [await stream.receive(), await stream.receive()] == [ResultEvent(data=0), EndEvent(data=None)]
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(StreamClosedError):
            await stream.receive()


async def test_result_drains_the_stream(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE + "\ndef gen():\n    yield from range(1000)\n    return 'end'\n")
        assert await sandbox.run_stream("gen").result() == "end"
        with pytest.raises(GuestError) as caught:
            await sandbox.run_stream("fail").result()
        assert caught.value.type == "ZeroDivisionError"
        async with sandbox.run_stream("gen") as events:
            assert await events.receive() == ResultEvent(data=0)
            assert await events.result() == "end"


async def test_leaving_early_cancels_the_run_and_leaves_the_sandbox_usable(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        for name in ("count", "acount"):
            async with sandbox.run_stream(name, 10**9) as events:
                async for event in events:
                    if event.data == 3:
                        break
            assert not sandbox.broken
            assert await sandbox.run("value") == 5


async def test_a_stream_never_iterated_is_cancelled_with_its_sandbox(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        streams = [sandbox.run_stream("count", 10**9), sandbox.run_stream("value")]  # the second waits behind the first
    for stream in streams:
        with anyio.fail_after(10), pytest.raises(SandboxClosedError):
            while True:  # what came before the end may be there still
                await stream.receive()


async def test_a_stream_left_alone_stops_the_guest_with_bounded_memory(template: SandboxTemplate) -> None:
    async with template.create(max_output=1 << 40) as sandbox:
        await sandbox.load_script(CODE)
        for name, args in (("flood", ()), ("big", (200_000,)), ("count", (10**9,)), ("acount", (10**9,))):
            async with sandbox.run_stream(name, *args) as events:
                await events.receive()
                queue = events._queue
                await until(partial(getattr, queue, "stalled"))
                assert len(queue._events) <= events_module.CAPACITY_EVENTS + 2
                assert queue._put_bytes - queue._taken_bytes <= events_module.CAPACITY_BYTES + 200_100
                for _ in range(600 if name != "big" else 60):
                    await events.receive()
            assert not sandbox.broken, name
            assert await sandbox.run("value") == 5


@pytest.mark.slow
async def test_cancelling_receive_loses_no_event(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        got: list[Any] = []
        async with sandbox.run_stream("acount", 2000) as events:
            cancelled = 0
            while not got or not isinstance(got[-1], EndEvent):
                with anyio.CancelScope() as scope:
                    if len(got) % 3 == 0 and cancelled <= len(got):
                        scope.cancel()
                        cancelled += 1
                    got.append(await events.receive())
        assert cancelled > 100
        assert [event.data for event in got] == [*range(2000), None]


async def test_a_second_receiver_is_refused(template: SandboxTemplate) -> None:
    async def never(_: Any) -> None:
        await anyio.sleep_forever()

    async with template.create(hostcalls={"never": never}) as sandbox:
        await sandbox.load_script(CODE)
        async with sandbox.run_stream("waits") as events, anyio.create_task_group() as group:
            group.start_soon(events.receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await events.receive()
            group.cancel_scope.cancel()


async def test_closing_the_stream_ends_a_waiting_receiver(template: SandboxTemplate) -> None:
    async def never(_: Any) -> None:
        await anyio.sleep_forever()

    ended: list[str] = []

    async def receive(events: EventStream) -> None:
        try:
            await events.receive()
        except (StreamClosedError, SandboxClosedError, anyio.ClosedResourceError) as exc:
            ended.append(type(exc).__name__)

    async with template.create(hostcalls={"never": never}) as sandbox:
        await sandbox.load_script(CODE)
        async with anyio.create_task_group() as group:
            events = sandbox.run_stream("waits")
            group.start_soon(receive, events)
            await anyio.wait_all_tasks_blocked()
            await events.aclose()
        assert len(ended) == 1
        assert await sandbox.run("value") == 5


async def test_streams_take_turns_in_the_order_they_were_asked_for(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("calls = []\ndef note(i):\n    calls.append(i)\n    yield i\n    return list(calls)")
        streams = [sandbox.run_stream("note", i) for i in range(5)]
        assert await sandbox.run("note", 5) == [0, 1, 2, 3, 4, 5]
        for i, stream in enumerate(streams):
            assert await stream.result() == list(range(i + 1))


async def test_the_consumers_other_tasks_run_while_events_are_waiting(template: SandboxTemplate) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await checkpoint()

    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        async with anyio.create_task_group() as group:
            group.start_soon(beat)
            async with sandbox.run_stream("count", 1000) as events:
                seen = [event async for event in events]
            group.cancel_scope.cancel()
    assert len(seen) == 1001
    assert beats > 1000


async def test_a_stream_of_a_sandbox_without_a_task_group_is_like_any_other(template: SandboxTemplate) -> None:
    sandbox = await template.instantiate()
    await sandbox.start()
    try:
        await sandbox.load_script(CODE)
        async with sandbox.run_stream("count", 3) as events:
            assert [event.data async for event in events] == [0, 1, 2, None]
        assert [event.data async for event in sandbox.run_stream("count", 3)] == [0, 1, 2, None]
        async with sandbox.run_stream("count", 10**9) as events:
            await events.receive()
        with pytest.raises(GuestError):
            await sandbox.run_stream("fail").result()
        with anyio.CancelScope() as scope:
            async for event in sandbox.run_stream("count", 10**9):
                if event.data == 100:
                    scope.cancel()
        assert scope.cancelled_caught
        assert await sandbox.run("value") == 5
        # Read by one task, begun in a scope that is left, closed by another.
        left = sandbox.run_stream("count", 10**9)
        with anyio.move_on_after(1):
            await left.receive()
        async with anyio.create_task_group() as group:
            group.start_soon(left.receive)
        async with anyio.create_task_group() as group:
            group.start_soon(left.aclose)
        assert await sandbox.run("value") == 5
        never_read = sandbox.run_stream("count", 10**9)
    finally:
        await sandbox.aclose()
    with pytest.raises(SandboxClosedError):
        async for _ in never_read:
            pass


async def test_a_loop_cancelled_while_it_waits_stops_the_guest(template: SandboxTemplate) -> None:
    never = Never()

    async def read() -> None:
        async for _ in stream:
            pass

    async with template.create(hostcalls={"never": never}) as sandbox:
        await sandbox.load_script(CODE)
        stream = sandbox.run_stream("waits")
        await cancel_when(never.entered.wait, read)
        with anyio.fail_after(10):
            assert await sandbox.run("value") == 5
        with pytest.raises(StreamClosedError):
            await stream.receive()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["break", "cancelled in the body"])
async def test_a_stream_that_nobody_has_any_more_is_cancelled(template: SandboxTemplate, how: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        if how == "break":
            async for _ in sandbox.run_stream("count", 10**9):
                break
        else:
            with anyio.CancelScope() as scope:
                async for _ in sandbox.run_stream("count", 10**9):
                    scope.cancel()
                    await anyio.sleep_forever()
        gc.collect()
        with anyio.fail_after(10):
            assert await sandbox.run("value") == 5


@pytest.mark.slow
async def test_a_stream_dropped_unread_goes_on_to_its_end(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE + "\ndone = []\ndef many(n):\n    yield from range(n)\n    done.append(n)")
        await sandbox.load_script("def told(): return done")
        sandbox.run_stream("many", 2000)
        stream = sandbox.run_stream("many", 3000)
        await anyio.wait_all_tasks_blocked()
        del stream
        gc.collect()
        with anyio.fail_after(10):
            assert await sandbox.run("told") == [2000, 3000]


async def test_a_stream_dropped_on_another_thread_is_cancelled(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE)
        held = [sandbox.run_stream("count", 10**9)]
        await held[0].receive()
        await anyio.to_thread.run_sync(held.clear)
        with anyio.fail_after(10):
            assert await sandbox.run("value") == 5


async def test_the_result_can_be_had_after_reading_and_again(template: SandboxTemplate) -> None:
    async with template.create(max_output=100_000) as sandbox:
        await sandbox.load_script(CODE)
        events = sandbox.run_stream("value")
        assert [event.data async for event in events] == [5]
        assert await events.result() == 5
        assert await events.result() == 5
        events = sandbox.run_stream("fail")
        assert isinstance([event async for event in events][-1], ErrorEvent)
        for _ in range(2):
            with pytest.raises(GuestError, match="division"):
                await events.result()
        events = sandbox.run_stream("flood")
        with pytest.raises(OutputLimitError):
            async for _ in events:
                pass
        with pytest.raises(StreamClosedError, match="raised before"):
            await events.result()


async def test_a_handler_may_read_its_own_runs_events_and_not_close_them(template: SandboxTemplate) -> None:
    streams: list[EventStream] = []
    refused: list[str] = []

    async def never(_: Any) -> None:
        with pytest.raises(SandboxBusyError, match="wait for itself") as caught:
            await streams[0].aclose()
        refused.append(str(caught.value))

    async with template.create(hostcalls={"never": never}) as sandbox:
        await sandbox.load_script(CODE)
        async with sandbox.run_stream("waits") as events:
            streams.append(events)
            with anyio.fail_after(10):
                assert await events.result() is None
        assert len(refused) == 1
