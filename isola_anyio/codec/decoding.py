"""Turn hostile bytes into a value, or refuse them, in time and memory bounded by their length.

Every JSON text is measured before it is parsed: its length, because ``json`` holds the interpreter's lock until it is
done, and its depth, because it recurses. A value larger than one text may be arrives as several: a text that *goes
on* repeats the brackets that were open where its forerunner was cut, and its leftmost containers are poured into the
rightmost ones of what is there. Between two texts ``pause`` is called.

Every segment is used once, so no frame unfolds into more than it holds. What is left is what JSON itself costs: a
text of empty lists becomes about 30 times its size in memory, the most that any text does.
"""

from __future__ import annotations

__all__ = ["MAX_TEXT_BYTES", "decode"]

import sys
from collections.abc import Callable
from typing import Any, Final, cast

from isola_anyio.codec import buffers
from isola_anyio.codec.errors import CodecError, TooLarge
from isola_anyio.codec.frame import LONG_KEYS, MAGIC, Frame, unpack
from isola_anyio.codec.jsontext import MAX_DEPTH, MAX_INT_DIGITS, is_too_deep, loose_int, scan, scan_loosely, scanner

MAX_TEXT_BYTES: Final = 512 * 1024
"""The longest JSON text a guest may send in one piece: the worst that can be done with it took 35 ms to parse."""

ESCAPE_DEPTH: Final = 1
"""Escapes are objects in the text, leaves in the value."""

_STR_RUN_BYTES: Final = 4 * 1024 * 1024


def decode(
    data: bytes | memoryview,
    *,
    max_bytes: int | None = None,
    max_text_bytes: int | None = MAX_TEXT_BYTES,
    pause: Callable[[], object] | None = None,
) -> Any:
    """Return the value that ``data`` encodes.

    Typed buffers are views of ``data`` if it is ``bytes``; a ``memoryview`` may be of borrowed memory, such as a
    guest's, and nothing of it is kept.

    Args:
        data: what a guest, or `encode`, made. Untrusted.
        max_bytes: how long ``data`` may be.
        max_text_bytes: how long a JSON text in it may be; ``None`` for any length.
        pause: called between texts, to let other threads run.

    Raises:
        CodecError: ``data`` is not a value.
        TooLarge: ``data`` is longer than ``max_bytes``.
    """
    size = len(data)
    if max_bytes is not None and size > max_bytes:
        raise TooLarge("$", size, max_bytes)
    if size and data[0] == MAGIC:
        return _FrameDecoder(data, max_text_bytes, pause).decode()
    return _parse(
        data, scan if sys.get_int_max_str_digits() == MAX_INT_DIGITS else scan_loosely, max_text_bytes, MAX_DEPTH
    )


def _parse(
    data: bytes | memoryview,
    scan_once: Callable[[str, int], tuple[Any, int]],
    max_text_bytes: int | None,
    max_depth: int,
) -> Any:
    if max_text_bytes is not None and len(data) > max_text_bytes:
        raise CodecError("$", f"a JSON text of {len(data)} bytes; the limit is {max_text_bytes}, split it")
    try:
        text = str(data, "utf-8")
        if is_too_deep(text, max_depth):
            raise CodecError("$", f"nested deeper than {MAX_DEPTH} levels")
        value, end = scan_once(text, 0)
    except CodecError:
        raise
    except StopIteration as exc:
        raise CodecError("$", f"not JSON: no value at character {exc.value}") from None
    except RecursionError:
        raise CodecError("$", "nested deeper than the rest of this thread's stack allows") from None
    except ValueError as exc:  # no JSON, no UTF-8, or an int of too many digits
        raise CodecError("$", f"not JSON: {exc}") from None
    if end != len(text):
        raise CodecError("$", f"not JSON: something follows the value at character {end}")
    return value


class _FrameDecoder:
    """Decodes one frame."""

    def __init__(
        self, data: bytes | memoryview, max_text_bytes: int | None, pause: Callable[[], object] | None
    ) -> None:
        self._borrowed = not isinstance(data, bytes)
        self._frame: Frame = unpack(memoryview(data))
        self._max_text_bytes = max_text_bytes
        self._pause = pause

    def decode(self) -> Any:
        frame = self._frame
        long_keys = frame.flags & LONG_KEYS
        hooks: dict[str, Any] = {"object_pairs_hook": self._pairs} if long_keys else {"object_hook": self._object}
        if sys.get_int_max_str_digits() != MAX_INT_DIGITS:
            hooks["parse_int"] = loose_int
        scan_once = scanner(**hooks)
        value: Any = None
        for number, (text, spine) in enumerate(frame.texts):
            if number and self._pause is not None:
                self._pause()
            part = _parse(text, scan_once, self._max_text_bytes, MAX_DEPTH + ESCAPE_DEPTH)
            if number:
                self._graft(value, part, spine)
            elif spine:
                raise CodecError("$", "the first text goes on from nothing")
            else:
                value = part
        if any(segment is not None for segment in frame.segments):
            raise CodecError("$", "a segment that nothing refers to")
        return value

    def _graft(self, value: Any, part: Any, spine: int) -> None:
        """Pour the ``spine`` leftmost containers of ``part`` into the rightmost ones of ``value``."""
        key = self._frame.key
        for left in range(spine - 1, -1, -1):
            if type(value) is list and type(part) is list and (not left or (value and part)):
                into, inner = value, part[0] if left else None
                value = into[-1] if left else None
                into += part[1:] if left else part
            elif type(value) is dict and type(part) is dict and (not left or (value and key in part)):
                fields = cast("dict[str, Any]", value)
                inner = part.pop(key) if left else None
                value = fields[next(reversed(fields))] if left else None
                fields.update(part)
            else:
                raise CodecError("$", "a text goes on from what was not there")
            part = inner
        if not spine:
            raise CodecError("$", "a second text that goes on from nothing")

    def _object(self, found: dict[str, Any]) -> Any:
        if len(found) == 1:
            payload = found.get(self._frame.key)
            if type(payload) is str:
                return self._unescape(payload)
        return found

    def _pairs(self, pairs: list[tuple[str, Any]]) -> Any:
        key = self._frame.key
        if len(pairs) == 1 and pairs[0][0] == key and type(pairs[0][1]) is str:
            return self._unescape(pairs[0][1])
        return {
            self._str(name[len(key) + 1 :]) if name.startswith(key) and name != key else name: item
            for name, item in pairs
        }

    def _unescape(self, payload: str) -> Any:
        code, rest = payload[:1], payload[1:]
        if code == "b":
            return bytes(self._take(rest))
        if code == "t":
            number, _, spec = rest.partition(":")
            data = self._take(number)
            try:
                return buffers.view(memoryview(bytes(data)) if self._borrowed else data, spec)
            except buffers.Unsupported as exc:
                raise CodecError("$", str(exc)) from None
        if code == "s":
            return self._str(rest)
        if code in {"I", "J"}:
            number_bytes = int.from_bytes(self._take(rest), "little")
            return -number_bytes if code == "J" else number_bytes
        try:
            if code == "i":
                return int(rest, 16)
            if code == "f":
                return float(rest)
        except ValueError:
            pass
        raise CodecError("$", f"an escape that means nothing: {payload[:80]!r}")

    def _str(self, number: str) -> str:
        data = self._take(number)
        try:
            if len(data) <= _STR_RUN_BYTES or self._pause is None:
                return str(data, "utf-8", "surrogatepass")
            return self._long_str(data, self._pause)
        except UnicodeDecodeError as exc:
            raise CodecError("$", f"a string that is not UTF-8: {exc.reason} at byte {exc.start}") from None

    def _long_str(self, data: memoryview, pause: Callable[[], object]) -> str:
        parts: list[str] = []
        start = 0
        while start < len(data):
            end = min(start + _STR_RUN_BYTES, len(data))
            while end < len(data) and end > start and data[end] & 0xC0 == 0x80:  # inside of a character
                end -= 1
            if end == start:
                raise CodecError("$", "a string that is not UTF-8")
            parts.append(str(data[start:end], "utf-8", "surrogatepass"))
            start = end
            pause()
        return "".join(parts)

    def _take(self, number: str) -> memoryview:
        """Return a segment, which nothing else may then refer to."""
        segments = self._frame.segments
        at = int(number) if number.isascii() and number.isdigit() and len(number) < 10 else len(segments)
        data = segments[at] if at < len(segments) else None
        if data is None:
            raise CodecError("$", f"no segment {number[:20]!r}, or used twice")
        segments[at] = None
        return data
