"""Typed buffers: wire names for their elements, and a ``memoryview`` for a wire name.

``struct``'s letters mean other sizes to a 32-bit guest than to a 64-bit host. A wire name says the kind and the size
in bytes: ``i4``, ``u1``, ``f8``, ``b1`` (bool), ``c16`` (complex). Elements are
little-endian and in row-major order, whatever the strides and the byte order were.
"""

from __future__ import annotations

__all__ = ["TypedBuffer", "Unsupported", "describe", "number_of", "view"]

import math
import struct
import sys
from functools import cache
from typing import Any, Final, NamedTuple

_KINDS: Final = {
    **dict.fromkeys("bhilqn", "i"),
    **dict.fromkeys("BHILQN", "u"),
    **dict.fromkeys("efd", "f"),
    "c": "u",
    "?": "b",
    "Zf": "c",
    "Zd": "c",
}
_SIZES: Final = {
    **{f"{kind}{size}": size for kind in "iu" for size in (1, 2, 4, 8)},
    **{f"f{size}": size for size in (2, 4, 8)},
    "b1": 1,
    "c8": 8,
    "c16": 16,
}
# Where a C long has 64 bits, numpy's int64 is "l" and not "q"; with the same letter a dtype comes back as itself.
_LONG: Final = "l" if struct.calcsize("l") == 8 else "q"
# Any, because memoryview.cast is typed by the letter.
_LETTERS: Final[dict[str, Any]] = {
    **dict(zip(("i1", "i2", "i4", "i8"), ("b", "h", "i", _LONG), strict=True)),
    **dict(zip(("u1", "u2", "u4", "u8"), ("B", "H", "I", _LONG.upper()), strict=True)),
    **dict(zip(("f2", "f4", "f8", "b1"), "efd?", strict=True)),
}
_REMEDIES: Final = {
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
_MAX_EMPTY_BYTES: Final = 1024 * 1024
"""The largest row of a zero-length buffer for which `_zeros` serves; numpy makes the others."""
_MAX_DIMS: Final = 64
"""The buffer protocol's own limit (``PyBUF_MAX_NDIM``)."""


class Unsupported(Exception):  # noqa: N818 - its text is the remedy
    """A buffer that cannot cross; the text says what to do instead."""


class TypedBuffer(NamedTuple):
    """A buffer's bytes, contiguous and little-endian, with the wire name of its elements and its shape."""

    name: str
    shape: tuple[int, ...]
    data: Any  # anything that bytes.join takes

    @property
    def spec(self) -> str:
        """The name and the shape, as in ``f8:2,3``."""
        return f"{self.name}:{','.join(map(str, self.shape))}"


def number_of(value: Any) -> int | float | bool | None:
    """Return the Python number that equals a numpy scalar exactly; ``None`` for others, such as a ``longdouble``."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not issubclass(type(value), numpy.generic) or value.dtype.kind not in "biuf":
        return None
    number: int | float | bool = value.item()
    return number if type(number) in {int, float, bool} else None


def describe(value: Any) -> TypedBuffer | None:
    """Return ``value``'s buffer without copying it unless it has to be rearranged; ``None`` if it exports none.

    Raises:
        Unsupported: its elements are of a type that cannot cross.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(type(value), numpy.generic):
        raise Unsupported("convert it with .item()")
    try:
        source = memoryview(value)
    except TypeError:
        return None
    except (ValueError, BufferError) as exc:
        letter = str(getattr(getattr(value, "dtype", None), "kind", ""))
        raise Unsupported(_REMEDIES.get(letter, str(exc))) from exc
    try:
        return _describe(source)
    except ValueError as exc:  # a released memoryview
        raise Unsupported(str(exc)) from exc


def _describe(source: memoryview) -> TypedBuffer:
    form = source.format
    order, letters = (form[0], form[1:]) if form[:1] in set("@=<>!^|") else ("@", form)
    kind = _KINDS.get(letters)
    name = f"{kind}{source.itemsize}"
    if kind is None or name not in _SIZES:
        letter = letters.lstrip("0123456789").partition("{")[0]
        raise Unsupported(_REMEDIES.get(letter, f"elements of format {form!r} have no counterpart"))
    shape = tuple(source.shape or ())
    data: Any = source
    if not source.c_contiguous:
        numpy = sys.modules.get("numpy")  # 20 times as fast as memoryview.tobytes at gathering strides
        data = source.tobytes() if numpy is None else numpy.ascontiguousarray(source)
    foreign = order in ">!" if sys.byteorder == "little" else order in "@=>!^|"
    part = source.itemsize // 2 if kind == "c" else source.itemsize
    return TypedBuffer(name, shape, _swapped(bytes(data), part) if foreign and part > 1 else data)


def _swapped(data: bytes, size: int) -> bytearray:
    out = bytearray(len(data))
    for at in range(size):
        out[at::size] = data[size - 1 - at :: size]
    return out


@cache
def _zeros() -> bytes:
    """Shared zero bytes that back zero-length buffers: a guest could otherwise make us allocate a row for each."""
    return bytes(_MAX_EMPTY_BYTES)


def view(data: memoryview, spec: str) -> memoryview:
    """Return ``data``, some bytes, as the typed buffer that the untrusted ``spec`` names, without copying.

    Raises:
        Unsupported: ``spec`` names nothing known, or its size is not that of ``data``.
    """
    name, _, dims = spec.partition(":")
    size = _SIZES.get(name)
    shape = _shape(dims)
    if (
        size is None
        or shape is None
        or math.prod(shape) * size != len(data)
        # An empty buffer of larger rows than any array can have: numpy refuses it, `memoryview` would not.
        or (0 in shape and math.prod(filter(None, shape)) * size > sys.maxsize)
    ):
        raise Unsupported(f"a buffer of {len(data)} bytes cannot be {spec[:80]!r}")
    if sys.byteorder != "little" and size > 1:
        data = memoryview(_swapped(bytes(data), size // 2 if name[0] == "c" else size)).toreadonly()
    letter = _LETTERS.get(name)
    if letter is not None and (letter != "e" or sys.version_info >= (3, 12)):
        found: memoryview | None = None
        if letter == "B" and len(shape) == 1:
            found = data
        elif 0 not in shape:
            found = data.cast(letter, shape)
        elif len(shape) == 1:
            found = data.cast(letter)
        elif 0 not in shape[1:] and math.prod(shape[1:]) * size <= _MAX_EMPTY_BYTES:
            # `cast` refuses a zero in a shape, but a view of one row can be sliced to none.
            row = memoryview(_zeros())[: math.prod(shape[1:]) * size]
            found = row.cast(letter, (1, *shape[1:]))[:0]
        if found is not None:
            return found
    return _view_by_numpy(data, name, shape)


def _view_by_numpy(data: memoryview, name: str, shape: tuple[int, ...]) -> memoryview:
    """Make the views that ``memoryview.cast`` cannot: complex numbers, half floats before 3.12, inner zeros in a shape.

    Without numpy, complex numbers arrive as pairs of floats, half floats as their bits, and an empty buffer flat.
    """
    try:
        import numpy as np  # noqa: PLC0415 - not a dependency, and needed by almost nobody
    except ImportError:
        if name[0] == "c":
            return view(data, f"f{_SIZES[name] // 2}:{','.join(map(str, (*shape, 2)))}")
        if 0 in shape and shape != (0,):
            return view(data, f"{name}:0")
        return view(data, f"u2:{','.join(map(str, shape))}")
    try:
        array: Any = np.frombuffer(data, np.dtype(f"={name}")).reshape(shape)
    except ValueError as exc:  # no array is as large as an empty one may claim its rows to be
        raise Unsupported(str(exc)) from None
    return memoryview(array)


def _shape(dims: str) -> tuple[int, ...] | None:
    if not dims:
        return ()
    parts = dims.split(",", _MAX_DIMS)
    if len(parts) > _MAX_DIMS or not all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts):
        return None
    return tuple(map(int, parts))
