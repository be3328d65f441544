"""Detection: which sources are read as TypeScript, by their file names and by calls with type arguments. Pure."""

from __future__ import annotations

__all__ = ["is_javascript", "is_typescript", "reads_as_typescript"]

import re
from typing import Final

_MAX_SEARCHED_CHARS: Final = 256 << 10
"""The longest source that is searched for calls with type arguments: 10 ms, during which the GIL is held."""
_TYPE: Final = r"(?:any|bigint|boolean|never|number|object|string|symbol|unknown|void)(?:\[\])?"
_TYPED_CALL: Final = re.compile(rf"[\w$]<{_TYPE}(?:, ?{_TYPE}){{0,4}}>\(")
"""``f<string>(x)`` is also JavaScript, two comparisons that nobody writes. Reads a few characters at each place."""


def is_typescript(filename: str) -> bool:
    """Return whether the file name is one of a TypeScript source."""
    return filename.endswith((".ts", ".mts", ".cts", ".tsx"))


def is_javascript(filename: str) -> bool:
    """Return whether the file name is one of a JavaScript source."""
    return filename.endswith((".js", ".mjs", ".cjs", ".jsx"))


def reads_as_typescript(filename: str, code: str) -> bool:
    """Return whether a source is read as TypeScript at once, though it may also compile as JavaScript."""
    if is_typescript(filename):
        return True
    if is_javascript(filename) or len(code) > _MAX_SEARCHED_CHARS:
        return False
    return _TYPED_CALL.search(code) is not None
