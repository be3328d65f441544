"""C functions: which are called, and how their failures are read; ctypes, declared once.

``dll[name]`` makes a fresh function object each time, so wasmtime-py's own argtypes stay as they are. ``quick_dll``
keeps the GIL: right for calls that take less than a microsecond and never run guest code. ``blocking_dll`` releases it.
"""

from __future__ import annotations

__all__ = [
    "ASYNC_STACK_BYTES",
    "CHECKED_ON",
    "EPOCH_CALLBACK",
    "EXTERN_FUNC",
    "EXTERN_MEMORY",
    "HOST_CALLBACK",
    "MAX_PARAMS",
    "MAX_TABLE_ELEMENTS",
    "MAX_WASM_STACK_BYTES",
    "PAGE_BYTES",
    "RESERVATION_BYTES",
    "TRAP_OUT_OF_FUEL",
    "VAL_BYTES",
    "FuelExhausted",
    "GuestTrap",
    "StoreInterrupted",
    "UnusableCodeError",
    "blocking_dll",
    "c_byte_vec_delete",
    "c_define_unchecked",
    "c_error_delete",
    "c_error_message",
    "c_error_new",
    "c_export_get",
    "c_get_fuel",
    "c_increment_epoch",
    "c_linker_instantiate_pre",
    "c_memory_data",
    "c_memory_data_size",
    "c_memory_grow",
    "c_pre_delete",
    "c_pre_instantiate",
    "c_set_epoch_callback",
    "c_set_epoch_deadline",
    "c_set_fuel",
    "c_store_context",
    "c_store_delete",
    "c_store_limiter",
    "c_store_new",
    "c_trap_code",
    "c_trap_delete",
    "c_trap_message",
    "c_trap_new",
    "libc",
    "quick_dll",
    "raw_function",
    "take_error",
    "take_trap",
]

import ctypes
import os
from ctypes import c_size_t, c_uint8, c_uint64, c_void_p
from importlib.metadata import version as installed_version
from typing import Any, Final

import wasmtime
from wasmtime import _bindings, _ffi

CHECKED_ON: Final = ("50.0.1",)
"""wasmtime-py releases every private name below was checked on."""

_PRIVATE_NAMES: Final[tuple[tuple[object, str], ...]] = (
    (_ffi, "filename"),
    (_bindings, "wasm_functype_new"),
    (_bindings, "wasm_functype_delete"),
    (_bindings, "wasm_valtype_new"),
    (_bindings, "wasm_valtype_vec_new"),
    (_bindings, "wasm_valtype_vec_t"),
    (_bindings, "wasm_valtype_t"),
    (_bindings, "wasm_byte_vec_t"),
    (_bindings, "wasmtime_extern"),
    (_bindings, "wasmtime_func"),
    (_bindings, "wasmtime_memory"),
    (_bindings, "wasmtime_instance"),
    (wasmtime.Engine, "ptr"),
    (wasmtime.Module, "ptr"),
    (wasmtime.Module, "_consume"),
    (wasmtime.Config, "ptr"),
    (wasmtime.Linker, "ptr"),
)
_missing: Final = [
    f"{getattr(where, '__name__', where)}.{name}" for where, name in _PRIVATE_NAMES if not hasattr(where, name)
]
if _missing:
    raise ImportError(
        f"isola_anyio drives wasmtime through private names, checked on {', '.join(CHECKED_ON)}; wasmtime "
        f"{installed_version('wasmtime')} lacks {', '.join(_missing)}: install a wasmtime inside the range that "
        "isola_anyio declares"
    )

MAX_WASM_STACK_BYTES: Final = 8 << 20
"""Guest stack; CPython's own recursion limits assume about this much."""
ASYNC_STACK_BYTES: Final = 12 << 20
"""Must exceed ``MAX_WASM_STACK_BYTES`` or the engine refuses its configuration, although no fiber is ever made."""
MAX_TABLE_ELEMENTS: Final = 1 << 20
"""Elements a guest's tables may hold (8 bytes of host memory each)."""
PAGE_BYTES: Final = 65536
# What wasmtime reserves for a 32-bit memory on 64-bit machines: growing never moves it, so one view lasts for its life.
RESERVATION_BYTES: Final = 1 << 32
# `sizeof(wasmtime_val_raw_t)`, a union with a 128-bit vector in it.
VAL_BYTES: Final = 16
MAX_PARAMS: Final = 9  # path_open, the widest of preview 1
EXTERN_FUNC: Final = 0
EXTERN_MEMORY: Final = 3
TRAP_OUT_OF_FUEL: Final = 11
# In the order of `wasmtime_trap_code_enum`.
_TRAP_NAMES: Final = (
    "stack overflow",
    "out of bounds memory access",
    "misaligned memory access",
    "out of bounds table access",
    "indirect call to null",
    "indirect call of a wrong type",
    "integer overflow",
    "integer division by zero",
    "invalid conversion to integer",
    "unreachable instruction executed",
    "interrupt",
    "out of fuel",
)

# PyDLL: with the GIL, so that `errno` and the buffers that calls share are nobody else's meanwhile.
libc: Final[Any] = ctypes.PyDLL(None, use_errno=True) if os.name == "posix" else None
quick_dll: Final = ctypes.PyDLL(str(_ffi.filename))
# The same library a second time: whether a call gives the GIL up is a matter of the handle it is called through.
blocking_dll: Final = ctypes.CDLL(str(_ffi.filename))


def raw_function(dll: Any, name: str, restype: Any, *argtypes: Any) -> Any:
    """Declare one C function; without ``argtypes`` prepared arguments are passed as they are."""
    # By item and not by attribute: an attribute is one object for everybody, and wasmtime-py has put its argtypes
    # there.
    function = dll[name]
    function.restype = restype
    if argtypes:
        function.argtypes = argtypes
    return function


c_store_new = raw_function(quick_dll, "wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
c_store_context = raw_function(quick_dll, "wasmtime_store_context", c_void_p, c_void_p)
# Unmapping a guest's pages takes milliseconds: without the GIL.
c_store_delete = raw_function(blocking_dll, "wasmtime_store_delete", None, c_void_p)
c_store_limiter = raw_function(quick_dll, "wasmtime_store_limiter", None, c_void_p, *(ctypes.c_int64,) * 5)
c_set_epoch_callback = raw_function(
    quick_dll, "wasmtime_store_epoch_deadline_callback", None, c_void_p, c_void_p, c_void_p, c_void_p
)
c_set_epoch_deadline = raw_function(quick_dll, "wasmtime_context_set_epoch_deadline", None, c_void_p, c_uint64)
c_set_fuel = raw_function(quick_dll, "wasmtime_context_set_fuel", c_void_p, c_void_p, c_uint64)
c_get_fuel = raw_function(quick_dll, "wasmtime_context_get_fuel", c_void_p, c_void_p, c_void_p)
# With the GIL: a start function would keep it for as long as it runs. Modules that have one are refused, see
# `runtimes/own.py`.
c_pre_instantiate = raw_function(
    quick_dll, "wasmtime_instance_pre_instantiate", c_void_p, c_void_p, c_void_p, c_void_p, c_void_p
)
c_linker_instantiate_pre = raw_function(
    quick_dll, "wasmtime_linker_instantiate_pre", c_void_p, c_void_p, c_void_p, c_void_p
)
c_pre_delete = raw_function(quick_dll, "wasmtime_instance_pre_delete", None, c_void_p)
c_export_get = raw_function(
    quick_dll, "wasmtime_instance_export_get", ctypes.c_bool, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p
)
c_memory_data = raw_function(quick_dll, "wasmtime_memory_data", c_void_p, c_void_p, c_void_p)
c_memory_data_size = raw_function(quick_dll, "wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)
c_memory_grow = raw_function(quick_dll, "wasmtime_memory_grow", c_void_p, c_void_p, c_void_p, c_uint64, c_void_p)
c_define_unchecked = raw_function(
    quick_dll,
    "wasmtime_linker_define_func_unchecked",
    c_void_p,
    *(c_void_p, ctypes.c_char_p, c_size_t, ctypes.c_char_p, c_size_t, c_void_p, c_void_p, c_void_p, c_void_p),
)
c_error_message = raw_function(quick_dll, "wasmtime_error_message", None, c_void_p, c_void_p)
c_error_delete = raw_function(quick_dll, "wasmtime_error_delete", None, c_void_p)
c_error_new = raw_function(quick_dll, "wasmtime_error_new", c_void_p, ctypes.c_char_p)
c_trap_new = raw_function(quick_dll, "wasmtime_trap_new", c_void_p, ctypes.c_char_p, c_size_t)
c_trap_delete = raw_function(quick_dll, "wasm_trap_delete", None, c_void_p)
c_trap_code = raw_function(quick_dll, "wasmtime_trap_code", ctypes.c_bool, c_void_p, c_void_p)
c_trap_message = raw_function(quick_dll, "wasm_trap_message", None, c_void_p, c_void_p)
c_byte_vec_delete = raw_function(quick_dll, "wasm_byte_vec_delete", None, c_void_p)
c_increment_epoch = raw_function(quick_dll, "wasmtime_engine_increment_epoch", None, c_void_p)

# `c_size_t` for what are pointers, as a result: ctypes gives a number for it, and never `None`.
HOST_CALLBACK: Final = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, c_size_t, c_size_t)
EPOCH_CALLBACK: Final = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, c_size_t, c_void_p)


class UnusableCodeError(Exception):
    """Compiled code was made by another version, for other settings or another processor."""


class GuestTrap(Exception):  # noqa: N818 - wasm's own word
    """The guest executed something wasm forbids; its store is dead."""


class FuelExhausted(Exception):  # noqa: N818 - says what happened
    """The store's fuel ran out; the store is dead."""


class StoreInterrupted(BaseException):
    """The guest was stopped; the store is dead. Not an ``Exception``, so that nothing on its way takes it for one."""


def take_error(error: int) -> str:
    """Return a ``wasmtime_error_t``'s message and free it."""
    vec = _bindings.wasm_byte_vec_t()
    # The message is copied; both it and the error are ours to free.
    c_error_message(error, ctypes.addressof(vec))
    c_error_delete(error)
    return _take_vec(vec)


def take_trap(trap: int) -> tuple[int, str]:
    """Return a ``wasm_trap_t``'s code (-1 for none) and message, and free it.

    The message is asked for only when there is no code: it names the frames, and naming the first one makes wasmtime
    read the module's name section, which took 150 ms once.
    """
    code = c_uint8()
    if c_trap_code(trap, ctypes.addressof(code)):
        c_trap_delete(trap)
        name = _TRAP_NAMES[code.value] if code.value < len(_TRAP_NAMES) else f"trap {code.value}"
        return code.value, name
    vec = _bindings.wasm_byte_vec_t()
    c_trap_message(trap, ctypes.addressof(vec))
    c_trap_delete(trap)
    return -1, _take_vec(vec)


def _take_vec(vec: Any) -> str:
    text = ctypes.string_at(vec.data, vec.size) if vec.size else b""
    c_byte_vec_delete(ctypes.addressof(vec))
    return text.rstrip(b"\0").decode("utf-8", "replace").splitlines()[0] if text.strip(b"\0\n ") else "unknown error"
