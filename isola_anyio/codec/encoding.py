"""Encoding: the slow path. Values that need escapes and a frame, large values in pieces, and the texts of errors.

`plain` comes here when ``json`` fails or leaves a text that may have lost something. One walk over the value then
copies it with *escapes* for what JSON cannot say, and knows the path of whatever cannot cross.
"""

from __future__ import annotations

__all__ = ["ESCAPE_DEPTH", "Dialect", "encode_any", "encode_escaped"]

import sys
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from isola_anyio.clipping import clip, type_name
from isola_anyio.codec import buffers
from isola_anyio.codec.chunked.garbage import let_go, no_full_collections
from isola_anyio.codec.chunked.writer import write_in_pieces
from isola_anyio.codec.errors import EncodeError, EncodeTypeError, Step, format_path, remedy
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
from isola_anyio.fairness import yield_gil
from isola_anyio.kinds import CONTAINERS, base_of, items_of, iterate, plain_str

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

INLINE_HEX_BITS: Final = 4 * 8192
"""Longer ints are segments; a guess that keeps texts small."""
_KEY_CHARS: Final = 40
"""How much of a key an error shows; a guess."""
_ITEMS_PER_PAUSE: Final = 4 * 1024
"""Items of a walk between two pauses: a few milliseconds, during which any other thread may run."""
_STR_RUN_CHARS: Final = 64 * 1024
"""Characters that are looked through, or encoded, in one go: a few milliseconds."""


def encode_any(value: Any, root: str, max_depth: int, pause: Callable[[], object] | None, *, js: bool) -> bytes:
    """Return ``value`` as bytes; with a ``pause``, a large one in pieces.

    Raises:
        EncodeError: ``value`` cannot cross.
    """
    if pause is None:
        return _encode(value, root, max_depth, None, js=js)
    with no_full_collections(is_due=False):  # the value is there
        return _encode(value, root, max_depth, pause, js=js)


def _encode(value: Any, root: str, max_depth: int, pause: Callable[[], object] | None, *, js: bool) -> bytes:
    try:
        if pause is None:
            raw = _write_plain(value, max_depth, js=js)
        else:
            raw = write_in_pieces(value, partial(_write_plain, js=js), max_depth, pause)
    except Exception:  # noqa: BLE001 - what `json` raises, or a stranger's `items`; what is wrong is found out below
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
    # A str has nothing in it that could be lost.
    return raw if type(value) is str or is_exact(text, raw, value, max_depth, js=js) else None


def encode_escaped(value: Any, root: str, max_depth: int, pause: Callable[[], object] | None, *, js: bool) -> bytes:
    """Return ``value`` as a frame, or as plain text if no escape was needed after all.

    Raises:
        EncodeError: ``value`` cannot cross.
    """
    key = KEY
    breathe = pause or _no_pause
    while True:
        rewriter = _Rewriter(key, root, max_depth, breathe, js=js)
        try:
            text = _write_ascii(rewriter.rewrite(value), max_depth, pause)
        except _KeyTaken:
            key = _free_key(value, breathe)
            continue
        except RecursionError:
            raise EncodeError(root, "nested deeper than the rest of this thread's stack allows") from None
        finally:
            # A pause that raised, which is no Exception, is not called again.
            is_stopped = not isinstance(sys.exc_info()[1], (Exception, type(None)))
            let_go(rewriter.out, yield_gil if is_stopped else breathe, owned=True)
        return pack(key, rewriter.flags, text, rewriter.segments, pause) if rewriter.escapes else text


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


def _free_key(value: Any, pause: Callable[[], object]) -> str:
    """Return a reserved key that no key in ``value`` starts with."""
    taken: set[str] = set()
    seen: set[int] = set()
    left: list[Any] = [value]
    until_pause = _ITEMS_PER_PAUSE
    while left:
        found = left.pop()
        until_pause -= 1
        if not until_pause:
            until_pause = _ITEMS_PER_PAUSE
            pause()
        base = base_of(found)
        if base not in CONTAINERS or id(found) in seen:
            continue
        seen.add(id(found))
        if base is dict:
            for key, item in list(items_of(found)):
                name = plain_str(key) if issubclass(type(key), str) else ""
                if name.startswith(KEY):
                    taken.add(name[1:].partition(KEY)[0])
                left.append(item)
        else:
            assert base is not None
            left.extend(iterate(found, base))
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
        try:
            return self._copy(value)
        except (EncodeError, _KeyTaken, MemoryError, RecursionError):
            raise
        # A stranger's `items` or buffer; a value that is changed meanwhile; and nothing of the pause's, which raises
        # what is no Exception.
        except Exception as exc:
            raise self._error(f"it cannot be read: {type_name(exc)} was raised", EncodeTypeError) from exc

    def _copy(self, value: Any) -> Any:
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
                base = base_of(item)
                if base is str:
                    new = plain_str(item) if self.js else self._str(plain_str(item))
                elif base in CONTAINERS:
                    if id(item) in open_ids:
                        raise self._error("the value contains itself; break the cycle")
                    if len(stack) > self.max_depth:
                        raise self._error(f"nested deeper than {MAX_DEPTH} levels; flatten it")
                    open_ids.add(id(item))
                    new = {} if base is dict else []
                    stack.append(_Open(item, self._items(item, base), new))
                else:
                    new = self._scalar(item, base)
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

    def _items(self, source: Any, base: Any) -> Iterator[tuple[Step, Any]]:
        return self._dict_items(source) if base is dict else enumerate(iterate(source, base))

    def _dict_items(self, source: dict[Any, Any]) -> Iterator[tuple[Step, Any]]:
        if type(source) is dict:
            items = items_of(source)
        else:
            try:
                items = iter([(key, item) for key, item in items_of(source)])
            except Exception as exc:
                self._open.pop()  # the dict is at fault, not what is in it
                raise self._error(
                    f"{type_name(source)} cannot be read: its items() raised {type_name(exc)}", EncodeTypeError
                ) from exc
        for given, item in items:
            if not issubclass(type(given), str):
                self._open.pop()
                raise self._error(
                    f"the key {clip(given, _KEY_CHARS)} is of type {type_name(given)}; keys must be str",
                    EncodeTypeError,
                )
            key = plain_str(given)
            if key.startswith(self.key):
                raise _KeyTaken
            if not self.js and self._has_surrogate_pair(key):
                self.flags |= SEGMENT_KEYS
                self.escapes += 1
                yield self.key + self._segment("s", self._encoded(key)), item
            else:
                yield key, item

    def _str(self, item: str) -> Any:
        if self._has_surrogate_pair(item):
            return self._escape(self._segment("s", self._encoded(item)))
        return item

    def _has_surrogate_pair(self, text: str) -> bool:
        """``jsontext.has_surrogate_pair``, with pauses."""
        if len(text) <= _STR_RUN_CHARS or text.isascii():
            return has_surrogate_pair(text)
        for start in range(0, len(text), _STR_RUN_CHARS):
            if has_surrogate_pair(text[start : start + _STR_RUN_CHARS + 1]):  # with the first of the next run
                return True
            self._pause()
        return False

    def _encoded(self, text: str) -> bytes:
        """Return the UTF-8 of any str; each half of a pair is encoded by itself, so that it may be cut anywhere."""
        out = BytesIO()
        for start in range(0, len(text), _STR_RUN_CHARS):
            out.write(text[start : start + _STR_RUN_CHARS].encode("utf-8", "surrogatepass"))
            self._pause()
        return out.getvalue()

    def _scalar(self, item: Any, base: Any) -> Any:
        if item is None or item is True or item is False:
            return item
        if base is int:
            number = int.__index__(item)
            if not self.js:
                return number if number.bit_length() <= MAX_INT_BITS else self._escape(self._big_int(number))
            return number if -MAX_SAFE_INT <= number <= MAX_SAFE_INT else self._escape(self._big_int(number))
        if base is float:
            real = float.__float__(item)
            return self._escape(f"f{real!r}") if self.js and real - real != 0 else real
        if base is bytes or base is bytearray:
            return self._escape(self._segment("b", item))
        equal = buffers.number_of(item)
        return self._buffer(item) if equal is None else self._scalar(equal, type(equal))

    def _big_int(self, number: int) -> str:
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
        if type(item) is memoryview and found.name == "u1" and len(found.shape) == 1:
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
        steps = [level.step for level in self._open[1:]]
        error = kind(format_path(self.root, steps), reason)
        error.steps = steps
        return error


def _buffer_name(item: Any) -> str:
    numpy = sys.modules.get("numpy")
    if numpy is None or not issubclass(type(item), numpy.ndarray):
        return type_name(item)
    return f"{type_name(item)} of {item.dtype}"
