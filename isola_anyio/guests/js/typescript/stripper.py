"""Stripper: TypeScript to JavaScript on its own lines, and the line of a syntax error, with one template's module.

The stripping module of the runtime's distribution does the parsing. It reports what it cannot parse, but not where.
The line of a fault is found by bisection: a prefix of the source's lines is parsed with a character behind it that is
never valid. A complaint about that character means that the fault is further on.
"""

from __future__ import annotations

__all__ = ["Stripper"]

from bisect import bisect_left
from functools import partial
from typing import TYPE_CHECKING, Final

from isola_anyio.engine import ffi
from isola_anyio.guests.js.typescript.line_alignment import align_lines
from isola_anyio.guests.js.typescript.program import StrippingModule
from isola_anyio.guests.js.typescript.transform import TypeScriptError, transform

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio.cache import Cache
    from isola_anyio.engine.instance import Instance

_MAX_ALIGNED_CHARS: Final = 512 << 10
"""The longest source whose stripped form gets its lines back, which takes up to 10 microseconds of CPU a character."""
_MAX_STRIPPED_CHARS: Final = 4 * _MAX_ALIGNED_CHARS
"""The same for the stripped form, which has a line for each item of a long list, and more tokens only for enums."""
_MAX_LOCATED_CHARS: Final = 256 << 10
"""The longest source in which the line of a fault is looked for, which takes up to 18 parsings."""
_NEVER_VALID: Final = "\n\x01"
_UNEXPECTED_END: Final = ("`EOF`", "Unexpected token")
"""Parser errors that mean unexpected end of input; any other that no prefix reproduces concerns the whole file."""
_TRAILER: Final = "export {};\n"
"""Printed where only types were imported or exported, to keep the source a module; without it, it is a script."""


class Stripper:
    """Strips TypeScript with one template's stripping module."""

    def __init__(self, path: Path, sha256: str, cache: Cache) -> None:
        """``path`` is the stripping module's file, which must have this SHA-256; its code is kept in ``cache``."""
        self._module = StrippingModule(path, sha256, cache)

    def strip(self, code: str, filename: str, instance: Instance) -> str:
        """Return the JavaScript in ``code``, every token on the line it was on; on the thread of that guest.

        A long source, or JSX, keeps the layout in which it is printed. A module whose imports and exports are all of
        types becomes a script.

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
        is_long = len(code) > _MAX_ALIGNED_CHARS or len(stripped) > _MAX_STRIPPED_CHARS
        if is_long or filename.endswith(".tsx"):
            return stripped
        return align_lines(code, stripped, partial(_checkpoint, instance))

    def locate(
        self, error: TypeScriptError, code: str, filename: str, instance: Instance, *, beyond: int = 0
    ) -> int | None:
        """Return the line on which stripping failed; ``None`` if it is not found, or not beyond line ``beyond``.

        Raises:
            ffi.StoreInterrupted: the guest is being stopped.
        """
        if len(code) > _MAX_LOCATED_CHARS or filename.endswith(".tsx"):  # JSX text may hold any character
            return None
        lines = code.rstrip().split("\n")

        def fails_alike(count: int) -> bool:
            try:
                self._transform("\n".join(lines[:count]) + _NEVER_VALID, filename, instance)
            except TypeScriptError as exc:
                return str(exc) == str(error)
            return False

        found = bisect_left(range(len(lines) + 1), True, lo=min(beyond, len(lines)), key=fails_alike)
        if found > len(lines) and str(error).endswith(_UNEXPECTED_END):
            found = len(lines)
        return found if beyond < found <= len(lines) else None

    def _transform(self, code: str, filename: str, instance: Instance) -> str | None:
        return transform(code, filename, instance, partial(self._module.program, instance))


def _checkpoint(instance: Instance) -> None:
    """Do what a guest does at an epoch, in host code that works for it: yield the GIL and the slot, or stop."""
    ffi.yield_gil()
    if instance.store.on_epoch is not None:
        instance.store.on_epoch()
    if instance.interrupted:
        raise ffi.StoreInterrupted
