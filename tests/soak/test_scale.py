"""Do thousands of sandboxes, one after the other and at once, leave the process as it was?"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import SandboxContext
from tests.waiting import WITHIN_S

if TYPE_CHECKING:
    from isola_anyio import Sandbox, SandboxTemplate

pytestmark = pytest.mark.slow


def measure() -> dict[str, int]:
    """Count what a process may leak."""
    gc.collect()
    with open("/proc/self/maps") as maps:
        mappings = sum(1 for _ in maps)
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mappings": mappings,
        "resident": resident,
        "objects": len(gc.get_objects()),
    }


CYCLES = """
import sys
sys.path.insert(0, {root!r})
import anyio
from isola_anyio import build_template
from tests.soak.test_scale import measure

async def echo(payload): return payload

async def use(template, number):
    async with template.create(hostcalls={{"echo": echo}}) as sandbox:
        await sandbox.load_script(
            "from sandbox.asyncio import hostcall\\n"
            "async def f(x): return await hostcall('echo', x)\\n"
            "def g(n):\\n    for i in range(n): print(i); yield i\\n"
        )
        assert await sandbox.run("f", number) == number
        if number % 10 == 0:
            async with sandbox.run_stream("g", 5) as events:
                async for event in events:
                    if event.data == 3: break
        if number % 100 == 0:
            with anyio.move_on_after(0.005):
                await sandbox.load_script("while True: pass")

async def main():
    template = await build_template("python")
    for number in range(200):
        await use(template, number)
    before = measure()
    for number in range(2000):
        await use(template, number)
    after = measure()
    print(before, after)
    assert after["threads"] < 16  # as many as guests computed at once
    assert after["descriptors"] <= before["descriptors"]
    assert after["mappings"] <= before["mappings"] + 20
    assert after["objects"] <= before["objects"] + 500
    assert after["resident"] <= before["resident"] + (24 << 20)

anyio.run(main, backend={backend!r})
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_two_thousand_sandboxes_leave_nothing_behind(anyio_backend_name: str) -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = CYCLES.format(root=root, backend=anyio_backend_name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=150, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_five_hundred_sandboxes_wait_at_once_on_a_handful_of_threads() -> None:
    waiting = threads = 0
    others = threading.active_count()  # such as those that tests before left idle in pools of their own
    all_wait = anyio.Event()

    async def wait(_: Any) -> str:
        nonlocal waiting, threads
        waiting += 1
        if waiting == 500:
            threads = threading.active_count()
            all_wait.set()
        with anyio.fail_after(WITHIN_S):
            await all_wait.wait()
        return "waited"

    async def use(sandbox: Sandbox) -> None:
        assert await sandbox.run("f") == "waited"

    sandboxes: list[Sandbox] = []
    context = SandboxContext()
    template = await context.build_template("python")
    try:
        for _ in range(500):
            sandbox = await template.instantiate(hostcalls={"wait": wait})
            await sandbox.start()
            sandboxes.append(sandbox)
            await sandbox.load_script(
                "from sandbox.asyncio import hostcall\nasync def f(): return await hostcall('wait')"
            )
        async with anyio.create_task_group() as group:
            for sandbox in sandboxes:
                group.start_soon(use, sandbox)
    finally:
        for sandbox in sandboxes:
            await sandbox.aclose()
        template.close()
        context.close()
    assert threads - others < 24


async def test_hundreds_of_guests_that_block_their_threads_wait_at_once(template: SandboxTemplate) -> None:
    async def use(number: int) -> None:
        async with template.create() as sandbox:
            await sandbox.load_script("import time\ndef f(): time.sleep(0.5); return 1")
            assert await sandbox.run("f") == 1

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(use, number)
    assert time.perf_counter() - began < 8
