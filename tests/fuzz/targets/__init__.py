"""Targets: everything that reads a guest's bytes, as functions of bytes."""

from __future__ import annotations

from tests.fuzz.harness import Target
from tests.fuzz.targets import decode, frames, wasi, wasm

TARGETS: dict[str, Target] = {"frames": frames.frames, "wasi": wasi.wasi, "decode": decode.decode, "wasm": wasm.wasm}
