"""Frames: a JSON text and binary segments in one block of bytes; ``isola_anyio.codec.frame`` has the layout.

What the host sends is not distrusted: a damaged frame raises, but nothing bounds what it costs before.
"""

import json
import struct

from . import _codec_buffers as _buffers
from ._codec_errors import CodecError

__all__ = ["MAGIC", "SEGMENT_KEYS", "FrameDecoder", "pack", "payload_size"]

MAGIC = 0xFE
SEGMENT_KEYS = 1

_VERSION = 1
_HEAD = struct.Struct("<BBBBII")
_LONGEST_REFERENCE = 64
"""A frame with one segment and a text of at most this many bytes is nothing but that segment."""
_PADDING = bytes(8)


def payload_size(raw):
    """Return what an encoded value counts: a str, bytes or a buffer by itself only what it holds."""
    if raw[0] == raw[-1] == 0x22:
        return len(raw) - 2
    if raw[0] == MAGIC:
        text_length, n_segments = _HEAD.unpack_from(raw)[4:]
        if n_segments == 1 and text_length <= _LONGEST_REFERENCE:
            return int.from_bytes(raw[_HEAD.size : _HEAD.size + 4], "little")
    return len(raw)


def pack(key, flags, text, segments):
    sizes = [memoryview(segment).nbytes for segment in segments]
    name = key.encode("ascii")
    head = _HEAD.pack(MAGIC, _VERSION, len(name), flags, len(text), len(segments))
    pieces = [head, struct.pack(f"<{len(sizes)}I", *sizes), name, text]
    at = len(head) + 4 * len(sizes) + len(name) + len(text)
    for segment, size in zip(segments, sizes, strict=True):
        gap = -at % 8
        pieces += (_PADDING[:gap], segment)
        at += gap + size
    return b"".join(pieces)


class FrameDecoder:
    """Decodes one frame."""

    def __init__(self, data):
        self._data = memoryview(data)
        self._borrowed = not isinstance(data, bytes)

    def decode(self):
        data = self._data
        _, version, key_length, flags, text_length, n_segments = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise CodecError("$", f"version {version} of frames; this guest reads {_VERSION}")
        sizes = struct.unpack_from(f"<{n_segments}I", data, _HEAD.size)
        at = _HEAD.size + 4 * n_segments
        self._key = str(data[at : at + key_length], "ascii")
        at += key_length
        text = str(data[at : at + text_length], "utf-8")
        at += text_length
        self._segments = []
        for size in sizes:
            at += -at % 8
            self._segments.append(data[at : at + size])
            at += size
        if flags & SEGMENT_KEYS:
            decoder = json.JSONDecoder(object_pairs_hook=self._pairs)
        else:
            decoder = json.JSONDecoder(object_hook=self._object)
        return decoder.decode(text)

    def _object(self, found):
        if len(found) == 1:
            payload = found.get(self._key)
            if type(payload) is str:
                return self._unescape(payload)
        return found

    def _pairs(self, pairs):
        key = self._key
        if len(pairs) == 1 and pairs[0][0] == key and type(pairs[0][1]) is str:
            return self._unescape(pairs[0][1])
        return {self._unescape(name[len(key) :]) if name.startswith(key) else name: item for name, item in pairs}

    def _unescape(self, payload):
        code, rest = payload[:1], payload[1:]
        if code == "i":
            return int(rest, 16)
        if code == "f":
            return float(rest)
        number, _, spec = rest.partition(":")
        data = self._segments[int(number)]
        if code == "b":
            return bytes(data)
        if code == "t":
            return _buffers.view(memoryview(bytes(data)) if self._borrowed else data, spec)
        if code == "s":
            return str(data, "utf-8", "surrogatepass")
        if code in ("I", "J"):
            size = int.from_bytes(data, "little")
            return -size if code == "J" else size
        raise CodecError("$", f"an escape that means nothing: {payload[:80]!r}")
