"""Frames: a JSON text and binary segments in one block of bytes, and how a hostile block is taken apart.

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

Numbers are unsigned and little-endian. Nothing may be missing and nothing left over. The text refers to every segment
exactly once, so a frame with more segments than its text has room to name is refused before any is read: an empty
segment takes four bytes in the frame, and far more than that on the host.
"""

from __future__ import annotations

__all__ = [
    "MAGIC",
    "NO_SEGMENTS",
    "SEGMENT_KEYS",
    "Frame",
    "Segments",
    "pack",
    "payload_size",
    "text_span",
    "unpack",
]

import struct
from array import array
from itertools import islice
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from isola_anyio.codec.errors import CodecError
from isola_anyio.fairness import join_in_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAGIC: Final = 0xFE
VERSION: Final = 1
SEGMENT_KEYS: Final = 1
ALIGNMENT: Final = 8

_HEAD: Final = struct.Struct("<BBBBII")
_QUOTE: Final = ord('"')
_SIZE: Final = struct.Struct("<I")
_PADDING: Final = bytes(ALIGNMENT)

_SHORTEST_REFERENCE_BYTES: Final = len('"$s0":0,')
"""The shortest text that can refer to a segment (as a dict's key); bounds the number of segments before parsing."""
LONGEST_REFERENCE_BYTES: Final = 64
"""The longest text that can be one reference and nothing else: with one segment, that segment is the whole value."""
_LONGEST_FRAMING_BYTES: Final = 12 + 4 + 255 + LONGEST_REFERENCE_BYTES + ALIGNMENT
_SIZES_PER_PAUSE: Final = 16 * 1024
_COPY_BYTES: Final = 4 << 20
"""Bytes copied in one go: a millisecond or two, most of it for the pages they come to lie on."""


class Segments:
    """The segments of a frame, as two arrays of starts and sizes; a view of a segment is made when it is taken.

    Attributes:
        left: how many segments have not been taken.
    """

    def __init__(self, data: memoryview, starts: array[int], sizes: array[int]) -> None:
        self._data = data
        self._starts = starts
        self._sizes = sizes
        self._taken = bytearray(len(sizes))
        self.left = len(sizes)

    def take(self, number: int) -> memoryview | None:
        """Return a view of a segment; ``None`` if there is none of this number, or it was taken before."""
        if number >= len(self._taken) or self._taken[number]:
            return None
        self._taken[number] = 1
        self.left -= 1
        start = self._starts[number]
        return self._data[start : start + self._sizes[number]]


NO_SEGMENTS: Final = Segments(memoryview(b""), array("Q"), array("Q"))


class Frame(NamedTuple):
    """What a block of bytes holds; the text and the segments are views of it."""

    key: str
    flags: int
    text: memoryview
    segments: Segments


def pack(
    key: str, flags: int, text: bytes, segments: Sequence[Any], pause: Callable[[], object] | None = None
) -> bytes:
    """Return a frame; ``segments`` hold contiguous buffers. With a ``pause``, large ones are copied in pieces."""
    sizes = [memoryview(segment).nbytes for segment in segments]
    name = key.encode("ascii")
    head = _HEAD.pack(MAGIC, VERSION, len(name), flags, len(text), len(segments))
    pieces: list[Any] = [head, struct.pack(f"<{len(sizes)}I", *sizes), name, text]
    at = len(head) + 4 * len(sizes) + len(name) + len(text)
    for segment, size in zip(segments, sizes, strict=True):
        gap = -at % ALIGNMENT
        pieces += (_PADDING[:gap], segment)
        at += gap + size
    return b"".join(pieces) if pause is None or at <= _COPY_BYTES else join_in_pieces(map(_flat, pieces), pause)


def _flat(piece: Any) -> memoryview:
    return PickleBuffer(piece).raw()  # as bytes, whatever its elements are


def payload_size(data: bytes | memoryview) -> int:
    """Return how many bytes an encoded value, maybe a hostile one, counts towards ``max_payload``.

    A str counts the bytes between its quotes; bytes, or a typed buffer, the bytes they hold; anything else all of its
    text, its segments and the frame around them. A frame that lies about its segment's length still counts its own
    length, less the longest framing that an honest frame can have.
    """
    size = len(data)
    if size > 1 and data[0] == data[-1] == _QUOTE:
        return size - 2
    if size >= _HEAD.size and data[0] == MAGIC:
        text_length, n_segments = _HEAD.unpack_from(data)[4:]
        if n_segments == 1 and text_length <= LONGEST_REFERENCE_BYTES and size >= _HEAD.size + _SIZE.size:
            return max(int(_SIZE.unpack_from(data, _HEAD.size)[0]), size - _LONGEST_FRAMING_BYTES)
    return size


def text_span(data: bytes | memoryview) -> tuple[int, int]:
    """Return where the JSON text of an encoded value, maybe a hostile one, begins and ends."""
    size = len(data)
    if size >= _HEAD.size and data[0] == MAGIC:
        key_length, _, text_length, n_segments = _HEAD.unpack_from(data)[2:]
        start = min(size, _HEAD.size + _SIZE.size * n_segments + key_length)
        return start, min(size, start + text_length)
    return 0, size


def unpack(data: memoryview, pause: Callable[[], object]) -> Frame:
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
    if at + key_length + text_length > len(data):
        raise CodecError("$", f"a text of {text_length} bytes is more than {len(data)} bytes hold")
    if n_segments * _SHORTEST_REFERENCE_BYTES > text_length:
        raise CodecError("$", f"{n_segments} segments are more than a text of {text_length} bytes refers to")
    # A slice past the end is shorter, never an error and never an allocation, so one check of the sum is enough.
    key = str(data[at : at + key_length], "latin-1")
    at += key_length
    text = data[at : at + text_length]
    at += text_length
    starts, sizes = array("Q"), array("Q")
    table = _SIZE.iter_unpack(data[_HEAD.size : _HEAD.size + 4 * n_segments])
    while some := list(islice(table, _SIZES_PER_PAUSE)):
        for (size,) in some:
            at += -at % ALIGNMENT
            starts.append(at)
            sizes.append(size)
            at += size
        pause()
    if at != len(data):
        raise CodecError("$", f"the parts of a frame end at {at}, the frame at {len(data)}")
    return Frame(key, flags, text, Segments(data, starts, sizes))
