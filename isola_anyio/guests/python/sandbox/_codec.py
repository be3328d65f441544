"""Turn a value into the bytes that cross to the host, and the host's bytes into a value.

The same wire form, limits and error texts as the host's ``isola_anyio.codec``, whose modules give the reasons; guest
files never import host files, so the algorithm is here again, for this side's needs: what the host sends is not
distrusted.

A host's tests run this file on the host's Python, so it uses nothing newer than 3.11.
"""

import json
import math
import re
import struct
import sys
from itertools import accumulate
from json import encoder as _json_encoder

__all__ = ["CodecError", "EncodeError", "EncodeTypeError", "TooLarge", "decode", "encode"]

MAX_DEPTH = 500
MAX_INT_BITS = 2125  # no more than 640 digits, the least that sys.set_int_max_str_digits takes
INLINE_HEX_BITS = 4 * 8192
MAX_INT_DIGITS = 4300

_MAGIC = 0xFE
_VERSION = 1
_SEGMENT_KEYS = 1
_KEY = "$"
_HEAD = struct.Struct("<BBBBII")
_LONGEST_REFERENCE = 64  # a frame with one segment and a text of no more is a value that the segment is all of
_PADDING = bytes(8)


# Errors


class CodecError(ValueError):
    """Bytes that are no value, or a value that cannot cross; ``path`` says where and ``reason`` why."""

    def __init__(self, path, reason):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self):
        return f"{self.path}: {self.reason}"


class EncodeError(CodecError):
    """A value that cannot cross; ``kind`` is ``"type"`` or ``"value"``."""

    kind = "value"

    def as_builtin(self):
        """Return the ``TypeError`` or ``ValueError`` that guest code expects, with the same text."""
        return (TypeError if self.kind == "type" else ValueError)(str(self))


class EncodeTypeError(EncodeError, TypeError):
    """A value, or a dict's key, of a type that cannot cross."""

    kind = "type"


class TooLarge(EncodeError):
    """The encoded value is ``size`` bytes long, more than ``limit``."""

    def __init__(self, path, size, limit):
        super().__init__(path, f"the value takes {size} bytes, over the limit of {limit}")
        self.args = (path, size, limit)
        self.size = size
        self.limit = limit


_REMEDIES = {
    **dict.fromkeys(("set", "frozenset", "range", "generator", "map", "filter", "zip"), "convert it to a list"),
    **dict.fromkeys(("dict_keys", "dict_values", "dict_items", "collections.deque"), "convert it to a list"),
    **dict.fromkeys(("mappingproxy", "collections.UserDict"), "convert it to a dict"),
    "complex": "convert it to a list of two floats",
    **dict.fromkeys(("decimal.Decimal", "fractions.Fraction"), "convert it to a str or a float"),
    **dict.fromkeys(
        ("uuid.UUID", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath"), "convert it to a str"
    ),
    **dict.fromkeys(("datetime.datetime", "datetime.date", "datetime.time"), "convert it with .isoformat()"),
    "datetime.timedelta": "convert it with .total_seconds()",
    "coroutine": "await it first",
    "async_generator": "collect it into a list first",
    **dict.fromkeys(("function", "builtin_function_or_method", "method"), "send what it returns"),
}


def _remedy(value):
    known = _REMEDIES.get(_type_name(value))
    if known is not None:
        return known
    if isinstance(value, type):
        return "send its name"
    if hasattr(type(value), "__dataclass_fields__"):
        return "convert it with dataclasses.asdict()"
    if hasattr(type(value), "_value2member_map_"):
        return "send its .value"
    if hasattr(type(value), "__next__"):
        return "convert it to a list"
    return "convert it to a dict, a list or a str"


def _type_name(value):
    kind = type(value)
    if kind.__module__ in {"builtins", "__main__"}:
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*", re.ASCII)


def _format_path(root, steps):
    if len(steps) > 32:
        return root + "".join([*map(_format_step, steps[:16]), "...", *map(_format_step, steps[-16:])])
    return root + "".join(map(_format_step, steps))


def _format_step(step):
    if isinstance(step, int):
        return f"[{step}]"
    if len(step) <= 40:
        return f".{step}" if _PLAIN_KEY.fullmatch(step) else f"[{json.dumps(step)}]"
    return f'[{json.dumps(step[:40])[:-1]}..."]'


# JSON text


def _refuse(value):
    raise TypeError(type(value).__name__)


def _text_encoder(encode_str):
    """Return ``json.dumps`` without building its encoder anew for each call."""
    make = _json_encoder.c_make_encoder
    try:
        chunks = make(None, _refuse, encode_str, None, ":", ",", False, False, True)
        if "".join(chunks([{"a": 1}], 0)) == '[{"a":1}]':
            return lambda value: "".join(chunks(value, 0))
    except TypeError:  # another signature than this was written for, or no C encoder at all
        pass
    ascii_only = encode_str is _json_encoder.encode_basestring_ascii
    return json.JSONEncoder(
        ensure_ascii=ascii_only, check_circular=False, separators=(",", ":"), default=_refuse
    ).encode


_dumps = _text_encoder(_json_encoder.encode_basestring)
_dumps_ascii = _text_encoder(_json_encoder.encode_basestring_ascii)
_scan = json.JSONDecoder().scan_once

# What json.dumps leaves behind when it turns a key that is no str into one.
_COERCED_KEY = re.compile(r'"[-0-9tfnNI](?:(?<=[-0-9])[0-9.e+\-]*|rue|alse|ull|aN|I?nfinity)":').search
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]").search
_HUGE_INT = re.compile(rf"[0-9]{{{MAX_INT_DIGITS + 1}}}").search
_SCALARS = frozenset({str, int, float, bool, type(None)})
_ONLY_STR = frozenset({str})
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_MARKS = bytes(set(range(256)) - set(b'[]{}"'))


def _is_suspicious(text, value):
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(text):
        return True
    if "{" in text and _COERCED_KEY(text) is not None and not _has_only_str_keys(value):
        return True
    limit = sys.get_int_max_str_digits()
    return not 0 < limit <= MAX_INT_DIGITS and _HUGE_INT(text) is not None


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


# Encoding


def encode(value, *, max_bytes=None, root="$"):
    """Return ``value`` as the bytes that the host reads back exactly.

    Raises `EncodeTypeError` for a type that cannot cross, `EncodeError` for a cycle or too deep a nesting, `TooLarge`
    if there would be more than ``max_bytes``; each says where in ``value``, which errors call ``root``.
    """
    rewriter = None
    try:
        text = _dumps(value)
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            if _SURROGATE_PAIR(text) is not None:
                raise
            text = _dumps_ascii(value)
            raw = text.encode("ascii")
        suspicious = _is_suspicious(text, value)
        del text
    except (TypeError, ValueError, RecursionError):
        suspicious = True
    if suspicious:
        raw, rewriter = _escaped(value, root)
    if rewriter is not None and rewriter.escapes:
        raw = _pack(rewriter.key, rewriter.flags, raw, rewriter.segments)
    if max_bytes is not None and len(raw) > max_bytes:
        size = _payload_size(raw)
        if size > max_bytes:
            raise TooLarge(root, size, max_bytes)
    return raw


class _KeyTaken(Exception):
    pass


def _escaped(value, root):
    key = _KEY
    while True:
        rewriter = _Rewriter(key, root)
        try:
            copy = rewriter.rewrite(value)
        except _KeyTaken:
            key = _free_key(value)
            continue
        try:
            return _dumps_ascii(copy).encode("ascii"), rewriter
        except RecursionError:
            raise EncodeError(root, "nested deeper than the rest of this thread's stack allows") from None


def _free_key(value):
    """Return a reserved key that no key in ``value`` starts with."""
    taken = set()
    seen = set()
    left = [value]
    while left:
        found = left.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, dict):
            taken.update(key[1:].partition(_KEY)[0] for key in found if isinstance(key, str) and key.startswith(_KEY))
            left.extend(found.values())
        elif isinstance(found, (list, tuple)):
            left.extend(found)
    number = 0
    while str(number) in taken:
        number += 1
    return f"{_KEY}{number}{_KEY}"


class _Rewriter:
    """Copies a value with escapes in it for what JSON cannot say."""

    def __init__(self, key, root):
        self.key = key
        self.root = root
        self.flags = 0
        self.escapes = 0
        self.segments = []
        self._open = []  # [source, items, copy, step] of each list and dict that is being copied

    def rewrite(self, value):
        out = []
        # The outermost frame holds the value itself and is no part of any path.
        stack = self._open = [[None, iter([(0, value)]), out, 0]]
        open_ids = set()
        while stack:
            top = stack[-1]
            copy = top[2]
            for step, item in top[1]:
                top[3] = step
                if isinstance(item, str):
                    new = item if _SURROGATE_PAIR(item) is None else self._escape(self._str(item))
                elif isinstance(item, (dict, list, tuple)):
                    if id(item) in open_ids:
                        raise self._error("the value contains itself; break the cycle")
                    if len(stack) > MAX_DEPTH:
                        raise self._error(f"nested deeper than {MAX_DEPTH} levels; flatten it")
                    open_ids.add(id(item))
                    is_dict = isinstance(item, dict)
                    new = {} if is_dict else []
                    stack.append([item, self._dict_items(item) if is_dict else enumerate(item), new, 0])
                else:
                    new = self._scalar(item)
                if type(copy) is list:
                    copy.append(new)
                else:
                    copy[step] = new
                if stack[-1] is not top:
                    break
            else:
                stack.pop()
                open_ids.discard(id(top[0]))
        return out[0]

    def _dict_items(self, source):
        for key, item in source.items():
            if not isinstance(key, str):
                self._open.pop()  # the dict is at fault, not what is in it
                reason = f"the key {_shown(key)} is of type {_type_name(key)}; keys must be str"
                raise self._error(reason, EncodeTypeError)
            if key.startswith(self.key):
                raise _KeyTaken
            if _SURROGATE_PAIR(key) is not None:
                self.flags |= _SEGMENT_KEYS
                self.escapes += 1
                yield self.key + self._str(key), item
            else:
                yield key, item

    def _scalar(self, item):
        if item is None or isinstance(item, (bool, float)):
            return item
        if isinstance(item, int):
            if item.bit_length() <= MAX_INT_BITS:
                return item
            number = int.__index__(item)
            if number.bit_length() <= INLINE_HEX_BITS:
                return self._escape(f"i{number:x}")
            data = abs(number).to_bytes((number.bit_length() + 7) // 8, "little")
            return self._escape(self._segment("J" if number < 0 else "I", data))
        if isinstance(item, (bytes, bytearray)):
            return self._escape(self._segment("b", item))
        number = _number(item)
        if number is not None:
            return number
        try:
            found = _describe(item)
        except _Unsupported as exc:
            raise self._error(f"{_buffer_name(item)} is not a value that can cross; {exc}", EncodeTypeError) from None
        if found is None:
            raise self._error(f"{_type_name(item)} is not a value that can cross; {_remedy(item)}", EncodeTypeError)
        name, shape, data = found
        if isinstance(item, memoryview) and name == "u1" and len(shape) == 1:
            return self._escape(self._segment("b", data))
        return self._escape(f"{self._segment('t', data)}:{name}:{','.join(map(str, shape))}")

    def _str(self, item):
        return self._segment("s", item.encode("utf-8", "surrogatepass"))

    def _segment(self, code, data):
        self.segments.append(data)
        return f"{code}{len(self.segments) - 1}"

    def _escape(self, payload):
        self.escapes += 1
        return {self.key: payload}

    def _error(self, reason, kind=EncodeError):
        return kind(_format_path(self.root, [level[3] for level in self._open[1:]]), reason)


def _shown(key):
    try:
        return repr(key)[:40]
    except Exception:
        return "?"


def _buffer_name(item):
    dtype = getattr(item, "dtype", None)
    return _type_name(item) if dtype is None or not hasattr(item, "__len__") else f"{_type_name(item)} of {dtype}"


# Typed buffers: `isola_anyio.codec.buffers` explains the names

_KINDS = {
    **dict.fromkeys("bhilqn", "i"),
    **dict.fromkeys("BHILQN", "u"),
    **dict.fromkeys("efd", "f"),
    "c": "u",
    "?": "b",
    **dict.fromkeys(("Zf", "Zd", "F", "D"), "c"),
}
_SIZES = {
    **{f"{kind}{size}": size for kind in "iu" for size in (1, 2, 4, 8)},
    **{f"f{size}": size for size in (2, 4, 8)},
    "b1": 1,
    "c8": 8,
    "c16": 16,
}
_LONG = "l" if struct.calcsize("l") == 8 else "q"
_LETTERS = {
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": _LONG,
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": _LONG.upper(),
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "b1": "?",
}
_BUFFER_REMEDIES = {
    "O": "convert it with .tolist()",
    "M": "convert it with .astype('int64')",
    "m": "convert it with .astype('int64')",
    "g": "convert it with .astype('float64')",
    "Zg": "convert it with .astype('complex128')",
    "u": "convert it to a str",
    "w": "convert it to a str or, with .tolist(), to a list",
    "s": "convert it with .tolist()",
    "T": "send its fields one by one",
}


class _Unsupported(Exception):
    """The reason why a buffer cannot cross."""


def _number(value):
    """Return the Python number that a numpy scalar is exactly, or ``None``: sums and counts are such scalars."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return None
    return value.item() if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8 else None


def _describe(value):
    """Return the name, shape and contiguous data of the buffer that ``value`` exports, or ``None``."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        raise _Unsupported("convert it with .item()")
    try:
        source = memoryview(value)
    except TypeError:
        return None
    except (ValueError, BufferError) as exc:
        letter = str(getattr(getattr(value, "dtype", None), "kind", ""))
        raise _Unsupported(_BUFFER_REMEDIES.get(letter, str(exc))) from exc
    try:
        form = source.format
        order, letters = (form[0], form[1:]) if form[:1] in set("@=<>!^|") else ("@", form)
        kind = _KINDS.get(letters)
        name = f"{kind}{source.itemsize}"
        if name not in _SIZES:
            letter = letters.lstrip("0123456789").partition("{")[0]
            raise _Unsupported(_BUFFER_REMEDIES.get(letter, f"elements of format {form!r} have no counterpart"))
        data = source
        if not source.c_contiguous:
            data = source.tobytes() if numpy is None else numpy.ascontiguousarray(source)
        part = source.itemsize // 2 if kind == "c" else source.itemsize
        if order in ">!" and part > 1:
            swapped = bytearray(source.nbytes)
            data = bytes(data)
            for at in range(part):
                swapped[at::part] = data[part - 1 - at :: part]
            data = swapped
        return name, source.shape, data
    except ValueError as exc:  # a released memoryview
        raise _Unsupported(str(exc)) from exc


def _view(data, spec):
    """Return ``data``, some bytes, as the typed buffer that ``spec`` names, without copying."""
    name, _, dims = spec.partition(":")
    size = _SIZES[name]
    shape = tuple(map(int, dims.split(","))) if dims else ()
    if math.prod(shape) * size != len(data):
        raise ValueError(f"a buffer of {len(data)} bytes cannot be {spec!r}")
    letter = _LETTERS.get(name)
    if letter is not None and (letter != "e" or sys.version_info >= (3, 12)):
        if 0 not in shape:
            return data.cast(letter, shape) if shape != (len(data),) or letter != "B" else data
        if len(shape) == 1:
            return data.cast(letter)
        if 0 not in shape[1:]:
            return memoryview(bytes(math.prod(shape[1:]) * size)).cast(letter, (1, *shape[1:]))[:0]
    try:
        import numpy as np
    except ImportError:
        if name[0] == "c":
            return _view(data, f"f{_SIZES[name] // 2}:{','.join(map(str, (*shape, 2)))}")
        if 0 in shape and shape != (0,):
            return _view(data, f"{name}:0")
        return _view(data, f"u2:{','.join(map(str, shape))}")
    return memoryview(np.frombuffer(data, np.dtype(f"={name}")).reshape(shape))


# Frames


def _payload_size(raw):
    """Return what an encoded value counts: a str, bytes or a buffer by itself only what it holds."""
    if raw[0] == raw[-1] == 0x22:
        return len(raw) - 2
    if raw[0] == _MAGIC:
        text_length, n_segments = _HEAD.unpack_from(raw)[4:]
        if n_segments == 1 and text_length <= _LONGEST_REFERENCE:
            return int.from_bytes(raw[_HEAD.size : _HEAD.size + 4], "little")
    return len(raw)


def _pack(key, flags, text, segments):
    sizes = [memoryview(segment).nbytes for segment in segments]
    name = key.encode("ascii")
    head = _HEAD.pack(_MAGIC, _VERSION, len(name), flags, len(text), len(segments))
    pieces = [head, struct.pack(f"<{len(sizes)}I", *sizes), name, text]
    at = len(head) + 4 * len(sizes) + len(name) + len(text)
    for segment, size in zip(segments, sizes, strict=True):
        gap = -at % 8
        pieces += (_PADDING[:gap], segment)
        at += gap + size
    return b"".join(pieces)


# Decoding


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


class _FrameDecoder:
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
        if flags & _SEGMENT_KEYS:
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
            return _view(memoryview(bytes(data)) if self._borrowed else data, spec)
        if code == "s":
            return str(data, "utf-8", "surrogatepass")
        if code in ("I", "J"):
            size = int.from_bytes(data, "little")
            return -size if code == "J" else size
        raise CodecError("$", f"an escape that means nothing: {payload[:80]!r}")
