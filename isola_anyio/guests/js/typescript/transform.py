"""Transform: one use of the stripping module, in a fresh instance that ends with it.

Nothing that one source does to an instance is seen by another source. What a guest may use bounds its stripping too:
CPU time, because the work is done on the guest's thread, interruption, and memory.
"""

from __future__ import annotations

__all__ = ["IMPORTS", "TypeScriptError", "UnreadTypeScriptError", "transform"]

import secrets
from typing import TYPE_CHECKING, Final, cast

from isola_anyio.engine import ffi
from isola_anyio.errors import clip
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.linear_memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.engine.instance import Instance

_WASI: Final = "wasi_snapshot_preview1"
IMPORTS: Final = (
    (_WASI, "random_get", "ii", True),
    (_WASI, "environ_get", "ii", True),
    (_WASI, "environ_sizes_get", "ii", True),
    (_WASI, "fd_write", "iiii", True),
    (_WASI, "proc_exit", "i", False),
)
"""The host functions that the module imports, in the order of ``_Conversation``'s handlers."""
_MAX_SOURCE_BYTES: Final = 2 << 20
"""The longest TypeScript source; a guess, far above what people write and far below what would be felt."""
_MAX_MEMORY_BYTES: Final = 256 << 20
"""Enough for the longest source: the module takes 40 times a usual source's length, 120 times a dense one's."""
_MAX_STRIPPED_BYTES: Final = 16 << 20
"""A guess: deeply nested source is printed with an indentation as deep."""
_MAX_MESSAGE_BYTES: Final = 4096
_MAX_RANDOM_BYTES: Final = 4096
"""The module draws keys of hash tables, 16 bytes at a time."""
# Flags and statuses of the module's own interface.
_SOURCE_TS: Final = 1 << 0
_SOURCE_TSX: Final = 1 << 1
_STRIP: Final = 1 << 8
_OK: Final = 0
_UNCHANGED: Final = 1


class TypeScriptError(Exception):
    """The source does not parse as TypeScript, or cannot be stripped; the text says why."""


class UnreadTypeScriptError(TypeScriptError):
    """The source may be TypeScript, but reading it would take more than the limits allow."""


class _Store(ffi.Store):
    """A store that is interrupted when the store of its guest is."""

    guest: ffi.Store | None = None

    @property
    def interrupted(self) -> bool:
        return self.guest is not None and self.guest.interrupted

    @interrupted.setter
    def interrupted(self, value: bool) -> None:
        """Ignore the value: only the guest's flag counts."""


def transform(code: str, filename: str, instance: Instance, find_program: Callable[[], ffi.Program]) -> str | None:
    """Strip one source for the guest of ``instance``, on its thread; ``None`` when there is nothing to strip.

    ``find_program`` is called only for a source that is short enough.

    Raises:
        TypeScriptError: it does not parse as TypeScript.
        UnreadTypeScriptError: it is too long, or takes too much memory.
        ffi.StoreInterrupted: the guest is being stopped.
    """
    source = code.encode("utf-8", "replace")
    if len(source) > _MAX_SOURCE_BYTES:
        raise UnreadTypeScriptError(
            f"{filename} is too long to be read as TypeScript: {len(source)} bytes; at most {_MAX_SOURCE_BYTES} are"
        )
    max_memory = min(instance.max_memory, _MAX_MEMORY_BYTES)
    store = _Store(find_program(), max_memory=max_memory)
    try:
        store.guest = instance.store
        store.on_epoch = instance.store.on_epoch
        previous = store.enter()
        try:
            return _Conversation(store).strip(source, filename)
        finally:
            store.leave(previous)
    except (ffi.GuestTrap, WasiError) as exc:
        is_full = store.memory_size() > max_memory // 4  # the module doubles its memory when it is full
        reason = f"that takes more memory than the guest's max_memory of {instance.max_memory}" if is_full else exc
        raise UnreadTypeScriptError(f"the TypeScript of {filename} could not be read: {reason}") from None
    finally:
        store.close()


class _Conversation:
    """The calls of one instance's exports, and the answers to its imports."""

    def __init__(self, store: ffi.Store) -> None:
        self._store = store
        self._memory = GuestMemory(store.buffer, store.memory_size(), store.memory_size)
        handlers = [self._random, self._no_variables, self._no_environment, self._no_output, self._exit]
        store.handlers = cast("list[Callable[..., int]]", handlers)

    def strip(self, source: bytes, filename: str) -> str | None:
        """Return the stripped source; ``None`` when there is nothing to strip."""
        export = self._store.export
        name = filename.encode("utf-8", "replace")
        flags = _STRIP | (_SOURCE_TSX if filename.endswith(".tsx") else _SOURCE_TS)
        status = export("qjst_transform", "iiiii>i")(
            *(self._put(name), len(name), self._put(source), len(source), flags)
        )
        if status == _UNCHANGED:
            return None
        if status == _OK:
            length = export("qjst_result_len", ">i")()
            if length > _MAX_STRIPPED_BYTES:
                raise UnreadTypeScriptError(f"{filename} is nested too deeply to be read as TypeScript")
            return self._memory.read(export("qjst_result_ptr", ">i")(), length).decode("utf-8", "replace")
        length = min(export("qjst_error_len", ">i")(), _MAX_MESSAGE_BYTES)
        message = self._memory.read(export("qjst_error_ptr", ">i")(), length).decode("utf-8", "replace")
        raise TypeScriptError(message or clip(f"stripping ended with status {status}"))

    def _put(self, data: bytes) -> int:
        pointer = self._store.export("qjst_alloc", "i>i")(len(data))
        if pointer == 0 and data:
            raise UnreadTypeScriptError(f"a source of {len(data)} bytes is too long to be read as TypeScript")
        self._memory.write(pointer, data)
        return pointer

    def _random(self, pointer: int, length: int) -> int:
        view = self._memory.slice(pointer, length)  # first: a length that the memory does not have is refused
        if len(view) > _MAX_RANDOM_BYTES:
            raise WasiError(Errno.INVAL)
        view[:] = secrets.token_bytes(len(view))
        return Errno.SUCCESS

    def _no_variables(self, _pointers: int, _buffer: int) -> int:
        return Errno.SUCCESS

    def _no_environment(self, count: int, size: int) -> int:
        self._memory.write_u32(count, 0)
        self._memory.write_u32(size, 0)
        return Errno.SUCCESS

    def _no_output(self, *_arguments: int) -> int:
        return Errno.BADF

    def _exit(self, code: int) -> None:
        raise TypeScriptError(f"the stripping module ended with status {code}")
