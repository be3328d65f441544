"""Engines, code and programs: what is made once and shared by many stores."""

from __future__ import annotations

__all__ = ["Code", "Engine", "Program", "engine_fingerprint"]

import ctypes
import hashlib
import platform
import sys
from ctypes import c_size_t, c_void_p
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

import wasmtime

from isola_anyio.engine.ffi.backing import READ_BYTES, Backing
from isola_anyio.engine.ffi.raw import (
    ASYNC_STACK_BYTES,
    MAX_WASM_STACK_BYTES,
    UnusableCodeError,
    c_increment_epoch,
    c_pre_delete,
    quick_dll,
    raw_function,
)
from isola_anyio.engine.ffi.signals import generation

if TYPE_CHECKING:
    from pathlib import Path


def engine_fingerprint(*, metered: bool) -> str:
    """Name everything that compiled code depends on besides the module: a key for caches, 32 hex digits."""
    parts = [
        # Whatever decides about the machine code. What is missing here would be found by running code that does not
        # fit.
        installed_version("wasmtime"),
        sys.platform,
        platform.machine(),
        _cpu_features(),
        f"metered={metered}",
        f"stack={MAX_WASM_STACK_BYTES}",
        "epoch,exceptions,1",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _cpu_features() -> str:
    """Return the processor's feature list where the platform shows it; compiled code uses what it finds there."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:  # noqa: PTH123 - not a file of ours
            for line in lines:
                if line.startswith(("flags", "Features")):
                    return " ".join(sorted(line.partition(":")[2].split()))
    except OSError:
        pass
    return platform.processor()


class Code:
    """A module's native code, ready to be linked; ``backing`` is the file it is mapped from, if it is."""

    def __init__(self, module: wasmtime.Module, backing: Backing | None) -> None:
        self.module = module
        self.backing = backing


class Engine:
    """One compilation engine: its settings, its epoch. Thread-safe."""

    def __init__(self, *, metered: bool) -> None:
        config = wasmtime.Config()
        config.epoch_interruption = True
        config.wasm_exceptions = True
        config.consume_fuel = metered
        # No fiber is ever made; but the engine refuses a wasm stack that is larger than those of fibers.
        set_async_stack = raw_function(quick_dll, "wasmtime_config_async_stack_size_set", None, c_void_p, c_size_t)
        set_async_stack(ctypes.cast(config.ptr(), c_void_p), ASYNC_STACK_BYTES)
        config.max_wasm_stack = MAX_WASM_STACK_BYTES
        self.metered = metered
        # Before the engine, whose threads a fork would leave behind: a fork between the two is noticed.
        self.generation = generation()
        self._engine = wasmtime.Engine(config)
        self._ptr = ctypes.cast(self._engine.ptr(), c_void_p)

    def increment_epoch(self) -> None:
        """Move the epoch: every running guest of this engine looks at its own interrupt flag, once."""
        # From any thread, a signal handler included: one atomic addition, which wakes nobody. A guest sees it at its
        # next check, at a function's entry or a loop's end, which is within microseconds.
        c_increment_epoch(self._ptr)

    def compile_to(self, wasm: bytes, target: Path) -> None:
        """Compile and write the native code to ``target``; takes from half a second to a minute of all cores."""
        target.write_bytes(wasmtime.Module(self._engine, wasm).serialize())

    def load(self, path: Path) -> Code:
        """Take over code made by :meth:`compile_to`; the file must be trusted: it is run as it is.

        A large file is mapped; see ``backing.py``.

        Raises:
            OSError: the file cannot be read.
            UnusableCodeError: the file was made by another version, for other settings or another processor.
        """
        try:
            # The descriptor is opened before the file is mapped, so that a change in between is noticed as one after
            # it.
            if path.stat().st_size <= READ_BYTES:
                return Code(wasmtime.Module.deserialize(self._engine, path.read_bytes()), None)
            backing = Backing.open(path)
            return Code(wasmtime.Module.deserialize_file(self._engine, str(path)), backing)
        except wasmtime.WasmtimeError as exc:
            raise UnusableCodeError(str(exc)) from None


class Program:
    """A module with its imports resolved, ready to be instantiated many times. Immutable, thread-safe.

    Its stores hold it, so that it is freed last, by whichever thread lets go of it.
    """

    def __init__(self, engine: Engine, code: Code, pre: c_void_p, keep: object) -> None:
        self.engine = engine
        self.code = code
        self._keep = keep  # the linker: the C side has only the addresses of its callbacks
        # Owned: freed by `__del__`, after the last store, each of which holds its program.
        self.pre = pre
        self._delete_pre = c_pre_delete  # at the interpreter's end the module's names may be gone

    def __del__(self) -> None:
        # On any thread, the collector's too. Everything that is needed is in fields.
        if self.changed:
            self.code.module._consume()  # noqa: SLF001 - the seam; to free it would touch what was cut off
        else:
            self._delete_pre(self.pre)

    @property
    def changed(self) -> bool:
        """Whether the file that the code is mapped from was written to: it must not be instantiated again."""
        return self.code.backing is not None and self.code.backing.changed

    def exports(self) -> dict[str, str]:
        """Name every export with its type: ``"memory"`` or a signature such as ``"ii>i"``; others are left out."""
        kinds = {"i32": "i", "i64": "I", "f32": "f", "f64": "F"}
        found: dict[str, str] = {}
        for export in self.code.module.exports:
            type_ = export.type
            if isinstance(type_, wasmtime.FuncType):
                params = "".join(kinds.get(str(kind), "?") for kind in type_.params)
                found[export.name] = params + ">" + "".join(kinds.get(str(kind), "?") for kind in type_.results)
            elif isinstance(type_, wasmtime.MemoryType):
                found[export.name] = "memory"
        return found
