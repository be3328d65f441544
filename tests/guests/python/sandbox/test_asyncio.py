"""Does asyncio work inside the guest as it does outside?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import GuestError
from tests.loops import ONE_LOOP
from tests.timing import SLACK
from tests.waiting import Never, cancel_when

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

pytestmark = ONE_LOOP


async def run(template: SandboxTemplate, code: str, name: str = "main", **options: Any) -> Any:
    async with template.create(**options) as sandbox:
        await sandbox.load_script("import asyncio\nfrom sandbox.asyncio import hostcall, run, subscribe\n" + code)
        with anyio.fail_after(20):
            result = await sandbox.run(name)
        assert not sandbox.broken
        return result


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("async def main(): return await asyncio.gather(*(asyncio.sleep(0.01, i) for i in range(3)))", [0, 1, 2]),
        (
            """
async def main():
    order = []
    async def nap(s): await asyncio.sleep(s); order.append(s)
    async with asyncio.TaskGroup() as tg:
        for s in (0.03, 0.01, 0.02): tg.create_task(nap(s))
    return order
""",
            [0.01, 0.02, 0.03],
        ),
        (
            """
async def main():
    try:
        await asyncio.wait_for(asyncio.sleep(60), 0.01)
    except TimeoutError:
        return "timed out"
""",
            "timed out",
        ),
        (
            """
async def main():
    try:
        async with asyncio.timeout(0.01): await asyncio.Event().wait()
    except TimeoutError:
        return "timed out"
""",
            "timed out",
        ),
        (
            """
async def main():
    queue, got = asyncio.Queue(2), []
    async def produce():
        for i in range(10): await queue.put(i)
        await queue.put(None)
    task = asyncio.create_task(produce())
    while (item := await queue.get()) is not None: got.append(item)
    await task
    return got
""",
            list(range(10)),
        ),
        (
            """
async def main():
    event, lock, out = asyncio.Event(), asyncio.Lock(), []
    async def waiter(i):
        await event.wait()
        async with lock: out.append(i)
    tasks = [asyncio.create_task(waiter(i)) for i in range(5)]
    await asyncio.sleep(0)
    event.set()
    await asyncio.wait(tasks)
    return sorted(out)
""",
            [0, 1, 2, 3, 4],
        ),
        (
            """
log = []
async def agen():
    try:
        yield 1
        yield 2
    finally:
        await asyncio.sleep(0)
        log.append("closed")
async def main():
    async for x in agen():
        break
    del x
    import gc; gc.collect()
    await asyncio.sleep(0.01)
    return log
""",
            ["closed"],
        ),
        (
            """
def main():
    async def work():
        await asyncio.sleep(0.01)
        return "inside"
    return [asyncio.run(work()), run(work()), asyncio.new_event_loop().run_until_complete(work())]
""",
            ["inside"] * 3,
        ),
        (
            """
def main():
    async def agen():
        for i in range(3):
            await asyncio.sleep(0)
            yield i
    return list(run(agen()))
""",
            [0, 1, 2],
        ),
        (
            """
def main():
    log = []
    async def left():
        try: await asyncio.sleep(60)
        finally: log.append("unwound")
    async def work():
        asyncio.create_task(left())
        await asyncio.sleep(0)
    run(work()); asyncio.run(work())
    return log
""",
            ["unwound", "unwound"],
        ),
        (
            """
async def main():
    try:
        run(asyncio.sleep(0))
    except RuntimeError as error:
        first = "running event loop" in str(error)
    try:
        asyncio.run(asyncio.sleep(0))
    except RuntimeError as error:
        return [first, "running event loop" in str(error)]
""",
            [True, True],
        ),
        (
            """
async def main():
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, future.set_result, 7)
    return await subscribe(future)
""",
            7,
        ),
        ("async def main():\n    async with asyncio.Runner if False else asyncio.timeout(1): return 'ok'", "ok"),
        (
            """
async def main():
    import contextvars
    var = contextvars.ContextVar("v", default=0)
    async def child():
        seen = var.get(); var.set(2); return seen
    var.set(1)
    return [await asyncio.create_task(child()), var.get()]
""",
            [1, 1],
        ),
    ],
)
async def test_asyncio_works_in_the_guest(template: SandboxTemplate, code: str, result: Any) -> None:
    assert await run(template, code) == result


async def test_a_loop_that_spins_on_sleep_zero_still_gets_its_answers(template: SandboxTemplate) -> None:
    async def later(_: Any) -> str:
        await anyio.sleep(0.02)  # so that the guest spins for a while
        return "answer"

    code = """
async def main():
    task = asyncio.create_task(hostcall("later"))
    while not task.done():
        await asyncio.sleep(0)
    return task.result()
def plain():
    return run(main())
"""
    assert await run(template, code, hostcalls={"later": later}) == "answer"
    assert await run(template, code, "plain", hostcalls={"later": later}) == "answer"


@pytest.mark.parametrize("how", ["main", "plain", "agen", "task"])
async def test_a_wait_that_nothing_will_end_is_a_deadlock(template: SandboxTemplate, how: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
import asyncio
from sandbox.asyncio import run
log = []
async def main():
    try:
        await asyncio.Event().wait()
    finally:
        log.append("unwound")
async def task():
    await asyncio.gather(main(), main())
def plain(): run(main())
async def agen():
    yield 1
    await main()
def look(): return log
""")
        with anyio.fail_after(5), pytest.raises(GuestError, match="deadlock") as caught:
            await sandbox.run(how)
        assert caught.value.type == "RuntimeError"
        assert not sandbox.broken
        assert "unwound" in await sandbox.run("look")  # type: ignore[operator]


async def test_a_deadlocked_task_that_ignores_its_cancellation_is_given_up(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
import asyncio
async def main():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
def value(): return 5
""")
        with anyio.fail_after(5), pytest.raises(GuestError, match="deadlock"):
            await sandbox.run("main")
        assert await sandbox.run("value") == 5


@pytest.mark.slow
async def test_leftovers_that_ignore_cancellation_delay_one_run_only(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
import asyncio
kept = []
async def stubborn():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
async def main():
    kept.append(asyncio.create_task(stubborn()))
    await asyncio.sleep(0)
    return "done"
async def value(): await asyncio.sleep(0); return 5
""")
        with anyio.fail_after(5):
            assert await sandbox.run("main") == "done"
        began = anyio.current_time()
        for _ in range(10):
            assert await sandbox.run("value") == 5
        assert anyio.current_time() - began < 0.8
        assert not sandbox.broken


async def test_failures_nobody_waits_for_are_shown_on_stderr_of_their_own_run(template: SandboxTemplate) -> None:
    from isola_anyio import StderrEvent

    async with template.create() as sandbox:
        await sandbox.load_script("""
import asyncio
async def fails(): raise ValueError("lost")
async def main():
    asyncio.create_task(fails())
    await asyncio.sleep(0.01)
def value(): return 5
""")
        async with sandbox.run_stream("main") as events:
            text = "".join([event.data async for event in events if isinstance(event, StderrEvent)])
        assert "ValueError: lost" in text
        async with sandbox.run_stream("value") as events:
            assert [event.type async for event in events] == ["end"]


async def test_timers_fire_in_order_and_on_time(template: SandboxTemplate) -> None:
    code = """
import time
async def main():
    began = time.monotonic()
    await asyncio.sleep(0.1)
    return time.monotonic() - began
"""
    slept = await run(template, code)
    assert 0.099 <= slept < 1


async def test_thousands_of_cancelled_timers_do_not_pile_up(template: SandboxTemplate) -> None:
    code = """
async def main():
    loop = asyncio.get_running_loop()
    for _ in range(20000):
        loop.call_later(3600, print).cancel()
    return len(loop._scheduled)
"""
    assert await run(template, code) < 300


THREADS = """
import contextvars
var = contextvars.ContextVar("v", default=0)
def block(x):
    assert asyncio._get_running_loop() is None
    return [x, var.get(), run(hostcall("echo", x)), asyncio.run(hostcall("echo", x))]
def fails(): raise KeyError("missing")
def stops(): raise StopIteration
async def thread():
    var.set(1)
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    result = await asyncio.to_thread(block, 5)
    assert asyncio.current_task() is task and asyncio.get_running_loop() is loop
    return result
async def executor():
    return await asyncio.get_running_loop().run_in_executor(None, block, 6)
def outside():
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(loop.run_in_executor(None, block, 7))
    finally:
        loop.close()
async def many():
    return await asyncio.gather(*(asyncio.to_thread(run, hostcall("echo", i)) for i in range(5)))
async def errors():
    said = []
    for function in (fails, stops):
        try: await asyncio.to_thread(function)
        except (KeyError, RuntimeError) as error: said.append(type(error).__name__)
    await asyncio.sleep(0)
    return said
"""


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("thread", [5, 1, 5, 5]),
        ("executor", [6, 0, 6, 6]),
        ("outside", [7, 0, 7, 7]),
        ("many", [0, 1, 2, 3, 4]),
        ("errors", ["KeyError", "RuntimeError"]),
    ],
)
async def test_what_is_meant_for_a_thread_runs_at_once_as_if_it_were_in_one(
    template: SandboxTemplate, name: str, result: Any
) -> None:
    async def echo(payload: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return payload

    assert await run(template, THREADS, name, hostcalls={"echo": echo}) == result


@pytest.mark.slow
async def test_a_generator_that_does_not_end_delays_its_own_run_only(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
import asyncio
async def stubborn():
    try:
        yield 1
    finally:
        await asyncio.sleep(3600)
async def main():
    async for _ in stubborn(): break
    return "done"
async def value(): await asyncio.sleep(0); return 5
""")
        with anyio.fail_after(5 * SLACK):
            assert await sandbox.run("main") == "done"
        began = anyio.current_time()
        for _ in range(10):
            assert await sandbox.run("value") == 5
        assert anyio.current_time() - began < 0.8 * SLACK
        assert not sandbox.broken


async def test_a_cancellation_inside_of_to_thread_unwinds_its_task_undisturbed(template: SandboxTemplate) -> None:
    never = Never()
    async with template.create(hostcalls={"never": never}) as sandbox:
        await sandbox.load_script("""
import asyncio
from sandbox.asyncio import hostcall, run
log = []
def look(): return log
async def main():
    try:
        await asyncio.to_thread(run, hostcall("never"))
    finally:
        log.append("begun")
        await asyncio.sleep(0.01)
        log.append("ended")
""")
        await cancel_when(never.entered.wait, lambda: sandbox.run("main"))
        assert await sandbox.run("look") == ["begun", "ended"]
