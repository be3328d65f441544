"""Exports: QuickJS's exported functions in one instance, for handles, strings, bytes, calls and evaluation.

A thin layer with checks: statuses become exceptions, lengths are compared with the memory. A *handle* is a 32-bit name
of a JavaScript value, which the holder frees with ``free_value``. Exports are prepared on first use, because a
short-lived fork uses eight of thirty.
"""

from __future__ import annotations

__all__ = ["EXPORTS", "Js", "JsError"]

from typing import TYPE_CHECKING, Final

from isola_anyio.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isola_anyio.engine.ffi import Export
    from isola_anyio.engine.instance import Instance

_NEGATIVE: Final = 1 << 31
EXPORTS: Final[Mapping[str, str]] = {
    "memory": "memory",
    "call_function": "iiiii>i",
    "dup_handle": "i>i",
    "eval_async": "iii>i",
    "eval_module": "iiiii>i",
    "eval_module_async": "iiiii>i",
    "execute_pending_jobs": ">i",
    "free_value": "i>",
    "get_prop": "iiii>i",
    "get_string": "i>i",
    "get_typed_array_buffer": "iiii>i",
    "global_object": ">i",
    "last_exception": "i>i",
    "new_bool": "i>i",
    "new_function": "ii>i",
    "new_string": "ii>i",
    "new_uint8array": "iii>i",
    "new_undefined": ">i",
    "qjs_alloc": "i>i",
    "qjs_free": "ii>",
    "qjs_last_len": ">i",
    "qjs_last_ptr": ">i",
    "qjs_result_free": ">",
    "run_gc": ">",
    "set_max_stack_size": "i>",
    "set_prop": "iiii>i",
}
"""The exports that a runtime must have, with their signatures."""
_OK: Final = 0
_THROWN: Final = 1
_PROBED_BYTES: Final = 1 << 16
"""Shorter copies are made without a check for room; a guess."""
_KEEP_RESULT_BYTES: Final = 1 << 16
"""A result buffer up to this size is kept for the next result, because freeing it costs a call."""
_OUT_BYTES: Final = 16
_ARGV_BYTES: Final = 16


class JsError(Exception):
    """JavaScript threw; ``handle`` names the thrown value, which the catcher frees."""

    def __init__(self, handle: int) -> None:
        super().__init__(handle)
        self.handle = handle


class Js:
    """The exports of one instance, as attributes, and methods that use several of them.

    Attributes:
        out: address of a buffer for results and arguments, made by :meth:`make_buffers`.
        scratch: address of a buffer for short strings.
        undefined: a handle of ``undefined``.
    """

    SCRATCH_BYTES = 4096

    def __init__(self, instance: Instance) -> None:
        self.memory = instance.memory
        self._store = instance.store
        self._exports: dict[str, Export] = {}
        self.out = 0
        self.scratch = 0
        self.undefined = 0

    def __getattr__(self, name: str) -> Export:
        """Prepare an export on first use."""
        signature = EXPORTS.get(name)
        if signature is None:
            raise AttributeError(name)
        export = self._store.export(name, signature)
        self.__dict__[name] = export
        return export

    def make_buffers(self) -> None:
        """Allocate the buffers; called once, before the image is taken."""
        self.out = self.allocate(_OUT_BYTES + _ARGV_BYTES)
        self.scratch = self.allocate(self.SCRATCH_BYTES)
        self.undefined = self.new_undefined()

    def allocate(self, length: int) -> int:
        """Allocate guest memory.

        Raises:
            MemoryError: the guest has none left.
        """
        pointer = self.qjs_alloc(length)
        if pointer == 0:
            raise MemoryError(f"the guest has no room for {length} bytes")
        return pointer

    def put(self, data: bytes | memoryview) -> int:
        """Copy bytes into the guest: an address, to be freed with :meth:`release`.

        Short ones share one buffer, which the next call overwrites.
        """
        length = len(data)
        pointer = self.scratch if length <= self.SCRATCH_BYTES else self.allocate(length)
        self.memory.write(pointer, data)
        return pointer

    def _put_source(self, data: bytes) -> int:
        """Copy source text into the guest: as ``put``, but into a block of its own.

        The shared buffer would be overwritten by door calls while the source runs.
        """
        pointer = self.allocate(max(1, len(data)))
        try:
            self.make_sure(2 * len(data))
        except MemoryError:
            self.qjs_free(pointer, max(1, len(data)))
            raise
        self.memory.write(pointer, data)
        return pointer

    def make_sure(self, length: int) -> None:
        """Check that there is room for this many bytes: a copy made by the engine's wrapper ends the instance if not.

        Raises:
            MemoryError: there is none.
        """
        if length > _PROBED_BYTES:
            length += _PROBED_BYTES
            self.qjs_free(self.allocate(length), length)

    def release(self, pointer: int, length: int) -> None:
        """Free what :meth:`put` allocated."""
        if pointer != self.scratch:
            self.qjs_free(pointer, length)

    def string(self, utf8: bytes) -> int:
        """Make a string: a handle."""
        pointer = self.put(utf8)
        try:
            return self._handle(self.new_string(pointer, len(utf8)), len(utf8))
        finally:
            self.release(pointer, len(utf8))

    def uint8array(self, data: bytes | memoryview) -> int:
        """Make a ``Uint8Array``: a handle."""
        pointer = self.put(data)
        try:
            self.make_sure(len(data))
            status = self.new_uint8array(pointer, len(data), self.out)
            return self._handle(self.memory.read_u32(self.out) if status == _OK else 0, len(data))
        finally:
            self.release(pointer, len(data))

    @staticmethod
    def _handle(handle: int, length: int) -> int:
        if handle == 0:
            raise MemoryError(f"the guest has no room for a message of {length} bytes")
        return handle

    def read_text(self, handle: int, max_bytes: int) -> bytes | None:
        """Read a string as UTF-8; ``None`` when the value is not a string, or is longer than ``max_bytes``."""
        return self._result(max_bytes) if self.get_string(handle) == _OK else None

    def read_bytes(self, handle: int, max_bytes: int) -> bytes | None:
        """Read a ``Uint8Array``; ``None`` when the value is not one, or is longer than ``max_bytes``."""
        out = self.out
        if self.get_typed_array_buffer(handle, out, out + 4, out + 8) != _OK:
            return None
        return self._result(max_bytes)

    def _result(self, max_bytes: int) -> bytes | None:
        length = self.qjs_last_len()
        data = self.memory.read(self.qjs_last_ptr(), length) if length <= max_bytes else None
        if length > _KEEP_RESULT_BYTES:
            self.qjs_result_free()
        return data

    def call(self, function: int, *arguments: int) -> None:
        """Call a function and drop its result; the arguments' handles stay the caller's.

        Raises:
            JsError: it threw.
        """
        argv = self.out + _OUT_BYTES
        for index, argument in enumerate(arguments):
            self.memory.write_u32(argv + 4 * index, argument)
        status = self.call_function(function, self.undefined, argv, len(arguments), self.out)
        if status != _OK:
            raise self.failure(status)
        self.free_value(self.memory.read_u32(self.out))

    def failure(self, status: int) -> JsError:
        """Return the exception that a status other than 0 reports."""
        if status != _THROWN:
            raise InternalError(f"QuickJS refused a call with status {status}")
        if self.last_exception(self.out) != _OK:
            raise InternalError("QuickJS reported an exception and has none")
        return JsError(self.memory.read_u32(self.out))

    def evaluate(self, utf8: bytes) -> int:
        """Compile a script and run it up to its first ``await``: a handle of its promise.

        Raises:
            JsError: it does not compile.
        """
        pointer = self._put_source(utf8)
        try:
            return self._checked(self.eval_async(pointer, len(utf8), self.out))
        finally:
            self.release(pointer, len(utf8))

    def evaluate_module(self, utf8: bytes, name: str, *, now: bool = False) -> int:
        """Compile, link and start a module: a handle of its promise. ``now`` runs the module to its end.

        Raises:
            JsError: it, or what it imports, does not compile.
        """
        raw = name.encode("utf-8", "replace")
        together = raw + utf8
        pointer = self._put_source(together)
        try:
            evaluate = self.eval_module if now else self.eval_module_async
            source = pointer + len(raw)
            return self._checked(evaluate(source, len(utf8), pointer, len(raw), self.out))
        finally:
            self.release(pointer, len(together))

    def _checked(self, status: int) -> int:
        if status != _OK:
            raise self.failure(status)
        return self.memory.read_u32(self.out)

    def get(self, handle: int, name: str) -> int:
        """Read a property: a handle."""
        raw = name.encode()
        pointer = self.put(raw)
        try:
            return self._checked(self.get_prop(handle, pointer, len(raw), self.out))
        finally:
            self.release(pointer, len(raw))

    def set_text(self, handle: int, name: str, text: str) -> None:
        """Set a property to a string; if that fails, the property keeps its value."""
        value = self.string(text.encode("utf-8", "replace"))
        raw = name.encode()
        pointer = self.put(raw)
        try:
            self.set_prop(handle, pointer, len(raw), value)
        finally:
            self.release(pointer, len(raw))
            self.free_value(value)

    def drain(self) -> None:
        """Run microtasks until none is left; the export returns how many it ran, at most some ten thousand."""
        while 0 < self.execute_pending_jobs() < _NEGATIVE:
            pass
