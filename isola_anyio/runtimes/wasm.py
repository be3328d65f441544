"""Module outlines: what a WebAssembly module exports, and whether it starts itself, read from any file.

Follows the binary format of the WebAssembly core specification, sections 5.2 (LEB128) and 5.5 (modules). Sections other
than the export section are stepped over by their size, so a module of 100 MB costs a dozen small reads.
"""

from __future__ import annotations

__all__ = ["MalformedModuleError", "export_names", "has_start_function"]

import io
import os
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC: Final = b"\0asm"
MODULE_VERSION: Final = b"\1\0\0\0"
EXPORT_SECTION: Final = 7
START_SECTION: Final = 8
EXPORT_KINDS: Final = range(5)  # function, table, memory, global, tag
MAX_EXPORT_SECTION_BYTES: Final = 1 << 20  # a guess; the real ones are below 2 KiB
MAX_SECTIONS: Final = 4096  # a guess; the real ones have two dozen, and a file of nothing else took minutes to read
MAX_LEB_BYTES: Final = 5  # of an unsigned 32-bit number


class MalformedModuleError(Exception):
    """The file is not a WebAssembly module; the message says what is wrong with it."""


def export_names(path: Path) -> frozenset[str]:
    """Return the names a module exports.

    Raises:
        MalformedModuleError: the file is not a module, or its sections do not add up.
        OSError: the file cannot be read.
    """
    names: frozenset[str] | None = None
    with path.open("rb") as file:
        for section_id, size in _sections(file):
            if section_id != EXPORT_SECTION:
                continue
            if names is not None or size > MAX_EXPORT_SECTION_BYTES:
                raise MalformedModuleError("its export section is repeated or too large")
            names = _parse_exports(io.BytesIO(file.read(size)))
    return names or frozenset()


def has_start_function(path: Path) -> bool:
    """Tell whether a module has a function that runs whenever it is instantiated.

    Raises:
        MalformedModuleError, OSError: as for :func:`export_names`.
    """
    with path.open("rb") as file:
        return any(section_id == START_SECTION for section_id, _ in _sections(file))


def _sections(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Go through a module's sections: each one's number and size, with the file at its content meanwhile."""
    file_bytes = os.fstat(file.fileno()).st_size
    header = file.read(8)
    if header[:4] != MAGIC:
        raise MalformedModuleError("it does not begin as WebAssembly does")
    if header[4:] != MODULE_VERSION:
        raise MalformedModuleError("it is not a core module of WebAssembly version 1 (a component, perhaps)")
    n_sections = 0
    while section_id := file.read(1):
        n_sections += 1
        if n_sections > MAX_SECTIONS:
            raise MalformedModuleError(f"it has more than {MAX_SECTIONS} sections")
        size = _read_u32(file)
        end = file.tell() + size
        if end > file_bytes:
            raise MalformedModuleError("it is cut short")
        yield section_id[0], size
        file.seek(end)


def _parse_exports(section: io.BytesIO) -> frozenset[str]:
    names: set[str] = set()
    for _ in range(_read_u32(section)):
        name_bytes = _read_u32(section)
        name = section.read(name_bytes)
        kind = section.read(1)
        if len(name) != name_bytes or not kind or kind[0] not in EXPORT_KINDS:
            raise MalformedModuleError("its export section is damaged")
        _read_u32(section)  # the index of what is exported
        try:
            names.add(name.decode())
        except UnicodeDecodeError as exc:
            raise MalformedModuleError("its export section is damaged") from exc
    return frozenset(names)


def _read_u32(file: BinaryIO) -> int:
    value = 0
    for position in range(MAX_LEB_BYTES):
        byte = file.read(1)
        if not byte:
            raise MalformedModuleError("it is cut short")
        value |= (byte[0] & 0x7F) << (7 * position)
        if not byte[0] & 0x80 and value < 1 << 32:
            return value
    raise MalformedModuleError("it holds a number of more than 32 bits")
