"""Syntax errors: what the host reads of one in the guest, and how it makes one on a given line."""

from __future__ import annotations

__all__ = ["is_syntax_error", "line_of", "make_syntax_error", "message_of"]

import re
from typing import TYPE_CHECKING, Final

from isola_anyio.errors import InternalError
from isola_anyio.guests.js.exports import JsError

if TYPE_CHECKING:
    from isola_anyio.guests.js.exports import Js

_MAX_TEXT_BYTES: Final = 1 << 16
"""The longest property of an error that is read; of a longer one nothing is."""
_POSITION: Final = re.compile(rb":(\d{1,9}):\d{1,9}\)?$")
"""The end of a stack's line: line and column."""


def is_syntax_error(js: Js, error: int) -> bool:
    """Return whether an error is a ``SyntaxError``."""
    return _text_of(js, error, "name") == b"SyntaxError"


def message_of(js: Js, error: int) -> str:
    """Return an error's message."""
    return _text_of(js, error, "message").decode("utf-8", "replace")


def line_of(js: Js, error: int, code: str) -> int:
    """Return the line of ``code`` on which an error was thrown, by the first line of its stack; 0 when that has none.

    The stack may be the guest's own text (``Error.prepareStackTrace``): a line that ``code`` does not have is its last.
    """
    found = _POSITION.search(_text_of(js, error, "stack").partition(b"\n")[0])
    return min(int(found[1]), code.count("\n") + code.count("\r") + 1) if found else 0


def make_syntax_error(js: Js, message: str, name: str, line: int) -> int:
    """Make a ``SyntaxError`` on a line of the source of that name: a handle.

    The engine makes the error, with a fault on the first line of a text of its own, and the host sets what it says. To
    put the fault on the line instead would take as many newlines.
    """
    try:
        promise = js.evaluate(b")")
    except JsError as exc:
        js.set_text(exc.handle, "message", message)
        js.set_text(exc.handle, "stack", f"    at {name}:{line}:1\n")
        return exc.handle
    js.free_value(promise)
    raise InternalError("QuickJS took what is no JavaScript")


def _text_of(js: Js, error: int, name: str) -> bytes:
    """Read a property of an error, which the guest may have made; empty when it is not a short string."""
    try:
        value = js.get(error, name)
    except JsError as exc:
        js.free_value(exc.handle)
        return b""
    text = js.read_text(value, _MAX_TEXT_BYTES)
    js.free_value(value)
    return text or b""
