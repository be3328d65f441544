"""How does a guest reach its host, and what of a handler's fate does it see?"""

from __future__ import annotations

import functools
import gc
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from isola_anyio import GuestError, LimitError, SandboxBusyError, SandboxClosedError, disposal
from isola_anyio.run.hostcalls import SLICE
from tests.run.support import CODE
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from isola_anyio import Sandbox, SandboxTemplate


async def test_async_and_plain_handlers_answer_async_and_plain_guests(template: SandboxTemplate) -> None:
    async def later(payload: Any) -> Any:
        await checkpoint()
        return {"later": payload}

    class Object:
        async def __call__(self, payload: Any) -> Any:
            return ["object", payload]

    async def bound(prefix: str, payload: Any) -> Any:
        return prefix + payload

    def awaitable(payload: Any) -> Awaitable[Any]:
        return later(payload)

    handlers: dict[str, Any] = {
        "later": later,
        "now": lambda payload: {"now": payload},
        "object": Object(),
        "partial": functools.partial(bound, "p-"),
        "awaitable": awaitable,
    }
    async with template.create(hostcalls=handlers) as sandbox:
        await sandbox.load_script(CODE)
        for how in ("call", "call_plain"):
            assert await sandbox.run(how, "later", 1) == {"later": 1}
            assert await sandbox.run(how, "now", [1, 2.5, None]) == {"now": [1, 2.5, None]}
            assert await sandbox.run(how, "object", b"\0\xff") == ["object", b"\0\xff"]
            assert await sandbox.run(how, "partial", "x") == "p-x"
            assert await sandbox.run(how, "awaitable", 3) == {"later": 3}


async def test_gathered_hostcalls_run_at_the_same_time(template: SandboxTemplate) -> None:
    inside = 0
    all_in = anyio.Event()

    async def meet(payload: int) -> int:
        nonlocal inside
        inside += 1
        if inside == 20:
            all_in.set()
        await all_in.wait()
        return payload * 2

    async with template.create(hostcalls={"meet": meet}) as sandbox:
        await sandbox.load_script(CODE)
        for how in ("gather", "gather_plain"):
            inside, all_in = 0, anyio.Event()
            with anyio.fail_after(10):
                assert await sandbox.run(how, "meet", list(range(20))) == [2 * i for i in range(20)]


async def test_no_more_than_max_hostcalls_are_in_flight(template: SandboxTemplate) -> None:
    inside = most = 0
    full = anyio.Event()

    async def work(payload: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 4:
            full.set()
        await full.wait()
        for _ in range(3):
            await checkpoint()
        inside -= 1
        return payload

    async with template.create(hostcalls={"work": work}, max_hostcalls=4) as sandbox:
        await sandbox.load_script(CODE)
        with anyio.fail_after(10):
            assert await sandbox.run("gather", "work", list(range(50))) == list(range(50))
        assert most == 4
        assert sandbox.usage.hostcalls == 50


async def test_a_run_may_make_max_total_hostcalls_and_no_more(template: SandboxTemplate) -> None:
    made = 0

    def work(payload: int) -> int:
        nonlocal made
        made += 1
        return payload

    async with template.create(hostcalls={"work": work}, max_total_hostcalls=3) as sandbox:
        await sandbox.load_script(CODE)
        for _ in range(2):  # of each run
            assert await sandbox.run("gather", "work", [1, 2, 3]) == [1, 2, 3]
        with pytest.raises(LimitError, match="max_total_hostcalls=3") as caught:
            await sandbox.run("gather", "work", [1, 2, 3, 4])
        assert (made, caught.value.limit, sandbox.broken) == (9, "hostcalls", True)
        assert sandbox.usage.hostcalls == 3
    async with template.create(hostcalls={"work": work}, max_total_hostcalls=0) as sandbox:
        await sandbox.load_script(CODE)
        with pytest.raises(LimitError, match="=0"):
            await sandbox.run("call", "nobody")


@pytest.mark.slow
async def test_what_a_plain_handler_computes_is_not_the_guests_cpu(template: SandboxTemplate) -> None:
    def burn(payload: int) -> int:
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            time.sleep(0)  # so that the event loop looks at the budget meanwhile
        return payload

    async with template.create(hostcalls={"burn": burn}, max_cpu=0.2) as sandbox:
        await sandbox.load_script(CODE)
        assert await sandbox.run("call", "burn", 5) == 5
        assert sandbox.usage.cpu_s < 0.1


async def test_handlers_see_the_callers_context_variables(template: SandboxTemplate) -> None:
    who: ContextVar[str] = ContextVar("who", default="nobody")

    async def async_who(_: Any) -> str:
        return who.get()

    async with template.create(hostcalls={"a": async_who, "p": lambda _: who.get()}) as sandbox:
        await sandbox.load_script(CODE)
        for name in ("first", "second"):
            who.set(name)
            assert await sandbox.run("call", "a") == name
            assert await sandbox.run("call", "p") == name
            assert await sandbox.run_stream("call", "a").result() == name


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_handlers_exception_reaches_the_guest_without_its_traceback(
    template: SandboxTemplate, kind: str
) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def plain(payload: Any) -> Any:
        secret_local = "secret"
        assert secret_local
        raise {"value": ValueError("bad value"), "odd": Odd(), "empty": KeyError(), "os": OSError(2, "x", "/etc/f")}[
            payload
        ]

    async def async_(payload: Any) -> Any:
        return plain(payload)

    async with template.create(hostcalls={"fail": plain if kind == "plain" else async_}) as sandbox:
        await sandbox.load_script(CODE)
        got = await sandbox.run("caught", "fail", "value")
        assert got == {
            "name": "fail",
            "type": "ValueError",
            "message": "bad value",
            "text": "fail: ValueError: bad value",
        }
        assert (await sandbox.run("caught", "fail", "odd"))["type"] == "Odd"  # type: ignore[index, call-overload]
        assert (await sandbox.run("caught", "fail", "empty"))["type"] == "KeyError"  # type: ignore[index, call-overload]
        with pytest.raises(GuestError) as caught:
            await sandbox.run("call", "fail", "value")
        assert caught.value.type == "HostcallError"
        assert "secret" not in caught.value.traceback
        assert __file__ not in caught.value.traceback
        assert "<isola>" not in caught.value.traceback


async def test_an_unknown_hostcall_is_a_hostcall_error(template: SandboxTemplate) -> None:
    async with template.create(hostcalls={"known": lambda p: p}) as sandbox:
        await sandbox.load_script(CODE)
        got = await sandbox.run("caught", "unknown")
        assert isinstance(got, dict)
        assert (got["name"], got["type"]) == ("unknown", "LookupError")
        assert got["message"] == "the host has no handler named 'unknown'; it offers 'known'"
        for odd in ("", "x" * 60000, "a\ud800b", "__class__"):
            got = await sandbox.run("caught", odd)
            assert isinstance(got, dict)
            assert got["type"] == "LookupError"


@pytest.mark.parametrize(
    ("names", "offer"),
    [
        ([], "it offers none"),
        (["b", "a"], "it offers 'a', 'b'"),
        ([f"f{number:03}" for number in range(100)], "'f018', 'f019' and 80 more"),
        (["x" * 10_000], "xxx'..."),
    ],
)
async def test_an_unknown_hostcall_is_told_which_there_are(
    template: SandboxTemplate, names: list[str], offer: str
) -> None:
    async with template.create(hostcalls=dict.fromkeys(names, lambda p: p)) as sandbox:
        await sandbox.load_script(CODE)
        told: Any = await sandbox.run("caught", "unknown")
        message = told["message"]
        assert offer in message
        assert len(message) < 1000


async def test_a_guest_that_stops_waiting_cancels_the_handler(template: SandboxTemplate) -> None:
    events: list[str] = []
    begun, cancelled = anyio.Event(), anyio.Event()

    async def slow(_: Any) -> None:
        events.append("began")
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            events.append("cancelled")
            cancelled.set()

    async def wait_for_it(_: Any) -> str:
        with anyio.fail_after(5):
            await cancelled.wait()
        return "seen"

    async def has_begun(_: Any) -> None:
        with anyio.fail_after(5):
            await begun.wait()

    handlers = {"slow": slow, "begun": has_begun, "wait": wait_for_it}
    async with template.create(hostcalls=handlers) as sandbox:
        await sandbox.load_script(
            CODE
            + """
async def times_out():
    task = asyncio.create_task(hostcall("slow"))
    await hostcall("begun")
    try:
        await asyncio.wait_for(task, 0.01)
    except TimeoutError:
        return await hostcall("wait")
async def cancels():
    task = asyncio.create_task(hostcall("slow"))
    await hostcall("begun")
    task.cancel()
    return await hostcall("wait")
async def leaves_it():
    asyncio.create_task(hostcall("slow"))
    await hostcall("begun")
    return "left"
"""
        )
        for how, answer in (("times_out", "seen"), ("cancels", "seen"), ("leaves_it", "left")):
            begun, cancelled = anyio.Event(), anyio.Event()
            events.clear()
            assert await sandbox.run(how) == answer
            assert events == ["began", "cancelled"]


async def test_handlers_of_a_cancelled_run_are_cancelled_a_slice_at_a_time(template: SandboxTemplate) -> None:
    count, step, inside = 4 * SLICE, 0, 0
    all_in = anyio.Event()
    cancelled_at: list[int] = []

    async def never(_payload: Any) -> None:
        nonlocal inside
        inside += 1
        if inside == count:
            all_in.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled_at.append(step)

    async def count_steps() -> None:
        nonlocal step
        while True:
            await checkpoint()
            step += 1

    async with template.create(hostcalls={"never": never}) as sandbox:
        await sandbox.load_script(CODE)
        async with anyio.create_task_group() as steps:
            async with anyio.create_task_group() as group:
                group.start_soon(sandbox.run, "gather", "never", list(range(count)))
                await all_in.wait()
                steps.start_soon(count_steps)
                group.cancel_scope.cancel()
            steps.cancel_scope.cancel()
        assert len(cancelled_at) == count
        # The counter may come between two slices.
        assert max(map(cancelled_at.count, cancelled_at)) <= 2 * SLICE
        assert not sandbox.broken


async def test_a_cancellation_of_a_handlers_own_making_is_an_error_and_cancels_nobody(
    template: SandboxTemplate, anyio_backend_name: str
) -> None:
    raised = anyio.Event()

    async def by_hand(_: Any) -> None:
        raised.set()
        if anyio_backend_name == "asyncio":
            import asyncio

            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        saved: BaseException | None = None
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await checkpoint()
            except BaseException as exc:
                saved = exc
        assert saved is not None
        raise saved

    async def bystander(_: Any) -> str:
        await raised.wait()
        await anyio.wait_all_tasks_blocked()
        return "untouched"

    async with template.create(hostcalls={"by_hand": by_hand, "bystander": bystander}) as sandbox:
        await sandbox.load_script(
            CODE
            + """
async def both():
    return await asyncio.gather(hostcall("by_hand"), hostcall("bystander"), return_exceptions=True)
async def names(): return [getattr(r, "type", r) for r in await both()]
"""
        )
        got = await sandbox.run("names")
        assert isinstance(got, list)
        assert str(got[0]).startswith("Cancelled")
        assert got[1] == "untouched"


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_handler_that_ends_the_program_ends_the_run_as_itself(template: SandboxTemplate, kind: str) -> None:
    class Fatal(BaseException):
        pass

    def plain(_: Any) -> None:
        raise Fatal("out")

    async def async_(_: Any) -> None:
        raise Fatal("out")

    async with template.create(hostcalls={"fatal": plain if kind == "plain" else async_}) as sandbox:
        await sandbox.load_script(CODE)
        with pytest.raises(Fatal, match="out"):
            await sandbox.run("call", "fatal")


async def test_a_run_from_its_own_handler_is_refused_and_the_run_goes_on(template: SandboxTemplate) -> None:
    async def again(_: Any) -> str:
        for method in (sandbox.run, sandbox.load_script, sandbox.load_file):
            with pytest.raises(SandboxBusyError):
                await method("value")
        with pytest.raises(SandboxBusyError):
            await sandbox.aclose()
        with pytest.raises(SandboxBusyError):
            sandbox.run_stream("value")
        return "refused"

    sandbox: Sandbox
    async with template.create(hostcalls={"again": again}) as sandbox:
        await sandbox.load_script(CODE)
        assert await sandbox.run("call", "again") == "refused"
        assert await sandbox.run("value") == 5


async def test_a_handler_may_run_another_sandbox_and_other_tasks_may_wait_for_this_one(
    template: SandboxTemplate,
) -> None:
    async def outer(payload: int) -> Any:
        if payload == 0:
            return "bottom"
        async with template.create(hostcalls={"outer": outer}) as inner:
            await inner.load_script(CODE)
            return ["level", payload, await inner.run("call", "outer", payload - 1)]

    async with template.create(hostcalls={"outer": outer}) as sandbox:
        await sandbox.load_script(CODE)
        assert await sandbox.run("call", "outer", 3) == ["level", 3, ["level", 2, ["level", 1, "bottom"]]]


async def test_two_sandboxes_may_call_each_other_but_not_in_a_circle(template: SandboxTemplate) -> None:
    async def to_two(_: Any) -> Any:
        return await two.run("call", "back")

    async def back(_: Any) -> Any:
        with pytest.raises(SandboxBusyError):
            await one.run("value")
        return "no circle"

    async with template.create(hostcalls={"to_two": to_two}) as one, template.create(hostcalls={"back": back}) as two:
        await one.load_script(CODE)
        await two.load_script(CODE)
        assert await one.run("call", "to_two") == "no circle"


async def test_a_task_that_outlives_the_handler_may_use_the_sandbox_afterwards(template: SandboxTemplate) -> None:
    results: list[Any] = []
    over = anyio.Event()

    async def spawn(_: Any) -> None:
        group.start_soon(afterwards)

    async def afterwards() -> None:
        await over.wait()
        results.append(await sandbox.run("value"))

    async with anyio.create_task_group() as group, template.create(hostcalls={"spawn": spawn}) as sandbox:
        await sandbox.load_script(CODE)
        await sandbox.run("call", "spawn")
        over.set()
        with anyio.fail_after(5):
            while not results:
                await checkpoint()
    assert results == [5]


async def test_a_plain_handler_runs_on_the_guests_thread_without_the_event_loop(template: SandboxTemplate) -> None:

    here = threading.get_ident()
    async with template.create(hostcalls={"where": lambda _: threading.get_ident() == here}) as sandbox:
        await sandbox.load_script(CODE)
        assert await sandbox.run("call", "where") is False


@pytest.mark.slow
async def test_thousands_of_waiting_hostcalls_are_served(template: SandboxTemplate) -> None:
    async def echo(payload: int) -> int:
        return payload

    async with template.create(hostcalls={"echo": echo}) as sandbox:
        await sandbox.load_script(
            CODE
            + """
async def many(n):
    return sum(await asyncio.gather(*(hostcall("echo", i) for i in range(n))))
"""
        )
        n = 5_000
        assert await sandbox.run("many", n) == n * (n - 1) // 2


async def test_runs_on_a_closed_sandbox_in_a_handler_say_so(template: SandboxTemplate) -> None:
    async def other(_: Any) -> str:
        with pytest.raises(SandboxClosedError):
            await closed.run("value")
        return "closed"

    async with template.create() as closed:
        pass
    async with template.create(hostcalls={"other": other}) as sandbox:
        await sandbox.load_script(CODE)
        assert await sandbox.run("call", "other") == "closed"


async def test_payloads_that_are_pending_and_large_together_put_full_collections_off(template: SandboxTemplate) -> None:
    await until(lambda: not disposal._of_process.busy)
    before = gc.get_threshold()
    seen: list[tuple[int, int, int]] = []
    all_in = anyio.Event()

    async def hold(payload: Any) -> int:
        seen.append(gc.get_threshold())
        if len(seen) == 8:
            all_in.set()
        await all_in.wait()
        return len(payload)

    async with template.create(hostcalls={"hold": hold}) as sandbox:
        await sandbox.load_script(
            "import asyncio\nfrom sandbox.asyncio import hostcall\n"
            "async def hold():\n    return await asyncio.gather(*(hostcall('hold', [[]] * 20_000) for _ in range(8)))\n"
        )
        assert await sandbox.run("hold") == [20_000] * 8
    assert seen[-1][2] > before[2]
    await until(lambda: gc.get_threshold() == before)  # payloads are let go by a thread of their own
