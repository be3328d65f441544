"""A runtime of one's own that starts itself: it would run in the event loop, where nobody could stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
import wasmtime

from isola_anyio import RuntimeUnavailableError, SandboxContext

if TYPE_CHECKING:
    from pathlib import Path

ENDLESS = """(module
    (memory (export "memory") 1)
    (func (export "host_alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "turn") (param i32 i32) (result i32) (i32.const 0))
    (func $start (loop $again (br $again)))
    (start $start))"""


async def test_an_endless_start_function_is_refused_before_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "python-snapshot.wasm"
    path.write_bytes(bytes(wasmtime.wat2wasm(ENDLESS)))
    (tmp_path / "python-stdlib.zip").write_bytes(b"PK\5\6" + bytes(18))
    async with SandboxContext(cache_dir=None) as context:
        with anyio.fail_after(60), pytest.raises(RuntimeUnavailableError, match="start function"):
            await context.build_template("python", runtime_path=path)
