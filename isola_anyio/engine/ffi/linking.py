"""Engines, linkers and programs: what is made once and shared by many stores."""

from __future__ import annotations

__all__ = ["Code", "Engine", "Host", "Linker", "Program", "current", "engine_fingerprint"]

import ctypes
import hashlib
import platform
import struct
import sys
import threading
from ctypes import c_size_t, c_ubyte, c_void_p
from importlib.metadata import version as installed_version
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

import wasmtime

from isola_anyio.engine.ffi.backing import READ_BYTES, Backing
from isola_anyio.engine.ffi.fairness import LONG_CALL_S, host_call_took
from isola_anyio.engine.ffi.raw import (
    ASYNC_STACK_BYTES,
    HOST_CALLBACK,
    MAX_PARAMS,
    MAX_WASM_STACK_BYTES,
    VAL_BYTES,
    UnusableCodeError,
    c_define_unchecked,
    c_increment_epoch,
    c_linker_instantiate_pre,
    c_pre_delete,
    c_trap_new,
    quick_dll,
    raw_function,
    take_error,
)
from isola_anyio.engine.ffi.signals import generation
from isola_anyio.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def engine_fingerprint(*, metered: bool) -> str:
    """Name everything that compiled code depends on besides the module: a key for caches, 32 hex digits."""
    parts = [
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
        set_async_stack = raw_function(quick_dll, "wasmtime_config_async_stack_size_set", None, c_void_p, c_size_t)
        set_async_stack(ctypes.cast(config.ptr(), c_void_p), ASYNC_STACK_BYTES)
        config.max_wasm_stack = MAX_WASM_STACK_BYTES
        self.metered = metered
        self.generation = generation()
        self._engine = wasmtime.Engine(config)
        self._ptr = ctypes.cast(self._engine.ptr(), c_void_p)

    def increment_epoch(self) -> None:
        """Move the epoch: every running guest of this engine looks at its own interrupt flag, once."""
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
            if path.stat().st_size <= READ_BYTES:
                return Code(wasmtime.Module.deserialize(self._engine, path.read_bytes()), None)
            backing = Backing.open(path)
            return Code(wasmtime.Module.deserialize_file(self._engine, str(path)), backing)
        except wasmtime.WasmtimeError as exc:
            raise UnusableCodeError(str(exc)) from None


class Host(Protocol):
    """What a linker needs of the instance that is running: its host functions, and a place for their exception."""

    handlers: Sequence[Callable[..., Any]]
    fault: BaseException | None


class _Current(threading.local):
    host: Host | None = None


current: Final = _Current()
_views: Final[dict[int, memoryview]] = {}
_MAX_VIEWS: Final = 256

_HOST_MESSAGE: Final = b"host function failed"
_write_i32: Final = struct.Struct("<I").pack_into


def _vals(address: int) -> memoryview:
    """View the value array at ``address`` (a host call's frame: the same few addresses come back)."""
    view = _views.get(address)
    if view is None:
        if len(_views) >= _MAX_VIEWS:
            _views.clear()
        view = memoryview((c_ubyte * (VAL_BYTES * MAX_PARAMS)).from_address(address)).cast("B")
        _views[address] = view
    return view


def _host_callback(index: int, params: str, *, result: bool) -> Any:
    """Make the C callback of one host function: read the arguments, call the running instance's handler.

    ``params`` has one character for each parameter: ``i`` (32 bits) or ``I`` (64 bits); both arrive unsigned.
    """
    unpack = struct.Struct("<" + "".join("I12x" if kind == "i" else "Q8x" for kind in params)).unpack_from
    get_view = _views.get

    def callback(_env: int, _caller: int, values: int, _count: int) -> int:
        began = perf_counter()
        host = current.host
        try:
            view = get_view(values)
            if view is None:
                view = _vals(values)
            answer = host.handlers[index](*unpack(view))  # type: ignore[union-attr]
            if result:
                _write_i32(view, 0, answer)
            ended = perf_counter()
            if ended - began > LONG_CALL_S:
                host_call_took(began, ended)
        except BaseException as exc:  # noqa: BLE001 - nothing may be raised through a C frame
            if host is not None:
                host.fault = exc
            return int(c_trap_new(_HOST_MESSAGE, len(_HOST_MESSAGE)))
        return 0

    return HOST_CALLBACK(callback)


class Linker:
    """Host functions of one kind of guest, defined once per engine and shared by all its instances.

    ``functions`` is a list of ``(module, name, params, has_result)``; an instance's ``handlers`` stand in its order.
    """

    def __init__(self, engine: Engine, functions: Sequence[tuple[str, str, str, bool]]) -> None:
        self._engine = engine
        self._linker = wasmtime.Linker(engine._engine)  # noqa: SLF001 - same module
        self._ptr = ctypes.cast(self._linker.ptr(), c_void_p)
        self._callbacks: list[Any] = []  # the C side keeps only addresses
        for index, (module, name, params, result) in enumerate(functions):
            self._define(index, module.encode(), name.encode(), params, result=result)

    def _define(self, index: int, module: bytes, name: bytes, params: str, *, result: bool) -> None:
        kinds = [wasmtime.ValType.i32() if kind == "i" else wasmtime.ValType.i64() for kind in params]
        functype = wasmtime.FuncType(kinds, [wasmtime.ValType.i32()] if result else [])
        callback = _host_callback(index, params, result=result)
        self._callbacks.append(callback)
        error = c_define_unchecked(
            self._ptr,
            *(module, len(module), name, len(name)),
            ctypes.cast(functype.ptr(), c_void_p),
            ctypes.cast(callback, c_void_p),
            None,
            None,
        )
        if error:
            raise InternalError(f"wasmtime refused to define {module!r}.{name!r}: {take_error(error)}")

    def prepare(self, code: Code) -> Program:
        """Resolve a module's imports once.

        Raises:
            LookupError: the module imports something this linker does not define; the text names it.
        """
        pre = c_void_p()
        error = c_linker_instantiate_pre(self._ptr, ctypes.cast(code.module.ptr(), c_void_p), ctypes.addressof(pre))
        if error:
            raise LookupError(take_error(error))
        return Program(self._engine, self, code, pre)


class Program:
    """A module with its imports resolved, ready to be instantiated many times. Immutable, thread-safe.

    Its stores hold it, so that it is freed last, by whichever thread lets go of it.
    """

    def __init__(self, engine: Engine, linker: Linker, code: Code, pre: c_void_p) -> None:
        self.engine = engine
        self.code = code
        self._linker = linker  # keeps the callbacks alive
        self.pre = pre
        self._delete_pre = c_pre_delete  # at the interpreter's end the module's names may be gone

    def __del__(self) -> None:
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
