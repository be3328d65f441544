"""Small hand-made guests for tests of the seam."""

from __future__ import annotations

from typing import TYPE_CHECKING

import wasmtime

from isola_anyio.engine import ffi

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NUMBERS = """(module
  (import "host" "give" (func $give (param i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "ask") (param i32) (result i32) (call $give (local.get 0)))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "spin") (loop $again (br $again)))
  (func (export "unreachable") unreachable)
  (func (export "divide") (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
  (func (export "peek") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "poke") (param i32 i32) (i32.store (local.get 0) (local.get 1)))
  (func $deep (export "recurse") (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0))))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""

FUNCTIONS: Sequence[tuple[str, str, str, bool]] = (("host", "give", "i", True),)


def make_program(tmp_path: Path, wat: str = NUMBERS, *, metered: bool = False) -> ffi.Program:
    """Compile a text module through the same steps as a runtime."""
    engine = ffi.Engine(metered=metered)
    target = tmp_path / "code"
    engine.compile_to(bytes(wasmtime.wat2wasm(wat)), target)
    return ffi.Linker(engine, FUNCTIONS).prepare(engine.load(target))


def call(store: ffi.Store, name: str, signature: str, *args: int) -> int:
    """Call an export with the store as the running one."""
    export = store.export(name, signature)
    previous = store.enter()
    try:
        return export(*args)
    finally:
        store.leave(previous)
