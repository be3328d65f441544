"""Encoding: the slow path. Values that need escapes and a frame, large values in pieces, and the texts of errors.

`plain` comes here when ``json`` fails or leaves a text that may have lost something. One walk over the value then
copies it with *escapes* for what JSON cannot say, and knows the path of whatever cannot cross.
"""

from __future__ import annotations

__all__ = ["ESCAPE_DEPTH", "Dialect", "encode_any", "encode_escaped"]

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from isola_anyio.codec import buffers
from isola_anyio.codec.chunked.garbage import free_in_pieces, no_full_collections
from isola_anyio.codec.chunked.writer import write_in_pieces
from isola_anyio.codec.errors import EncodeError, EncodeTypeError, Step, format_path, remedy, type_name
from isola_anyio.codec.frame import SEGMENT_KEYS, pack
from isola_anyio.codec.jsontext import (
    MAX_DEPTH,
    MAX_SAFE_INT,
    chunks,
    chunks_ascii,
    chunks_finite,
    has_surrogate_pair,
    is_exact,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Dialect: TypeAlias = Literal["python", "js"]
"""Who will decode: Python reads NaN and any int from JSON text, JavaScript neither."""

KEY: Final = "$"
"""The reserved key, unless a key of the value starts with it."""

ESCAPE_DEPTH: Final = 1
"""An escape is an object in the text where the value has a leaf, so a frame's text is one level deeper."""

MAX_INT_BITS: Final = 2125
"""Ints up to here have at most 640 digits, the least that ``sys.set_int_max_str_digits`` can be set to."""

# Untyped, because narrowing Any to "dict of unknowns" helps nobody.
_DICT: Final = cast("type[Any]", dict)
_SEQUENCES: Final = cast("tuple[type[Any], ...]", (list, tuple))
_CONTAINERS: Final = cast("tuple[type[Any], ...]", (dict, list, tuple))
INLINE_HEX_BITS: Final = 4 * 8192
"""Longer ints are segments; a guess that keeps texts small."""
_ITEMS_PER_PAUSE: Final = 16 * 1024
"""Items of a walk between two pauses: a few milliseconds, during which any other thread may run."""


def encode_any(value: Any, root: str, max_depth: int, pause: Callable[[], object] | None, *, js: bool) -> bytes:
    """Return ``value`` as bytes; with a ``pause``, a large one in pieces.

    Raises:
        EncodeError: ``value`` cannot cross.
    """
    if pause is None:
        return _encode(value, root, max_depth, None, js=js)
    with no_full_collections():
        return _encode(value, root, max_depth, pause, js=js)


def _encode(value: Any, root: str, max_depth: int, pause: Callable[[], object] | None, *, js: bool) -> bytes:
    try:
        if pause is None:
            raw = _write_plain(value, max_depth, js=js)
        else:
            raw = write_in_pieces(value, partial(_write_plain, js=js), max_depth, pause)
    except (TypeError, ValueError, RecursionError):
        raw = None
    return encode_escaped(value, root, max_depth, pause, js=js) if raw is None else raw


def _write_plain(value: Any, max_depth: int, *, js: bool) -> bytes | None:
    """Return ``value`` as JSON text, or ``None``, or raise what ``json`` raises, if it needs escapes or is refused."""
    text = "".join((chunks_finite if js else chunks)(value, 0))
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        # Two surrogates in the right order would be read back as one character; in JavaScript they are one.
        if not js and has_surrogate_pair(text):
            return None
        text = "".join(chunks_ascii(value, 0))
        raw = text.encode("ascii")
    return raw if is_exact(text, raw, value, max_depth, js=js) else None


def encode_escaped(value: Any, root: str, max_depth: int, pause: Callable[[], object] | None, *, js: bool) -> bytes:
    """Return ``value`` as a frame, or as plain text if no escape was needed after all.

    Raises:
        EncodeError: ``value`` cannot cross.
    """
    key = KEY
    while True:
        rewriter = _Rewriter(key, root, max_depth, pause or _no_pause, js=js)
        try:
            text = _write_ascii(rewriter.rewrite(value), max_depth, pause)
        except _KeyTaken:
            key = _free_key(value)
            continue
        except RecursionError:
            raise EncodeError(root, "nested deeper than the rest of this thread's stack allows") from None
        finally:
            free_in_pieces(rewriter.out)
        return pack(key, rewriter.flags, text, rewriter.segments) if rewriter.escapes else text


def _write_ascii(value: Any, max_depth: int, pause: Callable[[], object] | None) -> bytes:
    """Return the JSON text of a rewritten value, which needs no more escapes."""
    text = None
    if pause is not None:
        text = write_in_pieces(value, _dump_ascii, max_depth + ESCAPE_DEPTH, pause)
    return _dump_ascii(value, 0) if text is None else text


def _dump_ascii(value: Any, _max_depth: int) -> bytes:
    return "".join(chunks_ascii(value, 0)).encode("ascii")


def _no_pause() -> None:
    pass


class _KeyTaken(Exception):  # noqa: N818 - a signal
    """A dict of the value has a key that starts with the reserved one."""


def _free_key(value: Any) -> str:
    """Return a reserved key that no key in ``value`` starts with."""
    taken: set[str] = set()
    seen: set[int] = set()
    left: list[Any] = [value]
    while left:
        found = left.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, _DICT):
            taken.update(key[1:].partition(KEY)[0] for key in found if isinstance(key, str) and key.startswith(KEY))
            left.extend(found.values())
        elif isinstance(found, _SEQUENCES):
            left.extend(found)
    number = 0
    while str(number) in taken:
        number += 1
    return f"{KEY}{number}{KEY}"


class _Open:
    """A list or dict that is being copied: one frame of the walk's own stack."""

    __slots__ = ("copy", "is_list", "items", "source", "step")

    def __init__(self, source: Any, items: Iterator[tuple[Step, Any]], copy: Any) -> None:
        self.source = source
        self.items = items
        self.copy = copy
        self.is_list = type(copy) is list
        self.step: Step = 0


class _Rewriter:
    """Copies a value with escapes in it; iterative, so that it works when the thread's stack is nearly used up."""

    def __init__(self, key: str, root: str, max_depth: int, pause: Callable[[], object], *, js: bool) -> None:
        self.out: list[Any] = []
        self._pause = pause
        self.key = key
        self.root = root
        self.max_depth = max_depth
        self.js = js
        self.flags = 0
        self.escapes = 0
        self.segments: list[Any] = []
        self._open: list[_Open] = []

    def rewrite(self, value: Any) -> Any:
        out = self.out
        until_pause = _ITEMS_PER_PAUSE
        # The outermost frame holds the value itself and is no part of any path.
        stack = self._open = [_Open(None, iter([(0, value)]), out)]
        open_ids: set[int] = set()
        while stack:
            top = stack[-1]
            copy = top.copy
            for step, item in top.items:
                top.step = step
                new: Any
                if isinstance(item, str):
                    new = item if self.js else self._str(item)
                elif isinstance(item, _CONTAINERS):
                    if id(item) in open_ids:
                        raise self._error("the value contains itself; break the cycle")
                    if len(stack) > self.max_depth:
                        raise self._error(f"nested deeper than {MAX_DEPTH} levels; flatten it")
                    open_ids.add(id(item))
                    new = {} if isinstance(item, _DICT) else []
                    stack.append(_Open(item, self._items(item), new))
                else:
                    new = self._scalar(item)
                until_pause -= 1
                if not until_pause:
                    until_pause = _ITEMS_PER_PAUSE
                    self._pause()
                if top.is_list:
                    copy.append(new)
                else:
                    copy[step] = new
                if stack[-1] is not top:
                    break
            else:
                stack.pop()
                open_ids.discard(id(top.source))
        return out[0]

    def _items(self, source: Any) -> Iterator[tuple[Step, Any]]:
        return self._dict_items(source) if isinstance(source, _DICT) else cast("Any", enumerate(source))

    def _dict_items(self, source: dict[Any, Any]) -> Iterator[tuple[Step, Any]]:
        for key, item in source.items():
            if not isinstance(key, str):
                self._open.pop()  # the dict is at fault, not what is in it
                raise self._error(
                    f"the key {_shown(key)} is of type {type_name(key)}; keys must be str", EncodeTypeError
                )
            if key.startswith(self.key):
                raise _KeyTaken
            if not self.js and has_surrogate_pair(key):
                self.flags |= SEGMENT_KEYS
                self.escapes += 1
                yield self.key + self._segment("s", key.encode("utf-8", "surrogatepass")), item
            else:
                yield key, item

    def _str(self, item: str) -> Any:
        if has_surrogate_pair(item):
            return self._escape(self._segment("s", item.encode("utf-8", "surrogatepass")))
        return item

    def _scalar(self, item: Any) -> Any:
        if item is None or isinstance(item, bool):
            return item
        if isinstance(item, int):
            if not self.js:
                return item if item.bit_length() <= MAX_INT_BITS else self._escape(self._big_int(item))
            return item if -MAX_SAFE_INT <= item <= MAX_SAFE_INT else self._escape(self._big_int(item))
        if isinstance(item, float):
            return self._escape(f"f{float.__repr__(item)}") if self.js and item - item != 0 else item
        if isinstance(item, (bytes, bytearray)):
            return self._escape(self._segment("b", item))
        number = buffers.number_of(item)
        return self._buffer(item) if number is None else self._scalar(number)

    def _big_int(self, item: int) -> str:
        number = int.__index__(item)
        if number.bit_length() <= INLINE_HEX_BITS:
            return f"i{number:x}"
        size = (number.bit_length() + 7) // 8
        return self._segment("J" if number < 0 else "I", abs(number).to_bytes(size, "little"))

    def _buffer(self, item: Any) -> Any:
        try:
            found = buffers.describe(item)
        except buffers.Unsupported as exc:
            raise self._error(f"{_buffer_name(item)} is not a value that can cross; {exc}", EncodeTypeError) from None
        if found is None:
            raise self._error(f"{type_name(item)} is not a value that can cross; {remedy(item)}", EncodeTypeError)
        if isinstance(item, memoryview) and found.name == "u1" and len(found.shape) == 1:
            return self._escape(self._segment("b", found.data))
        if self.js and found.name[0] == "c":
            raise self._error(
                f"{_buffer_name(item)} is not a value that can cross to JavaScript; send .real and .imag",
                EncodeTypeError,
            )
        return self._escape(f"{self._segment('t', found.data)}:{found.spec}")

    def _segment(self, code: str, data: Any) -> str:
        self.segments.append(data)
        return f"{code}{len(self.segments) - 1}"

    def _escape(self, payload: str) -> dict[str, str]:
        self.escapes += 1
        return {self.key: payload}

    def _error(self, reason: str, kind: type[EncodeError] = EncodeError) -> EncodeError:
        return kind(format_path(self.root, [level.step for level in self._open[1:]]), reason)


def _shown(key: object) -> str:
    try:
        return repr(key)[:40]
    except Exception:  # noqa: BLE001 - a stranger's __repr__
        return "?"


def _buffer_name(item: Any) -> str:
    dtype = getattr(item, "dtype", None)
    return type_name(item) if dtype is None or not hasattr(item, "__len__") else f"{type_name(item)} of {dtype}"
