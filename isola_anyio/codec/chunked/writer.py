"""Writer: a large value as JSON text, piece by piece, and the weight that tells large from small.

``json`` holds the interpreter's lock for as long as it writes. A value is *small* if that takes about a millisecond at
most. The lists, dicts and strings of a large value are taken apart until each part is small; between two parts other
threads may run. The text is the same, byte for byte.
"""

from __future__ import annotations

__all__ = ["SMALL", "is_small", "weight", "write_in_pieces"]

from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from isola_anyio.kinds import CONTAINERS, base_of, items_of, iterate, plain_str, size_of

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
_FEW_LEVELS: Final = 8

# Untyped, because narrowing Any to "dict of unknowns" helps nobody.
_DICT: Final = cast("Any", dict)
_LIST: Final = cast("Any", list)
_TUPLE: Final = cast("Any", tuple)
_BYTES: Final[frozenset[object]] = frozenset({bytes, bytearray})
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
                    return limit + 1
                continue
            if type(item) is str:
                total += len(item) // _CHARS_PER_UNIT
                continue
            if type(item) is _DICT:
                left += (item, item.values())
                size = len(item)
            elif type(item) is _LIST or type(item) is _TUPLE:
                left.append(item)
                size = len(item)
            else:
                base: Any = base_of(item)
                if base not in CONTAINERS:
                    total += _units_of(item, base)
                    continue
                left.append(iterate(item, base))
                if base is _DICT:
                    left.append(base.values(item))
                size = size_of(item, base)
            if total + size > limit:
                return limit + 1
        if total > limit:
            break
    return total


def _units_of(item: Any, base: type[Any] | None) -> int:
    """Return what an object weighs that is no container, and not of the most frequent types."""
    if base is str:
        return size_of(item, str) // _CHARS_PER_UNIT
    if base is int:
        return int.bit_length(item) // _BITS_PER_UNIT
    if base is not None and base in _BYTES:
        return size_of(item, base) // _BYTES_PER_UNIT
    try:
        size = item.nbytes  # a memoryview's, or an array's
    except Exception:  # noqa: BLE001 - it has none; or a stranger's attribute
        return 0
    return size // _BYTES_PER_UNIT if type(size) is int else 0


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
    return writer.text()


class _CannotWrite(Exception):  # noqa: N818 - a signal
    """Makes `write_in_pieces` return ``None``."""


def _fitting(items: Any, limit: int) -> int:
    """Return how many of the first items are small when written together."""
    types = set(map(type, items))
    if types <= _SCALARS or (types <= _INT and min(items) > -_SHORT_INT and max(items) < _SHORT_INT):
        return len(items)
    if len(items) == 1:  # opened without being weighed, or a chain of lists in one another would be at every link
        return 0 if types <= CONTAINERS else int(weight(items, limit) <= limit)
    if weight(items, limit) <= limit:
        return len(items)
    room = limit
    for count, item in enumerate(items):
        room -= weight(item, room)
        if room < 0:
            return count
    return len(items)


class _Writer:
    """Walks a value with a stack of its own, so that it works when the thread's is nearly used up."""

    def __init__(self, write: _Write, pause: Callable[[], object]) -> None:
        # Grows where it is, and gives away what it holds: nothing as long as the whole is ever copied in one go.
        self._out = BytesIO()
        self.put: Callable[[bytes], object] = self._out.write
        self._write_part = write
        self._pause = pause
        self._max_depth = 0
        self._open: set[int] = set()
        self._until_pause = _BYTES_PER_PAUSE

    def _limit_at(self, depth: int) -> int:
        """Return what is written together at most where ``depth`` more levels may be: each weighs what the next do."""
        return SMALL if self._max_depth - depth < _FEW_LEVELS else SMALL // 32

    def text(self) -> bytes:
        """Return what was written."""
        return self._out.getvalue()

    def write(self, value: Any, max_depth: int) -> None:
        """Write ``value``, which may nest as deep as ``max_depth``."""
        self._max_depth = max_depth
        stack: list[Iterator[Any]] = [iter([value])]
        while stack:
            depth = max_depth + 1 - len(stack)
            for item in stack[-1]:
                base = base_of(item)
                if base in CONTAINERS:
                    if not depth or id(item) in self._open:
                        raise _CannotWrite
                    self._open.add(id(item))
                    stack.append(self._dict(item, depth) if base is dict else self._list(item, depth))
                    break
                self._leaf(item, depth)
            else:
                stack.pop()

    def _list(self, items: Any, depth: int) -> Iterator[Any]:
        """Write a list's brackets, commas and small items; yields each large item to be written in its place."""
        before = b"["
        limit = self._limit_at(depth)
        base: Any = base_of(items)
        for start in range(0, size_of(items, base), _ITEMS):
            some = base.__getitem__(items, slice(start, start + _ITEMS))
            while some:
                count = _fitting(some, limit)
                self.put(before)
                before = b","
                if count:
                    self._part(some[:count], depth, cut=1)
                else:
                    yield some[0]
                some = some[max(count, 1) :]
        self.put(b"]" if before == b"," else b"[]")
        self._open.discard(id(items))

    def _dict(self, fields: dict[Any, Any], depth: int) -> Iterator[Any]:
        """Write a dict's brackets, keys and small items; yields each large item to be written in its place."""
        before = b"{"
        limit = self._limit_at(depth)
        items = items_of(fields)
        while some := list(islice(items, _ITEMS)):
            while some:
                count = _fitting(some, limit)
                self.put(before)
                before = b","
                if count:
                    self._part(dict(some[:count]), depth, cut=1)
                else:
                    key, item = some[0]
                    # Before a long key is written: what needs an escape, or cannot cross at all.
                    if not issubclass(type(key), str) or base_of(item) is None:
                        raise _CannotWrite
                    self._leaf(key, depth)
                    self.put(b":")
                    yield item
                some = some[max(count, 1) :]
        self.put(b"}" if before == b"," else b"{}")
        self._open.discard(id(fields))

    def _leaf(self, value: Any, depth: int) -> None:
        if not issubclass(type(value), str) or is_small(value):
            self._part(value, depth)
            return
        value = plain_str(value)
        self.put(b'"')
        start = 0
        while start < len(value):
            end = start + _STR_CHARS
            if "\ud800" <= value[end - 1 : end] <= "\udbff":  # the first half of a pair
                end += 1
            self._part(value[start:end], depth, cut=1)
            start = end
        self.put(b'"')

    def _part(self, value: Any, depth: int, cut: int = 0) -> None:
        """Write a part in one go, without the first and last ``cut`` bytes of its text: its brackets or quotes."""
        text = self._write_part(value, depth)
        if text is None:
            raise _CannotWrite
        self.put(text[cut : len(text) - cut] if cut else text)
        self._until_pause -= len(text)
        if self._until_pause <= 0:
            self._until_pause = _BYTES_PER_PAUSE
            self._pause()
