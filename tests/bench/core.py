"""The main job's steps, beside the raw calls they cannot do without."""

from __future__ import annotations

import gc
import itertools
import json
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from isola_anyio import SandboxContext
from isola_anyio.codec import encode
from isola_anyio.engine.instance import Instance
from isola_anyio.engine.run_sync import run_sync
from isola_anyio.engine.wakeup import Wakeup
from isola_anyio.guests.build_conversation import BuildConversation
from isola_anyio.guests.protocol import ToGuest, message
from isola_anyio.options import check_options
from tests.bench.measure import Samples, Table, private_bytes, timed, timed_async

if TYPE_CHECKING:
    from isola_anyio import Sandbox, SandboxTemplate

GUESTS = {
    "python": (
        (
            "from sandbox.asyncio import hostcall\n"
            "def add(a, b):\n    return a + b\n"
            "async def ask(n):\n    for _ in range(n):\n        await hostcall('answer', 1)\n"
            "def spin():\n    while True:\n        pass\n"
        ),
        "x = 1",
    ),
    "js": (
        (
            "function add(a, b) { return a + b }\n"
            "async function ask(n) { for (let i = 0; i < n; i++) await hostcall('answer', 1) }\n"
            "function spin() { for (;;); }\n"
        ),
        "globalThis.x = 1",
    ),
}
HOSTCALLS = 200


async def run(runtime: str) -> None:
    """Print the table of one kind of guest."""
    table = Table(f"{runtime}: the steps of the main job")
    prelude, other = GUESTS[runtime]
    async with SandboxContext() as context:
        template = await context.build_template(runtime, prelude=prelude)
        await _building(table, runtime, prelude, other)
        await _forking(table, template)
        async with template.create() as sandbox:
            await _running(table, sandbox)
        await _hostcalls(table, template)
        await _cancelling(table, template)
        await _memory(table, template)
        template.close()


async def _building(table: Table, runtime: str, prelude: str, other: str) -> None:
    async def warm() -> None:
        async with SandboxContext() as context:
            (await context.build_template(runtime, prelude=prelude)).close()

    table.row("build, warm cache", await timed_async(warm, 10, warm=1))
    numbers = itertools.count(time.time_ns())
    async with SandboxContext() as context:

        async def new_prelude() -> None:
            (await context.build_template(runtime, prelude=f"{prelude}\n{other} + {next(numbers)}")).close()

        table.row("build, new prelude", await timed_async(new_prelude, 5, warm=1))


def _raw_fork(template: SandboxTemplate, body: bytes) -> None:
    """The calls a first answer cannot do without: store, instance, mapping, one message."""
    guest = template._fork(check_options({}, template._bounds))
    try:
        frame = message(ToGuest.CALL, 0, body)
        guest.instance.enter(partial(guest.port.deliver, frame, BuildConversation(guest.instance.sleep)))
    finally:
        guest.close()


def _bare_instance(template: SandboxTemplate) -> None:
    instance = Instance(
        template._program,
        pool=template._context._pool,
        max_memory=template._recipe.max_memory,
        image=template._snapshot.image,
    )
    instance.close()


async def _forking(table: Table, template: SandboxTemplate) -> None:
    body = encode(["add", [1, 2], {}, []], dialect=template._recipe.driver.dialect)
    forks, firsts, totals, closes = Samples(), Samples(), Samples(), Samples()
    for number in range(220):
        start = time.perf_counter()
        manager = template.create()
        sandbox = await manager.__aenter__()
        forked = time.perf_counter()
        assert await sandbox.run("add", 1, 2) == 3
        answered = time.perf_counter()
        await manager.__aexit__(None, None, None)
        closed = time.perf_counter()
        if number >= 20:
            forks.add(forked - start)
            firsts.add(answered - forked)
            totals.add(answered - start)
            closes.add(closed - answered)

    def floors() -> tuple[Samples, Samples]:
        return timed(partial(_bare_instance, template), 100), timed(partial(_raw_fork, template, body), 100)

    instance_floor, answer_floor = await run_sync(template._context._pool, floors, stop=lambda: None)
    table.row("create", forks, instance_floor, "store, instance, map the image, close")
    table.row("first run", firsts)
    table.row("create to first answer", totals, answer_floor, "the same and one message, on one thread, close")
    table.row("close", closes)


async def _running(table: Table, sandbox: Sandbox) -> None:
    assert sandbox._runs is not None
    guest = sandbox._runs.machine
    warm = await timed_async(partial(sandbox.run, "add", 1, 2), 500, warm=100)
    body = encode(["add", [1, 2], {}, []], dialect=guest.driver.dialect)
    frame = message(ToGuest.CALL, 0, body)

    def floor() -> Samples:
        # The door answers as it does while a template is built: the message's work, and nothing after it.
        deliver = partial(guest.port.deliver, frame, BuildConversation(guest.instance.sleep))
        return timed(partial(guest.instance.enter, deliver), 500, warm=100)

    raw = await run_sync(guest.pool, floor, stop=lambda: None)

    async def hop() -> None:
        news = Wakeup()
        guest.pool.submit(news.set)
        await news.wait()

    table.row("warm run", warm, raw, "the message alone, on its own thread")
    table.row("... and its thread hop", await timed_async(hop, 300))
    table.row("... and its JSON", timed(lambda: json.loads(json.dumps(["add", [1, 2], {}, []])), 1000))


async def _hostcalls(table: Table, template: SandboxTemplate) -> None:
    async def answer(payload: Any) -> Any:
        return payload

    async with template.create(hostcalls={"answer": lambda payload: payload}) as sandbox:
        plain = await timed_async(partial(sandbox.run, "ask", HOSTCALLS), 20)
    async with template.create(hostcalls={"answer": answer}) as sandbox:
        slow = await timed_async(partial(sandbox.run, "ask", HOSTCALLS), 10)
    codec = timed(lambda: json.loads(json.dumps(1)), 2000)
    table.row("hostcall, plain handler", Samples([value / HOSTCALLS for value in plain.values]), codec, "its JSON")
    table.row("hostcall, async handler", Samples([value / HOSTCALLS for value in slow.values]))


async def _cancelling(table: Table, template: SandboxTemplate) -> None:
    latencies = Samples()
    for _ in range(100):
        async with template.create() as sandbox:
            await sandbox.run("add", 1, 2)
            with anyio.move_on_after(0.02) as scope:
                await sandbox.run("spin")
            latencies.add(time.perf_counter() - _deadline_as_perf_counter(scope.deadline))
    table.row("cancel a spinning guest, deadline to return", latencies)


def _deadline_as_perf_counter(deadline: float) -> float:
    """Turn a moment of the loop's clock into one of ``perf_counter``."""
    return deadline - anyio.current_time() + time.perf_counter()


async def _memory(table: Table, template: SandboxTemplate) -> None:
    count = 200
    async with AsyncExitStack() as stack:
        gc.collect()
        before = private_bytes()
        for _ in range(count):
            sandbox = await stack.enter_async_context(template.create())
            await sandbox.run("add", 1, 2)
        gc.collect()
        table.note("private memory of a sandbox that answered", f"{(private_bytes() - before) / count / 1024:.0f} KiB")
    table.note("image", f"{template.image_size / (1 << 20):.1f} MiB, shared")
