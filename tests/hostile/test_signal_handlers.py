"""The program replaces the handlers of signals that wasmtime turns into traps, and a guest traps right after."""

from __future__ import annotations

import sys

import pytest

from tests.hostile.children import run_child

pytestmark = [
    pytest.mark.slow,  # each starts a Python process
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="wasmtime handles signals on Linux"),
]

SCRIPT = r'''
import ctypes, faulthandler, warnings

def by_faulthandler():
    faulthandler.enable()

def by_a_library():
    # `signal.signal` is for the main thread alone; a library written in C may do it on any.
    libc, default = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    for number in (4, 8, 11):
        assert libc.sigaction(number, default, None) == 0

backend, way, where = sys.argv[1:]
replace = {"faulthandler": by_faulthandler, "library": by_a_library}[way]

def plain(payload):
    replace()

async def in_a_task(payload):
    replace()

GUEST = """
import asyncio, faulthandler, time
from sandbox.asyncio import hostcall

async def plain():
    await hostcall("plain", None)
    faulthandler._sigsegv()

async def task():
    call = asyncio.ensure_future(hostcall("task", None))
    await asyncio.sleep(0)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    faulthandler._sigsegv()

async def parked():
    await hostcall("task", None)
    faulthandler._sigsegv()

async def blocked():
    await hostcall("asleep", None)
    time.sleep(1)
    faulthandler._sigsegv()

def ping(n):
    return n
"""

async def main():
    template = await ia.build_template("python")
    asleep = []
    handlers = {"plain": plain, "task": in_a_task, "asleep": asleep.append}
    async with template.create(hostcalls=handlers) as sandbox:
        await sandbox.load_script(GUEST)
        pool = template._context._pool
        async with anyio.create_task_group() as group:
            if where == "blocked":
                async def replace_meanwhile():
                    while not asleep or pool.busy:
                        await anyio.sleep(0.001)
                    replace()
                group.start_soon(replace_meanwhile)
            try:
                await sandbox.run(where)
            except ia.GuestError as error:
                print(error.type)
    async with template.create() as sandbox:
        await sandbox.load_script(GUEST)
        print(await sandbox.run("ping", 1))

anyio.run(main, backend=backend)
print("end")
'''


@pytest.mark.parametrize("way", ["faulthandler", "library"])
@pytest.mark.parametrize("where", ["plain", "task", "parked", "blocked"])
def test_a_trap_stays_a_trap(anyio_backend_name: str, way: str, where: str) -> None:
    assert run_child(SCRIPT, anyio_backend_name, way, where, options=("-W", "ignore")) == "Trap\n1\n"


@pytest.mark.parametrize("where", ["plain", "task", "parked", "blocked"])
def test_where_warnings_are_errors_the_run_is_the_same(anyio_backend_name: str, where: str) -> None:
    script = SCRIPT.replace("async def main():\n", "async def main():\n    warnings.simplefilter('error')\n")
    assert run_child(script, anyio_backend_name, "faulthandler", where) == "Trap\n1\n"


def test_a_run_after_handlers_were_replaced_is_not_ended_by_a_warning(anyio_backend_name: str) -> None:
    said = run_child(
        """
        import faulthandler, warnings
        async def main():
            template = await ia.build_template("js")
            async with template.create() as sandbox:
                await sandbox.load_script("function ping(n) { return n }")
                faulthandler.enable()
                warnings.simplefilter("error")
                print(await sandbox.run("ping", 1), sandbox.broken)
        anyio.run(main, backend=sys.argv[1])
        print("end")
        """,
        anyio_backend_name,
    )
    assert said == "1 False\n"
