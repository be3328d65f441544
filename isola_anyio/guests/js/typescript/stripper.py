"""Turn TypeScript into JavaScript, with the stripping module of the runtime's own distribution, in its own sandbox.

Each source gets a fresh instance of that module: what one source does to it, another never sees. The module belongs to
the same engine as the guest, so that whatever interrupts the guest interrupts the stripping too.

The module says what it cannot read, and not where. The line is found by reading the source's first lines with a
character behind them that is never right: if it is that which is complained of, the fault is further on.
"""

from __future__ import annotations

__all__ = [
    "Stripper",
    "TypeScriptError",
    "UnreadTypeScriptError",
    "is_javascript",
    "is_typescript",
    "reads_as_typescript",
]

import hashlib
import re
import secrets
import tempfile
import threading
from bisect import bisect_left
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast
from weakref import WeakValueDictionary

from isola_anyio.cache import entry_key
from isola_anyio.engine import ffi
from isola_anyio.engine.compiler import compile_module
from isola_anyio.errors import DigestMismatchError, RuntimeUnavailableError, clip
from isola_anyio.guests.js.typescript.line_alignment import relayout
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.linear_memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.cache import Cache
    from isola_anyio.engine.instance import Instance

_CODE_SUFFIX: Final = ".cwasm"
_POLL_S: Final = 0.01
"""How often a guest that waits for the module's compilation looks whether it is done."""
_MAX_SOURCE_BYTES: Final = 2 << 20
"""How long TypeScript may be; a guess, far above what people write and far below what would be felt."""
_MAX_MEMORY_BYTES: Final = 256 << 20
"""Enough for the longest source: the module takes 40 times a usual source's length, 120 times that of a dense one."""
_MAX_STRIPPED_BYTES: Final = 16 << 20
"""A guess: what is nested deeply is printed with an indentation as deep."""
_MAX_LAYOUT_CHARS: Final = 512 << 10
"""Up to which length stripped source gets its lines back, which takes up to 10 microseconds of CPU a character."""
_MAX_PRINTED_CHARS: Final = 4 * _MAX_LAYOUT_CHARS
"""The same for what is left, which has a line for each item of a long list, and more tokens only where enums are."""
_MAX_SEARCHED_CHARS: Final = 256 << 10
"""Up to which length source is searched for calls with types: ten milliseconds, in which the GIL is held."""
_MAX_LOCATED_CHARS: Final = 256 << 10
"""Up to which length of source the line of a fault is looked for, which takes up to 18 readings."""
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
_NEVER_RIGHT: Final = "\n\x01"
_AT_THE_END: Final = ("`EOF`", "Unexpected token")
"""What is complained of when the source ends too early; other complaints that no line brings about are of the whole."""
_TRAILER: Final = "export {};\n"
"""Left where only types were imported or exported: what remains is no module."""
_TYPE: Final = r"(?:any|bigint|boolean|never|number|object|string|symbol|unknown|void)(?:\[\])?"
_TYPED_CALL: Final = re.compile(rf"[\w$]<{_TYPE}(?:, ?{_TYPE}){{0,4}}>\(")
"""``f<string>(x)`` is JavaScript too, where it compares; nobody compares so. Looks at a few characters a place."""


class TypeScriptError(Exception):
    """The source is no TypeScript either, or cannot be stripped; the text says why."""


class UnreadTypeScriptError(TypeScriptError):
    """It may be TypeScript, and takes more than there is to read it."""


def is_typescript(filename: str) -> bool:
    """Tell whether the name says so."""
    return filename.endswith((".ts", ".mts", ".cts", ".tsx"))


def is_javascript(filename: str) -> bool:
    """Tell whether the name says so."""
    return filename.endswith((".js", ".mjs", ".cjs", ".jsx"))


def reads_as_typescript(filename: str, code: str) -> bool:
    """Tell whether source is to be read as TypeScript though it may compile as JavaScript."""
    if is_typescript(filename):
        return True
    if is_javascript(filename) or len(code) > _MAX_SEARCHED_CHARS:
        return False
    return _TYPED_CALL.search(code) is not None


class _Store(ffi.Store):
    """A store that is interrupted when the guest it works for is."""

    master: ffi.Store | None = None

    @property
    def interrupted(self) -> bool:
        return self.master is not None and self.master.interrupted

    @interrupted.setter
    def interrupted(self, value: bool) -> None:
        """Only the master's flag counts."""


_loaded: Final[WeakValueDictionary[tuple[int, str], ffi.Program]] = WeakValueDictionary()
"""The programs in use, by their engine and their module's digest: 4 MB each, shared by the templates of a context."""
_loading: Final = threading.Lock()


class Stripper:
    """The stripping module of one template; its code is compiled on first use and kept in the template's cache."""

    def __init__(self, path: Path, sha256: str, cache: Cache) -> None:
        """``path`` is the module's file; ``sha256`` what it must be."""
        self._path = path
        self._sha256 = sha256
        self._cache = cache
        self._program: ffi.Program | None = None

    def strip(self, code: str, filename: str, instance: Instance) -> str:
        """Return the JavaScript in ``code``, every token on the line it was on; on the thread of that guest.

        Source that is long keeps the layout it is printed in. What is a module for its types alone becomes a script.

        Raises:
            TypeScriptError: it does not parse as TypeScript.
            UnreadTypeScriptError: it is too long, or takes too much memory.
            DigestMismatchError, RuntimeUnavailableError: the module is not the one that was checked, or not usable.
            ffi.StoreInterrupted: the guest is being stopped.
        """
        stripped = self._transform(code, filename, instance)
        if stripped is None:
            return code
        if stripped == _TRAILER or stripped.endswith("\n" + _TRAILER):
            stripped = stripped.removesuffix(_TRAILER)
        is_long = len(code) > _MAX_LAYOUT_CHARS or len(stripped) > _MAX_PRINTED_CHARS
        if is_long or filename.endswith(".tsx"):
            return stripped
        return relayout(code, stripped, partial(_breathe, instance))

    def locate(
        self, error: TypeScriptError, code: str, filename: str, instance: Instance, *, beyond: int = 0
    ) -> int | None:
        """Say on which line stripping came to its end, if that can be found and is ``beyond`` a line.

        Raises:
            ffi.StoreInterrupted: the guest is being stopped.
        """
        if len(code) > _MAX_LOCATED_CHARS or filename.endswith(".tsx"):  # text of JSX may hold any character
            return None
        lines = code.rstrip().split("\n")

        def fails_alike(count: int) -> bool:
            try:
                self._transform("\n".join(lines[:count]) + _NEVER_RIGHT, filename, instance)
            except TypeScriptError as exc:
                return str(exc) == str(error)
            return False

        found = bisect_left(range(len(lines) + 1), True, lo=min(beyond, len(lines)), key=fails_alike)
        if found > len(lines) and str(error).endswith(_AT_THE_END):
            found = len(lines)
        return found if beyond < found <= len(lines) else None

    def _transform(self, code: str, filename: str, instance: Instance) -> str | None:
        """Use the module once; ``None`` when there is nothing to strip."""
        source = code.encode("utf-8", "replace")
        if len(source) > _MAX_SOURCE_BYTES:
            raise UnreadTypeScriptError(
                f"{filename} is too long to be read as TypeScript: {len(source)} bytes; at most {_MAX_SOURCE_BYTES} are"
            )
        if self._program is None:
            self._program = self._find_program(instance)
        max_memory = min(instance.max_memory, _MAX_MEMORY_BYTES)  # what a guest may cost holds here too
        store = _Store(self._program, max_memory=max_memory)
        try:
            store.master = instance.store
            store.on_epoch = instance.store.on_epoch
            previous = store.enter()
            try:
                return _Transform(store).run(source, filename)
            finally:
                store.leave(previous)
        except (ffi.GuestTrap, WasiError) as exc:
            is_full = store.memory_size() > max_memory // 4  # it is doubled when it is full
            reason = f"that takes more memory than the guest's max_memory of {instance.max_memory}" if is_full else exc
            raise UnreadTypeScriptError(f"the TypeScript of {filename} could not be read: {reason}") from None
        finally:
            store.close()

    def _find_program(self, instance: Instance) -> ffi.Program:
        """Take what another template of the engine has, else load the code; one guest at a time."""
        engine = instance.store.program.engine
        pause = partial(instance.sleep, _POLL_S)
        while not _loading.acquire(blocking=False):
            pause()
        try:
            program = _loaded.get((id(engine), self._sha256))  # it holds its engine, so the number is not another's
            if program is None:
                program = ffi.Linker(engine, _FUNCTIONS).prepare(self._load_code(engine, pause))
                _loaded[id(engine), self._sha256] = program
            return program
        finally:
            _loading.release()

    def _load_code(self, engine: ffi.Engine, pause: Callable[[], object]) -> ffi.Code:
        cache = self._cache
        key = entry_key("typescript", self._sha256, ffi.engine_fingerprint(metered=engine.metered))
        known = None if cache.closed else cache.lookup("code", key, _CODE_SUFFIX)
        if known is not None:
            with suppress(OSError, ffi.UnusableCodeError):
                return engine.load(known)
        try:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                source, target = Path(folder, self._path.name), Path(folder, "code")
                source.write_bytes(self._checked_module())
                compile_module(source, target, metered=engine.metered, pause=pause)
                native = target.read_bytes()
                if not cache.closed:
                    with suppress(OSError):  # it is compiled again another time
                        cache.store_file("code", key, _CODE_SUFFIX, lambda out: out.write(native))
                return engine.load(target)
        except OSError as exc:
            raise RuntimeUnavailableError(f"{self._path.name}, which reads TypeScript, cannot be had: {exc}") from exc

    def _checked_module(self) -> bytes:
        wasm = self._path.read_bytes()
        digest = hashlib.sha256(wasm).hexdigest()
        if digest != self._sha256:
            raise DigestMismatchError(f"{self._path} has the SHA-256 {digest}; it was {self._sha256} when found")
        return wasm


def _breathe(instance: Instance) -> None:
    """Do what a guest does at an epoch, in the middle of work of the host's own for it: take turns, or stop."""
    ffi.give_way()
    if instance.store.on_epoch is not None:
        instance.store.on_epoch()
    if instance.interrupted:
        raise ffi.StoreInterrupted


class _Transform:
    """One use of the module."""

    def __init__(self, store: ffi.Store) -> None:
        self._store = store
        self._memory = GuestMemory(store.buffer, store.memory_size(), store.memory_size)
        store.handlers = cast(
            "list[Callable[..., int]]", [self._random, self._nothing, self._no_environment, self._no_output, self._exit]
        )

    def run(self, source: bytes, filename: str) -> str | None:
        """Strip; ``None`` when there is nothing to strip."""
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
