"""Dumps: a file system's private state as bytes, and back.

Dumped is what is in ``/tmp`` and in overlays, and which descriptors are open where. Mounts are not: a dump is loaded
into a file system with the same ones.

The bytes go into a template's image on disk and are read by the library that wrote them, from a directory that only its
user can write. Still they are treated as data: whatever they are, loading them ends in files or in a ``ValueError``.

Layout: 8 bytes of length, that much JSON, then the chunks of every file one after the other. Byte strings in the JSON
are latin-1 text. Directories come before their entries.
"""

from __future__ import annotations

__all__ = ["dump_files", "load_files"]

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from isola_anyio.wasi.abi import Rights
from isola_anyio.wasi.errno import WasiError
from isola_anyio.wasi.files.filesystem import ROOT_FD
from isola_anyio.wasi.files.namespace import Directory
from isola_anyio.wasi.volumes.descriptors import SeekableFile
from isola_anyio.wasi.volumes.interfaces import Grant, OpenRequest
from isola_anyio.wasi.volumes.memory.content import CHUNK_BYTES, FrozenContent
from isola_anyio.wasi.volumes.memory.nodes import Dir, Frozen, FrozenDir, FrozenFile, FrozenLink
from isola_anyio.wasi.volumes.memory.open_file import MemoryFile
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume

if TYPE_CHECKING:
    from collections.abc import Iterable

    from isola_anyio.wasi.files.filesystem import FileSystem
    from isola_anyio.wasi.volumes.interfaces import Descriptor, Volume
    from isola_anyio.wasi.volumes.paths import Names

FORMAT: Final = 1
"""Increased whenever the layout changes; bytes of another format are refused."""

_HEAD_BYTES: Final = 8

_FilesByIdentity: TypeAlias = dict[tuple[int, int], FrozenFile]
"""Files by device and inode number."""


def dump_files(files: FileSystem) -> bytes:
    """Return the private state of ``files``, which nobody may be using.

    Descriptors open for writing to the host or to a shared memory mount are left out.
    """
    chunks: list[bytes] = []
    orphans: dict[Names, list[FrozenFile]] = {}
    descriptors = [
        record for fd, opened in files.table if fd >= ROOT_FD and (record := _describe(files, fd, opened, orphans))
    ]
    volumes: dict[str, Any] = {}
    for point, mount in files.namespace.table.by_point.items():
        volume = mount.volume
        if mount.private and isinstance(volume, MemoryVolume):
            tree = _pack_tree(volume.freeze(), orphans.get(point, ()), chunks)
            volumes[_joined(point)] = [tree, *volume.counters]
    return _pack({"volumes": volumes, "descriptors": descriptors}, chunks)


def _describe(
    files: FileSystem, fd: int, opened: Descriptor, orphans: dict[Names, list[FrozenFile]]
) -> dict[str, Any] | None:
    """Return the record of a descriptor, ``None`` to leave it out; a file in memory is added to ``orphans``.

    A file or directory of the host is recorded by its guest path, one in memory by itself: its name may be gone.
    """
    guest: Names | None
    record: dict[str, Any] = {
        "fd": fd,
        "base": opened.base,
        "inheriting": opened.inheriting,
        "flags": opened.flags,
    }
    if isinstance(opened, Directory):
        guest = opened.guest
        if isinstance(opened.volume, MemoryVolume) and isinstance(opened.token, Dir):
            inner = opened.volume.path_of(opened.token)  # it may have been renamed since
            guest = None if inner is None else (*opened.point, *inner)
        record |= {"kind": "dir", "preopen": opened.preopen}
    elif isinstance(opened, MemoryFile) and (point := _private_point(files, opened.volume)) is not None:
        frozen = opened.node.freeze()
        orphans.setdefault(point, []).append(frozen)
        return record | {
            "kind": "memory",
            "at": _joined(point),
            "file": [frozen.dev, frozen.ino],
            "offset": opened.offset,
        }
    elif isinstance(opened, SeekableFile) and not opened.base & Rights.FD_WRITE:
        guest = opened.guest
        record |= {"kind": "file", "offset": opened.offset}
    else:
        return None
    return None if guest is None else record | {"guest": _joined(guest)}


def _private_point(files: FileSystem, volume: Volume) -> Names | None:
    """Return the guest path of the private mount that shows ``volume``, if one does."""
    for point, mount in files.namespace.table.by_point.items():
        if mount.private and mount.volume is volume:
            return point
    return None


def load_files(files: FileSystem, data: bytes) -> None:
    """Replace the private state of ``files`` by what ``dump_files`` returned for one with the same mounts.

    A descriptor whose host file is gone is left out.

    Raises:
        ValueError: the bytes are not a dump of this format, or one of other mounts; ``files`` is to be closed then.
    """
    try:
        _load(files, data)
    except (KeyError, TypeError, IndexError, OverflowError, WasiError) as exc:
        raise ValueError("not the state of these files") from exc


def _load(files: FileSystem, data: bytes) -> None:
    header, chunks = _unpack(data)
    loaded: dict[Names, _FilesByIdentity] = {}
    by_point = files.namespace.table.by_point
    for key, (tree, next_ino, count) in header["volumes"].items():
        point = _split(key)
        mount = by_point[point]
        if not mount.private or not isinstance(mount.volume, MemoryVolume):
            raise ValueError("not a private mount")
        unpacked = _unpack_tree(tree, chunks)
        loaded[point] = unpacked.files
        volume = mount.volume.restored(files.usage, unpacked.root, int(next_ino), int(count))
        files.adopt(volume)
        by_point[point] = mount.with_volume(volume)
    files.table.clear()
    files.open_root()
    root = files.table.remove(ROOT_FD)
    for record in header["descriptors"]:
        fd = record["fd"]
        if not isinstance(fd, int) or not ROOT_FD <= fd < ROOT_FD + 2 * files.usage.limits.max_open_files:
            raise ValueError("not a descriptor")
        opened = _reopen(files, root, record, loaded)
        if opened is not None:
            files.table.put(fd, opened)


def _reopen(
    files: FileSystem, root: Descriptor, record: dict[str, Any], loaded: dict[Names, _FilesByIdentity]
) -> Descriptor | None:
    """Return the descriptor of a record, ``None`` when the host has no such file any more."""
    base, inheriting, flags = int(record["base"]), int(record["inheriting"]), int(record["flags"])
    if record["kind"] == "memory":
        point = _split(record["at"])
        mount = files.namespace.table.by_point[point]
        assert isinstance(mount.volume, MemoryVolume)
        dev, ino = record["file"]
        node = mount.volume.thaw_file(loaded[point][dev, ino])
        return MemoryFile(Grant(base, inheriting, flags, mount.perms), mount.volume, node, int(record["offset"]))
    path = b"/".join(_split(record["guest"])) or b"."
    request = OpenRequest(directory=record["kind"] == "dir", base=base, inheriting=inheriting)
    try:
        opened = files.operations.open(root, path, request)
    except (OSError, WasiError):
        return None
    # As the guest left them: it may have dropped rights, and set flags, since it opened the descriptor.
    opened.base, opened.inheriting, opened.flags = base, inheriting, flags
    if isinstance(opened, Directory):
        opened.preopen = bool(record["preopen"])
    elif isinstance(opened, SeekableFile):
        opened.offset = int(record["offset"])
    return opened


# Trees


class _UnpackedTree(NamedTuple):
    """A tree, and its files, with those that only descriptors lead to."""

    root: FrozenDir
    files: _FilesByIdentity


def _record(node: Frozen, kind: str, *rest: object) -> list[object]:
    return [kind, node.dev, node.ino, node.nlink, *node.times, *rest]


def _pack_tree(root: FrozenDir, orphans: Iterable[FrozenFile], chunks: list[bytes]) -> dict[str, Any]:
    """Return a tree as JSON values; its files' bytes are added to ``chunks``."""
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
    for directory in dirs:  # grows meanwhile
        entries: list[object] = []
        for name, node in directory.entries.items():
            if isinstance(node, FrozenFile):
                entries.append([_text(name), "f", file_of(node)])
            elif isinstance(node, FrozenDir):
                entries.append([_text(name), "d", len(dirs)])
                dirs.append(node)
            elif isinstance(node, FrozenLink):
                entries.append([_text(name), *_record(node, "l", _text(node.target))])
            else:
                entries.append([_text(name), "-"])
        lower = None if directory.lower is None else [_text(name) for name in directory.lower]
        dir_records.append(_record(directory, "d", lower, entries))
    for file in orphans:
        file_of(file)
    return {"dirs": dir_records, "files": file_records}


def _unpack_tree(packed: dict[str, Any], chunks: _Chunks) -> _UnpackedTree:
    """Return the tree that ``_pack_tree`` was given."""
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
                node = dirs.pop(_int(rest[0]))  # once: a directory has one name
            elif kind == "l":
                l_dev, l_ino, l_nlink, l_atim, l_mtim, l_ctim, target = rest
                node = FrozenLink(l_dev, l_ino, l_nlink, (l_atim, l_mtim, l_ctim), _bytes(target))
            else:
                node = None
            entries[_bytes(str(name))] = node
        lower_names = None if lower is None else tuple(_bytes(name) for name in lower)
        dirs[number] = FrozenDir(dev, ino, nlink, (atim, mtim, ctim), entries, lower_names)
    return _UnpackedTree(dirs[0], {(file.dev, file.ino): file for file in files})


def _int(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("not a size")
    return value


# Bytes


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def _joined(names: Names) -> str:
    return _text(b"/".join(names))


def _split(text: str) -> Names:
    return tuple(_bytes(text).split(b"/")) if text else ()


class _Chunks:
    """The bytes after the JSON, taken in order."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._offset = 0

    def take(self, n: int) -> bytes:
        """Return the next ``n`` bytes."""
        end = self._offset + n
        if n > CHUNK_BYTES or end > len(self._data):
            raise ValueError("cut short")
        chunk = bytes(self._data[self._offset : end])
        self._offset = end
        return chunk


def _pack(header: dict[str, Any], chunks: Iterable[bytes]) -> bytes:
    """Return header and chunks as one byte string."""
    text = json.dumps({"format": FORMAT, **header}, separators=(",", ":")).encode()
    return b"".join([len(text).to_bytes(_HEAD_BYTES, "little"), text, *chunks])


def _unpack(data: bytes) -> tuple[dict[str, Any], _Chunks]:
    """Return the header and the chunks; ``ValueError`` for anything that is not ours."""
    length = int.from_bytes(data[:_HEAD_BYTES], "little")
    if length > len(data) - _HEAD_BYTES:
        raise ValueError("cut short")
    header: dict[str, Any] = json.loads(data[_HEAD_BYTES : _HEAD_BYTES + length])
    if type(header) is not dict or header.get("format") != FORMAT:
        raise ValueError("of another format")
    return header, _Chunks(memoryview(data)[_HEAD_BYTES + length :])
