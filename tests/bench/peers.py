"""The JavaScript guest beside quickjs-rs used by its own API, in the same run."""

from __future__ import annotations

import time
from functools import partial

import quickjs_rs

from isola_anyio import SandboxContext
from tests.bench.measure import Samples, Table, timed, timed_async

SCRIPT = "function add(a, b) { return a + b }\nfunction spin() { for (;;); }"


async def run() -> None:
    """Print one table."""
    table = Table("js beside quickjs-rs")
    async with SandboxContext() as context:
        start = time.perf_counter()
        template = await context.build_template("js", prelude=SCRIPT)
        built = Samples([time.perf_counter() - start])
        start = time.perf_counter()
        runtime = quickjs_rs.Runtime()
        peer = runtime.new_context()
        peer.eval(SCRIPT)
        table.row("build / first context", built, Samples([time.perf_counter() - start]), "quickjs-rs")

        async def ours() -> None:
            async with template.create() as sandbox:
                await sandbox.run("add", 1, 2)

        def theirs() -> None:
            with quickjs_rs.Runtime() as fresh, fresh.new_context() as context:
                context.eval(SCRIPT)
                context.eval("add(1, 2)")

        table.row("create to first answer, close", await timed_async(ours, 100), timed(theirs, 30), "quickjs-rs")
        async with template.create(hostcalls={"answer": lambda payload: payload}) as sandbox:
            await sandbox.load_script(
                "async function ask(n) { for (let i = 0; i < n; i++) await hostcall('answer', i) }"
            )
            warm = await timed_async(partial(sandbox.run, "add", 1, 2), 300, warm=50)
            table.row("warm call", warm, timed(lambda: peer.eval("add(1, 2)"), 300), "quickjs-rs")
            hundred = await timed_async(partial(sandbox.run, "ask", 100), 20)
            peer.register("answer", lambda value: value)
            loop = "for (let i = 0; i < 100; i++) answer(i)"
            floor = timed(lambda: peer.eval(loop), 20)
            table.row(
                "hostcall",
                Samples([value / 100 for value in hundred.values]),
                Samples([value / 100 for value in floor.values]),
                "quickjs-rs, a plain function",
            )
        template.close()
