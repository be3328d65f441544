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

from tests.timing import SLACK

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

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


async def test_five_hundred_sandboxes_wait_at_once_on_a_handful_of_threads(template: SandboxTemplate) -> None:
    most = 0

    async def one_second(_: Any) -> str:
        nonlocal most
        await anyio.sleep(1)
        most = max(most, threading.active_count())
        return "waited"

    async def use(sandbox: Any) -> None:
        assert await sandbox.run("f") == "waited"

    for _ in range(3):
        sandboxes = []
        try:
            for _number in range(500):
                sandbox = await template.instantiate(hostcalls={"one_second": one_second})
                await sandbox.start()
                sandboxes.append(sandbox)
                await sandbox.load_script(
                    "from sandbox.asyncio import hostcall\nasync def f(): return await hostcall('one_second')"
                )
            began = time.perf_counter()
            async with anyio.create_task_group() as group:
                for sandbox in sandboxes:
                    group.start_soon(use, sandbox)
            took = time.perf_counter() - began
        finally:
            for sandbox in sandboxes:
                await sandbox.aclose()
        print(f"500 waiting sandboxes: {took:.2f} s, {most} threads")
        assert most < 24
        if took < 2.5:
            return
    assert took < 2.5 * SLACK


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
