"""Text parts: a long JSON text cut into short ones without parsing it.

A long text is cut at commas, about every `CUT_BYTES`. Each part but the first repeats the brackets that were open at
the cut, and each part but the last closes those open at its end, so that each is a JSON text of its own:

    [1,{"a":[2,3]},4]    cut after the 2:    [1,{"a":[2]}]    and    [{"<hole>":[3]},4]

The leftmost containers of a parsed part, its *spine*, are then emptied into the rightmost containers of the value so
far (`graft`). A string too long for a part is decoded on its own, run by run, and leaves a *hole* in the part: an
object with one key that only this call knows.

Brackets and strings are found by search and replace at C speed, window by window, so that nothing here holds the
interpreter's lock for long either.
"""

from __future__ import annotations

__all__ = ["CUT_BYTES", "PART_BYTES", "Part", "character_start", "cut", "graft"]

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from isola_anyio.codec.errors import CodecError
from isola_anyio.codec.jsontext import bracket_marks, brackets_open_after, mask_escapes, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CUT_BYTES: Final = 128 * 1024
"""Where a part ends, at the next comma."""

PART_BYTES: Final = 256 * 1024
"""The longest part, and the longest text that is not cut: the worst text of this length took 20 ms to parse."""

_LAST_BYTES: Final = PART_BYTES - CUT_BYTES
"""The longest rest that is the last part."""

LONG_STR_BYTES: Final = 32 * 1024
"""A longer string that crosses the end of a part leaves a hole."""

STR_RUN_BYTES: Final = 256 * 1024
_STEP_BYTES: Final = 4 * 1024
_LONGEST_CHARACTER_BYTES: Final = 4

_WHOLE_ESCAPES: Final = re.compile(rb"(?:[^\\]++|\\(?:u[0-9a-fA-F]{4}|[^u]))*+", re.DOTALL)
_HIGH: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_LOW: Final = re.compile(rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_CLOSERS: Final = bytes.maketrans(b"[{", b"]}")


class Part(NamedTuple):
    """A JSON text cut from a longer one.

    Attributes:
        text: what to parse.
        spine: how many of its outer levels continue containers of the part before.
        strings: the long strings that its holes stand for, by number.
    """

    text: bytes
    spine: int
    strings: list[str]


def cut(data: memoryview, hole: str, max_depth: int, pause: Callable[[], object]) -> Iterator[Part]:
    """Yield the parts of the untrusted JSON text ``data``; ``hole`` is a key that it cannot know.

    Raises:
        CodecError: the text is malformed, nests deeper than ``max_depth``, or has a stretch without a comma that no
            encoder writes.
    """
    reopen = f'{{"{hole}":'.encode()
    opened = b""
    start = 0
    while True:
        spine = len(opened)
        # Each dict but the innermost one has the container that goes on as the value of the hole's key.
        pieces = [opened[:-1].replace(b"{", reopen) + opened[-1:]]
        strings: list[str] = []
        at = start
        if len(data) - start <= _LAST_BYTES:
            run = _run(data, at, len(data))
            opened = brackets_open_after(opened, bracket_marks(mask_escapes(run)), max_depth)
            yield Part(b"".join([*pieces, run]), spine, strings)
            return
        size, want = 0, CUT_BYTES
        while True:
            run = _run(data, at, want)
            masked = mask_escapes(run)
            comma = masked.find(b",") if want == _STEP_BYTES else -1
            quote = masked.find(b'"', 0, comma) if comma >= 0 else masked.find(b'"')
            if want == _STEP_BYTES:
                keep = quote if quote >= 0 else comma if comma >= 0 else len(run)
                in_string = quote >= 0
            else:
                in_string = bool(masked.count(b'"') & 1)
                keep = masked.rfind(b'"') if in_string else len(run)
            opened = brackets_open_after(opened, bracket_marks(masked[:keep]), max_depth)
            pieces.append(run[:keep])
            at += keep
            if in_string:
                end = _string_end(data, at + 1)
                if end - at > LONG_STR_BYTES:
                    token = (
                        f'"{hole}{len(strings)}"'
                        if bytes(data[end : end + 1]) == b":"
                        else f'{{"{hole}":"{len(strings)}"}}'
                    )
                    strings.append(_long_str(data, at + 1, end - 1, pause))
                    pieces.append(token.encode())
                else:
                    pieces.append(bytes(data[at:end]))
                    size += end - at
                at = end
            elif want == _STEP_BYTES and (comma >= 0 or at == len(data)):
                break
            size += want
            want = _STEP_BYTES
            if size > PART_BYTES:
                raise CodecError("$", f"not JSON that an encoder makes: no comma near byte {at}")
        if at == len(data):
            yield Part(b"".join(pieces), spine, strings)
            return
        if bytes(data[at + 1 : at + _STEP_BYTES]).lstrip()[:1] in {b"]", b"}", b""}:
            raise CodecError("$", f"not JSON: nothing after the comma at byte {at}")
        pieces.append(opened[::-1].translate(_CLOSERS))
        yield Part(b"".join(pieces), spine, strings)
        start = at + 1


def graft(value: Any, part: Any, spine: int, hole: str) -> None:
    """Empty the ``spine`` leftmost containers of ``part`` into the rightmost ones of ``value``."""
    for left in range(spine - 1, -1, -1):
        kinds = cast("Any", (type(value), type(part)))
        if kinds == (list, list) and (not left or (value and part)):
            items, more = value, part
            value, part = (items[-1], more[0]) if left else (None, None)
            items += more[1:] if left else more
        elif kinds == (dict, dict) and (not left or (value and hole in part)):
            fields, others = value, part
            value, part = (fields[next(reversed(fields))], others.pop(hole)) if left else (None, None)
            fields.update(others)
        else:
            raise CodecError("$", "not JSON: brackets that do not match")


def _run(data: memoryview, start: int, length: int) -> bytes:
    """Return about ``length`` bytes of ``data``; ``start`` is not inside of an escape, and the end is not either."""
    run = bytes(data[start : start + length])
    if (len(run) - len(run.rstrip(b"\\"))) & 1:
        run = bytes(data[start : start + length + 1])
    return run


def _string_end(data: memoryview, at: int) -> int:
    """Return the index after the quote that ends the string that ``at`` is in."""
    while at < len(data):
        run = _run(data, at, CUT_BYTES)
        quote = mask_escapes(run).find(b'"')
        if quote >= 0:
            return at + quote + 1
        at += len(run)
    raise CodecError("$", "not JSON: a string without an end")


def character_start(data: memoryview, at: int) -> int:
    """Return where the UTF-8 character that includes the byte at ``at`` begins; ``at`` itself if it is no UTF-8."""
    for start in range(at, max(-1, at - _LONGEST_CHARACTER_BYTES), -1):
        if data[start] & 0xC0 != 0x80:
            return start
    return at


def _long_str(data: memoryview, start: int, stop: int, pause: Callable[[], object]) -> str:
    """Decode the inside of a JSON string in runs that end between two characters."""
    runs: list[str] = []
    while start < stop:
        run = bytes(data[start : min(start + STR_RUN_BYTES, stop)])
        whole = _WHOLE_ESCAPES.match(run)
        end = start + (whole.end() if whole else 0)
        if start < end < stop:
            end = max(start, character_start(data, end))
        if _HIGH.fullmatch(data[max(start, end - 6) : end]) and _LOW.fullmatch(data[end : min(end + 6, stop)]):
            end += 6  # the second half of a surrogate pair
        if end == start:
            raise CodecError("$", f"not JSON: a bad escape or no UTF-8 at byte {start}")
        text = f'"{str(data[start:end], "utf-8")}"'
        found, read = scan(text, 0)
        if read != len(text):
            raise CodecError("$", f"not JSON: a bad string at byte {start}")
        runs.append(found)
        start = end
        pause()
    return "".join(runs)
