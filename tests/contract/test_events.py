"""Sections 5, 6 and 10: events, hostcalls and errors."""

from __future__ import annotations

import contextvars
import dataclasses
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import pytest

import isola_anyio
from isola_anyio import (
    EndEvent,
    ErrorEvent,
    EventStream,
    GuestError,
    LogEvent,
    ResultEvent,
    SandboxClosedError,
    StderrEvent,
    StdoutEvent,
    StreamClosedError,
)
from tests.waiting import WITHIN_S, until

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

CODE = {
    "python": """
import asyncio, sys
import sandbox.logging as log
from sandbox import HostcallError
from sandbox.asyncio import hostcall
def mixed():
    print("a"); yield 1
    log.warning("w"); yield 2
made = 0
def flood(n):
    global made
    for made in range(n): yield made
def count(): return made
def fail():
    yield 1
    raise ValueError("bad")
async def wait():
    yield 1
    await asyncio.sleep(100)
async def call(name, payload=None): return await hostcall(name, payload)
async def all(name, n): return await asyncio.gather(*(hostcall(name, i) for i in range(n)))
async def caught(name):
    try: await hostcall(name, None)
    except HostcallError as error: return [error.name, error.type, error.message]
""",
    "js": """
function* mixed() { console.log("a"); yield 1; console.warn("w"); yield 2 }
let made = 0;
function* flood(n) { for (let i = 0; i < n; i++) yield made = i }
function count() { return made }
function* fail() { yield 1; throw new TypeError("bad") }
async function* wait() { yield 1; await new Promise((done) => setTimeout(done, 100000)) }
async function call(name, payload = null) { return await hostcall(name, payload) }
async function all(name, n) { return await Promise.all(Array.from({length: n}, (_, i) => hostcall(name, i))) }
async function caught(name) {
    try { await hostcall(name, null) }
    catch (error) { return error instanceof Error && error.name === "HostcallError" && [error.hostcall, error.type, error.message] }
}
""",
}
COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.mark.parametrize("kind", [ResultEvent, EndEvent, StdoutEvent, StderrEvent])
def test_events_are_frozen_values_of_a_type_and_data(kind: Any) -> None:
    name = kind.__name__.removesuffix("Event").lower()
    event = kind(name, "x")
    assert [field.name for field in dataclasses.fields(event)] == ["type", "data"]
    assert event == kind(type=name, data="x") != kind(name, "y")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.data = "y"


def test_log_and_error_events_carry_their_level_and_exception() -> None:
    assert LogEvent("log", "x", "debug").level == "debug"
    failure = GuestError("ValueError", "bad", "frames")
    assert (failure.type, failure.message, failure.traceback) == ("ValueError", "bad", "frames")
    assert ErrorEvent("error", "x", failure).exception is failure


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("InvalidArgumentError", ValueError),
        ("DigestMismatchError", isola_anyio.RuntimeUnavailableError),
        ("MemoryLimitError", GuestError),
        *((name, isola_anyio.LimitError) for name in ("FuelExhaustedError", "CpuLimitError", "PayloadLimitError")),
        *((name, isola_anyio.IsolaError) for name in ("StreamFullError", "StreamClosedError", "InternalError")),
    ],
)
def test_errors_have_their_place_in_the_family(name: str, base: type[Exception]) -> None:
    kind = getattr(isola_anyio, name)
    assert issubclass(kind, base)
    assert issubclass(kind, isola_anyio.IsolaError)


async def test_events_come_in_the_guests_order_and_end_once(template: SandboxTemplate, runtime: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE[runtime])
        events = sandbox.run_stream("mixed")
        assert isinstance(events, EventStream)
        assert isinstance(events, anyio.abc.ObjectReceiveStream)
        said = StdoutEvent("stdout", "a\n") if runtime == "python" else LogEvent("log", "a", "info")
        logged = LogEvent("log", "w", "warning")
        expected = [said, ResultEvent("result", 1), logged, ResultEvent("result", 2), EndEvent("end", None)]
        assert [event async for event in events] == expected
        with pytest.raises(anyio.EndOfStream):
            await events.receive()
        await events.aclose()


async def test_a_failure_is_the_last_event_and_what_result_raises(template: SandboxTemplate, runtime: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE[runtime])
        async with sandbox.run_stream("fail") as events:
            first, last = [event async for event in events]
        assert first == ResultEvent("result", 1)
        assert isinstance(last, ErrorEvent)
        assert last.exception.message == "bad"
        with pytest.raises(GuestError, match="bad"):
            await sandbox.run_stream("fail").result()
        async with sandbox.load_stream("(", filename="broken.src") as events:
            event = await events.receive()
        assert isinstance(event, ErrorEvent)
        assert event.exception.type == "SyntaxError"


async def test_a_consumer_that_stops_stops_the_guest(template: SandboxTemplate, runtime: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE[runtime])
        async with sandbox.run_stream("flood", 10**7) as events:
            await events.receive()
            await until(lambda: events._queue.stalled)
        assert not sandbox.broken
        made = await sandbox.run("count")
        assert isinstance(made, int)
        assert made < 10_000


async def test_leaving_or_closing_a_stream_cancels_its_run(template: SandboxTemplate, runtime: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE[runtime])
        async with sandbox.run_stream("wait") as events:
            async for _ in events:
                break
        events = sandbox.run_stream("wait")
        await events.receive()
        await events.aclose()
        await events.aclose()
        with pytest.raises(StreamClosedError):
            await events.receive()
        assert await sandbox.run("count") == 0
        unread = sandbox.run_stream("wait")
    with anyio.fail_after(WITHIN_S), pytest.raises(SandboxClosedError):
        while True:
            await unread.receive()


async def test_a_stream_closed_by_another_task_is_closed_by_anyios_name(
    template: SandboxTemplate, runtime: str
) -> None:
    async def read() -> None:
        with pytest.raises(anyio.ClosedResourceError) as caught:
            async for _ in events:
                pass
        assert isinstance(caught.value, StreamClosedError)

    async with template.create() as sandbox, anyio.create_task_group() as group:
        await sandbox.load_script(CODE[runtime])
        events = sandbox.run_stream("wait")
        await events.receive()
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        await events.aclose()


async def test_failures_that_are_not_the_guests_are_raised(template: SandboxTemplate, runtime: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE[runtime])
        events = sandbox.run_stream("wait")
        await events.receive()
    with pytest.raises(SandboxClosedError):
        await events.receive()


async def test_handlers_run_in_parallel_and_see_the_callers_context(template: SandboxTemplate, runtime: str) -> None:
    inside, all_inside = 0, anyio.Event()

    async def meet(payload: Any) -> Any:
        nonlocal inside
        inside += 1
        if inside == 30:
            all_inside.set()
        with anyio.fail_after(WITHIN_S):
            await all_inside.wait()
        return payload

    async def colour(payload: Any) -> str:
        return COLOUR.get()

    handlers: dict[str, Any] = {"meet": meet, "colour": colour, "plain": lambda payload: COLOUR.get()}
    async with template.create(hostcalls=handlers) as sandbox:
        await sandbox.load_script(CODE[runtime])
        assert await sandbox.run("all", "meet", 30) == list(range(30))
        for now in ("red", "green"):
            COLOUR.set(now)
            assert await sandbox.run("call", "colour") == await sandbox.run("call", "plain") == now


async def test_a_handlers_failure_reaches_the_guest_as_name_type_and_message(
    template: SandboxTemplate, runtime: str
) -> None:
    async def fails(payload: Any) -> None:
        raise LookupError("odd")

    def plain(payload: Any) -> None:
        raise KeyError("k")

    async def wrong(payload: Any) -> Any:
        return {"x": {1}}

    async with template.create(hostcalls={"fails": fails, "plain": plain, "wrong": wrong}) as sandbox:
        await sandbox.load_script(CODE[runtime])
        for name, type_name, word in (
            ("fails", "LookupError", "odd"),
            ("plain", "KeyError", "k"),
            ("wrong", "InvalidArgumentError", "$.x"),
            ("missing", "LookupError", "no handler"),
        ):
            caught: Any = await sandbox.run("caught", name)
            assert caught[0] == name
            assert caught[1] == type_name
            assert word in caught[2]
        with pytest.raises(GuestError, match="odd") as error:
            await sandbox.run("call", "fails")
        assert error.value.type == "HostcallError"
