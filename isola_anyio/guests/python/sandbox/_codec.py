"""The codec of this guest: a value to the bytes that cross to the host, and the host's bytes to a value.

The fast path is in this file: values that plain JSON says as they are. What JSON cannot say is copied with escapes
(`_codec_escapes`) and laid out as a frame (`_codec_frames`).

The same wire form, limits and error texts as the host's ``isola_anyio.codec``, whose modules give the reasons and
whose ``__init__`` says why there are three copies of the algorithm. This one serves this side's needs only: what the
host sends is not distrusted.

The tests of the host run these files on the host's Python, so they use nothing newer than 3.11.
"""

import json
import re
import struct
from itertools import accumulate
from json import encoder as _json_encoder
from sys import get_int_max_str_digits as _get_digit_limit

from . import _codec_escapes, _codec_frames
from ._codec_errors import CodecError, EncodeError, EncodeTypeError, TooLarge

__all__ = ["CodecError", "EncodeError", "EncodeTypeError", "TooLarge", "decode", "encode"]

MAX_DEPTH = _codec_escapes.MAX_DEPTH
MAX_INT_DIGITS = 4300

# Bound here before any code of the user's runs; a lookup across modules would also cost on every value.
_MAGIC = _codec_frames.MAGIC
_FrameDecoder = _codec_frames.FrameDecoder
_pack = _codec_frames.pack
_payload_size = _codec_frames.payload_size
_rewrite = _codec_escapes.rewrite
_surrogate_pair = _codec_escapes.surrogate_pair


def _refuse(value):
    raise TypeError(type(value).__name__)


def _chunk_encoder(encode_str):
    """Return ``json``'s encoder as it is inside, without building it anew for each call; for ``"".join``."""
    make = _json_encoder.c_make_encoder
    try:
        chunks = make(None, _refuse, encode_str, None, ":", ",", False, False, True)
        if "".join(chunks([{"a": 1}], 0)) == '[{"a":1}]':
            return chunks
    except TypeError:  # another signature than this was written for, or no C encoder at all
        pass
    ascii_only = encode_str is _json_encoder.encode_basestring_ascii
    dumps = json.JSONEncoder(
        ensure_ascii=ascii_only, check_circular=False, separators=(",", ":"), default=_refuse
    ).encode
    return lambda value, _level: (dumps(value),)


_chunks = _chunk_encoder(_json_encoder.encode_basestring)
_chunks_ascii = _chunk_encoder(_json_encoder.encode_basestring_ascii)
_scan = json.JSONDecoder().scan_once

# What json.dumps leaves behind when it turns a key that is no str into one.
_COERCED_KEY = re.compile(r'"[-0-9tfnNI](?:(?<=[-0-9])[0-9.e+\-]*|rue|alse|ull|aN|I?nfinity)":').search
_HUGE_INT = re.compile(rf"[0-9]{{{MAX_INT_DIGITS + 1}}}").search
_SCALARS = frozenset({str, int, float, bool, type(None)})
_ONLY_STR = frozenset({str})
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_MARKS = bytes(set(range(256)) - set(b'[]{}"'))


def _is_exact(text, value):
    """Whether `text`, which `json` made of `value`, lost nothing and nests no deeper than allowed."""
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(text):
        return False
    if "{" in text and _COERCED_KEY(text) is not None and not _has_only_str_keys(value):
        return False
    return 0 < _get_digit_limit() <= MAX_INT_DIGITS or _HUGE_INT(text) is None


def _has_only_str_keys(value):
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, dict):
            kinds = set(map(type, found))
            if not kinds <= _ONLY_STR and not all(issubclass(kind, str) for kind in kinds):
                return False
            left.extend([item for item in found.values() if type(item) not in _SCALARS])
        elif isinstance(found, (list, tuple)):
            left.extend([item for item in found if type(item) not in _SCALARS])
    return True


def _is_too_deep(text):
    raw = text.encode("utf-8", "surrogatepass")
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = raw.translate(_BRACKETS, _NOT_MARKS).replace(b'""', b"")
    if b'"' in marks:
        marks = b"".join(marks.split(b'"')[::2])
    depth = 0
    for start in range(0, len(marks), 64):
        run = marks[start : start + 64]
        opened = run.count(b"[")
        if depth + opened > MAX_DEPTH and max(accumulate((92 - mark for mark in run), initial=depth)) > MAX_DEPTH:
            return True
        depth += 2 * opened - len(run)
    return False


def encode(value, *, max_bytes=None, root="$"):
    """Return ``value`` as the bytes that the host reads back exactly.

    Raises `EncodeTypeError` for a type that cannot cross, `EncodeError` for a cycle or too deep a nesting, `TooLarge`
    if there would be more than ``max_bytes``; each says where in ``value``, which errors call ``root``.
    """
    try:
        text = "".join(_chunks(value, 0))
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            if _surrogate_pair(text) is not None:
                raise
            text = "".join(_chunks_ascii(value, 0))
            raw = text.encode("ascii")
        # Quick checks, each necessary for the full one to fail.
        exact = (
            text.count("[") + text.count("{") <= MAX_DEPTH
            and ("{" not in text or _COERCED_KEY(text) is None)
            and 0 < _get_digit_limit() <= MAX_INT_DIGITS
        ) or _is_exact(text, value)
        del text
    except (TypeError, ValueError, RecursionError):
        exact = False
    if not exact:
        raw = _encode_escaped(value, root)
    if max_bytes is not None and len(raw) > max_bytes:
        size = _payload_size(raw)
        if size > max_bytes:
            raise TooLarge(root, size, max_bytes)
    return raw


def _encode_escaped(value, root):
    copy, rewriter = _rewrite(value, root)
    try:
        text = "".join(_chunks_ascii(copy, 0)).encode("ascii")
    except RecursionError:
        raise EncodeError(root, "nested deeper than the rest of this thread's stack allows") from None
    del copy  # before the frame is joined: a large value would be there three times
    return _pack(rewriter.key, rewriter.flags, text, rewriter.segments) if rewriter.escapes else text


def decode(data):
    """Return the value that the host encoded; typed buffers are views of ``data`` if it is ``bytes``."""
    try:
        if len(data) and data[0] == _MAGIC:
            return _FrameDecoder(data).decode()
        text = str(data, "utf-8")
        value, end = _scan(text, 0)
    except CodecError:
        raise
    except (ValueError, LookupError, StopIteration, RecursionError, struct.error) as exc:
        raise CodecError("$", f"the host sent what is no value: {exc!r}") from exc
    if end != len(text):
        raise CodecError("$", f"something follows the value at character {end}")
    return value
