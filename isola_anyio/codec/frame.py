"""Lay a JSON text and binary segments out in one block of bytes, and take a hostile block apart.

| bytes       | what |
|-------------|------|
| 1           | 0xFE, which starts no UTF-8 and so no JSON text |
| 1           | version, 1 |
| 1           | length of the reserved key |
| 1           | flags; bit 0: some dicts' keys are segments |
| 4           | length of the text |
| 4           | number of segments |
| 4 a segment | its length |
| rest        | the reserved key, the text, and each segment at the next multiple of 8 |

Numbers are unsigned and little-endian. Nothing may be missing and nothing left over.
"""

from __future__ import annotations

__all__ = ["MAGIC", "SEGMENT_KEYS", "Frame", "pack", "unpack"]

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from isola_anyio.codec.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC: Final = 0xFE
VERSION: Final = 1
SEGMENT_KEYS: Final = 1
ALIGNMENT: Final = 8

_HEAD: Final = struct.Struct("<BBBBII")
_PADDING: Final = bytes(ALIGNMENT)


class Frame(NamedTuple):
    """What a block of bytes holds; the text and the segments are views of it."""

    key: str
    flags: int
    text: memoryview
    segments: list[memoryview | None]


def pack(key: str, flags: int, text: bytes, segments: Sequence[Any]) -> bytes:
    """Return a frame; ``segments`` hold contiguous buffers."""
    sizes = [memoryview(segment).nbytes for segment in segments]
    name = key.encode("ascii")
    head = _HEAD.pack(MAGIC, VERSION, len(name), flags, len(text), len(segments))
    pieces: list[Any] = [head, struct.pack(f"<{len(sizes)}I", *sizes), name, text]
    at = len(head) + 4 * len(sizes) + len(name) + len(text)
    for segment, size in zip(segments, sizes, strict=True):
        gap = -at % ALIGNMENT
        pieces += (_PADDING[:gap], segment)
        at += gap + size
    return b"".join(pieces)


def unpack(data: memoryview) -> Frame:
    """Take ``data`` apart; every number in it is checked before it is believed.

    Raises:
        CodecError: it is not a frame.
    """
    if len(data) < _HEAD.size:
        raise CodecError("$", f"a frame of {len(data)} bytes is cut short")
    magic, version, key_length, flags, text_length, n_segments = _HEAD.unpack_from(data)
    if magic != MAGIC or version != VERSION or flags & ~SEGMENT_KEYS or not key_length:
        raise CodecError("$", f"not the head of a frame: {bytes(data[: _HEAD.size]).hex()}")
    at = _HEAD.size + 4 * n_segments
    if at > len(data):
        raise CodecError("$", f"{n_segments} segments are more than {len(data)} bytes hold")
    sizes: tuple[int, ...] = struct.unpack_from(f"<{n_segments}I", data, _HEAD.size)
    # Slices never fail and never grow, so one check at the end is enough.
    key = str(data[at : at + key_length], "latin-1")
    at += key_length
    text = data[at : at + text_length]
    at += text_length
    segments: list[memoryview | None] = []
    for size in sizes:
        at += -at % ALIGNMENT
        segments.append(data[at : at + size])
        at += size
    if at != len(data):
        raise CodecError("$", f"the parts of a frame end at {at}, the frame at {len(data)}")
    return Frame(key, flags, text, segments)
