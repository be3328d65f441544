"""Writer: a large value as JSON text, piece by piece, and the weight that tells large from small.

``json`` holds the interpreter's lock for as long as it writes. A value is *small* if that takes about a millisecond at
most. The lists, dicts and strings of a large value are taken apart until each part is small; between two parts other
threads may run. The text is the same, byte for byte.
"""

from __future__ import annotations

__all__ = ["SMALL", "is_small", "weight", "write_in_pieces"]

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALL: Final = 4096
"""The weight of the largest small value; the unit is one number in a list."""
_CHARS_PER_UNIT: Final = 32
_BYTES_PER_UNIT: Final = 4096
_ITEMS: Final = 1024
"""How many items of a list or dict are weighed together, and written together if they are small."""
_BYTES_PER_PAUSE: Final = 64 * 1024
"""Text between two pauses: milliseconds. A pause takes five where other threads are busy, so more would cost more."""
_STR_CHARS: Final = 64 * 1024

# Untyped, because narrowing Any to "dict of unknowns" helps nobody.
_DICT: Final = cast("type[Any]", dict)
_SEQUENCES: Final = cast("tuple[type[Any], ...]", (list, tuple))
_SCALARS: Final[frozenset[object]] = frozenset({float, bool, type(None)})
_INT: Final[frozenset[object]] = frozenset({int})
_BITS_PER_UNIT: Final = 128
"""Bits of an int that weigh one unit; writing an int takes the square of its length."""
_SHORT_INT: Final = 1 << 64

_Write: TypeAlias = "Callable[[Any, int], bytes | None]"


def is_small(value: Any, limit: int = SMALL) -> bool:
    """Whether writing ``value`` takes about a millisecond at most; weighing it takes less."""
    return type(value) in _SCALARS or weight(value, limit) <= limit


def weight(value: Any, limit: int) -> int:
    """Return the weight of ``value``; weighing stops at the first sum above ``limit``."""
    total = 0
    left: list[Any] = [(value,)]
    while left:
        for item in left.pop():
            total += 1
            if type(item) in _SCALARS:
                continue
            if type(item) is int:
                total += item.bit_length() // _BITS_PER_UNIT
                if total > limit:
                    return total
                continue
            if type(item) is str:
                total += len(item) // _CHARS_PER_UNIT
                continue
            if isinstance(item, _DICT):
                left += (item, item.values())
            elif isinstance(item, _SEQUENCES):
                left.append(item)
            else:
                total += _bytes_held(item) // _BYTES_PER_UNIT
                continue
            if total + len(item) > limit:
                return limit + 1
        if total > limit:
            break
    return total


def _bytes_held(item: Any) -> int:
    if isinstance(item, (bytes, bytearray, str)):
        return len(item)
    size = getattr(item, "nbytes", 0)  # a memoryview's, or an array's
    return size if type(size) is int else 0


def write_in_pieces(value: Any, write: _Write, max_depth: int, pause: Callable[[], object]) -> bytes | None:
    """Return the JSON text of ``value``, made of the texts of its parts.

    Args:
        value: a large value.
        write: returns the text of a part that may nest as deep as its second argument; ``None`` if JSON cannot say it.
        max_depth: how deep ``value`` may nest.
        pause: called between two parts now and then.

    Returns:
        ``None`` if ``write`` returned ``None`` for a part, or if ``value`` contains itself, nests too deep, or has a
        key that is not a str.
    """
    writer = _Writer(write, pause)
    try:
        writer.write(value, max_depth)
    except _CannotWrite:
        return None
    return b"".join(writer.pieces)


class _CannotWrite(Exception):  # noqa: N818 - a signal
    """Makes `write_in_pieces` return ``None``."""


def _fitting(items: Any) -> int:
    """Return how many of the first items are small when written together."""
    types = set(map(type, items))
    if types <= _SCALARS or (types <= _INT and min(items) > -_SHORT_INT and max(items) < _SHORT_INT):
        return len(items)
    if weight(items, SMALL) <= SMALL:
        return len(items)
    room = SMALL
    for count, item in enumerate(items):
        room -= weight(item, room)
        if room < 0:
            return count
    return len(items)


class _Writer:
    """Walks a value with a stack of its own, so that it works when the thread's is nearly used up."""

    def __init__(self, write: _Write, pause: Callable[[], object]) -> None:
        self.pieces: list[bytes] = []
        self._write_part = write
        self._pause = pause
        self._open: set[int] = set()
        self._until_pause = _BYTES_PER_PAUSE

    def write(self, value: Any, max_depth: int) -> None:
        """Write ``value``, which may nest as deep as ``max_depth``."""
        stack: list[Iterator[Any]] = [iter([value])]
        while stack:
            depth = max_depth + 1 - len(stack)
            for item in stack[-1]:
                if isinstance(item, (_DICT, *_SEQUENCES)):
                    if not depth or id(item) in self._open:
                        raise _CannotWrite
                    self._open.add(id(item))
                    parts = self._dict(item, depth) if isinstance(item, _DICT) else self._list(item, depth)
                    stack.append(parts)
                    break
                self._leaf(item, depth)
            else:
                stack.pop()

    def _list(self, items: Any, depth: int) -> Iterator[Any]:
        """Write a list's brackets, commas and small items; yields each large item to be written in its place."""
        before = b"["
        for start in range(0, len(items), _ITEMS):
            some = items[start : start + _ITEMS]
            while some:
                count = _fitting(some)
                self.pieces.append(before)
                before = b","
                if count:
                    self._part(some[:count], depth, cut=1)
                else:
                    yield some[0]
                some = some[max(count, 1) :]
        self.pieces.append(b"]" if before == b"," else b"[]")
        self._open.discard(id(items))

    def _dict(self, fields: dict[Any, Any], depth: int) -> Iterator[Any]:
        """Write a dict's brackets, keys and small items; yields each large item to be written in its place."""
        before = b"{"
        items = iter(fields.items())
        while some := list(islice(items, _ITEMS)):
            while some:
                count = _fitting(some)
                self.pieces.append(before)
                before = b","
                if count:
                    self._part(dict(some[:count]), depth, cut=1)
                else:
                    key, item = some[0]
                    if not isinstance(key, str):
                        raise _CannotWrite
                    self._leaf(key, depth)
                    self.pieces.append(b":")
                    yield item
                some = some[max(count, 1) :]
        self.pieces.append(b"}" if before == b"," else b"{}")
        self._open.discard(id(fields))

    def _leaf(self, value: Any, depth: int) -> None:
        if type(value) is not str or is_small(value):
            self._part(value, depth)
            return
        self.pieces.append(b'"')
        start = 0
        while start < len(value):
            end = start + _STR_CHARS
            if "\ud800" <= value[end - 1 : end] <= "\udbff":  # the first half of a pair
                end += 1
            self._part(value[start:end], depth, cut=1)
            start = end
        self.pieces.append(b'"')

    def _part(self, value: Any, depth: int, cut: int = 0) -> None:
        """Write a part in one go, without the first and last ``cut`` bytes of its text: its brackets or quotes."""
        text = self._write_part(value, depth)
        if text is None:
            raise _CannotWrite
        self.pieces.append(text[cut : len(text) - cut])
        self._until_pause -= len(text)
        if self._until_pause <= 0:
            self._until_pause = _BYTES_PER_PAUSE
            self._pause()
