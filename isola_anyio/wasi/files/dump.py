"""Write a file system's private state to bytes, and read it back.

The bytes go into a template's image on disk and are read by the library that wrote them, from a directory only its
user can write. Still nothing here trusts them further than ``ValueError``: they are data, not code.

Layout: 8 bytes of length, that much JSON, then the chunks of every file one after the other. Byte strings in the JSON
are latin-1 text. Directories come before what is in them.
"""

from __future__ import annotations

__all__ = ["Chunks", "TreeImage", "pack", "pack_tree", "unpack", "unpack_tree"]

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from isola_anyio.wasi.volumes.memory.content import CHUNK_BYTES, FrozenContent
from isola_anyio.wasi.volumes.memory.nodes import Frozen, FrozenDir, FrozenFile, FrozenLink

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT: Final = 1
"""Goes up whenever the layout changes; bytes of another format are refused."""

_HEAD_BYTES: Final = 8


class TreeImage(NamedTuple):
    """A tree, and its files by device and number, with those that only descriptors lead to."""

    root: FrozenDir
    files: dict[tuple[int, int], FrozenFile]


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def _record(node: Frozen, kind: str, *rest: object) -> list[object]:
    return [kind, node.dev, node.ino, node.nlink, *node.times, *rest]


def pack_tree(root: FrozenDir, orphans: Iterable[FrozenFile], chunks: list[bytes]) -> dict[str, Any]:
    """Return a tree as JSON values; its bytes are added to ``chunks``."""
    files: dict[tuple[int, int], int] = {}
    file_records: list[object] = []

    def file_of(file: FrozenFile) -> int:
        known = files.get((file.dev, file.ino))
        if known is None:
            known = files[file.dev, file.ino] = len(file_records)
            pieces = [[index, len(piece)] for index, piece in file.content.chunks.items()]
            chunks.extend(file.content.chunks.values())
            file_records.append(_record(file, "f", file.content.size, pieces))
        return known

    dirs: list[FrozenDir] = [root]
    dir_records: list[object] = []
    for at in dirs:
        entries: list[object] = []
        for name, node in at.entries.items():
            if isinstance(node, FrozenFile):
                entries.append([_text(name), "f", file_of(node)])
            elif isinstance(node, FrozenDir):
                entries.append([_text(name), "d", len(dirs)])
                dirs.append(node)
            elif isinstance(node, FrozenLink):
                entries.append([_text(name), *_record(node, "l", _text(node.target))])
            else:
                entries.append([_text(name), "-"])
        lower = None if at.lower is None else [_text(name) for name in at.lower]
        dir_records.append(_record(at, "d", lower, entries))
    for file in orphans:
        file_of(file)
    return {"dirs": dir_records, "files": file_records}


def unpack_tree(packed: dict[str, Any], chunks: Chunks) -> TreeImage:
    """Return the tree a ``pack_tree`` made."""
    files: list[FrozenFile] = []
    for _kind, dev, ino, nlink, atim, mtim, ctim, size, pieces in packed["files"]:
        content = FrozenContent(_int(size), {_int(index): chunks.take(_int(n)) for index, n in pieces})
        files.append(FrozenFile(_int(dev), _int(ino), _int(nlink), (_int(atim), _int(mtim), _int(ctim)), content))
    dirs: dict[int, FrozenDir] = {}
    node: Frozen | None
    records = packed["dirs"]
    for number in range(len(records) - 1, -1, -1):
        _kind, dev, ino, nlink, atim, mtim, ctim, lower, packed_entries = records[number]
        entries: dict[bytes, Frozen | None] = {}
        for name, kind, *rest in packed_entries:
            if kind == "f":
                node = files[_int(rest[0])]
            elif kind == "d":
                node = dirs.pop(_int(rest[0]))  # once: a tree has no second way to a directory
            elif kind == "l":
                l_dev, l_ino, l_nlink, l_atim, l_mtim, l_ctim, target = rest
                node = FrozenLink(l_dev, l_ino, l_nlink, (l_atim, l_mtim, l_ctim), _bytes(target))
            else:
                node = None
            entries[_bytes(str(name))] = node
        shown = None if lower is None else tuple(_bytes(name) for name in lower)
        dirs[number] = FrozenDir(dev, ino, nlink, (atim, mtim, ctim), entries, shown)
    return TreeImage(dirs[0], {(file.dev, file.ino): file for file in files})


def _int(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("not a size")
    return value


class Chunks:
    """Hands out the bytes after the JSON in order."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def take(self, n: int) -> bytes:
        """Return the next ``n`` bytes."""
        if n > CHUNK_BYTES or self._at + n > len(self._data):
            raise ValueError("cut short")
        piece = bytes(self._data[self._at : self._at + n])
        self._at += n
        return piece


def pack(header: dict[str, Any], chunks: Iterable[bytes]) -> bytes:
    """Return header and chunks as one byte string."""
    text = json.dumps({"format": FORMAT, **header}, separators=(",", ":")).encode()
    return b"".join([len(text).to_bytes(_HEAD_BYTES, "little"), text, *chunks])


def unpack(data: bytes) -> tuple[dict[str, Any], Chunks]:
    """Return the header and the chunks; ``ValueError`` for anything that is not ours."""
    length = int.from_bytes(data[:_HEAD_BYTES], "little")
    if length > len(data) - _HEAD_BYTES:
        raise ValueError("cut short")
    header: dict[str, Any] = json.loads(data[_HEAD_BYTES : _HEAD_BYTES + length])
    if type(header) is not dict or header.get("format") != FORMAT:
        raise ValueError("of another format")
    return header, Chunks(memoryview(data)[_HEAD_BYTES + length :])
