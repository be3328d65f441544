"""Turn TypeScript into JavaScript, with the stripping module of the runtime's own distribution, in its own sandbox.

Each source gets a fresh instance of that module: what one source does to it, another never sees. The module belongs to
the same engine as the guest, so that whatever interrupts the guest interrupts the stripping too.
"""

from __future__ import annotations

__all__ = ["Stripper", "TypeScriptError", "is_typescript", "may_be_typescript"]

import hashlib
import re
import secrets
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from isola_anyio.engine import ffi
from isola_anyio.errors import DigestMismatchError, clip
from isola_anyio.guests.js.relayout import relayout
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.engine.instance import Instance

_MAX_MEMORY_BYTES: Final = 256 << 20
"""A guess: the module takes about 40 times a source's length."""
_SOURCE_TS: Final = 1 << 0
_SOURCE_TSX: Final = 1 << 1
_STRIP: Final = 1 << 8
_OK: Final = 0
_UNCHANGED: Final = 1
_MAX_MESSAGE_BYTES: Final = 4096
_WASI: Final = "wasi_snapshot_preview1"
_FUNCTIONS: Final = (
    (_WASI, "random_get", "ii", True),
    (_WASI, "environ_get", "ii", True),
    (_WASI, "environ_sizes_get", "ii", True),
    (_WASI, "fd_write", "iiii", True),
    (_WASI, "proc_exit", "i", False),
)
_GENERIC_CALL: Final = re.compile(r"[\w$]<[A-Za-z_$][\w$.,\s\[\]|<>{}:;]*>\(")
"""``f<T>(x)`` is JavaScript too, where it compares: such source is taken for TypeScript if it is any."""


class TypeScriptError(Exception):
    """The source is no TypeScript either, or cannot be stripped; the text says why."""


def is_typescript(filename: str) -> bool:
    """Tell whether the name says so."""
    return filename.endswith((".ts", ".mts", ".cts", ".tsx"))


def may_be_typescript(filename: str, code: str) -> bool:
    """Tell whether source should be read as TypeScript before it is tried as JavaScript."""
    return is_typescript(filename) or _GENERIC_CALL.search(code) is not None


class _Store(ffi.Store):
    """A store that is interrupted when the guest it works for is."""

    master: ffi.Store | None = None

    @property
    def interrupted(self) -> bool:
        return self.master is not None and self.master.interrupted

    @interrupted.setter
    def interrupted(self, value: bool) -> None:
        """Only the master's flag counts."""


class Stripper:
    """The stripping module of one template, compiled on first use: half a second of all cores, once a process."""

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        """``path`` is the module's file; ``sha256`` what it must be."""
        self._path = path
        self._sha256 = sha256
        self._programs: dict[ffi.Engine, ffi.Program] = {}
        self._lock = threading.Lock()

    def strip(self, code: str, filename: str, instance: Instance) -> str:
        """Return the JavaScript in ``code``, every token on the line it was on.

        Raises:
            TypeScriptError: it does not parse as TypeScript.
            DigestMismatchError: the module is not the one that was checked.
            ffi.StoreInterrupted: the guest is being stopped.
        """
        store = _Store(self._program(instance.store.program.engine), max_memory=_MAX_MEMORY_BYTES)
        try:
            store.master = instance.store
            previous = store.enter()
            try:
                stripped = _Transform(store).run(code, filename)
            finally:
                store.leave(previous)
        except (ffi.GuestTrap, WasiError) as exc:
            raise TypeScriptError(f"the TypeScript of {filename} could not be read: {exc}") from None
        finally:
            store.close()
        if stripped is None:
            return code
        return stripped if filename.endswith(".tsx") else relayout(code, stripped)

    def _program(self, engine: ffi.Engine) -> ffi.Program:
        with self._lock:
            program = self._programs.get(engine)
            if program is None:
                program = self._programs[engine] = self._compile(engine)
            return program

    def _compile(self, engine: ffi.Engine) -> ffi.Program:
        wasm = self._path.read_bytes()
        digest = hashlib.sha256(wasm).hexdigest()
        if self._sha256 not in (None, digest):
            raise DigestMismatchError(f"{self._path} has the SHA-256 {digest}; it was {self._sha256} when found")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            target = Path(folder, "strip.cwasm")
            with _native_lock:
                known = _native.get((digest, engine.metered))
                if known is None:
                    engine.compile_to(wasm, target)
                    _native[digest, engine.metered] = target.read_bytes()
                else:
                    target.write_bytes(known)
            return ffi.Linker(engine, _FUNCTIONS).prepare(engine.load(target))


_native: Final[dict[tuple[str, bool], bytes]] = {}
"""Native code by the module's digest and whether it is metered: 4 MB, so that it is compiled once a process."""
_native_lock: Final = threading.Lock()


class _Transform:
    """One use of the module."""

    def __init__(self, store: ffi.Store) -> None:
        self._store = store
        self._memory = GuestMemory(store.buffer, store.memory_size(), store.memory_size)
        store.handlers = cast(
            "list[Callable[..., int]]", [self._random, self._nothing, self._no_environment, self._no_output, self._exit]
        )

    def run(self, code: str, filename: str) -> str | None:
        """Strip; ``None`` when there is nothing to strip."""
        export = self._store.export
        name = filename.encode("utf-8", "replace")
        source = code.encode("utf-8", "replace")
        flags = _STRIP | (_SOURCE_TSX if filename.endswith(".tsx") else _SOURCE_TS)
        status = export("qjst_transform", "iiiii>i")(
            *(self._put(name), len(name), self._put(source), len(source), flags)
        )
        if status == _UNCHANGED:
            return None
        if status == _OK:
            length = export("qjst_result_len", ">i")()
            return self._memory.read(export("qjst_result_ptr", ">i")(), length).decode("utf-8", "replace")
        length = min(export("qjst_error_len", ">i")(), _MAX_MESSAGE_BYTES)
        message = self._memory.read(export("qjst_error_ptr", ">i")(), length).decode("utf-8", "replace")
        raise TypeScriptError(message or clip(f"stripping ended with status {status}"))

    def _put(self, data: bytes) -> int:
        pointer = self._store.export("qjst_alloc", "i>i")(len(data))
        if pointer == 0 and data:
            raise TypeScriptError(f"a source of {len(data)} bytes is too long to be read as TypeScript")
        self._memory.write(pointer, data)
        return pointer

    def _random(self, pointer: int, length: int) -> int:
        self._memory.slice(pointer, length)[:] = secrets.token_bytes(length & 0xFFFF_FFFF)
        return Errno.SUCCESS

    def _nothing(self, _pointers: int, _buffer: int) -> int:
        return Errno.SUCCESS

    def _no_environment(self, count: int, size: int) -> int:
        self._memory.write_u32(count, 0)
        self._memory.write_u32(size, 0)
        return Errno.SUCCESS

    def _no_output(self, *_arguments: int) -> int:
        return Errno.BADF

    def _exit(self, code: int) -> None:
        raise TypeScriptError(f"the stripping module ended with status {code}")
