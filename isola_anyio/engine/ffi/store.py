"""Stores and their exports: one instance with its memory, entered by one thread at a time."""

from __future__ import annotations

__all__ = ["Export", "Store", "host_callback", "stores"]

import ctypes
import struct
from ctypes import c_size_t, c_ubyte, c_uint64, c_void_p
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from wasmtime import _bindings

from isola_anyio.engine.ffi.raw import (
    EPOCH_CALLBACK,
    EXTERN_FUNC,
    EXTERN_MEMORY,
    HOST_CALLBACK,
    MAX_PARAMS,
    MAX_TABLE_ELEMENTS,
    PAGE_BYTES,
    RESERVATION_BYTES,
    TRAP_OUT_OF_FUEL,
    VAL_BYTES,
    FuelExhausted,
    GuestTrap,
    StoreInterrupted,
    blocking_dll,
    c_error_new,
    c_export_get,
    c_get_fuel,
    c_memory_data,
    c_memory_data_size,
    c_memory_grow,
    c_pre_instantiate,
    c_set_epoch_callback,
    c_set_epoch_deadline,
    c_set_fuel,
    c_store_context,
    c_store_delete,
    c_store_limiter,
    c_store_new,
    c_trap_new,
    take_error,
    take_trap,
)
from isola_anyio.engine.ffi.signals import trap_handlers
from isola_anyio.errors import InternalError
from isola_anyio.fairness import LONG_CALL_S, baton, current, host_call_took

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from isola_anyio.engine.ffi.programs import Program
    from isola_anyio.fairness import Host

# By address, for all threads: a view of an address that another thread's stack had before shows what is there now. Each
# use is one operation under the GIL, so a race makes a view too many, and no wrong one.
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


def host_callback(index: int, params: str, *, result: bool) -> Any:
    """Make the C callback of one host function: read the arguments, call the running instance's handler.

    ``params`` has one character for each parameter: ``i`` (32 bits) or ``I`` (64 bits); both arrive unsigned.
    """
    unpack = struct.Struct("<" + "".join("I12x" if kind == "i" else "Q8x" for kind in params)).unpack_from
    get_view = _views.get

    def callback(_env: int, _caller: int, values: int, _count: int) -> int:
        # The guest's thread, inside WebAssembly; ctypes has just taken the GIL for it.
        began = perf_counter()
        host = current.host
        try:
            view = get_view(values)
            if view is None:
                view = _vals(values)
            answer = host.handlers[index](*unpack(view))  # type: ignore[union-attr]
            if result:
                # wasmtime takes the result from where the first argument was.
                _write_i32(view, 0, answer)
            ended = perf_counter()
            if ended - began > LONG_CALL_S:
                host_call_took(began, ended)
        except BaseException as exc:  # noqa: BLE001 - nothing may be raised through a C frame
            # Kept before the trap is made: `Store.fail` looks for it when the call that entered the guest has come
            # back.
            if host is not None:
                host.fault = exc
            baton.give_up()
            return int(c_trap_new(_HOST_MESSAGE, len(_HOST_MESSAGE)))
        return 0

    return HOST_CALLBACK(callback)


# By number, because a C callback can carry a number and no Python object, and because a number whose store has gone is
# found to be gone. An address would be somebody else's by then.
stores: Final[dict[int, Store]] = {}
_store_numbers = iter(range(1, 1 << 62))


_INTERRUPT_MESSAGE: Final = b"interrupted"


def _on_epoch(_context: int, data: int, delta: int, _kind: int) -> int:
    """Answer a store whose deadline has passed: stop it if its flag is up, else let it run to the next increment."""
    try:
        # The guest's thread, in the middle of its computation. From here to the `return` an increment is lost on this
        # store: wasmtime counts its next deadline from the epoch it finds afterwards. See `Instance.interrupt`.
        store = stores.get(data)
        if store is None or store.interrupted:
            return int(c_error_new(_INTERRUPT_MESSAGE))
        if store.on_epoch is not None:
            if baton.is_taken:
                baton.give_up()  # it may have come back from a host call with it, and stand aside now
            store.on_epoch()
            trap_handlers.guard()  # as after any wait
            # It may have stood aside for seconds in `on_epoch`, and been stopped there.
            if store.interrupted:
                return int(c_error_new(_INTERRUPT_MESSAGE))
        c_uint64.from_address(delta).value = 1
    except BaseException:  # noqa: BLE001 - nothing may be raised through a C frame; stopping is the safe answer
        return int(c_error_new(_INTERRUPT_MESSAGE))
    return 0


# One for all stores, kept for as long as the module: the C side has its address only.
_epoch_callback: Final = EPOCH_CALLBACK(_on_epoch)
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
        # One array for each: a store is entered by one thread at a time, and no export is called from inside itself.
        self._values = (c_ubyte * (VAL_BYTES * count))()
        self._view = memoryview(self._values).cast("B")
        self._pack = struct.Struct("<" + "".join("I12x" if kind == "i" else "Q8x" for kind in params)).pack_into
        self._trap = c_void_p()
        self.has_result = bool(results)
        call = blocking_dll["wasmtime_func_call_unchecked"]
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
        # In the middle of a long host call: the guest may compute as long as it likes.
        if baton.is_taken:
            baton.give_up()
        # No GIL from here until the guest comes back, or calls the host.
        error = self._call()
        if error is not None or self._trap.value is not None:
            self._store.fail(error, self._trap)
        return int.from_bytes(self._view[:4], "little") if self.has_result else 0


class Store:
    """One instance of a program with its memory, owned by one thread at a time.

    Raises:
        RuntimeUnavailableError: the file that the program's code is mapped from was written to.

    Attributes:
        handlers: the host functions, in the linker's order.
        interrupted: set before :meth:`Engine.increment_epoch` to stop the guest.
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
        self._applied_limit: int | None = None
        self._number = next(_store_numbers)
        # Before anything is made of it: to run code that was written over is what cannot be undone.
        if program.code.backing is not None:
            program.code.backing.check("compiled code")
        self._ptr: int | None = c_store_new(program.engine._ptr, None, None)  # noqa: SLF001 - same module
        self.context = c_void_p(c_store_context(self._ptr))
        try:
            self._memory_limit = max_memory
            self._apply_memory_limit()
            # Before the callback is set: one that finds no store takes its guest for one that is being stopped.
            stores[self._number] = self
            c_set_epoch_callback(self._ptr, _epoch_callback_address, self._number, None)
            # The next increment, whatever the epoch is now.
            c_set_epoch_deadline(self.context, 1)
            if program.engine.metered:
                self.set_fuel((1 << 63) - 1)
            self._instance = _bindings.wasmtime_instance()
            self._instantiate()
            self._memory = self._find("memory", EXTERN_MEMORY).memory
        except BaseException:
            self.close()
            raise
        self.memory_base: int = c_memory_data(self.context, ctypes.byref(self._memory))
        self.buffer = memoryview((c_ubyte * RESERVATION_BYTES).from_address(self.memory_base)).cast("B")
        # wasmtime installs its handlers with the first instance of a process. By now it has.
        trap_handlers.remember()

    def _instantiate(self) -> None:
        trap = c_void_p()
        # A start function may call the host, which has to find this store.
        previous, current.host = current.host, self
        try:
            error = c_pre_instantiate(self.program.pre, self.context, ctypes.byref(self._instance), ctypes.byref(trap))
        finally:
            current.host = previous
        if error is not None or trap.value is not None:
            self.fail(error, trap)

    def _find(self, name: str, kind: int) -> Any:
        extern = _bindings.wasmtime_extern()
        raw = name.encode()
        found = c_export_get(self.context, ctypes.byref(self._instance), raw, len(raw), ctypes.byref(extern))
        if not found or int(extern.kind) != kind:
            raise LookupError(f"the module does not export {name!r} as a {'memory' if kind else 'function'}")
        return extern.of

    def export(self, name: str, signature: str) -> Export:
        """Prepare calls of an exported function; ``signature`` must be what :meth:`Program.exports` said."""
        func = _bindings.wasmtime_func()
        # A copy: the union that `_find` filled is gone when it returns.
        ctypes.memmove(ctypes.byref(func), ctypes.byref(self._find(name, EXTERN_FUNC).func), ctypes.sizeof(func))
        return Export(self, func, signature)

    def memory_size(self) -> int:
        """Bytes of linear memory right now."""
        return int(c_memory_data_size(self.context, ctypes.byref(self._memory))) if self._ptr else 0

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
        error = c_memory_grow(self.context, ctypes.byref(self._memory), pages, ctypes.byref(previous))
        if error:
            raise MemoryError(take_error(error))

    def limit_memory(self, size: int) -> None:
        """Let the memory grow to no more than ``size`` bytes from here on; what it has it keeps.

        On the thread that is inside the store, in a host function, this holds at once: the limiter is a few numbers in
        the store's data, which wasmtime looks at while a memory grows and calls nothing meanwhile. A store is one
        thread's, so what another says holds when the store is entered next.
        """
        # In whole pages: a file that grows byte by byte need not tell wasmtime each time. To it, negative is no limit.
        self._memory_limit = max(size // PAGE_BYTES, 0) * PAGE_BYTES
        if current.host is self:
            self._apply_memory_limit()

    def _apply_memory_limit(self) -> None:
        limit = self._memory_limit
        if limit != self._applied_limit and self._ptr:
            # Of tables as many as there are (their elements are limited); one instance, one memory.
            c_store_limiter(self._ptr, limit, MAX_TABLE_ELEMENTS, 1, -1, 1)
            self._applied_limit = limit

    def set_fuel(self, fuel: int) -> None:
        """Give the store this much fuel, instead of what it has."""
        error = c_set_fuel(self.context, fuel)
        if error:
            raise InternalError(f"set_fuel({fuel}): {take_error(error)}")

    def fuel(self) -> int:
        """Fuel left."""
        left = c_uint64()
        error = c_get_fuel(self.context, ctypes.byref(left))
        if error:
            raise InternalError(f"get_fuel: {take_error(error)}")
        return left.value

    def enter(self) -> Host | None:
        """Make this the store whose guest runs on this thread; give the answer to :meth:`leave`.

        Raises:
            StoreInterrupted: the guest is being stopped; it was not entered, and there is nothing to leave.
        """
        # Other code may have put its signal handlers before wasmtime's since the last turn: `trap_handlers.guard`, in
        # line because every turn of every guest comes here.
        for handler in trap_handlers.installed:
            handler.query()
            if handler.seen.value != handler.address:
                trap_handlers.restore(handler)
        if self._memory_limit != self._applied_limit:
            self._apply_memory_limit()
        # Last, for what is done above may take a while; and before this is the running store, so that nothing is to be
        # left.
        if self.interrupted:
            raise StoreInterrupted
        previous, current.host = current.host, self
        return previous

    @staticmethod
    def leave(previous: Host | None) -> None:
        """Undo :meth:`enter`."""
        if baton.is_taken:
            baton.give_up()
        current.host = previous

    def check_interrupt(self) -> None:
        """Raise ``StoreInterrupted`` if the guest is being stopped; for the middle of a long host call."""
        if self.interrupted:
            raise StoreInterrupted

    def fail(self, error: int | None, trap: c_void_p) -> None:
        """Raise what stopped the guest; frees the C objects. The store is dead from here on."""
        # First: whatever comes, nobody may enter it again.
        self.dead = True
        code, message = -1, "unknown error"
        if trap.value is not None:
            code, message = take_trap(trap.value)
            trap.value = None
        if error is not None:
            message = take_error(error)
        # A host function's exception is the reason, and the trap only how it left the guest. Taken out, because its
        # traceback leads to frames that have this store.
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        # Before fuel and traps: a guest that is being stopped may die of anything on its way out.
        if self.interrupted:
            raise StoreInterrupted
        if code == TRAP_OUT_OF_FUEL:
            raise FuelExhausted
        raise GuestTrap(message)

    def close(self) -> None:
        """Free the instance and its memory. A second call does nothing. Every view of the memory is void after it."""
        ptr, self._ptr = self._ptr, None
        if ptr is None:
            return
        # Before it is freed, so that an epoch callback on no thread can find what is about to go.
        stores.pop(self._number, None)
        self.dead = True
        self.handlers = ()
        self.on_epoch = None
        self.fault = None
        if hasattr(self, "buffer"):
            self.buffer = memoryview(b"")
        c_store_delete(ptr)
