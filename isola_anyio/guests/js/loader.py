"""Loader: the guest's own source files, from the specifier of an import to a file's text as JavaScript.

Modules are named by absolute guest paths. Imports reach the guest's files and nothing else; a bare specifier
("lodash") is refused, because no directory holds packages.
"""

from __future__ import annotations

__all__ = ["Loader", "SourceError", "is_module", "may_be_module", "resolve"]

import posixpath
from typing import TYPE_CHECKING, Final

from isola_anyio.guests.js.typescript.detection import is_typescript
from isola_anyio.guests.js.typescript.transform import TypeScriptError
from isola_anyio.wasi.abi import Rights
from isola_anyio.wasi.errno import Errno, WasiError, errno_of
from isola_anyio.wasi.volumes.interfaces import OpenRequest

if TYPE_CHECKING:
    from isola_anyio.engine.instance import Instance
    from isola_anyio.guests.js.typescript.stripper import Stripper
    from isola_anyio.wasi.files.filesystem import FileSystem
    from isola_anyio.wasi.volumes.interfaces import Descriptor

_ROOT_FD: Final = 3
_CHUNK_BYTES: Final = 1 << 16
_MAX_SOURCE_BYTES: Final = 64 << 20
"""A guess: more than the engine's default memory could hold compiled."""
_ENDINGS: Final = ("", ".js", ".mjs", ".ts", ".mts")
"""Suffixes that are tried in this order on a specifier."""
_ERRORS: Final = {
    Errno.NOENT: ("FileNotFoundError", "no such file"),
    Errno.ACCES: ("PermissionError", "permission denied"),
    Errno.PERM: ("PermissionError", "operation not permitted"),
    Errno.ISDIR: ("IsADirectoryError", "is a directory"),
    Errno.NOTDIR: ("NotADirectoryError", "not a directory"),
}


class SourceError(Exception):
    """A source file cannot be read; ``type`` and ``message`` are those of the guest's error."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(type, message)
        self.type = type
        self.message = message


def is_module(path: str) -> bool:
    """Return whether a file is an ES module by its name."""
    return path.endswith((".mjs", ".mts"))


def may_be_module(filename: str, code: str) -> bool:
    """Return whether source that does not compile as a script may be a module.

    The engine decides, by compiling it; nothing less can tell a declaration from the word in a comment or a template.
    """
    return not filename.endswith((".cjs", ".cts")) and ("export" in code or "import" in code)


def resolve(base: str, specifier: str) -> str | None:
    """Return the guest path that ``specifier`` means in the file ``base``; ``None`` for a bare specifier."""
    if specifier.startswith("/"):
        return posixpath.normpath("/" + specifier.lstrip("/"))
    if not specifier.startswith(("./", "../")):
        return None
    folder = posixpath.dirname(base) if base.startswith("/") else "/"
    return posixpath.normpath(posixpath.join(folder, specifier))


class Loader:
    """One sandbox's source files."""

    def __init__(self, files: FileSystem, stripper: Stripper | None, instance: Instance) -> None:
        self._files = files
        self._stripper = stripper
        self._instance = instance

    def normalize(self, base: str, specifier: str) -> str | None:
        """Return the name of the module that an import means: the first of its spellings that is a file."""
        path = resolve(base, specifier)
        if path is None:
            return None
        spellings = [path + ending for ending in _ENDINGS]
        if path.endswith((".js", ".mjs")):  # as TypeScript's compiler has it: the name of the output
            spellings.append(path[:-2] + "ts")
        return next((one for one in spellings if self._is_file(one)), path)

    def module(self, path: str) -> bytes | None:
        """Return a module's source, stripped of types if its name is TypeScript's; ``None`` when that fails."""
        try:
            code = self.read(path)
            if is_typescript(path):
                code = self.strip(code, path)
        except (SourceError, TypeScriptError):
            return None
        return code.encode("utf-8", "replace")

    def strip(self, code: str, filename: str) -> str:
        """Return TypeScript as JavaScript, every token on its line.

        Raises:
            TypeScriptError: it does not parse, or the runtime has no stripping module.
        """
        if self._stripper is None:
            raise TypeScriptError("TypeScript cannot be stripped: the runtime has no _transform.wasm")
        return self._stripper.strip(code, filename, self._instance)

    def locate(self, error: TypeScriptError, code: str, filename: str, *, beyond: int = 0) -> int | None:
        """Return the line on which ``strip`` failed; ``None`` if it is not found, or not beyond line ``beyond``."""
        if self._stripper is None:
            return None
        return self._stripper.locate(error, code, filename, self._instance, beyond=beyond)

    def read(self, path: str) -> str:
        """Return a file's text.

        Raises:
            SourceError: there is no such file, it may not be read, or it is not text.
        """
        try:
            raw = self._read_bytes(path)
        except (WasiError, OSError) as exc:
            raise self._failure(path, exc) from None
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise SourceError("SyntaxError", f"{path} is not UTF-8: {exc.reason} at byte {exc.start}") from None

    @staticmethod
    def _failure(path: str, exc: WasiError | OSError) -> SourceError:
        errno = exc.errno if isinstance(exc, WasiError) else errno_of(exc)
        kind, text = _ERRORS.get(errno, ("OSError", errno.name))
        return SourceError(kind, f"{text}: {path!r}")

    def _open(self, path: str) -> Descriptor:
        relative = path.lstrip("/").encode("utf-8", "surrogateescape") or b"."
        root = self._files.table.get(_ROOT_FD)
        return self._files.operations.open(root, relative, OpenRequest(base=Rights.FD_READ))

    def _is_file(self, path: str) -> bool:
        try:
            descriptor = self._open(path)
        except (WasiError, OSError):
            return False
        try:
            descriptor.read([memoryview(bytearray(1))])
        except (WasiError, OSError):
            return False
        finally:
            descriptor.close()
        return True

    def _read_bytes(self, path: str) -> bytes:
        descriptor = self._open(path)
        try:
            out = bytearray()
            chunk = memoryview(bytearray(_CHUNK_BYTES))
            while True:
                count = descriptor.read([chunk])
                if count == 0:
                    return bytes(out)
                out += chunk[:count]
                if len(out) > _MAX_SOURCE_BYTES:
                    raise SourceError("RangeError", f"{path!r} is longer than {_MAX_SOURCE_BYTES} bytes")
        finally:
            descriptor.close()
