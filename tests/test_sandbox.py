"""When does a sandbox, a template, a context begin and end, and what leaves with it?"""

from __future__ import annotations

import functools
import gc
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import AsyncResource

from isola_anyio import (
    SandboxBusyError,
    SandboxClosedError,
    StreamArg,
    Usage,
)
from tests.waiting import WITHIN_S, computing, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from isola_anyio import Sandbox, SandboxTemplate

CODE = (
    "import asyncio\ndef value(): return 5\nasync def nap(): await asyncio.sleep(60)\ndef spin():\n    while True: pass"
)


async def test_start_and_aclose_work_without_with_and_are_idempotent(template: SandboxTemplate) -> None:
    sandbox = await template.instantiate()
    assert isinstance(sandbox, AsyncResource)
    assert (sandbox.closed, sandbox.broken, sandbox.memory_size) == (False, False, 0)
    await sandbox.start()
    await sandbox.start()
    await sandbox.load_script(CODE)
    assert await sandbox.run("value") == 5
    assert sandbox.memory_size >= template.image_size
    await sandbox.aclose()
    await sandbox.aclose()
    assert (sandbox.closed, sandbox.memory_size) == (True, 0)
    assert sandbox.usage.total is not None
    assert sandbox.usage.total.runs == 2
    with pytest.raises(SandboxClosedError, match="closed"):
        await sandbox.start()


async def test_runs_outside_a_started_sandbox_say_what_to_do(template: SandboxTemplate) -> None:
    sandbox = await template.instantiate()
    for expected in ("start", "closed"):
        for method in (sandbox.run, sandbox.load_script, sandbox.load_file):
            with pytest.raises(SandboxClosedError, match=expected):
                await method("value")
        with pytest.raises(SandboxClosedError, match=expected):
            sandbox.run_stream("value")
        with pytest.raises(SandboxClosedError, match=expected):
            sandbox.load_stream("x = 1")
        await sandbox.aclose()


async def test_several_started_sandboxes_may_be_closed_in_any_order(template: SandboxTemplate) -> None:
    sandboxes = [await template.instantiate() for _ in range(4)]
    for sandbox in sandboxes:
        await sandbox.start()
        await sandbox.load_script(CODE)
    for index in (1, 0, 3, 2):
        assert await sandboxes[index].run("value") == 5
        await sandboxes[index].aclose()
    assert all(sandbox.closed for sandbox in sandboxes)


async def test_a_sandbox_is_entered_once(template: SandboxTemplate) -> None:
    sandbox = await template.instantiate()
    async with sandbox:
        with pytest.raises(SandboxBusyError, match="entered"):
            async with sandbox:
                pass
        await sandbox.load_script(CODE)
        assert await sandbox.run("value") == 5
    with pytest.raises(SandboxClosedError):
        async with sandbox:
            pass


@pytest.mark.parametrize("name", ["nap", "spin"])
async def test_runs_of_other_tasks_get_a_closed_error_when_the_sandbox_is_closed(
    template: SandboxTemplate, name: str
) -> None:
    ended: list[str] = []

    async def run(sandbox: Sandbox) -> None:
        with pytest.raises(SandboxClosedError):
            await sandbox.run(name)
        ended.append("run")

    async def stream(sandbox: Sandbox) -> None:
        events = sandbox.run_stream(name)
        with pytest.raises(SandboxClosedError):
            await events.receive()
        ended.append("stream")

    async with anyio.create_task_group() as group:
        async with template.create() as sandbox:
            await sandbox.load_script(CODE)
            group.start_soon(run, sandbox)
            group.start_soon(run, sandbox)
            group.start_soon(stream, sandbox)
            await (computing() if name == "spin" else anyio.wait_all_tasks_blocked())
        assert sandbox.closed
    assert sorted(ended) == ["run", "run", "stream"]


async def test_a_run_parked_on_a_hostcall_ends_when_its_sandbox_is_closed(template: SandboxTemplate) -> None:
    entered, left = anyio.Event(), anyio.Event()

    async def never(_: Any) -> None:
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            left.set()

    async def run(sandbox: Sandbox) -> None:
        with pytest.raises(SandboxClosedError):
            await sandbox.run("call")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group, template.create(hostcalls={"never": never}) as sandbox:
            await sandbox.load_script("from sandbox.asyncio import hostcall\nasync def call(): await hostcall('never')")
            group.start_soon(run, sandbox)
            await entered.wait()
        assert left.is_set()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        KeyboardInterrupt("mine"),
        SystemExit(3),
        StopIteration("mine"),
        StopAsyncIteration("mine"),
        ExceptionGroup("mine", [ValueError(1)]),
        ExceptionGroup("mine", [ValueError(1), KeyError(2)]),
        BaseExceptionGroup("mine", [KeyboardInterrupt()]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_body_raises_leaves_as_itself(template: SandboxTemplate, error: BaseException) -> None:
    for busy in (False, True):
        with pytest.raises(type(error)) as caught:
            async with template.create() as sandbox:
                await sandbox.load_script(CODE)
                if busy:
                    sandbox.run_stream("nap")
                    sandbox.run_stream("spin")
                    await anyio.wait_all_tasks_blocked()
                raise error
        assert caught.value is error
        assert error.__cause__ is None
        assert sandbox.closed


async def test_two_failures_that_have_nothing_to_do_with_each_other_leave_as_a_group(
    template: SandboxTemplate,
) -> None:
    class Fatal(BaseException):
        pass

    in_handler = anyio.Event()

    async def fatal(_: Any) -> None:
        in_handler.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise Fatal("handler")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with template.create(hostcalls={"fatal": fatal}) as sandbox:
            await sandbox.load_script("from sandbox.asyncio import hostcall\nasync def f(): await hostcall('fatal')")
            sandbox.run_stream("f")
            await in_handler.wait()
            raise ValueError("body")
    assert [str(error) for error in caught.value.exceptions] == ["body", "handler"]


async def test_a_fatal_handler_of_a_stream_ends_the_body_and_leaves_as_itself(template: SandboxTemplate) -> None:
    class Fatal(BaseException):
        pass

    async def fatal(_: Any) -> None:
        raise Fatal("handler")

    with pytest.raises(Fatal):
        async with template.create(hostcalls={"fatal": fatal}) as sandbox:
            await sandbox.load_script("from sandbox.asyncio import hostcall\nasync def f(): await hostcall('fatal')")
            sandbox.run_stream("f")
            with anyio.fail_after(WITHIN_S):
                await anyio.sleep_forever()


async def test_return_break_and_continue_leave_the_with(template: SandboxTemplate) -> None:
    async def returns() -> str:
        async with template.create() as sandbox:
            sandbox.run_stream("nap")
            return "returned"

    assert await returns() == "returned"
    rounds = 0
    for i in range(3):
        async with template.create() as sandbox:
            rounds += 1
            if i == 1:
                break
            continue
    assert rounds == 2
    assert sandbox.closed


@pytest.mark.slow
async def test_a_forgotten_close_is_a_resource_warning(template: SandboxTemplate) -> None:
    sandbox = await template.instantiate()
    await sandbox.start()
    runs = sandbox._runs
    assert runs is not None
    with pytest.warns(ResourceWarning, match="unclosed <Sandbox"):
        del sandbox
        gc.collect()
    runs.machine.close()


async def test_sandboxes_are_made_and_closed_from_sibling_tasks(template: SandboxTemplate) -> None:
    async def use(number: int) -> None:
        async with template.create() as sandbox:
            await sandbox.load_script(f"def f(): return {number}")
            assert await sandbox.run("f") == number
            if number % 3 == 0:
                sandbox.run_stream("f")

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(use, number)


async def test_what_was_not_started_has_used_nothing(template: SandboxTemplate) -> None:
    sandbox = await template.instantiate()
    assert sandbox.usage == Usage(total=Usage())
    await sandbox.aclose()
    assert sandbox.usage.runs == 0


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_another_event_loop_is_refused_and_disturbs_nothing(template: SandboxTemplate, other: str) -> None:
    async def misuse(sandbox: Sandbox) -> list[str]:
        refused: list[str] = []
        uses: list[Callable[[], Awaitable[Any]]] = [
            functools.partial(sandbox.run, "value"),
            sandbox.aclose,
            functools.partial(sandbox.load_script, ""),
        ]
        for use in uses:
            with pytest.raises(SandboxBusyError, match="event loop") as caught:
                await use()
            refused.append(str(caught.value))
        return refused

    async def wait(_: object) -> None:
        await asked.wait()

    asked = anyio.Event()
    async with template.create(hostcalls={"wait": wait}) as sandbox, anyio.create_task_group() as group:
        await sandbox.load_script(
            "from sandbox.asyncio import hostcall\nasync def ask(): await hostcall('wait')\ndef value(): return 5"
        )
        group.start_soon(sandbox.run, "ask")
        await anyio.wait_all_tasks_blocked()
        refused = await anyio.to_thread.run_sync(lambda: anyio.run(misuse, sandbox, backend=other))
        assert len(refused) == 3
        asked.set()
        assert await sandbox.run("value") == 5


async def test_a_task_that_a_handler_left_behind_waits_for_its_turn_like_anybody(template: SandboxTemplate) -> None:
    got: list[Any] = []

    async def use(sandbox: Sandbox) -> None:
        got.append(await sandbox.run("value"))

    async with anyio.create_task_group() as outer:

        async def leave(_: Any) -> None:
            outer.start_soon(use, sandbox)

        async with template.create(hostcalls={"leave": leave}) as sandbox:
            await sandbox.load_script(
                "import asyncio\nfrom sandbox.asyncio import hostcall\ndef value(): return 5\n"
                "async def ask():\n    await hostcall('leave')\n    await asyncio.sleep(0.05)"
            )
            await sandbox.run("ask")
            await until(lambda: got)
    assert got == [5]


async def test_a_producer_that_uses_the_sandbox_it_feeds_is_refused(template: SandboxTemplate) -> None:
    async def items() -> AsyncIterator[Any]:
        yield 1
        yield await sandbox.run("value")

    async with template.create() as sandbox:
        await sandbox.load_script(
            "def value(): return 5\nasync def total(items): return sum([item async for item in items])"
        )
        with anyio.fail_after(10), pytest.raises(SandboxBusyError, match="producer"):
            await sandbox.run("total", StreamArg.from_async_iterable(items()))
        assert await sandbox.run("value") == 5


async def test_a_mount_may_be_looked_at_from_any_thread_and_from_handlers(template: SandboxTemplate) -> None:
    seen: list[Any] = []

    async def later(_: Any) -> None:
        seen.append(sandbox.mount("/tmp").list())

    def plain(_: Any) -> None:
        seen.append(sandbox.mount("/tmp").list())

    async with template.create(hostcalls={"later": later, "plain": plain}) as sandbox:
        await sandbox.load_script(
            "from sandbox.asyncio import hostcall\nasync def ask(name): await hostcall(name)\n"
            "open('/tmp/note', 'w').close()"
        )
        await sandbox.run("ask", "later")
        await sandbox.run("ask", "plain")
        seen.append(await anyio.to_thread.run_sync(lambda: sandbox.mount("/tmp").list()))
    assert len(seen) == 3
    assert all(len(names) == 1 for names in seen)


async def test_a_handler_that_ends_the_program_ends_the_stream_of_a_sandbox_without_a_group(
    template: SandboxTemplate,
) -> None:
    def leave(_: Any) -> None:
        raise SystemExit("enough")

    sandbox = await template.instantiate(hostcalls={"leave": leave})
    await sandbox.start()
    try:
        await sandbox.load_script("from sandbox.asyncio import hostcall\nasync def f(): await hostcall('leave')")
        with pytest.raises(SystemExit, match="enough"):
            async for _ in sandbox.run_stream("f"):
                pass
    finally:
        await sandbox.aclose()


async def test_a_plain_handler_is_refused_the_sandbox_it_holds_up_and_a_thread_is_refused_any(
    template: SandboxTemplate,
) -> None:
    refused: list[str] = []

    def ask(_: Any = None) -> None:
        with pytest.raises(SandboxBusyError) as caught:
            sandbox.run_stream("value")
        refused.append(str(caught.value))

    async with template.create(hostcalls={"ask": ask}) as sandbox:
        await sandbox.load_script(
            "from sandbox.asyncio import hostcall\nasync def f(): await hostcall('ask')\ndef value(): return 5"
        )
        await sandbox.run("f")
        await anyio.to_thread.run_sync(ask)
        assert await sandbox.run("value") == 5
    assert ["wait for itself" in text for text in refused] == [True, False]
    assert "event loop" in refused[1]
