"""Program: the compiled code of the stripping module, taken from another template, from the cache, or compiled.

The module belongs to the same engine as the guest, so that the interruption of the guest interrupts the stripping too.
Its compilation takes seconds: it happens when the first source needs it, in a process of its own, and a cancelled run
kills that process.
"""

from __future__ import annotations

__all__ = ["StrippingModule"]

import hashlib
import tempfile
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from isola_anyio.cache import entry_key
from isola_anyio.engine import ffi
from isola_anyio.engine.compiler import compile_module
from isola_anyio.errors import DigestMismatchError, RuntimeUnavailableError
from isola_anyio.guests.js.typescript.transform import IMPORTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.cache import Cache
    from isola_anyio.engine.instance import Instance

_CODE_SUFFIX: Final = ".cwasm"
_POLL_S: Final = 0.01
"""How often a guest that waits for the module's compilation looks whether it has ended."""
_loaded: Final[WeakValueDictionary[tuple[int, str], ffi.Program]] = WeakValueDictionary()
"""The programs in use, by engine and SHA-256 of the module: 4 MB each, shared by the templates of a context."""
_loading: Final = threading.Lock()
"""Held by the one guest thread of the process that loads or compiles a module."""


class StrippingModule:
    """One template's stripping module; its compiled code is kept in the template's cache."""

    def __init__(self, path: Path, sha256: str, cache: Cache) -> None:
        """``path`` is the WebAssembly file, which must have this SHA-256."""
        self._path = path
        self._sha256 = sha256
        self._cache = cache
        self._program: ffi.Program | None = None

    def program(self, instance: Instance) -> ffi.Program:
        """Return the module's program, loaded or compiled on first use; on the thread of that guest.

        Raises:
            DigestMismatchError, RuntimeUnavailableError: the file is not the one that was checked, or not usable.
            ffi.StoreInterrupted: the guest is being stopped.
        """
        if self._program is None:
            self._program = self._find(instance)
        return self._program

    def _find(self, instance: Instance) -> ffi.Program:
        engine = instance.store.program.engine
        pause = partial(instance.sleep, _POLL_S)
        while not _loading.acquire(blocking=False):  # polled, because a guest that waits can be stopped in its sleep
            pause()
        try:
            program = _loaded.get((id(engine), self._sha256))  # a program holds its engine, so no id is reused
            if program is None:
                program = ffi.Linker(engine, IMPORTS).prepare(self._load_code(engine, pause))
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
                    with suppress(OSError):  # the code is compiled again another time
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
