"""Decoding: the slow path. Frames, long texts and what is wrong with bytes that are no value.

Time and memory are bounded by the length of the bytes, whatever they say. A JSON text is measured before it is parsed:
its length, because ``json`` holds the interpreter's lock until it is done (long texts are cut, see
`chunked.text_parts`), and its depth, because ``json`` recurses. A segment can be used once, so no frame unfolds into
more than it holds. What remains is the cost of JSON itself: a text of empty lists takes 24 times its length in memory,
one of dicts with one member 29 times, the most of any text.
"""

from __future__ import annotations

__all__ = ["decode_any", "refusal", "scan_shallow"]

import secrets
import sys
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from isola_anyio.codec import buffers
from isola_anyio.codec.chunked.garbage import let_go, no_full_collections
from isola_anyio.codec.chunked.text_parts import PART_BYTES, Part, character_start, cut, graft
from isola_anyio.codec.encoding import ESCAPE_DEPTH
from isola_anyio.codec.errors import CodecError
from isola_anyio.codec.frame import MAGIC, NO_SEGMENTS, SEGMENT_KEYS, Frame, unpack
from isola_anyio.codec.jsontext import MAX_DEPTH, MAX_INT_DIGITS, is_too_deep, loose_int, scan, scanner
from isola_anyio.fairness import copy_in_pieces, yield_gil

_STR_RUN_BYTES: Final = 128 * 1024
"""How much of a str segment is decoded at once; at worst, all surrogates, it takes seven milliseconds."""

_Scan: TypeAlias = Callable[[str, int], tuple[Any, int]]
_Pairs: TypeAlias = list[tuple[str, Any]]


def decode_any(data: bytes | memoryview, pause: Callable[[], object] | None) -> Any:
    """Return the value that ``data`` encodes, however long it is and whether it is a frame or a text.

    Raises:
        CodecError: ``data`` is not a value.
    """
    return _Decoder(data, pause).decode()


def scan_shallow(text: str, start: int) -> tuple[Any, int]:
    """Read one JSON value, after making sure that it nests no deeper than `MAX_DEPTH`."""
    _refuse_depth(text, MAX_DEPTH)
    return scan(text, start)


def _refuse_depth(text: str, max_depth: int) -> None:
    if is_too_deep(text, max_depth):
        raise CodecError("$", f"nested deeper than {MAX_DEPTH} levels")


def refusal(exc: Exception) -> CodecError:
    """Say in the codec's words why a text could not be parsed."""
    if isinstance(exc, CodecError):
        return exc
    if isinstance(exc, StopIteration):
        return CodecError("$", f"not JSON: no value at character {exc.value}")
    if isinstance(exc, RecursionError):
        return CodecError("$", "nested deeper than the rest of this thread's stack allows")
    return CodecError("$", f"not JSON: {exc}")  # no JSON, no UTF-8, or an int of too many digits


def _parse(data: bytes | memoryview, scan_once: _Scan, max_depth: int | None) -> Any:
    """Parse one text; ``max_depth`` is ``None`` where its depth has been measured."""
    try:
        text = str(data, "utf-8")
        if max_depth is not None:
            _refuse_depth(text, max_depth)
        value, end = scan_once(text, 0)
    except (ValueError, StopIteration, RecursionError) as exc:
        raise refusal(exc) from None
    if end != len(text):
        raise CodecError("$", f"not JSON: something follows the value at character {end}")
    return value


def _no_pause() -> None:
    pass


class _Decoder:
    """Decodes frames and long texts."""

    def __init__(self, data: bytes | memoryview, pause: Callable[[], object] | None) -> None:
        self._pause = pause or _no_pause
        self._borrowed = not isinstance(data, bytes)
        view = memoryview(data)
        self._is_frame = len(data) > 0 and data[0] == MAGIC
        self._frame = unpack(view, self._pause) if self._is_frame else Frame("", 0, view, NO_SEGMENTS)

    def decode(self) -> Any:
        frame = self._frame
        depth = MAX_DEPTH + ESCAPE_DEPTH if self._is_frame else MAX_DEPTH
        hooks: dict[str, Any] = {}
        if frame.flags & SEGMENT_KEYS:
            hooks["object_pairs_hook"] = self._pairs
        elif self._is_frame:
            hooks["object_hook"] = self._object
        if sys.get_int_max_str_digits() != MAX_INT_DIGITS:
            hooks["parse_int"] = loose_int
        scan_once = scanner(**hooks)
        if len(frame.text) <= PART_BYTES:
            value = _parse(frame.text, scan_once, depth)
        else:
            value = self._decode_parts(frame.text, scan_once, hooks, depth)
        if frame.segments.left:
            let_go([value], self._pause, owned=True)
            raise CodecError("$", "a segment that nothing refers to")
        return value

    def _decode_parts(self, text: memoryview, scan_once: _Scan, hooks: dict[str, Any], depth: int) -> Any:
        # Random, so that a guest cannot write a string that is taken for a hole.
        hole = f"\x7f{secrets.token_hex(8)}"
        value: Any = None
        with no_full_collections():
            try:
                for part in cut(text, hole, depth, self._pause):
                    scan_part = scan_once
                    if part.strings:
                        fill = self._filler(part, hole)
                        scan_part = scanner(object_pairs_hook=fill, parse_int=hooks.get("parse_int"))
                    found = _parse(part.text, scan_part, None)  # cutting has measured its depth
                    if part.spine:
                        graft(value, found, part.spine, hole)
                    else:
                        value = found
                    self._pause()
            except BaseException as exc:
                # A pause that raised is not called again, but others need the lock as before.
                let_go([value], self._pause if isinstance(exc, Exception) else yield_gil, owned=True)
                if isinstance(exc, ValueError) and not isinstance(exc, CodecError):  # from reading a long string
                    raise CodecError("$", f"not JSON: {exc}") from None
                raise
        return value

    def _filler(self, part: Part, hole: str) -> Callable[[_Pairs], Any]:
        """Return a hook that fills a part's holes with its long strings, then does what the frame's hook does."""

        def fill(pairs: _Pairs) -> Any:
            if len(pairs) == 1 and pairs[0][0] == hole and type(pairs[0][1]) is str:
                return part.strings[int(pairs[0][1])]
            if any(name.startswith(hole) for name, _ in pairs):
                pairs = [
                    (part.strings[int(name[len(hole) :])] if name.startswith(hole) and name != hole else name, item)
                    for name, item in pairs
                ]
            if self._frame.flags & SEGMENT_KEYS:
                return self._pairs(pairs)
            return self._object(dict(pairs)) if self._is_frame else dict(pairs)

        return fill

    def _object(self, found: dict[str, Any]) -> Any:
        if len(found) == 1:
            payload = found.get(self._frame.key)
            if type(payload) is str:
                return self._unescape(payload)
        return found

    def _pairs(self, pairs: _Pairs) -> Any:
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
            return copy_in_pieces(self._take(rest), self._pause)
        if code == "t":
            number, _, spec = rest.partition(":")
            data = self._take(number)
            try:
                return buffers.view(memoryview(copy_in_pieces(data, self._pause)) if self._borrowed else data, spec)
            except buffers.Unsupported as exc:
                raise CodecError("$", str(exc)) from None
        if code == "s":
            return self._str(rest)
        if code in {"I", "J"}:
            magnitude = int.from_bytes(self._take(rest), "little")
            return -magnitude if code == "J" else magnitude
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
        runs: list[str] = []
        start = 0
        try:
            while len(data) - start > _STR_RUN_BYTES:
                end = character_start(data, start + _STR_RUN_BYTES)
                runs.append(str(data[start:end], "utf-8", "surrogatepass"))
                start = end
                self._pause()
            runs.append(str(data[start:], "utf-8", "surrogatepass"))
        except UnicodeDecodeError as exc:
            raise CodecError("$", f"a string that is not UTF-8: {exc.reason}") from None
        return runs[0] if len(runs) == 1 else "".join(runs)

    def _take(self, number: str) -> memoryview:
        """Return a segment and mark it as used: a second reference to it is refused."""
        at = int(number) if number.isascii() and number.isdigit() and len(number) < 10 else -1
        data = self._frame.segments.take(at) if at >= 0 else None
        if data is None:
            raise CodecError("$", f"no segment {number[:20]!r}, or used twice")
        return data
