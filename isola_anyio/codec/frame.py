"""Lay JSON texts and binary segments out in one block of bytes, and take a hostile block apart.

| bytes      | what |
|------------|------|
| 1          | 0xFE, which starts no UTF-8 and so no JSON text |
| 1          | version, 1 |
| 1          | length of the reserved key |
| 1          | flags; bit 0: some dicts' keys are segments |
| 4          | number of texts, at least 1 |
| 4          | number of segments |
| 8 a text   | its length; how many levels of the text before it goes on (see ``docs/values.md``) |
| 4 a segment| its length |
| rest       | the reserved key, the texts, and each segment at the next multiple of 8 |

Numbers are unsigned and little-endian. Nothing may be missing and nothing left over.
"""

from __future__ import annotations

__all__ = ["LONG_KEYS", "MAGIC", "Frame", "pack", "unpack"]

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from isola_anyio.codec.errors import CodecError

MAGIC: Final = 0xFE
VERSION: Final = 1
LONG_KEYS: Final = 1
ALIGNMENT: Final = 8
MIN_TEXT_BYTES: Final = 64 * 1024
"""Every text but the last is at least as long, so that a frame has few texts and joining them stays cheap."""

_HEAD: Final = struct.Struct("<BBBBII")
_PADDING: Final = bytes(ALIGNMENT)


class Frame(NamedTuple):
    """What a block of bytes holds; the texts and segments are views of it."""

    key: str
    flags: int
    texts: list[tuple[memoryview, int]]
    segments: list[memoryview | None]


def pack(key: str, flags: int, text: bytes, segments: Sequence[Any]) -> list[Any]:
    """Return the pieces, to be joined, of a frame of one text; ``segments`` hold contiguous buffers."""
    sizes = [memoryview(segment).nbytes for segment in segments]
    name = key.encode("ascii")
    head = _HEAD.pack(MAGIC, VERSION, len(name), flags, 1, len(segments))
    pieces: list[Any] = [head, struct.pack(f"<II{len(sizes)}I", len(text), 0, *sizes), name, text]
    at = sum(map(len, pieces))
    for segment, size in zip(segments, sizes, strict=True):
        gap = -at % ALIGNMENT
        pieces += (_PADDING[:gap], segment)
        at += gap + size
    return pieces


def unpack(data: memoryview) -> Frame:
    """Take ``data`` apart; every number in it is checked before it is believed.

    Raises:
        CodecError: it is not a frame.
    """
    if len(data) < _HEAD.size:
        raise CodecError("$", f"a frame of {len(data)} bytes is cut short")
    magic, version, key_length, flags, n_texts, n_segments = _HEAD.unpack_from(data)
    if magic != MAGIC or version != VERSION or flags & ~LONG_KEYS or not key_length or not n_texts:
        raise CodecError("$", f"not a frame's head: {bytes(data[: _HEAD.size]).hex()}")
    at = _HEAD.size + 8 * n_texts + 4 * n_segments
    if at + key_length > len(data):
        raise CodecError("$", f"{n_texts} texts and {n_segments} segments are more than {len(data)} bytes hold")
    numbers: tuple[int, ...] = struct.unpack_from(f"<{2 * n_texts + n_segments}I", data, _HEAD.size)
    text_sizes = numbers[: 2 * n_texts : 2]
    if any(size < MIN_TEXT_BYTES for size in text_sizes[:-1]):
        raise CodecError("$", f"a text other than the last is shorter than {MIN_TEXT_BYTES} bytes")
    key = str(data[at : at + key_length], "latin-1")
    at += key_length
    texts: list[tuple[memoryview, int]] = []
    segments: list[memoryview | None] = []
    for size, spine in zip(text_sizes, numbers[1 : 2 * n_texts : 2], strict=True):
        texts.append((data[at : at + size], spine))
        at += size
    for size in numbers[2 * n_texts :]:
        at += -at % ALIGNMENT
        segments.append(data[at : at + size])
        at += size
    if at != len(data):  # slices never fail, so the one check at the end is enough
        raise CodecError("$", f"the parts of a frame end at {at}, the frame at {len(data)}")
    return Frame(key, flags, texts, segments)
