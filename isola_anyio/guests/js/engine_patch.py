"""Engine patch: two changes to the pinned QuickJS build, for script names and for unhandled rejections. Pure.

The engine inside the distribution can do both, but the functions that the distribution exports do not pass them on.
So the verified module is changed in two places before it is compiled:

* The engine names every script ``eval_script``: the address of that constant becomes the address of a buffer into
  which the host writes the file name. Stacks, ``error.stack`` and the base of ``import()`` then have the user's name.
* ``JSRuntime`` has a field for a function that is called for each unhandled rejection, but no function of its type is
  in the table. One is added, which calls a JavaScript function that the host stores beside the name.

Everything here is pinned to builds by their SHA-256 (``LAYOUTS``). Any other build runs unpatched: its scripts have no
names, and its unhandled rejections are not reported. The addresses lie at the end of the stack, which is 1 MiB long
and of which half is used (see ``boot.py``).
"""

from __future__ import annotations

__all__ = ["LAYOUTS", "NAME_BYTES", "TRACKER_EXPORT", "Layout", "patch"]

from dataclasses import dataclass
from typing import Final

NAME_BYTES: Final = 2048
"""The longest script name, with its terminating zero."""
_MAGIC: Final = b"\0asm\x01\0\0\0"
TRACKER_EXPORT: Final = "isola_tracker"
"""The added function's export, by which a patched module is recognised."""
_TYPES, _IMPORTS, _FUNCTIONS, _TABLES, _EXPORTS, _ELEMENTS, _CODE = 1, 2, 3, 4, 7, 9, 10
_UNDEFINED: Final = 3 << 32
_BOOL: Final = 1 << 32


@dataclass(frozen=True)
class Layout:
    """Addresses and indices in one build.

    Attributes:
        name_constant: address of ``"eval_script"``; it occurs ``name_uses`` times in the code.
        name_buffer: address of the buffer for a script's name and a zero; ``NAME_BYTES`` long.
        hook: address of the rejection hook's JavaScript function, a value of the engine's of 8 bytes, and of 24 bytes
            for its arguments.
        tracker: index of the added function in the table.
        js_call: index of ``JS_Call`` among the functions.
        tracker_type: index of the hook's type, ``(i32, i64, i64, i32, i32) -> ()``.
    """

    name_constant: int
    name_uses: int
    name_buffer: int
    hook: int
    tracker: int
    js_call: int
    tracker_type: int


LAYOUTS: Final = {
    # quickjs-rs 0.2.6
    "647ab11ae29cc6d39a6d17d3aa1e7a6a0b5fb9c44b4864475a18bc644f926050": Layout(
        name_constant=0x100D52,
        name_uses=2,
        name_buffer=2048,
        hook=1024,
        tracker=609,
        js_call=551,
        tracker_type=37,
    ),
}


def patch(module: bytes, layout: Layout) -> bytes:
    """Return the module with both changes.

    Raises:
        ValueError: the module is not the build that the layout is for.
    """
    sections = _split(module)
    code = sections[_CODE]
    old = b"\x41" + _padded(layout.name_constant)
    if code.count(old) != layout.name_uses:
        raise ValueError(f"the script's name occurs {code.count(old)} times, not {layout.name_uses}")
    code = code.replace(old, b"\x41" + _padded(layout.name_buffer))
    count, start = _read(sections[_FUNCTIONS], 0)
    imported = _imported(sections[_IMPORTS])
    sections[_FUNCTIONS] = _leb(count + 1) + sections[_FUNCTIONS][start:] + _leb(layout.tracker_type)
    bodies, start = _read(code, 0)
    if bodies != count:
        raise ValueError(f"{count} functions but {bodies} bodies")
    body = _tracker(layout)
    sections[_CODE] = _leb(bodies + 1) + code[start:] + _leb(len(body)) + body
    exports, start = _read(sections[_EXPORTS], 0)
    name = TRACKER_EXPORT.encode()
    added = _leb(len(name)) + name + b"\0" + _leb(imported + count)
    sections[_EXPORTS] = _leb(exports + 1) + sections[_EXPORTS][start:] + added
    # One table of function references, exactly full: make it one element longer.
    size = _leb(layout.tracker)
    if sections[_TABLES] != b"\x01\x70\x01" + size + size:
        raise ValueError("the table is not as it was")
    size = _leb(layout.tracker + 1)
    sections[_TABLES] = b"\x01\x70\x01" + size + size
    segments, start = _read(sections[_ELEMENTS], 0)
    added = b"\0\x41" + _signed(layout.tracker) + b"\x0b\x01" + _leb(imported + count)
    sections[_ELEMENTS] = _leb(segments + 1) + sections[_ELEMENTS][start:] + added
    return _MAGIC + b"".join(bytes((kind,)) + _leb(len(body)) + body for kind, body in sections.items())


def _tracker(layout: Layout) -> bytes:
    """Compile ``(ctx, promise, reason, handled, opaque) => JS_Call(ctx, hook, undefined, [promise, reason, handled])``.

    The JavaScript function returns undefined and throws nothing, so that its result needs no care.
    """

    def store(offset: int, value: bytes) -> bytes:
        return b"\x41" + _signed(layout.hook + offset) + value + b"\x37\x03\0"

    return b"".join(
        (
            b"\0",  # no locals
            store(8, b"\x20\x01"),
            store(16, b"\x20\x02"),
            store(24, b"\x20\x03\xad\x42" + _signed(_BOOL) + b"\x84"),  # i64.extend_i32_u, i64.or
            b"\x20\0",
            b"\x41" + _signed(layout.hook) + b"\x29\x03\0",  # i64.load
            b"\x42" + _signed(_UNDEFINED),
            b"\x41\x03",
            b"\x41" + _signed(layout.hook + 8),
            b"\x10" + _leb(layout.js_call),
            b"\x1a\x0b",  # drop, end
        )
    )


def _split(module: bytes) -> dict[int, bytes]:
    if module[:8] != _MAGIC:
        raise ValueError("not a WebAssembly module")
    sections: dict[int, bytes] = {}
    at = 8
    while at < len(module):
        kind = module[at]
        length, at = _read(module, at + 1)
        if kind:  # custom sections (0) are not needed
            sections[kind] = module[at : at + length]
        at += length
    if not {_TYPES, _IMPORTS, _FUNCTIONS, _TABLES, _EXPORTS, _ELEMENTS, _CODE} <= sections.keys():
        raise ValueError("the module lacks a section")
    return sections


def _imported(section: bytes) -> int:
    """Return the number of imports, which must all be functions."""
    count, at = _read(section, 0)
    for _ in range(count):
        for _ in range(2):
            length, at = _read(section, at)
            at += length
        if section[at]:
            raise ValueError("an import that is not a function")
        _, at = _read(section, at + 1)
    return count


def _read(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned LEB128 number and the index behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _leb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int) -> bytes:
    """Encode a number that is not negative as signed LEB128."""
    out = bytearray()
    while value >= 0x40:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _padded(value: int) -> bytes:
    """Encode in five bytes of LEB128, as linkers write addresses."""
    return bytes((*(value >> shift & 0x7F | 0x80 for shift in (0, 7, 14, 21)), value >> 28))
