"""What can a hand-made runtime do that gives bad pointers to every import, or never comes back?"""

from __future__ import annotations

import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import wasmtime

from isola_anyio import IsolaError, RuntimeUnavailableError, SandboxContext
from isola_anyio.wasi.signatures import SIGNATURES
from tests.loops import ONE_LOOP
from tests.waiting import cancel_when, computing

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # each compiles a runtime of its own

IMPORTS = {
    **{("wasi_snapshot_preview1", name): params for name, (params, result) in SIGNATURES.items() if result},
    ("host", "call"): "iiii",
}
BAD = ["0", "1", "65535", "65536", "-1", "-8", "-2147483648", "2147483647", "1048575", "8"]


TURNS = "(i32.load (i32.const 512))"
"""How many turns there were, the two of the build included: it is in memory, which a fork inherits."""


def module(body: str = "", *, start: str = "", alloc: str = "(i32.const 1024)", turn: str = "(i32.const 0)") -> bytes:
    lines = []
    for index, ((where, name), params) in enumerate(IMPORTS.items()):
        types = " ".join({"i": "i32", "I": "i64"}[kind] for kind in params)
        lines.append(f'(import "{where}" "{name}" (func $f{index} (param {types}) (result i32)))')
    return bytes(
        wasmtime.wat2wasm(f"""(module {" ".join(lines)}
        (memory (export "memory") 16 4096)
        {body}
        (func (export "host_alloc") (param $n i32) (result i32) {alloc})
        (func (export "turn") (param $p i32) (param $n i32) (result i32)
            (i32.store (i32.const 512) (i32.add {TURNS} (i32.const 1)))
            {turn})
        {start})""")
    )


def bad_calls(seed: int) -> str:
    """Call every import with every bad number in some places."""
    calls = []
    for index, ((_, name), params) in enumerate(IMPORTS.items()):
        if name == "proc_exit":
            continue
        for shift in range(len(BAD)):
            values = [BAD[(seed + shift * (place + 1) + place) % len(BAD)] for place in range(len(params))]
            args = " ".join(
                f"({'i32' if kind == 'i' else 'i64'}.const {value})" for kind, value in zip(params, values, strict=True)
            )
            calls.append(f"(drop (call $f{index} {args}))")
    return " ".join(calls)


@pytest.fixture
def lib_dir(tmp_path: Path) -> Path:
    import zipfile

    library = tmp_path / "lib"
    library.mkdir()
    with zipfile.ZipFile(library / "python-stdlib.zip", "w") as archive:
        archive.writestr("nothing.py", "")
    return library


async def build(context: SandboxContext, tmp_path: Path, lib_dir: Path, wasm: bytes) -> Any:
    path = tmp_path / "python-snapshot.wasm"
    path.write_bytes(wasm)
    return await context.build_template(
        "python", runtime_path=path, runtime_lib_dir=lib_dir, cache_dir=None, max_memory=64 << 20
    )


async def attempt(tmp_path: Path, lib_dir: Path, wasm: bytes) -> str:
    """Build a template, fork a sandbox, run something; name how it ended."""
    async with SandboxContext() as context:
        try:
            template = await build(context, tmp_path, lib_dir, wasm)
        except IsolaError as exc:
            return f"build: {type(exc).__name__}: {exc}"
        try:
            async with template.create() as sandbox:
                try:
                    await sandbox.run("f")
                except IsolaError as exc:
                    return f"run: {type(exc).__name__}: {exc}"
                return "run: value"
        finally:
            template.close()


@ONE_LOOP
@pytest.mark.parametrize("seed", range(len(BAD)))
async def test_bad_pointers_to_every_import_are_errors_of_the_guest(tmp_path: Path, lib_dir: Path, seed: int) -> None:
    # Booting and freezing are two turns; the rest is a run's.
    turn = f"(if (i32.gt_u {TURNS} (i32.const 2)) (then {bad_calls(seed)})) (i32.const 0)"
    outcome = await attempt(tmp_path, lib_dir, module(turn=turn))
    assert re.match("run: GuestError", outcome), outcome


@ONE_LOOP
@pytest.mark.parametrize("answer", ["0", "-1", "-16", "1048570", "1048576", "2147483647"])
async def test_an_allocator_that_lies_is_an_error_of_the_guest(tmp_path: Path, lib_dir: Path, answer: str) -> None:
    alloc = f"(if (result i32) (i32.gt_u {TURNS} (i32.const 2)) (then (i32.const {answer})) (else (i32.const 1024)))"
    outcome = await attempt(tmp_path, lib_dir, module(alloc=alloc))
    assert outcome.startswith("run: "), outcome
    assert "InternalError" not in outcome


@pytest.mark.parametrize("place", ["turn", "alloc"])
async def test_a_runtime_that_never_comes_back_is_cancelled_and_blocks_nobody(
    tmp_path: Path, lib_dir: Path, place: str
) -> None:
    spin = f"(if (i32.gt_u {TURNS} (i32.const 2)) (then (loop $l (br $l))))"
    wasm = module(**{place: spin + ("(i32.const 0)" if place == "turn" else "(i32.const 1024)")})
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await anyio.sleep(0.01)
            beats += 1

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        cancelled_at = await cancel_when(partial(computing, 0.4), lambda: attempt(tmp_path, lib_dir, wasm))
        took_s = time.perf_counter() - cancelled_at
        group.cancel_scope.cancel()
    assert beats > 20
    assert took_s < 4


@ONE_LOOP
@pytest.mark.parametrize(
    "trap",
    [
        "unreachable",
        "(i32.store (i32.const -4) (i32.const 1)) (i32.const 0)",
        "(i32.div_u (i32.const 1) (i32.const 0))",
        "(call $deep) (i32.const 0)",
    ],
)
async def test_every_kind_of_trap_is_an_error_of_the_guest(tmp_path: Path, lib_dir: Path, trap: str) -> None:
    turn = f"(if (i32.gt_u {TURNS} (i32.const 2)) (then (drop (block (result i32) {trap})))) (i32.const 0)"
    outcome = await attempt(tmp_path, lib_dir, module("(func $deep (call $deep))", turn=turn))
    assert re.match("run: GuestError: (Trap|RecursionError)", outcome), outcome


TURN = '(func (export "turn") (param i32 i32) (result i32) (i32.const 0))'
ALLOC = '(func (export "host_alloc") (param i32) (result i32) (i32.const 0))'
MEMORY = '(memory (export "memory") 1)'


@ONE_LOOP
@pytest.mark.parametrize(
    ("wat", "words"),
    [
        ("(module)", "memory"),
        (f"(module {MEMORY} {ALLOC})", "turn"),
        (f"(module {MEMORY} {TURN})", "host_alloc"),
        (f"(module {MEMORY} {ALLOC} {TURN.replace('i32 i32', 'i32')})", "turn"),
        (f'(module (import "evil" "f" (func)) {MEMORY} {TURN} {ALLOC})', "evil"),
        (f'(module (import "host" "call" (func (param i64))) {MEMORY} {TURN} {ALLOC})', "host"),
    ],
)
async def test_a_runtime_that_lacks_what_is_needed_is_refused_saying_what(
    tmp_path: Path, lib_dir: Path, wat: str, words: str
) -> None:
    async with SandboxContext() as context:
        with pytest.raises(RuntimeUnavailableError, match=words):
            await build(context, tmp_path, lib_dir, bytes(wasmtime.wat2wasm(wat)))
        with pytest.raises(RuntimeUnavailableError):
            await build(context, tmp_path, lib_dir, b"not wasm at all")
