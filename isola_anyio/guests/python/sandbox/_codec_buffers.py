"""Typed buffers: the wire names of their elements, and a ``memoryview`` for a wire name.

``isola_anyio.codec.buffers`` explains the names.
"""

import math
import struct
import sys

__all__ = ["Unsupported", "describe", "number", "view"]

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
_REMEDIES = {
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


class Unsupported(Exception):
    """The reason why a buffer cannot cross."""


def number(value):
    """Return the Python number that a numpy scalar is exactly, or ``None``: sums and counts are such scalars."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return None
    return value.item() if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8 else None


def describe(value):
    """Return the name, shape and contiguous data of the buffer that ``value`` exports, or ``None``."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        raise Unsupported("convert it with .item()")
    try:
        source = memoryview(value)
    except TypeError:
        return None
    except (ValueError, BufferError) as exc:
        letter = str(getattr(getattr(value, "dtype", None), "kind", ""))
        raise Unsupported(_REMEDIES.get(letter, str(exc))) from exc
    try:
        form = source.format
        order, letters = (form[0], form[1:]) if form[:1] in set("@=<>!^|") else ("@", form)
        kind = _KINDS.get(letters)
        name = f"{kind}{source.itemsize}"
        if name not in _SIZES:
            letter = letters.lstrip("0123456789").partition("{")[0]
            raise Unsupported(_REMEDIES.get(letter, f"elements of format {form!r} have no counterpart"))
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
        raise Unsupported(str(exc)) from exc


def view(data, spec):
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
            return view(data, f"f{_SIZES[name] // 2}:{','.join(map(str, (*shape, 2)))}")
        if 0 in shape and shape != (0,):
            return view(data, f"{name}:0")
        return view(data, f"u2:{','.join(map(str, shape))}")
    return memoryview(np.frombuffer(data, np.dtype(f"={name}")).reshape(shape))
