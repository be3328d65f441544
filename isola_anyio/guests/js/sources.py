"""Sources: source text started in one guest (scripts, files, ES modules, TypeScript), and answers to its imports."""

from __future__ import annotations

__all__ = ["Sources"]

from typing import TYPE_CHECKING, Final

from isola_anyio.engine.ffi import yield_gil
from isola_anyio.guests.js.engine_patch import NAME_BYTES
from isola_anyio.guests.js.exports import JsError
from isola_anyio.guests.js.loader import SourceError, is_module, may_be_module
from isola_anyio.guests.js.syntax_errors import is_syntax_error, line_of, make_syntax_error, message_of
from isola_anyio.guests.js.typescript.detection import is_javascript, is_typescript, reads_as_typescript
from isola_anyio.guests.js.typescript.transform import TypeScriptError, UnreadTypeScriptError
from isola_anyio.wasi.errno import WasiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isola_anyio.guests.js.exports import Js
    from isola_anyio.guests.js.handles import Sdk
    from isola_anyio.guests.js.loader import Loader

_SCOPE: Final = "\n;globalThis[Symbol.for('isola.scope')]?.((n)=>{try{return eval(n)}catch{}});"
"""Appended to a module, so that its names can be looked up after it has run; see ``names.js``."""
_MAX_SPECIFIER_BYTES: Final = 4096
"""PATH_MAX of Linux: a longer specifier names no file and is not read."""
_MAX_NAME_BYTES: Final = 4 * _MAX_SPECIFIER_BYTES
"""A module's name is the folder of one specifier and another specifier; a longer one is none that was given here."""


class Sources:
    """Starts source in one guest, for the run that the dispatcher has begun with LOAD.

    Attributes:
        own: the SDK's modules by name while the SDK is being loaded; ``None`` later, so that nothing imports them.
    """

    def __init__(self, js: Js, sdk: Sdk, loader: Loader) -> None:
        self._js = js
        self._sdk = sdk
        self._loader = loader
        self._loaded: set[str] = set()
        self.own: Mapping[str, str] | None = None

    def forget(self) -> None:
        """Forget the names of the modules loaded so far, because the image is taken now."""
        self._loaded.clear()

    def load(self, code: str, filename: str) -> None:
        """Start a script, or a module of that name."""
        self._start(code, _source_name(filename))

    def load_file(self, path: str) -> None:
        """Start a file that the guest can see, as a script or a module."""
        full = "/" + path.lstrip("/")
        try:
            code = self._loader.read(full)
        except SourceError as exc:
            self._refuse(exc)
            return
        self._start(code, full, as_module=is_module(full))

    def _start(self, code: str, name: str, *, as_module: bool = False) -> None:
        """Start source as the first that it compiles as: JavaScript, then TypeScript; a script, then a module."""
        if "\0" in code:
            self._refuse(SourceError("SyntaxError", f"{name} contains a NUL character"))
            return
        if reads_as_typescript(name, code):
            try:
                code = self._loader.strip(code, name)
            except TypeScriptError as exc:
                if is_typescript(name):
                    self._refuse_syntax(str(exc), name, self._loader.locate(exc, code, name))
                    return
        failure = self._begin(code, name, as_module=as_module)
        if failure is not None and not is_typescript(name) and is_syntax_error(self._js, failure.handle):
            failure = self._begin_stripped(code, name, failure, as_module=as_module)
        if failure is not None:
            self._sdk.call("refuse", failure.handle)
            self._js.free_value(failure.handle)

    def _begin_stripped(self, code: str, name: str, failure: JsError, *, as_module: bool) -> JsError | None:
        """Begin with the source stripped of types: ``None``, or the error of the attempt that came further."""
        js = self._js
        line = line_of(js, failure.handle, code)
        try:
            stripped = self._loader.strip(code, name)
        except UnreadTypeScriptError as exc:
            if is_javascript(name):
                return failure
            message = f"{message_of(js, failure.handle)}; and {exc}"
            js.free_value(failure.handle)
            return self._syntax_error(message, name, max(1, line))
        except TypeScriptError as exc:
            found = self._loader.locate(exc, code, name, beyond=line)
            if found is None:
                return failure
            js.free_value(failure.handle)
            return self._syntax_error(str(exc), name, found)
        if stripped == code:
            return failure
        second = self._begin(stripped, name, as_module=as_module)
        if second is not None and is_syntax_error(js, second.handle) and line_of(js, second.handle, code) <= line:
            second, failure = failure, second
        js.free_value(failure.handle)
        return second

    def _begin(self, code: str, name: str, *, as_module: bool) -> JsError | None:
        """Begin with source as a script, or as a module: ``None``, or the error when it compiles as neither.

        Nothing of the source has run in that case: the engine compiles and links all of it first.
        """
        js = self._js
        if not as_module:
            self._sdk.name_script(name)
            source = code.encode("utf-8", "replace")
            yield_gil()  # each of these steps takes long for a long source
            try:
                promise = js.evaluate(source)
            except JsError as exc:
                if not (may_be_module(name, code) and is_syntax_error(js, exc.handle)):
                    return exc
                js.free_value(exc.handle)
            else:
                self._sdk.call("adopt", promise)
                js.free_value(promise)
                return None
        if name in self._loaded:
            name = f"{name}?{len(self._loaded)}"
        source = (code + _SCOPE).encode("utf-8", "replace")
        yield_gil()
        try:
            promise = js.evaluate_module(source, name)
        except JsError as exc:
            return exc
        self._loaded.add(name)
        handle = js.string(name.encode("utf-8", "replace"))
        self._sdk.call("adoptModule", promise, handle)
        js.free_value(handle)
        js.free_value(promise)
        return None

    def _refuse_syntax(self, message: str, name: str, line: int | None) -> None:
        """Fail the run with a syntax error that the engine did not find, on its line if that is known."""
        if line is None:
            self._refuse(SourceError("SyntaxError", message))
            return
        failure = self._syntax_error(message, name, line)
        self._sdk.call("refuse", failure.handle)
        self._js.free_value(failure.handle)

    def _syntax_error(self, message: str, name: str, line: int) -> JsError:
        self._sdk.name_script(name)
        return JsError(make_syntax_error(self._js, message, name, line))

    def _refuse(self, error: SourceError) -> None:
        js = self._js
        kind, message = js.string(error.type.encode()), js.string(error.message.encode("utf-8", "replace"))
        self._sdk.call("refuseWith", kind, message)
        js.free_value(kind)
        js.free_value(message)

    # --- the engine's module hooks -----------------------------------------------------------------------------------

    def normalize(self, base: int, base_length: int, specifier: int, length: int, out_length: int) -> int:
        """Answer ``host_module_normalize``: the name of the module that an import means; 0 for none."""
        if max(base_length, length) > _MAX_SPECIFIER_BYTES:
            return 0
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
        """Answer ``host_module_load``: a module's source; 0 for none."""
        if length > _MAX_NAME_BYTES:
            return 0
        try:
            wanted = self._js.memory.read(name, length).decode("utf-8", "surrogateescape")
        except WasiError:
            return 0
        if wanted.startswith("isola:"):
            source = None if self.own is None else self.own.get(wanted[6:])
            return self._give(None if source is None else source.encode(), out_length)
        self._loaded.add(wanted)
        return self._give(self._loader.module(wanted), out_length)

    def _give(self, data: bytes | None, out_length: int) -> int:
        """Copy bytes into a block that the guest frees; 0 for ``None``."""
        if data is None:
            return 0
        pointer = self._js.qjs_alloc(len(data))
        if pointer:
            self._js.memory.write(pointer, data)
            self._js.memory.write_u32(out_length, len(data))
        return pointer


def _source_name(filename: str) -> str:
    """Return the name that a source gets in the guest: cut to the room that the engine has, and none of the SDK's."""
    if filename.startswith("isola:"):  # a source with such a name could import the SDK
        filename = "./" + filename
    name = filename.encode("utf-8", "replace").replace(b"\0", b"")[: NAME_BYTES - 1]
    return name.decode("utf-8", "ignore")
