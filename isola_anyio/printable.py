"""Printable: a guest's text made fit for a log, a terminal and a JSON answer. Pure.

What a guest says of itself ends where people look: errors in logs and terminals. Control characters there move the
cursor, set the window's title or fill the clipboard, bidirectional overrides show code in another order than it has,
and a lone surrogate cannot be encoded at all. They are written as the escapes that Python's literals have.
"""

from __future__ import annotations

__all__ = ["printable", "printable_json", "printable_line", "printable_on_terminal"]

from typing import Final

_UNFIT: Final = (
    *(*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)),  # C0 without tab and newline, DEL, C1
    *(*range(0x202A, 0x202F), *range(0x2066, 0x206A)),  # embeddings, overrides and isolates: they reorder what is shown
    *range(0xD800, 0xE000),  # surrogates
)
_ESCAPES: Final = {code: chr(code).encode("unicode_escape").decode("ascii") for code in _UNFIT}
_LINE_ESCAPES: Final = _ESCAPES | {ord("\t"): "\\t", ord("\n"): "\\n", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_TERMINAL_ESCAPES: Final = {code: text for code, text in _ESCAPES.items() if code != ord("\r")}
_JSON_ESCAPES: Final = {code: f"\\u{code:04x}" for code in _UNFIT}


def printable(untrusted_text: str) -> str:
    """Return the text with control characters but newline and tab, bidirectional overrides and surrogates escaped.

    What it returns can be encoded in UTF-8. A second time changes nothing.
    """
    return _translated(untrusted_text, _ESCAPES)


def printable_line(untrusted_text: str) -> str:
    """Return the text as :func:`printable` does, newlines and tabs escaped too."""
    return untrusted_text if untrusted_text.isprintable() else untrusted_text.translate(_LINE_ESCAPES)


def printable_on_terminal(untrusted_text: str) -> str:
    """Return the text as :func:`printable` does, with carriage returns: they overwrite nothing but their own line."""
    return _translated(untrusted_text, _TERMINAL_ESCAPES)


def printable_json(untrusted_json: str) -> str:
    """Return a JSON text, which may be in any characters, with the same ones escaped as JSON escapes them."""
    return _translated(untrusted_json, _JSON_ESCAPES)


def _translated(text: str, escapes: dict[int, str]) -> str:
    # `translate` takes a nanosecond for an ASCII character and fifty for another, so those are looked at first.
    # `isprintable` refuses more than is escaped here, newlines for one.
    if not text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return text.translate(escapes)
