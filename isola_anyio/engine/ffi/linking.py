"""Linkers: host functions, defined once for each engine and kind of guest."""

from __future__ import annotations

__all__ = ["Linker"]

import ctypes
from ctypes import c_void_p
from typing import TYPE_CHECKING, Any

import wasmtime

from isola_anyio.engine.ffi.programs import Program
from isola_anyio.engine.ffi.raw import c_define_unchecked, c_linker_instantiate_pre, take_error
from isola_anyio.engine.ffi.store import host_callback
from isola_anyio.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isola_anyio.engine.ffi.programs import Code, Engine


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
        # Kept as long as the linker, and that as long as its programs: the C side would call into freed memory.
        callback = host_callback(index, params, result=result)
        self._callbacks.append(callback)
        # Unchecked: arguments come as raw values, without wasmtime looking at each one's type; the types are those
        # above.
        error = c_define_unchecked(
            self._ptr,
            *(module, len(module), name, len(name)),
            ctypes.cast(functype.ptr(), c_void_p),
            ctypes.cast(callback, c_void_p),
            # No environment and no finalizer: the callback finds its store through `fairness.current`.
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
        # Names are resolved here, once for all instances.
        pre = c_void_p()
        error = c_linker_instantiate_pre(self._ptr, ctypes.cast(code.module.ptr(), c_void_p), ctypes.addressof(pre))
        if error:
            raise LookupError(take_error(error))
        return Program(self._engine, code, pre, keep=self)
