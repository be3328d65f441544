"""Decoded size: about how many bytes of memory the value in some bytes takes once it is decoded.

Estimated from the text, which is only searched: for brackets, commas and quotes, wherever they are. A text in which
these are inside of strings is taken for larger than it is; the figures are the most that each of them can stand for, or
half of it where that hardly ever comes together.
"""

from __future__ import annotations

__all__ = ["decoded_size"]

from typing import TYPE_CHECKING, Final

from isola_anyio.codec.frame import text_span

if TYPE_CHECKING:
    from collections.abc import Callable

# What CPython 3.11 on 64 bits takes, with the reference from the container around it.
_LIST_BYTES: Final = 88
_DICT_BYTES: Final = 192
"""With one to five members."""
_MEMBERS_BYTES: Final = 120
"""The part of it that an empty one does not have."""
_STR_BYTES: Final = 56
"""Of a str that is no key: keys of one text that are equal are one object."""
_REFERENCE_BYTES: Final = 8
_NUMBER_BYTES: Final = 32
_PER_CHARACTER: Final = 8
"""Of what is neither bracket nor comma, where numbers may be: an int below 257, three characters, takes no memory."""
_BELOW_ASTRAL: Final = bytes(range(0xF0))
"""A character whose UTF-8 begins above these makes each of its str take four bytes."""
_BELOW_WIDE: Final = bytes(range(0xC4))
"""... above these, two bytes."""
_WINDOW_BYTES: Final = 64 * 1024


def decoded_size(data: bytes | memoryview, limit: int, pause: Callable[[], object]) -> int:
    """Return about how many bytes the value takes that ``data``, untrusted, encodes; at least its own length.

    Args:
        data: a JSON text or a frame.
        limit: beyond it the search ends, and the figure is what was found so far.
        pause: called every millisecond, to let other threads run; may raise.
    """
    total = len(data)
    start, end = text_span(data)
    widest = 1
    first = start
    while start < end and total <= limit:
        if start > first:
            pause()
        part = bytes(data[start : min(start + _WINDOW_BYTES, end)])
        start += _WINDOW_BYTES
        total += _objects_size(part)
        width = _width(part)
        if width > widest:  # of any str, perhaps one that began windows ago
            total += (width - widest) * (end - first)
            widest = width
    return total


def _objects_size(part: bytes) -> int:
    # `in` is ten times as fast as `count`, and where there is none nothing has to be counted.
    lists = part.count(b"[") if b"[" in part else 0
    dicts = part.count(b"{") if b"{" in part else 0
    empty = part.count(b"{}") if dicts else 0
    commas = part.count(b",") if b"," in part else 0
    strings = part.count(b'"') // 2 - part.count(b'":') if b'"' in part else 0
    numbers = min(_NUMBER_BYTES * commas, _PER_CHARACTER * max(0, len(part) - 2 * (lists + dicts) - commas))
    return (
        _LIST_BYTES * lists
        + _DICT_BYTES * dicts
        - _MEMBERS_BYTES * empty
        + _STR_BYTES * max(0, strings)
        + _REFERENCE_BYTES * commas
        + numbers
    )


def _width(part: bytes) -> int:
    if part.isascii():
        return 4 if b"\\u" in part else 1
    return 4 if part.translate(None, _BELOW_ASTRAL) else 2 if part.translate(None, _BELOW_WIDE) else 1
