"""When does a template or a context end, whom does it serve, and what do its sandboxes share?"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import GuestError, SandboxClosedError, SandboxContext, build_template
from tests.waiting import Signal, cancel_when

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

CODE = "import asyncio\nfrom sandbox.asyncio import hostcall\ndef value(): return 5\nasync def nap():\n    await hostcall('ready')\n    await asyncio.sleep(60)\ndef spin():\n    while True: pass"


async def test_a_closed_template_makes_no_more_sandboxes_and_those_alive_go_on(template: SandboxTemplate) -> None:
    own = await build_template("python")
    not_started = await own.instantiate()
    async with own.create() as sandbox:
        await sandbox.load_script(CODE)
        own.close()
        own.close()
        with pytest.raises(SandboxClosedError, match="template is closed"):
            await own.instantiate()
        with pytest.raises(SandboxClosedError):
            async with own.create():
                pass
        with pytest.raises(SandboxClosedError):
            await not_started.start()
        assert await sandbox.run("value") == 5
        await sandbox.load_script("import wave, json\nx = json.dumps([1])")
    assert "closed" in repr(own)


async def test_a_closed_context_makes_nothing_more_and_what_lives_goes_on(template: SandboxTemplate) -> None:
    context = SandboxContext()
    ready = Signal()
    async with context:
        own = await context.build_template("python")
        sandbox = await own.instantiate(hostcalls={"ready": ready})
        await sandbox.start()
        await sandbox.load_script(CODE)
    await context.aclose()
    context.close()
    with pytest.raises(SandboxClosedError, match="context is closed"):
        await context.build_template("python")
    with pytest.raises(SandboxClosedError):
        await own.instantiate()
    assert await sandbox.run("value") == 5
    await cancel_when(ready.wait, lambda: sandbox.run("nap"))
    assert await sandbox.run("value") == 5
    await sandbox.aclose()
    own.close()


def test_one_template_serves_several_loops_and_threads_at_once(template: SandboxTemplate) -> None:
    results: list[Any] = []
    errors: list[BaseException] = []

    async def use(number: int) -> None:
        for i in range(10):
            async with template.create(hostcalls={"echo": echo}) as sandbox:
                await sandbox.load_script(
                    "from sandbox.asyncio import hostcall\nasync def f(x): return await hostcall('echo', x)"
                )
                results.append(await sandbox.run("f", [number, i]))

    async def echo(payload: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return payload

    def work(backend: str, number: int) -> None:
        try:
            anyio.run(use, number, backend=backend)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(("asyncio", "trio")[i % 2], i)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(results) == [[n, i] for n in range(6) for i in range(10)]


FORK = """
import os, anyio
from isola_anyio import build_template, SandboxClosedError

async def main():
    template = await build_template("python")
    async with template.create() as sandbox:
        await sandbox.load_script("def f(): return 1")
        assert await sandbox.run("f") == 1
    return template

template = anyio.run(main)
pid = os.fork()
if pid == 0:
    async def child():
        try:
            async with template.create():
                pass
        except SandboxClosedError as exc:
            assert "fork" in str(exc), exc
            return await again()
        return "no error"
    async def again():
        own = await build_template("python")
        async with own.create() as sandbox:
            await sandbox.load_script("def f(): return 2")
            return await sandbox.run("f")
    code = 1
    try:
        code = 0 if anyio.run(child) == 2 else 2
    finally:
        os._exit(code)
_, status = os.waitpid(pid, 0)
print("child", os.waitstatus_to_exitcode(status))
async def after():
    async with template.create() as sandbox:
        await sandbox.load_script("def f(): return 3")
        return await sandbox.run("f")
print("parent", anyio.run(after))
"""


@pytest.mark.slow
def test_after_os_fork_the_child_is_told_and_may_start_afresh(template: SandboxTemplate) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORK)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == "child 0\nparent 3\n", done.stderr


async def test_globals_persist_between_runs_and_are_never_seen_by_another_sandbox(template: SandboxTemplate) -> None:
    async with template.create() as one, template.create() as two:
        await one.load_script("count = 0\ndef bump():\n    global count\n    count += 1\n    return count")
        assert [await one.run("bump") for _ in range(3)] == [1, 2, 3]
        with pytest.raises(GuestError, match="bump"):
            await two.run("bump")
        await two.load_script("import sys, builtins\ndef names(): return 'count' in globals()")
        assert await two.run("names") is False


@pytest.mark.slow
async def test_modules_and_builtins_patched_in_one_sandbox_are_whole_in_the_next(template: SandboxTemplate) -> None:
    async with template.create() as one:
        await one.load_script(
            "import json, builtins\njson.dumps = None\nbuiltins.len = lambda x: 99\nfor _ in (): pass"
        )
    async with template.create() as two:
        await two.load_script("import json\ndef check(): return [json.dumps([1]), len([1])]")
        assert await two.run("check") == ["[1]", 1]


async def test_what_the_prelude_did_is_in_every_sandbox() -> None:
    template = await build_template(
        "python", prelude="import json, asyncio\ntable = {'a': [1]}\nawait asyncio.sleep(0)\ndef get(): return table"
    )
    try:
        for _ in range(2):
            async with template.create() as sandbox:
                assert await sandbox.run("get") == {"a": [1]}
                await sandbox.load_script("table['a'].append(2)")
                assert await sandbox.run("get") == {"a": [1, 2]}
    finally:
        template.close()


async def test_random_states_of_the_prelude_are_fresh_in_each_sandbox() -> None:
    prelude = "import random, numpy as np\nrandom.seed(1)\nnp.random.seed(1)"
    template = await build_template("python", prelude=prelude)
    seen = []
    for seed in (None, None, 5, 5):
        async with template.create(seed=seed) as sandbox:
            await sandbox.load_script("def draw(): return [random.random(), float(np.random.rand())]")
            seen.append(await sandbox.run("draw"))
    template.close()
    assert seen[0] != seen[1]
    assert seen[2] == seen[3]
