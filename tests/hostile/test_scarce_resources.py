"""Threads and memory maps are used up while guests run: errors in words, no slot lost, and nobody's end."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import IsolaError, SandboxContext
from tests.hostile.children import run_child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from isola_anyio import SandboxTemplate

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are Linux's")
GUEST = "function ping(n) { return n }\nasync function hold() { return await hostcall('hold', 1) }"


@pytest.fixture
async def fresh() -> AsyncIterator[SandboxTemplate]:
    """Give a template of a context that has no threads yet."""
    async with SandboxContext(max_parallel=2) as context:
        template = await context.build_template("js")
        yield template
        template.close()


def refuse_threads(patch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("isola-guest"):
            raise RuntimeError("can't start new thread")
        start(thread)

    patch.setattr(threading.Thread, "start", refuse)


def kill_threads_at_birth(patch: pytest.MonkeyPatch) -> None:
    bootstrap: Callable[[threading.Thread], None] = vars(threading.Thread)["_bootstrap"]

    def die(thread: threading.Thread) -> None:
        if thread.name.startswith("isola-guest"):
            raise MemoryError
        bootstrap(thread)

    patch.setattr(threading.Thread, "_bootstrap", die)
    patch.setattr(sys, "unraisablehook", lambda _unraisable: None)


@pytest.mark.parametrize("break_it", [refuse_threads, kill_threads_at_birth], ids=["refused", "dead at birth"])
async def test_where_no_thread_can_be_had_no_slot_is_lost(
    fresh: SandboxTemplate, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None]
) -> None:
    pool = fresh._context._pool
    async with fresh.create() as sandbox, fresh.create() as other:
        with monkeypatch.context() as patch:
            break_it(patch)
            for _ in range(2 * pool.max_parallel):
                with anyio.fail_after(30), pytest.raises(IsolaError, match="no thread can be started for a guest"):
                    await sandbox.run("anything")
        assert pool.busy == 0
        with anyio.fail_after(30):
            await other.load_script(GUEST)
            assert await other.run("ping", 2) == 2


MAPS = '''
import ctypes, gc, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
LIMIT = int(open("/proc/sys/vm/max_map_count").read())
backend, = sys.argv[1:]
GUEST = "function ping(n) { return n }\\nasync function hold() { return await hostcall('hold', 1) }"

class Eater:
    """Takes memory maps, two at a time: every second page of a large mapping becomes another kind of memory."""

    def __init__(self):
        self.base = libc.mmap(None, 8192 * LIMIT, 1, 0x22 | 0x4000, -1, 0)
        self.taken = 0

    def eat(self, count):
        for _ in range(count):
            if libc.mprotect(self.base + 8192 * self.taken, 4096, 3):
                return
            self.taken += 1

    def give_back(self, count):
        for _ in range(min(count, self.taken)):
            self.taken -= 1
            libc.mprotect(self.base + 8192 * self.taken, 4096, 1)

async def ping(template):
    """Make another sandbox and use it, as soon as the library has seen that there is room again."""
    with anyio.fail_after(60):
        while True:
            try:
                async with template.create() as sandbox:
                    await sandbox.load_script(GUEST)
                    return await sandbox.run("ping", 2)
            except ia.IsolaError:
                await anyio.sleep(0.05)
'''


@ON_LINUX
@pytest.mark.slow
def test_memory_maps_used_up_while_guests_enter_new_threads_end_nobody(anyio_backend_name: str) -> None:
    said = run_child(
        MAPS
        + """
gate = threading.Event()
said = set()

async def hold(sandbox):
    try:
        await sandbox.run("hold")
    except Exception as error:
        said.add("told" if isinstance(error, ia.IsolaError) else repr(error))

async def main():
    async with ia.SandboxContext(max_parallel=200) as context:
        template = await context.build_template("js")
        sandboxes = []
        for _ in range(60):
            sandbox = template.create(hostcalls={"hold": lambda payload: gate.wait(60)})
            await sandbox.start()
            await sandbox.load_script(GUEST)
            sandboxes.append(sandbox)
        eater = Eater()
        eater.eat(LIMIT)
        async with anyio.create_task_group() as group:
            for sandbox in sandboxes:
                group.start_soon(hold, sandbox)
                await anyio.sleep(0.03)  # a thread that cannot be had is tried for a second
                eater.give_back(1)
            eater.give_back(LIMIT)
            gate.set()
        print(*sorted(said))
        for sandbox in sandboxes:
            await sandbox.aclose()
        print(await ping(template))

anyio.run(main, backend=backend)
print("end")
""",
        anyio_backend_name,
        options=("-W", "ignore"),
    )
    assert said in ("told\n2\n", "\n2\n")


@ON_LINUX
@pytest.mark.slow
def test_near_the_limit_of_memory_maps_sandboxes_are_refused_and_those_there_go_on(anyio_backend_name: str) -> None:
    said = run_child(
        MAPS
        + """
async def main():
    template = await ia.build_template("js")
    async with template.create() as sandbox:
        await sandbox.load_script(GUEST)
        eater = Eater()
        eater.eat(LIMIT * 4 // 10)
        with anyio.fail_after(60):
            while True:
                try:
                    async with template.create():
                        await anyio.sleep(0.1)
                except ia.IsolaError as error:
                    print(error)
                    break
        print(await sandbox.run("ping", 1))
        eater.give_back(LIMIT)
        print(await ping(template))

anyio.run(main, backend=backend)
print("end")
""",
        anyio_backend_name,
    )
    error, *values = said.splitlines()
    assert error.startswith("no room for another sandbox")
    assert "vm.max_map_count" in error
    assert values == ["1", "2"]


@ON_LINUX
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="becomes a user who has no other threads")
def test_near_the_limit_of_threads_sandboxes_are_refused_and_then_threads(anyio_backend_name: str) -> None:
    said = run_child(
        """
        import os, resource, threading
        gate = threading.Event()
        told = []

        async def hold(sandbox):
            try:
                await sandbox.run("hold")
            except ia.IsolaError as error:
                told.append(str(error))

        async def main():
            template = await ia.SandboxContext(max_parallel=100).build_template("js")
            async def make():
                sandbox = template.create(hostcalls={"hold": lambda payload: gate.wait(60) and None})
                await sandbox.start()
                await sandbox.load_script("async function hold() { return await hostcall('hold', 1) }")
                return sandbox
            sandboxes = [await make() for _ in range(60)]
            resource.setrlimit(resource.RLIMIT_NPROC, (60, 60))
            os.setuid(65534)
            async with anyio.create_task_group() as group:
                for sandbox in sandboxes:
                    group.start_soon(hold, sandbox)
                    await anyio.sleep(0.01)
                with anyio.fail_after(60):
                    while not told:
                        await anyio.sleep(0.01)
                    while True:
                        try:
                            sandboxes.append(await make())
                        except ia.IsolaError as error:
                            print(error)
                            break
                gate.set()
            print(told[0])
            for sandbox in sandboxes:
                await sandbox.aclose()

        anyio.run(main, backend=sys.argv[1])
        print("end")
        """,
        anyio_backend_name,
    )
    sandbox, thread = said.splitlines()
    assert sandbox.startswith("no room for another sandbox")
    assert thread.startswith("no room for another guest thread")
    assert "RLIMIT_NPROC" in sandbox
    assert "RLIMIT_NPROC" in thread


async def test_a_guest_that_waits_in_a_plain_handler_needs_no_thread_of_anybody_elses(fresh: SandboxTemplate) -> None:
    """With every slot's thread blocked, others get threads of their own; all of them end."""
    gate = threading.Event()

    def hold(_payload: Any) -> int:
        gate.wait(60)
        return 1

    async with fresh.create(hostcalls={"hold": hold}) as first, fresh.create() as other:
        await first.load_script(GUEST)
        await other.load_script(GUEST)
        async with anyio.create_task_group() as group:
            group.start_soon(first.run, "hold")
            assert await other.run("ping", 3) == 3
            gate.set()
