"""Sections 1 to 3: templates, sandboxes, runs, cancellation and limits."""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import sniffio
import trio

from isola_anyio import (
    CpuLimitError,
    GuestError,
    InvalidArgumentError,
    MemoryLimitError,
    MountConfig,
    OutputLimitError,
    PayloadLimitError,
    Sandbox,
    SandboxBrokenError,
    SandboxBusyError,
    SandboxClosedError,
    SandboxContext,
    build_template,
)
from tests.timing import SLACK
from tests.waiting import Signal, cancel_when, computing, expire_when

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from isola_anyio import SandboxTemplate

CODE = {
    "python": """
import asyncio, os, random, uuid
from sandbox.asyncio import hostcall
LOG = []
def one(): return 1
def spin():
    while True: pass
async def wait(seconds=100, name=None):
    try:
        if name: await hostcall(name)
        await asyncio.sleep(seconds)
    except BaseException as error:
        LOG.append(type(error).__name__)
        raise
    finally:
        LOG.append("finally")
async def call(name, payload=None): return await hostcall(name, payload)
def log(): return LOG
async def pause(seconds): await asyncio.sleep(seconds)
async def leave():
    async def left():
        try:
            await asyncio.sleep(0.01)
            LOG.append("ran")
        except asyncio.CancelledError:
            LOG.append("cancelled")
            raise
    asyncio.ensure_future(left())
    await asyncio.sleep(0)
def flood():
    while True: print("y" * 1000)
def fill():
    kept = []
    while True: kept.append(bytearray(1 << 20))
def big(n): return "x" * n
def boom(): raise ValueError("what happened")
def draw(): return [random.random(), str(uuid.uuid4()), os.urandom(8)]
def recurse(n=0): return recurse(n + 1)
""",
    "js": """
const LOG = [];
function one() { return 1 }
function spin() { for (;;); }
async function wait(seconds = 100, name = null) {
    try { if (name) await hostcall(name, null); await new Promise((done) => setTimeout(done, seconds * 1000)) }
    catch (error) { LOG.push(error.name); throw error }
    finally { LOG.push("finally") }
}
async function call(name, payload = null) { return await hostcall(name, payload) }
function log() { return LOG }
async function pause(seconds) { await new Promise((done) => setTimeout(done, seconds * 1000)) }
async function leave() {
    setTimeout(() => LOG.push("ran"), 10);
    wait().catch(() => 0);
}
function flood() { for (;;) console.log("y".repeat(1000)) }
function fill() { const kept = []; for (;;) kept.push(new Uint8Array(1 << 20).fill(1)) }
function big(n) { return "x".repeat(n) }
function boom() { throw new TypeError("what happened") }
function draw() { return [Math.random(), crypto.randomUUID(), crypto.getRandomValues(new Uint8Array(8))] }
function recurse(n) { return recurse(n + 1) + 1 }
""",
}


class Mine(Exception):
    """A user's own."""


async def loaded(sandbox: Sandbox, runtime: str) -> Sandbox:
    await sandbox.load_script(CODE[runtime])
    return sandbox


async def test_an_unknown_name_is_the_guests_own_error(template: SandboxTemplate, runtime: str) -> None:
    async with template.create() as sandbox:
        with pytest.raises(GuestError, match="missing") as caught:
            await sandbox.run("missing")
        assert caught.value.type == {"python": "NameError", "js": "ReferenceError"}[runtime]


async def test_a_guests_error_has_type_message_and_the_users_frames(template: SandboxTemplate, runtime: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(CODE[runtime], filename="mine.src")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("boom")
        assert caught.value.type == {"python": "ValueError", "js": "TypeError"}[runtime]
        assert caught.value.message == "what happened"
        assert "mine.src" in caught.value.traceback
        assert "sandbox" not in caught.value.traceback
        with pytest.raises(GuestError) as caught:
            await sandbox.load_script("\n\n(", filename="broken.src")
        assert caught.value.type == "SyntaxError"
        assert "broken.src" in caught.value.traceback + caught.value.message
        with pytest.raises(GuestError) as caught:
            await sandbox.run("recurse", 0)
        assert caught.value.type in {"RecursionError", "RangeError", "InternalError"}
        assert await sandbox.run("one") == 1


async def test_a_missing_file_is_the_guests_file_not_found(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        with pytest.raises(GuestError, match="nothing") as caught:
            await sandbox.load_file("/nothing/here")
        assert caught.value.type == "FileNotFoundError"


async def test_runs_take_turns_in_the_order_they_were_asked_for(template: SandboxTemplate, runtime: str) -> None:
    seen: list[Any] = []

    async def note(payload: Any) -> None:
        seen.append(payload)
        await anyio.wait_all_tasks_blocked()
        seen.append(payload)

    async with template.create(hostcalls={"note": note}) as sandbox, anyio.create_task_group() as group:
        await loaded(sandbox, runtime)
        for number in range(4):
            group.start_soon(sandbox.run, "call", "note", number)
            await anyio.wait_all_tasks_blocked()
    assert seen == [0, 0, 1, 1, 2, 2, 3, 3]


async def test_a_handler_that_would_wait_for_its_own_run_is_told(template: SandboxTemplate, runtime: str) -> None:
    async def again(payload: Any) -> Any:
        for method in (sandbox.run, sandbox.load_script, sandbox.load_file):
            with pytest.raises(SandboxBusyError):
                await method("one")
        async with template.create() as other:
            return await (await loaded(other, runtime)).run("one")

    async with template.create(hostcalls={"again": again}) as sandbox:
        assert await (await loaded(sandbox, runtime)).run("call", "again") == 1


async def test_what_a_function_left_running_is_cancelled_at_its_end(template: SandboxTemplate, runtime: str) -> None:
    async with template.create() as sandbox:
        await (await loaded(sandbox, runtime)).run("leave")
        await sandbox.run("pause", 0.05)  # longer than what was left would have needed
        log = await sandbox.run("log")
        assert isinstance(log, list)
        assert "ran" not in log
        assert log[0] == {"python": "cancelled", "js": "AbortError"}[runtime]


async def test_native_timeouts_end_a_wait_and_leave_the_sandbox_usable(template: SandboxTemplate, runtime: str) -> None:
    ready = Signal()

    def wait() -> Awaitable[object]:
        return sandbox.run("wait", 100, "ready")

    async with template.create(hostcalls={"ready": ready}) as sandbox:
        await loaded(sandbox, runtime)
        with pytest.raises(TimeoutError), anyio.fail_after(math.inf) as scope:
            await expire_when(ready.next, lambda: setattr(scope, "deadline", anyio.current_time()), wait)
        if sniffio.current_async_library() == "trio":
            with pytest.raises(trio.TooSlowError), trio.fail_after(math.inf) as native:
                await expire_when(ready.next, lambda: setattr(native, "deadline", trio.current_time()), wait)
        else:
            now = asyncio.get_running_loop().time
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as timeout:
                    await expire_when(ready.next, lambda: timeout.reschedule(now()), wait)
            task = asyncio.ensure_future(wait())
            await ready.next()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.001)
        log = await sandbox.run("log")
        assert isinstance(log, list)
        assert log[:2] == [{"python": "CancelledError", "js": "AbortError"}[runtime], "finally"]


@pytest.mark.timing
async def test_a_computation_that_was_cancelled_breaks_its_sandbox(template: SandboxTemplate, runtime: str) -> None:
    async with template.create() as sandbox:
        await loaded(sandbox, runtime)
        cancelled_at = await cancel_when(partial(computing, 0.05), partial(sandbox.run, "spin"))
        assert time.perf_counter() - cancelled_at < 1 * SLACK
        assert sandbox.broken
        assert not sandbox.closed
        assert sandbox.usage.wall_s > 0.04
        for refused in (sandbox.run("one"), sandbox.load_script("1")):
            with pytest.raises(SandboxBrokenError):
                await refused


async def test_a_sibling_that_fails_stops_a_run_and_is_alone_in_the_group(
    template: SandboxTemplate, runtime: str
) -> None:
    async def fail() -> None:
        await computing()
        raise Mine

    with pytest.raises(ExceptionGroup) as caught:
        async with template.create() as sandbox:
            await loaded(sandbox, runtime)
            async with anyio.create_task_group() as group:
                group.start_soon(fail)
                await sandbox.run("spin")
    assert [type(error) for error in caught.value.exceptions] == [Mine]


@pytest.mark.parametrize("name", ["spin", "wait"])
async def test_closing_a_sandbox_ends_its_run(template: SandboxTemplate, runtime: str, name: str) -> None:
    async def run() -> None:
        with pytest.raises(SandboxClosedError):
            await sandbox.run(name, *([] if name == "spin" else [100, "ready"]))

    ready = Signal()
    async with anyio.create_task_group() as group, template.create(hostcalls={"ready": ready}) as sandbox:
        await loaded(sandbox, runtime)
        group.start_soon(run)
        await (computing() if name == "spin" else ready.wait())


async def test_the_memory_limit_is_the_guests_error_and_breaks_nothing(template: SandboxTemplate, runtime: str) -> None:
    room = template.image_size + (24 << 20)
    async with template.create(max_memory=room) as sandbox:
        await loaded(sandbox, runtime)
        with pytest.raises(MemoryLimitError):
            await sandbox.run("fill")
        assert sandbox.usage.peak_memory <= room
        assert await sandbox.run("one") == 1


@pytest.mark.slow
async def test_cpu_and_output_limits_break_the_sandbox_and_are_named(template: SandboxTemplate, runtime: str) -> None:
    async with template.create(max_cpu=0.1) as sandbox:
        await loaded(sandbox, runtime)
        with pytest.raises(CpuLimitError, match=r"0\.1") as cpu:
            await sandbox.run("spin")
        assert cpu.value.limit == "cpu"
        assert sandbox.broken
        assert sandbox.usage.cpu_s > 0.09
    async with template.create(max_output=10_000) as sandbox:
        await loaded(sandbox, runtime)
        with pytest.raises(OutputLimitError, match="10000") as output:
            await sandbox.run("flood")
        assert output.value.limit == "output"
        assert sandbox.broken


async def test_the_payload_limit_holds_both_ways_and_breaks_nothing(template: SandboxTemplate, runtime: str) -> None:
    async with template.create(max_payload=10_000) as sandbox:
        await loaded(sandbox, runtime)
        with pytest.raises(PayloadLimitError, match="10000") as caught:
            await sandbox.run("big", 11_000)
        assert caught.value.limit == "payload"
        with pytest.raises(InvalidArgumentError, match="10000"):
            await sandbox.run("one", "x" * 11_000)
        assert await sandbox.run("big", 9_000) == "x" * 9_000


@pytest.mark.slow
async def test_hostcalls_in_flight_are_bounded(template: SandboxTemplate, runtime: str) -> None:
    flying = most = 0
    full = anyio.Event()

    async def fly(payload: Any) -> Any:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        if flying == 3:
            full.set()
        await full.wait()  # the first ones: until as many fly as may
        await anyio.wait_all_tasks_blocked()
        flying -= 1
        return payload

    many = {
        "python": "async def many(n): return await asyncio.gather(*(hostcall('fly', i) for i in range(n)))",
        "js": "async function many(n) { return await Promise.all(Array.from({length: n}, (_, i) => hostcall('fly', i))) }",
    }
    async with template.create(hostcalls={"fly": fly}, max_hostcalls=3) as sandbox:
        await sandbox.load_script(CODE[runtime] + many[runtime])
        assert await sandbox.run("many", 20) == list(range(20))
        assert most == 3
        assert sandbox.usage.hostcalls == 20


async def test_a_seed_repeats_randomness_and_its_absence_never_does(template: SandboxTemplate, runtime: str) -> None:
    async def draws(**options: Any) -> list[Any]:
        async with template.create(**options) as sandbox:
            await loaded(sandbox, runtime)
            return [await sandbox.run("draw"), await sandbox.run("draw")]

    assert await draws(seed=7) == await draws(seed=7)
    assert await draws(seed=7) != await draws(seed=8)
    first, second = await draws(), await draws()
    for column in range(3):
        assert len({repr(row[column]) for row in [*first, *second]}) == 4


async def test_usage_is_of_the_last_run_and_in_total(template: SandboxTemplate, runtime: str) -> None:
    async def slow(payload: Any) -> None:
        await anyio.sleep(0.05)  # so long the guest waits

    async with template.create(hostcalls={"slow": slow}) as sandbox:
        await loaded(sandbox, runtime)
        await sandbox.run("call", "slow")
        assert sandbox.usage.hostcalls == 1
        assert sandbox.usage.waiting_s > 0.04
        assert sandbox.usage.wall_s >= sandbox.usage.waiting_s
        with pytest.raises(GuestError):
            await sandbox.run("boom")
        assert sandbox.usage.hostcalls == 0
        assert sandbox.usage.total is not None
        assert sandbox.usage.total.hostcalls == 1


@pytest.mark.slow
async def test_env_and_mounts_go_from_template_to_sandbox(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    template = await build_template(
        "python",
        prelude="import os\nSEEN = [os.environ['X'], open('/a/file').read()]",
        env={"X": "1", "Y": "2"},
        mounts=[MountConfig(tmp_path / "a", "/a")],
    )
    look = (
        "def look(): return [SEEN, os.environ.get('X'), os.environ.get('Y'), os.environ.get('Z'), os.path.exists('/b')]"
    )
    async with template.create(env={"Y": "3", "Z": "4"}, mounts=[MountConfig(tmp_path / "b", "/b")]) as sandbox:
        await sandbox.load_script(look)
        assert await sandbox.run("look") == [["1", "a"], "1", "3", "4", True]
    async with template.create() as sandbox:
        await sandbox.load_script(look)
        assert await sandbox.run("look") == [["1", "a"], "1", "2", None, False]
    template.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "prelude", "type_name"),
    [
        ("python", "def fail():\n    raise KeyError('why')\nfail()", "KeyError"),
        ("python", "x = 1\nwhy why", "SyntaxError"),
        ("python", "\nraise SystemExit('why')", "SystemExit"),
        ("js", "function fail() {\n    throw new RangeError('why')\n}\nfail()", "RangeError"),
    ],
)
async def test_a_prelude_that_raises_makes_no_template(runtime: str, prelude: str, type_name: str) -> None:
    with pytest.raises(GuestError, match=r"why|invalid syntax") as caught:
        await build_template(runtime, prelude=prelude)
    assert caught.value.type == type_name
    assert "<prelude>" in caught.value.traceback
    assert "2" in caught.value.traceback


async def test_two_builds_at_once_do_the_work_once(tmp_path: Path) -> None:
    templates: list[SandboxTemplate] = []

    async def build() -> None:
        templates.append(await build_template("js", cache_dir=tmp_path, prelude="const drawn = Math.random()"))

    async with anyio.create_task_group() as group:
        group.start_soon(build)
        group.start_soon(build)
    seen = []
    for template in templates:
        async with template.create() as sandbox:
            await sandbox.load_script("function get() { return drawn }")
            seen.append(await sandbox.run("get"))
        template.close()
    assert seen[0] == seen[1]


@pytest.mark.slow
async def test_fifty_sandboxes_run_at_once(template: SandboxTemplate, runtime: str) -> None:
    answers: list[Any] = []
    inside, all_inside = 0, anyio.Event()

    async def echo(payload: Any) -> Any:
        nonlocal inside
        inside += 1
        if inside == 50:
            all_inside.set()
        with anyio.fail_after(30):
            await all_inside.wait()
        return payload

    async def work(number: int) -> None:
        async with template.create(hostcalls={"echo": echo}) as sandbox:
            answers.append(await (await loaded(sandbox, runtime)).run("call", "echo", number))

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(work, number)
    assert sorted(answers) == list(range(50))


@pytest.mark.slow
@pytest.mark.timing
async def test_waiting_guests_do_not_count_as_parallel() -> None:
    async with SandboxContext(max_parallel=1) as context:
        template = await context.build_template("js")

        async def wait() -> None:
            async with template.create() as sandbox:
                await (await loaded(sandbox, "js")).run("wait", 0.2)

        begin = time.monotonic()
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(wait)
        assert time.monotonic() - begin < 1.5 * SLACK
