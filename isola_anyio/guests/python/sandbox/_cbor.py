"""CBOR (RFC 8949): JSON's data model, bytes and big integers; the runtime bundles no library for it."""

import struct

MAX_DEPTH = 500


def dumps(value):
    out = bytearray()
    _write(value, out, 0)
    return bytes(out)


def _head(major, number, out):
    if number < 24:
        out.append(major << 5 | number)
    elif number < 1 << 8:
        out += bytes((major << 5 | 24, number))
    elif number < 1 << 16:
        out += struct.pack(">BH", major << 5 | 25, number)
    elif number < 1 << 32:
        out += struct.pack(">BI", major << 5 | 26, number)
    else:
        out += struct.pack(">BQ", major << 5 | 27, number)


def _write(value, out, depth):
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if value is None:
        out.append(0xF6)
    elif value is True:
        out.append(0xF5)
    elif value is False:
        out.append(0xF4)
    elif isinstance(value, int):
        _write_int(int(value), out)
    elif isinstance(value, float):
        out += struct.pack(">Bd", 0xFB, value)
    elif isinstance(value, str):
        raw = value.encode()
        _head(3, len(raw), out)
        out += raw
    elif isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        _head(2, len(raw), out)
        out += raw
    elif isinstance(value, (list, tuple)):
        _head(4, len(value), out)
        for item in value:
            _write(item, out, depth + 1)
    elif isinstance(value, dict):
        _head(5, len(value), out)
        for key, item in value.items():
            _write(key, out, depth + 1)
            _write(item, out, depth + 1)
    else:
        raise TypeError(f"{type(value).__name__} has no CBOR form here")


def _write_int(value, out):
    negative = value < 0
    number = -1 - value if negative else value
    if number < 1 << 64:
        _head(1 if negative else 0, number, out)
        return
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    out.append(0xC3 if negative else 0xC2)
    _head(2, len(raw), out)
    out += raw


def loads(data):
    data = bytes(data)
    value, at = _read(data, 0, 0)
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes follow the value")
    return value


_BREAK = b"\xff"
"""Ends what began without a length; anywhere else it is no value."""


def _read(data, at, depth):
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if at >= len(data):
        raise ValueError("the data ends early")
    first = data[at]
    at += 1
    major, info = first >> 5, first & 31
    if major == 7:
        return _read_simple(data, at, info)
    if info == 31:
        if major in (2, 3, 4, 5):
            return _read_indefinite(data, at, major, depth)
        raise ValueError(f"byte {first:#x} starts nothing")
    if info < 24:
        number = info
    elif info < 28:
        size = 1 << info - 24
        number = int.from_bytes(_cut(data, at, size), "big")
        at += size
    else:
        raise ValueError(f"byte {first:#x} starts nothing")
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major == 2:
        return _cut(data, at, number), at + number
    if major == 3:
        return _cut(data, at, number).decode(), at + number
    if major == 4:
        items = []
        for _ in range(number):
            item, at = _read(data, at, depth + 1)
            items.append(item)
        return items, at
    if major == 5:
        found = {}
        for _ in range(number):
            key, at = _read(data, at, depth + 1)
            found[key], at = _read(data, at, depth + 1)
        return found, at
    value, at = _read(data, at, depth + 1)
    if number in (2, 3):
        if not isinstance(value, bytes):
            raise ValueError("a big number that is not bytes")
        value = int.from_bytes(value, "big")
        if number == 3:
            value = -1 - value
    return value, at


def _read_simple(data, at, info):
    if info == 20:
        return False, at
    if info == 21:
        return True, at
    if info in (22, 23):
        return None, at
    if info == 25:
        return struct.unpack(">e", _cut(data, at, 2))[0], at + 2
    if info == 26:
        return struct.unpack(">f", _cut(data, at, 4))[0], at + 4
    if info == 27:
        return struct.unpack(">d", _cut(data, at, 8))[0], at + 8
    raise ValueError(f"simple value {info} is not supported")


def _read_indefinite(data, at, major, depth):
    parts = []
    while data[at : at + 1] != _BREAK:
        part, at = _read(data, at, depth + 1)
        parts.append(part)
    at += 1
    if major == 4:
        return parts, at
    if major == 5:
        if len(parts) % 2:
            raise ValueError("a map with a key and no value")
        return dict(zip(parts[::2], parts[1::2], strict=True)), at
    kind = bytes if major == 2 else str
    if not all(type(part) is kind for part in parts):
        raise ValueError("a string with a chunk of another kind")
    return kind().join(parts), at


def _cut(data, at, size):
    if at + size > len(data):
        raise ValueError("the data ends early")
    return data[at : at + size]
