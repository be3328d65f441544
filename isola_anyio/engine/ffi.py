"""Drive wasmtime's C library: the one module that touches ctypes and wasmtime-py's private names.

Everything hot goes through *prepared unchecked* calls (see ``docs/design.md``, "The seam"), everything cold through
wasmtime-py's public classes. The rules that keep it sound, each from a fault that was reproduced:

* Nothing is ever raised through a C frame. A host function's exception is kept with its instance, the C callback
  returns a trap, and the call that entered the guest raises what was kept. wasmtime-py's own trampolines, which keep
  exceptions in one process-wide slot, are not used.
* Host functions are defined once per linker and find their instance in a thread-local that is set while a guest runs.
* A store is touched by one thread at a time; one that trapped is never entered again.
* Guest pointers are unsigned 32-bit numbers and are checked by ``GuestMemory`` before any byte is touched.
* Other code may take over the signals wasmtime turns into traps (``faulthandler`` does). Before a guest is entered
  the handlers are compared with wasmtime's own and put back, with a warning, if somebody replaced them.
"""

from __future__ import annotations

__all__ = [
    "IMAGE_MAPPING",
    "Engine",
    "Export",
    "FuelExhausted",
    "GuestTrap",
    "Host",
    "Linker",
    "Program",
    "Store",
    "StoreInterrupted",
    "engine_fingerprint",
    "generation",
    "guard_signals",
]

import ctypes
import hashlib
import os
import platform
import signal
import struct
import sys
import threading
import warnings
from ctypes import c_size_t, c_ubyte, c_uint8, c_uint64, c_void_p
from functools import partial
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, Final, Protocol

import wasmtime
from wasmtime import _bindings, _ffi

from isola_anyio.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

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
    (wasmtime.Config, "ptr"),
    (wasmtime.Linker, "ptr"),
)
_missing: Final = [f"{getattr(where, '__name__', where)}.{name}" for where, name in _PRIVATE_NAMES if not hasattr(where, name)]
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
_RESERVATION_BYTES: Final = 1 << 32
_VAL_BYTES: Final = 16
_MAX_PARAMS: Final = 9  # path_open, the widest of preview 1
_EXTERN_FUNC: Final = 0
_EXTERN_MEMORY: Final = 3
_TRAP_OUT_OF_FUEL: Final = 11
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

# --- raw functions -------------------------------------------------------------------------------------------------
# `dll[name]` makes a fresh function object each time, so wasmtime-py's own argtypes stay as they are. PyDLL keeps the
# GIL: right for calls that take less than a microsecond and never run guest code. CDLL releases it.

_quick: Final = ctypes.PyDLL(str(_ffi.filename))
_blocking: Final = ctypes.CDLL(str(_ffi.filename))


def _raw(dll: Any, name: str, restype: Any, *argtypes: Any) -> Any:
    function = dll[name]
    function.restype = restype
    if argtypes:
        function.argtypes = argtypes
    return function


_store_new = _raw(_quick, "wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
_store_context = _raw(_quick, "wasmtime_store_context", c_void_p, c_void_p)
_store_delete = _raw(_blocking, "wasmtime_store_delete", None, c_void_p)
_store_limiter = _raw(_quick, "wasmtime_store_limiter", None, c_void_p, *(ctypes.c_int64,) * 5)
_set_epoch_callback = _raw(
    _quick, "wasmtime_store_epoch_deadline_callback", None, c_void_p, c_void_p, c_void_p, c_void_p
)
_set_epoch_deadline = _raw(_quick, "wasmtime_context_set_epoch_deadline", None, c_void_p, c_uint64)
_set_fuel = _raw(_quick, "wasmtime_context_set_fuel", c_void_p, c_void_p, c_uint64)
_get_fuel = _raw(_quick, "wasmtime_context_get_fuel", c_void_p, c_void_p, c_void_p)
_pre_instantiate = _raw(
    _quick, "wasmtime_instance_pre_instantiate", c_void_p, c_void_p, c_void_p, c_void_p, c_void_p
)
_linker_instantiate_pre = _raw(_quick, "wasmtime_linker_instantiate_pre", c_void_p, c_void_p, c_void_p, c_void_p)
_pre_delete = _raw(_quick, "wasmtime_instance_pre_delete", None, c_void_p)
_export_get = _raw(
    _quick, "wasmtime_instance_export_get", ctypes.c_bool, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p
)
_memory_data = _raw(_quick, "wasmtime_memory_data", c_void_p, c_void_p, c_void_p)
_memory_data_size = _raw(_quick, "wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)
_memory_grow = _raw(_quick, "wasmtime_memory_grow", c_void_p, c_void_p, c_void_p, c_uint64, c_void_p)
_define_unchecked = _raw(
    _quick,
    "wasmtime_linker_define_func_unchecked",
    c_void_p,
    *(c_void_p, ctypes.c_char_p, c_size_t, ctypes.c_char_p, c_size_t, c_void_p, c_void_p, c_void_p, c_void_p),
)
_error_message = _raw(_quick, "wasmtime_error_message", None, c_void_p, c_void_p)
_error_delete = _raw(_quick, "wasmtime_error_delete", None, c_void_p)
_error_new = _raw(_quick, "wasmtime_error_new", c_void_p, ctypes.c_char_p)
_trap_new = _raw(_quick, "wasmtime_trap_new", c_void_p, ctypes.c_char_p, c_size_t)
_trap_delete = _raw(_quick, "wasm_trap_delete", None, c_void_p)
_trap_code = _raw(_quick, "wasmtime_trap_code", ctypes.c_bool, c_void_p, c_void_p)
_trap_message = _raw(_quick, "wasm_trap_message", None, c_void_p, c_void_p)
_byte_vec_delete = _raw(_quick, "wasm_byte_vec_delete", None, c_void_p)
_increment_epoch = _raw(_quick, "wasmtime_engine_increment_epoch", None, c_void_p)

_HOST_CALLBACK: Final = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, c_size_t, c_size_t)
_EPOCH_CALLBACK: Final = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, c_size_t, c_void_p)


class GuestTrap(Exception):  # noqa: N818 - wasm's own word
    """The guest executed something wasm forbids; its store is dead."""


class FuelExhausted(Exception):  # noqa: N818 - says what happened
    """The store's fuel ran out; the store is dead."""


class StoreInterrupted(BaseException):  # noqa: N818 - says what happened
    """The guest was stopped; the store is dead. Not an ``Exception``, so that nothing on its way takes it for one."""


def _take_error(error: int) -> str:
    """Return a ``wasmtime_error_t``'s message and free it."""
    vec = _bindings.wasm_byte_vec_t()
    _error_message(error, ctypes.addressof(vec))
    _error_delete(error)
    return _take_vec(vec)


def _take_trap(trap: int) -> tuple[int, str]:
    """Return a ``wasm_trap_t``'s code (-1 for none) and message, and free it.

    The message is asked for only when there is no code: it names the frames, and naming the first one makes wasmtime
    read the module's name section, which took 150 ms once.
    """
    code = c_uint8()
    if _trap_code(trap, ctypes.addressof(code)):
        _trap_delete(trap)
        name = _TRAP_NAMES[code.value] if code.value < len(_TRAP_NAMES) else f"trap {code.value}"
        return code.value, name
    vec = _bindings.wasm_byte_vec_t()
    _trap_message(trap, ctypes.addressof(vec))
    _trap_delete(trap)
    return -1, _take_vec(vec)


def _take_vec(vec: Any) -> str:
    text = ctypes.string_at(vec.data, vec.size) if vec.size else b""
    _byte_vec_delete(ctypes.addressof(vec))
    return text.rstrip(b"\0").decode("utf-8", "replace").splitlines()[0] if text.strip(b"\0\n ") else "unknown error"


# --- fork and signals ----------------------------------------------------------------------------------------------

_generation = 0


def generation() -> int:
    """Count the ``os.fork`` calls this process is away from the one that imported the module.

    An engine made in an older generation has lost its threads and must not be used.
    """
    return _generation


def _after_fork_in_child() -> None:
    global _generation  # noqa: PLW0603 - a process has one generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

_TRAP_SIGNALS: Final = tuple(
    int(getattr(signal, name)) for name in ("SIGSEGV", "SIGILL", "SIGFPE", "SIGBUS") if hasattr(signal, name)
)
_SIGACTION_BYTES: Final = 256  # larger than any platform's `struct sigaction`
_libc: Final[Any] = ctypes.PyDLL(None, use_errno=True) if os.name == "posix" else None
_sigaction: Any = None
if _libc is not None:
    _sigaction = _libc["sigaction"]
    _sigaction.restype = ctypes.c_int


class _TrapHandlers:
    """wasmtime's own signal handlers, remembered once an engine has run, and how to put them back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ours: list[tuple[int, Any, bytes]] = []
        self._query = ctypes.create_string_buffer(_SIGACTION_BYTES)
        self._checks: list[tuple[Any, bytes]] = []

    def remember(self) -> None:
        """Record the handlers as they are now; called when the first store has been made."""
        if _sigaction is None or self._ours:
            return
        with self._lock:
            if self._ours:
                return
            found: list[tuple[int, Any, bytes]] = []
            for number in _TRAP_SIGNALS:
                buffer = ctypes.create_string_buffer(_SIGACTION_BYTES)
                if _sigaction(number, None, buffer) == 0:
                    found.append((number, buffer, buffer.raw[:8]))
            self._ours = found

    def guard(self) -> None:
        """Put wasmtime's handlers back where another has taken their place; about 2 µs when nothing changed."""
        for number, ours, address in self._ours:
            query = ctypes.create_string_buffer(_SIGACTION_BYTES)
            if _sigaction(number, None, query) == 0 and query.raw[:8] != address:
                self._restore(number, ours)

    def _restore(self, number: int, ours: Any) -> None:
        with self._lock:
            _sigaction(number, ours, None)
        warnings.warn(
            f"the handler of {signal.Signals(number).name} was replaced after wasmtime installed its own (by "
            "faulthandler.enable() or signal.signal, most likely); it has been put back, because without it a guest's "
            "trap would end this process. Enable such handlers before the first template is built.",
            RuntimeWarning,
            stacklevel=2,
        )


_trap_handlers: Final = _TrapHandlers()
guard_signals: Final = _trap_handlers.guard

# --- engine --------------------------------------------------------------------------------------------------------


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


class Engine:
    """One compilation engine: its settings, its epoch. Thread-safe."""

    def __init__(self, *, metered: bool) -> None:
        config = wasmtime.Config()
        config.epoch_interruption = True
        config.wasm_exceptions = True
        config.consume_fuel = metered
        set_async_stack = _raw(_quick, "wasmtime_config_async_stack_size_set", None, c_void_p, c_size_t)
        set_async_stack(ctypes.cast(config.ptr(), c_void_p), ASYNC_STACK_BYTES)
        config.max_wasm_stack = MAX_WASM_STACK_BYTES
        self.metered = metered
        self.generation = generation()
        self._engine = wasmtime.Engine(config)
        self._ptr = ctypes.cast(self._engine.ptr(), c_void_p)

    def bump(self) -> None:
        """Move the epoch: every running guest of this engine looks at its own interrupt flag, once."""
        _increment_epoch(self._ptr)

    def compile_to(self, wasm: bytes, target: Path) -> None:
        """Compile and write the native code to ``target``; takes from half a second to a minute of all cores."""
        target.write_bytes(wasmtime.Module(self._engine, wasm).serialize())

    def load(self, path: Path) -> wasmtime.Module:
        """Map compiled code made by :meth:`compile_to`; the file must be trusted: it is run as it is.

        Raises:
            wasmtime.WasmtimeError: the file was made by another version, for other settings or another processor.
        """
        return wasmtime.Module.deserialize_file(self._engine, str(path))


class Host(Protocol):
    """What a linker needs of the instance that is running: its host functions, and a place for their exception."""

    handlers: Sequence[Callable[..., Any]]
    fault: BaseException | None


class _Current(threading.local):
    host: Host | None = None


_current: Final = _Current()
_views: Final[dict[int, memoryview]] = {}
_MAX_VIEWS: Final = 256
_INTERRUPT_MESSAGE: Final = b"interrupted"
_HOST_MESSAGE: Final = b"host function failed"
_write_i32: Final = struct.Struct("<I").pack_into


def _vals(address: int) -> memoryview:
    """View the value array at ``address`` (a host call's frame: the same few addresses come back)."""
    view = _views.get(address)
    if view is None:
        if len(_views) >= _MAX_VIEWS:
            _views.clear()
        view = memoryview((c_ubyte * (_VAL_BYTES * _MAX_PARAMS)).from_address(address)).cast("B")
        _views[address] = view
    return view


def _host_callback(index: int, params: str, *, result: bool) -> Any:
    """Make the C callback of one host function: read the arguments, call the running instance's handler.

    ``params`` has one character for each parameter: ``i`` (32 bits) or ``I`` (64 bits); both arrive unsigned.
    """
    unpack = struct.Struct("<" + "".join("I12x" if kind == "i" else "Q8x" for kind in params)).unpack_from
    get_view = _views.get

    def callback(_env: int, _caller: int, values: int, _count: int) -> int:
        host = _current.host
        try:
            view = get_view(values)
            if view is None:
                view = _vals(values)
            answer = host.handlers[index](*unpack(view))  # type: ignore[union-attr]
            if result:
                _write_i32(view, 0, answer)
        except BaseException as exc:  # noqa: BLE001 - nothing may be raised through a C frame
            if host is not None:
                host.fault = exc
            return int(_trap_new(_HOST_MESSAGE, len(_HOST_MESSAGE)))
        return 0

    return _HOST_CALLBACK(callback)


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
        error = _define_unchecked(
            self._ptr,
            *(module, len(module), name, len(name)),
            ctypes.cast(functype.ptr(), c_void_p),
            ctypes.cast(callback, c_void_p),
            None,
            None,
        )
        if error:
            raise InternalError(f"wasmtime refused to define {module!r}.{name!r}: {_take_error(error)}")

    def prepare(self, module: wasmtime.Module) -> Program:
        """Resolve a module's imports once.

        Raises:
            LookupError: the module imports something this linker does not define; the text names it.
        """
        pre = c_void_p()
        error = _linker_instantiate_pre(self._ptr, ctypes.cast(module.ptr(), c_void_p), ctypes.addressof(pre))
        if error:
            raise LookupError(_take_error(error))
        return Program(self._engine, self, module, pre)


class Program:
    """A module with its imports resolved, ready to be instantiated many times. Immutable, thread-safe."""

    def __init__(self, engine: Engine, linker: Linker, module: wasmtime.Module, pre: c_void_p) -> None:
        self.engine = engine
        self.module = module
        self._linker = linker  # keeps the callbacks alive
        self.pre = pre

    def close(self) -> None:
        """Free the C side; stores made from it live on."""
        if self.pre:
            _pre_delete(self.pre)
            self.pre = c_void_p()

    def exports(self) -> dict[str, str]:
        """Name every export with its type: ``"memory"`` or a signature such as ``"ii>i"``; others are left out."""
        kinds = {"i32": "i", "i64": "I", "f32": "f", "f64": "F"}
        found: dict[str, str] = {}
        for export in self.module.exports:
            type_ = export.type
            if isinstance(type_, wasmtime.FuncType):
                params = "".join(kinds.get(str(kind), "?") for kind in type_.params)
                found[export.name] = params + ">" + "".join(kinds.get(str(kind), "?") for kind in type_.results)
            elif isinstance(type_, wasmtime.MemoryType):
                found[export.name] = "memory"
        return found


# --- stores --------------------------------------------------------------------------------------------------------

_stores: Final[dict[int, Store]] = {}
_store_numbers = iter(range(1, 1 << 62))


def _on_epoch(_context: int, data: int, delta: int, _kind: int) -> int:
    """Answer a store whose deadline has passed: stop it if its flag is up, else let it run to the next bump."""
    try:
        store = _stores.get(data)
        if store is None or store.interrupted:
            return int(_error_new(_INTERRUPT_MESSAGE))
        if store.on_epoch is not None:
            store.on_epoch()
            if store.interrupted:
                return int(_error_new(_INTERRUPT_MESSAGE))
        c_uint64.from_address(delta).value = 1
    except BaseException:  # noqa: BLE001 - nothing may be raised through a C frame; stopping is the safe answer
        return int(_error_new(_INTERRUPT_MESSAGE))
    return 0


_epoch_callback: Final = _EPOCH_CALLBACK(_on_epoch)
_epoch_callback_address: Final = ctypes.cast(_epoch_callback, c_void_p)


class Export:
    """One exported function of one instance, with its argument array made once: calling it costs half a microsecond.

    The GIL is given up during every call, also of functions such as ``malloc`` that ought to return at once: a guest
    that has written over its allocator's lists can make those run for ever, and with the GIL held nobody could stop it.
    """

    __slots__ = ("_call", "_pack", "_store", "_trap", "_values", "_view", "has_result")

    def __init__(self, store: Store, func: Any, signature: str) -> None:
        params, _, results = signature.partition(">")
        count = max(len(params), len(results), 1)
        self._store = store
        self._values = (c_ubyte * (_VAL_BYTES * count))()
        self._view = memoryview(self._values).cast("B")
        self._pack = struct.Struct("<" + "".join("I12x" if kind == "i" else "Q8x" for kind in params)).pack_into
        self._trap = c_void_p()
        self.has_result = bool(results)
        call = _blocking["wasmtime_func_call_unchecked"]
        call.restype = c_void_p
        # argtypes stay unset on purpose: converting prepared arguments again would triple the cost.
        self._call = partial(
            call,
            store.context,
            ctypes.byref(func),
            ctypes.byref(self._values),
            c_size_t(count),
            ctypes.byref(self._trap),
        )

    def __call__(self, *args: int) -> int:
        """Call it and return its 32-bit result, unsigned (0 when it has none).

        Raises:
            GuestTrap, FuelExhausted, StoreInterrupted: the store is dead.
            BaseException: whatever a host function raised while the guest ran; the store is dead.
        """
        self._pack(self._view, 0, *args)
        error = self._call()
        if error is not None or self._trap.value is not None:
            self._store.fail(error, self._trap)
        return int.from_bytes(self._view[:4], "little") if self.has_result else 0


class Store:
    """One instance of a program with its memory, owned by one thread at a time.

    Attributes:
        handlers: the host functions, in the linker's order.
        interrupted: set before :meth:`Engine.bump` to stop the guest.
        on_epoch: called on the guest's thread, in the middle of its computation, when the epoch has moved.
        fault: what a host function raised, until the call that entered the guest raises it.
        dead: the store trapped and must not be entered again.
    """

    def __init__(self, program: Program, *, max_memory: int) -> None:
        self.program = program
        self.handlers: Sequence[Callable[..., Any]] = ()
        self.fault: BaseException | None = None
        self.interrupted = False
        self.on_epoch: Callable[[], None] | None = None
        self.dead = False
        self._number = next(_store_numbers)
        self._ptr: int | None = _store_new(program.engine._ptr, None, None)  # noqa: SLF001 - same module
        self.context = c_void_p(_store_context(self._ptr))
        try:
            _store_limiter(self._ptr, max_memory, MAX_TABLE_ELEMENTS, 1, -1, 1)
            _stores[self._number] = self
            _set_epoch_callback(self._ptr, _epoch_callback_address, self._number, None)
            _set_epoch_deadline(self.context, 1)
            if program.engine.metered:
                self.set_fuel((1 << 63) - 1)
            self._instance = _bindings.wasmtime_instance()
            self._instantiate()
            self._memory = self._find("memory", _EXTERN_MEMORY).memory
        except BaseException:
            self.close()
            raise
        self.memory_base: int = _memory_data(self.context, ctypes.byref(self._memory))
        self.buffer = memoryview((c_ubyte * _RESERVATION_BYTES).from_address(self.memory_base)).cast("B")
        _trap_handlers.remember()

    def _instantiate(self) -> None:
        trap = c_void_p()
        previous, _current.host = _current.host, self
        try:
            error = _pre_instantiate(
                self.program.pre, self.context, ctypes.byref(self._instance), ctypes.byref(trap)
            )
        finally:
            _current.host = previous
        if error is not None or trap.value is not None:
            self.fail(error, trap)

    def _find(self, name: str, kind: int) -> Any:
        extern = _bindings.wasmtime_extern()
        raw = name.encode()
        found = _export_get(self.context, ctypes.byref(self._instance), raw, len(raw), ctypes.byref(extern))
        if not found or extern.kind != kind:
            raise LookupError(f"the module does not export {name!r} as a {'memory' if kind else 'function'}")
        return extern.of

    def export(self, name: str, signature: str) -> Export:
        """Prepare calls of an exported function; ``signature`` must be what :meth:`Program.exports` said."""
        func = _bindings.wasmtime_func()
        ctypes.memmove(ctypes.byref(func), ctypes.byref(self._find(name, _EXTERN_FUNC).func), ctypes.sizeof(func))
        return Export(self, func, signature)

    def memory_size(self) -> int:
        """Bytes of linear memory right now."""
        return int(_memory_data_size(self.context, ctypes.byref(self._memory))) if self._ptr else 0

    def grow_to(self, size: int) -> None:
        """Grow the memory to at least ``size`` bytes.

        Raises:
            MemoryError: the store's limit, or the machine, has no room for it.
        """
        missing = size - self.memory_size()
        if missing <= 0:
            return
        previous = c_uint64()
        pages = -(-missing // PAGE_BYTES)
        error = _memory_grow(self.context, ctypes.byref(self._memory), pages, ctypes.byref(previous))
        if error:
            raise MemoryError(_take_error(error))

    def set_fuel(self, fuel: int) -> None:
        """Give the store this much fuel, instead of what it has."""
        error = _set_fuel(self.context, fuel)
        if error:
            raise InternalError(f"set_fuel({fuel}): {_take_error(error)}")

    def fuel(self) -> int:
        """Fuel left."""
        left = c_uint64()
        error = _get_fuel(self.context, ctypes.byref(left))
        if error:
            raise InternalError(f"get_fuel: {_take_error(error)}")
        return left.value

    def enter(self) -> Host | None:
        """Make this the store whose guest runs on this thread; give the answer to :meth:`leave`."""
        previous, _current.host = _current.host, self
        return previous

    @staticmethod
    def leave(previous: Host | None) -> None:
        """Undo :meth:`enter`."""
        _current.host = previous

    def fail(self, error: int | None, trap: c_void_p) -> None:
        """Raise what stopped the guest; frees the C objects. The store is dead from here on."""
        self.dead = True
        code, message = -1, "unknown error"
        if trap.value is not None:
            code, message = _take_trap(trap.value)
            trap.value = None
        if error is not None:
            message = _take_error(error)
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        if self.interrupted:
            raise StoreInterrupted
        if code == _TRAP_OUT_OF_FUEL:
            raise FuelExhausted
        raise GuestTrap(message)

    def close(self) -> None:
        """Free the instance and its memory. A second call does nothing. Every view of the memory is void after it."""
        ptr, self._ptr = self._ptr, None
        if ptr is None:
            return
        _stores.pop(self._number, None)
        self.dead = True
        self.handlers = ()
        self.on_epoch = None
        self.fault = None
        if hasattr(self, "buffer"):
            self.buffer = memoryview(b"")
        _store_delete(ptr)


# --- memory images -------------------------------------------------------------------------------------------------

_MAP_FIXED: Final = 0x10
_MAP_PRIVATE: Final = 0x02
_PROT_READ_WRITE: Final = 0x3
IMAGE_MAPPING: Final = sys.platform.startswith("linux") or sys.platform == "darwin"
"""Whether a file can be mapped over linear memory here; elsewhere images are copied."""
_mmap: Any = None
if IMAGE_MAPPING and _libc is not None:
    _mmap = _libc["mmap"]
    _mmap.restype = c_void_p
    _mmap.argtypes = (c_void_p, c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)


def map_private(address: int, length: int, fd: int) -> None:
    """Map ``length`` bytes of a file over ``address``, copy-on-write; what was mapped there is gone.

    Raises:
        OSError: the kernel refused.
    """
    got = _mmap(address, length, _PROT_READ_WRITE, _MAP_FIXED | _MAP_PRIVATE, fd, 0)
    if got != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "mmap of a template image")


