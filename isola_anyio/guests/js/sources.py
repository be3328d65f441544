"""Bring source into one guest: scripts, files, ES modules, TypeScript, and what they import."""

from __future__ import annotations

__all__ = ["Sources"]

from typing import TYPE_CHECKING, Final

from isola_anyio.guests.js.exports import JsError
from isola_anyio.guests.js.loader import SourceError, is_module
from isola_anyio.guests.js.typescript import TypeScriptError, is_typescript, may_be_typescript
from isola_anyio.wasi.errno import WasiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isola_anyio.guests.js.exports import Js
    from isola_anyio.guests.js.loader import Loader
    from isola_anyio.guests.js.sdk import Sdk

_SCOPE: Final = "\n;globalThis[Symbol.for('isola.scope')]?.((n)=>{try{return eval(n)}catch{}});"
"""Put behind a module: lets its names be looked up after it has run."""


class Sources:
    """The source that one guest runs, once the dispatcher knows which run it is for.

    Attributes:
        own: the SDK's modules, while it is being loaded; later nothing imports them.
    """

    def __init__(self, js: Js, sdk: Sdk, loader: Loader) -> None:
        self._js = js
        self._sdk = sdk
        self._loader = loader
        self._loaded: set[str] = set()
        self.own: Mapping[str, str] | None = None

    def forget(self) -> None:
        """Take what was loaded so far as never loaded."""
        self._loaded.clear()

    def load(self, code: str, filename: str) -> None:
        """Start a script."""
        try:
            if may_be_typescript(filename, code):
                code = self._strip(code, filename)
            self._evaluate(code, filename)
        except SourceError as exc:
            self._refuse(exc)

    def load_file(self, path: str) -> None:
        """Start a file that the guest can see, as a script or a module."""
        full = "/" + path.lstrip("/")
        try:
            code = self._loader.read(full)
            if may_be_typescript(full, code):
                code = self._strip(code, full)
            if is_module(full, code):
                self._evaluate_module(code, full)
            else:
                self._evaluate(code, full)
        except SourceError as exc:
            self._refuse(exc)

    def _strip(self, code: str, filename: str) -> str:
        """Strip a source that may be TypeScript; one that only looks like it stays as it is."""
        try:
            return self._loader.strip(code, filename)
        except TypeScriptError as exc:
            if is_typescript(filename):
                raise SourceError("SyntaxError", str(exc)) from None
            return code

    def _evaluate(self, code: str, filename: str) -> None:
        """Start a script; when it does not compile, what is left of it without types."""
        if "\0" in code:
            raise SourceError("SyntaxError", f"{filename} contains a NUL character")
        self._sdk.name_script(filename)
        js = self._js
        try:
            promise = js.evaluate(code.encode("utf-8", "replace"))
        except JsError as exc:
            promise = self._evaluate_stripped(code, filename, exc)
            if promise == 0:
                return
        self._sdk.call("adopt", promise)
        js.free_value(promise)

    def _evaluate_stripped(self, code: str, filename: str, failure: JsError) -> int:
        """Try without types; a handle of the promise, or 0 when the guest has been told of the failure."""
        js = self._js
        for stripped in self._other_readings(code, filename):
            try:
                promise = js.evaluate(stripped.encode("utf-8", "replace"))
            except JsError as exc:
                js.free_value(exc.handle)
                continue
            js.free_value(failure.handle)
            return promise
        self._sdk.call("refuse", failure.handle)
        js.free_value(failure.handle)
        return 0

    def _other_readings(self, code: str, filename: str) -> list[str]:
        try:
            stripped = self._loader.strip(code, filename)
        except TypeScriptError:
            return []
        return [] if stripped == code else [stripped]

    def _evaluate_module(self, code: str, path: str) -> None:
        js = self._js
        name = path if path not in self._loaded else f"{path}?{len(self._loaded)}"
        self._loaded.add(name)
        try:
            promise = js.evaluate_module((code + _SCOPE).encode("utf-8", "replace"), name)
        except JsError as exc:
            self._sdk.call("refuse", exc.handle)
            js.free_value(exc.handle)
            return
        handle = js.string(name.encode("utf-8", "replace"))
        self._sdk.call("adoptModule", promise, handle)
        js.free_value(handle)
        js.free_value(promise)

    def _refuse(self, error: SourceError) -> None:
        js = self._js
        kind, message = js.string(error.type.encode()), js.string(error.message.encode("utf-8", "replace"))
        self._sdk.call("refuseWith", kind, message)
        js.free_value(kind)
        js.free_value(message)

    # --- what imports ask for --------------------------------------------------------------------------------------

    def normalize(self, base: int, base_length: int, specifier: int, length: int, out_length: int) -> int:
        """Answer ``host_module_normalize``: name the module that an import means, 0 for none."""
        read = self._js.memory.read
        try:
            name = read(specifier, length).decode("utf-8", "replace")
            origin = read(base, base_length).decode("utf-8", "replace")
        except WasiError:
            return 0
        if origin.startswith("isola:"):
            found: str | None = name
        elif name.startswith("isola:"):
            found = None
        else:
            found = self._loader.normalize(origin, name)
        return self._give(None if found is None else found.encode("utf-8", "surrogateescape"), out_length)

    def module(self, name: int, length: int, out_length: int) -> int:
        """Answer ``host_module_load``: give a module's source, 0 for none."""
        try:
            wanted = self._js.memory.read(name, length).decode("utf-8", "surrogateescape")
        except WasiError:
            return 0
        if wanted.startswith("isola:"):
            source = None if self.own is None else self.own.get(wanted[6:])
            return self._give(None if source is None else source.encode(), out_length)
        return self._give(self._loader.module(wanted), out_length)

    def _give(self, data: bytes | None, out_length: int) -> int:
        """Hand bytes over to the guest, which frees them; 0 for nothing."""
        if data is None:
            return 0
        pointer = self._js.qjs_alloc(len(data))
        if pointer:
            self._js.memory.write(pointer, data)
            self._js.memory.write_u32(out_length, len(data))
        return pointer
