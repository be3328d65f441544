"""Export names: which a WebAssembly module has, read from a file that may be anything.

Follows the binary format of the WebAssembly core specification, sections 5.2 (LEB128) and 5.5 (modules). Sections other
than the export section are stepped over by their size, so a module of 100 MB costs a dozen small reads.
"""

from __future__ import annotations

__all__ = ["MalformedModuleError", "export_names"]

import io
import os
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from pathlib import Path

MAGIC: Final = b"\0asm"
MODULE_VERSION: Final = b"\1\0\0\0"
EXPORT_SECTION: Final = 7
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
    with path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        header = file.read(8)
        if header[:4] != MAGIC:
            raise MalformedModuleError("it does not begin as WebAssembly does")
        if header[4:] != MODULE_VERSION:
            raise MalformedModuleError("it is not a core module of WebAssembly version 1 (a component, perhaps)")
        names: frozenset[str] | None = None
        n_sections = 0
        while section_id := file.read(1):
            n_sections += 1
            if n_sections > MAX_SECTIONS:
                raise MalformedModuleError(f"it has more than {MAX_SECTIONS} sections")
            size = _read_u32(file)
            if file.tell() + size > file_bytes:
                raise MalformedModuleError("it is cut short")
            if section_id[0] != EXPORT_SECTION:
                file.seek(size, os.SEEK_CUR)
            elif names is not None or size > MAX_EXPORT_SECTION_BYTES:
                raise MalformedModuleError("its export section is repeated or too large")
            else:
                names = _parse_exports(io.BytesIO(file.read(size)))
        return names or frozenset()


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
