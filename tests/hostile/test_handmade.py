"""Guests made by hand: WebAssembly whose allocator and whose turns do what no honest compiler's would.

What a hand-made runtime gives to every import is in ``test_handmade_imports.py``; here it attacks the seam: the
calls the host makes of a guest while it holds something.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
import wasmtime

from isola_anyio import GuestError, IsolaError, Sandbox, SandboxContext
from tests.loops import ONE_LOOP
from tests.waiting import cancel_when, computing, until

TURN = "(i32.load (i32.const 512))"
"""How many turns there were, the two of the build included: it is in memory, which a fork inherits."""
ALLOCATED = "(i32.load (i32.const 516))"
FRAME = "(call $door (i32.const 600) (i32.const {length}) (i32.const 700) (i32.const 704))"

pytestmark = pytest.mark.slow  # each compiles a runtime of its own


def module(*, alloc: str = "", turn: str = "", data: str = "", extra: str = "") -> bytes:
    """A guest with the exports a Python runtime must have; ``data`` stands at 600."""
    return bytes(
        wasmtime.wat2wasm(f"""(module
        (import "host" "call" (func $door (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (memory (export "memory") 4 64)
        (data (i32.const 600) "{data}")
        {extra}
        (func $alloc (export "host_alloc") (param $n i32) (result i32)
            (i32.store (i32.const 516) (i32.add {ALLOCATED} (i32.const 1)))
            (if (i32.gt_u {TURN} (i32.const 1)) (then {alloc}))
            (i32.const 1024))
        (func (export "turn") (param $p i32) (param $n i32) (result i32)
            (i32.store (i32.const 512) (i32.add {TURN} (i32.const 1)))
            (if (i32.gt_u {TURN} (i32.const 2)) (then {turn}))
            (i32.const 0)))""")
    )


@asynccontextmanager
async def sandbox_of(wasm: bytes, tmp_path: Path) -> AsyncGenerator[Sandbox]:
    lib = tmp_path / "lib"
    lib.mkdir(exist_ok=True)
    (lib / "python-stdlib.zip").write_bytes(b"PK\5\6" + bytes(18))
    path = tmp_path / "python-snapshot.wasm"
    path.write_bytes(wasm)
    async with SandboxContext(cache_dir=None) as context:
        template = await context.build_template("python", runtime_path=path, runtime_lib_dir=lib)
        async with template.create() as sandbox:
            yield sandbox
        await until(lambda: not context._pool.busy)  # a thread tells the loop before it takes its next work
        template.close()


async def test_an_allocator_that_never_comes_back_is_interrupted_and_blocks_nobody(tmp_path: Path) -> None:
    gaps = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await anyio.sleep(0.005)
            gaps.append(time.monotonic() - before)

    async with (
        sandbox_of(module(alloc="(loop $again (br $again))"), tmp_path) as sandbox,
        anyio.create_task_group() as group,
    ):
        group.start_soon(tick)
        await cancel_when(partial(computing, 0.2), lambda: sandbox.run("anything"))
        assert sandbox.broken
        group.cancel_scope.cancel()
    assert len(gaps) > 20, "the event loop stood still while the allocator ran"


@ONE_LOOP
@pytest.mark.parametrize(
    "alloc",
    [
        "(drop (call $door (i32.const 600) (i32.const 9) (i32.const 700) (i32.const 704)))",
        "(drop (call $alloc (local.get $n)))",
        "(unreachable)",
        "(return (i32.const 0))",
        "(return (i32.const -1))",
        "(return (i32.const 262143))",
        "(drop (memory.grow (i32.const 1)))",
        "(drop (memory.grow (i32.const -1)))",
        "(drop (call $poll (i32.const 600) (i32.const 600) (i32.const -1) (i32.const 600)))",
    ],
    ids=["knocks", "recurses", "traps", "has none", "lies", "ends the memory", "grows", "grows too far", "waits"],
)
async def test_an_allocator_that_does_more_than_allocate_harms_only_its_guest(tmp_path: Path, alloc: str) -> None:
    wasm = module(alloc=alloc, turn=f"(drop {FRAME.format(length=9)})", data=r"\10\01\00\00\00\02\00ab")
    async with sandbox_of(wasm, tmp_path) as sandbox:
        with anyio.fail_after(5), pytest.raises(IsolaError) as caught:
            await sandbox.run("anything")
        assert isinstance(caught.value, GuestError), caught.value


@ONE_LOOP
async def test_a_door_that_is_knocked_on_from_inside_itself_ends_the_guest_and_not_the_stack(tmp_path: Path) -> None:
    # Every reply needs memory, and the allocator knocks again: host and guest call one another until the stack ends.
    wasm = module(
        alloc=f"(drop {FRAME.format(length=9)})",
        turn=f"(drop {FRAME.format(length=9)})",
        data=r"\10\01\00\00\00\02\00ab",
    )
    async with sandbox_of(wasm, tmp_path) as sandbox:
        with anyio.fail_after(20), pytest.raises(GuestError):
            await sandbox.run("anything")


@ONE_LOOP
@pytest.mark.parametrize("length", [0, 1, 4, 5, 6, 65536, 262144 - 600, 262144, -1])
async def test_a_frame_of_any_length_and_noise_harms_only_its_guest(tmp_path: Path, length: int) -> None:
    data = r"\13\01\00\00\00\fe\01\01\00\ff\ff\ff\ff\ff\ff\ff\ff"
    async with sandbox_of(module(turn=f"(drop {FRAME.format(length=length)})", data=data), tmp_path) as sandbox:
        with anyio.fail_after(5), pytest.raises(GuestError):
            await sandbox.run("anything")


async def test_randomness_for_all_of_memory_can_be_cancelled(tmp_path: Path) -> None:
    wasm = module(turn="(loop $again (drop (call $random (i32.const 1024) (i32.const 200000))) (br $again))")
    async with sandbox_of(wasm, tmp_path) as sandbox:
        cancelled_at = await cancel_when(partial(computing, 0.05), lambda: sandbox.run("anything"))
        assert time.perf_counter() - cancelled_at < 0.2
