"""``MemoryVolume``: the operations of guests on a tree in memory, each under the tree's lock."""

# ruff: noqa: ARG002, D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["MemoryVolume"]

from typing import TYPE_CHECKING

from isola_anyio.wasi.abi import Rights
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.memory.nodes import Dir, File, Link, Node, levels_of
from isola_anyio.wasi.volumes.memory.open_file import MemoryFile
from isola_anyio.wasi.volumes.memory.tree import Found, MemoryTree
from isola_anyio.wasi.volumes.paths import levels_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio.wasi.abi import FileType, Stat
    from isola_anyio.wasi.volumes.budgets import FileUsage
    from isola_anyio.wasi.volumes.interfaces import Descriptor, Grant, OpenRequest, Permissions, VolumePath


class MemoryVolume(MemoryTree):
    """A tree in memory that guests can change; tokens of its open directories are its ``Dir`` nodes."""

    def open(self, path: VolumePath, request: OpenRequest, grant: Grant, usage: FileUsage) -> Descriptor | Dir:
        with self.lock:
            exclusive = request.create and request.exclusive
            found = self.find(path, (request.follow or path.slash) and not exclusive)
            node = found.node
            if node is None:
                if not request.create:
                    raise WasiError(Errno.NOENT)
                request.check_create(path, grant)
                node = File(self.dev, self.new_ino(), self._stamps(), self.empty)
                self._insert(found, node)
                return MemoryFile(grant, self, node)
            if isinstance(node, Dir):
                request.check_directory(grant)
                return node
            if exclusive:
                raise WasiError(Errno.EXIST)
            if isinstance(node, Link):
                raise WasiError(Errno.LOOP)
            if request.directory or path.slash:
                raise WasiError(Errno.NOTDIR)
            request.check_file(grant)
            if request.truncate or grant.base & Rights.FD_WRITE:
                node = self.copy_up(found, request.truncate)
                found = found._replace(node=node)
                if request.truncate and isinstance(node, File):
                    node.resize(0)
                    node.touch(self.now_ns())
                    self.changed()
            opened = self.opened(found, grant, usage)
        self.free_dropped()
        return opened

    def stat(self, path: VolumePath, follow: bool) -> Stat:
        with self.lock:
            node = self.find(path, follow or path.slash).existing()
            if path.slash and not isinstance(node, Dir):
                raise WasiError(Errno.NOTDIR)
            return node.stat()

    def stat_dir(self, token: Dir | None) -> Stat:
        return (token or self.root).stat()

    def list(self, token: Dir | None, limit: int) -> Iterator[tuple[bytes, int, FileType]]:
        with self.lock:
            entries = self.listing(token or self.root, limit)
        yield from entries

    def readlink(self, path: VolumePath) -> bytes:
        with self.lock:
            node = self.find_entry(path).existing()
            if not isinstance(node, Link):
                raise WasiError(Errno.INVAL)
            return node.target

    def mkdir(self, path: VolumePath) -> None:
        with self.lock:
            found = self.find(path, False)
            if found.node is not None:
                raise WasiError(Errno.EXIST)
            self._insert(found, Dir(self.dev, self.new_ino(), self._stamps(), found.holder))

    def symlink(self, path: VolumePath, target: bytes) -> None:
        with self.lock:
            found = self.find_entry(path)
            if levels_up(target) > found.holder.depth:
                raise WasiError(Errno.PERM)
            if found.node is not None:
                raise WasiError(Errno.EXIST)
            if path.slash:
                raise WasiError(Errno.NOENT)
            self._insert(found, Link(self.dev, self.new_ino(), self._stamps(), target))

    def link(self, old: VolumePath, new: VolumePath, follow: bool) -> None:
        with self.lock:
            source = self.find(old, True) if follow else self.find_entry(old)
            node = source.existing()
            if isinstance(node, Dir):
                raise WasiError(Errno.PERM)
            found = self.find_entry(new)
            if found.node is not None:
                raise WasiError(Errno.EXIST)
            if new.slash or found.holder.removed:
                raise WasiError(Errno.NOENT)
            if self.count >= self.usage.limits.max_entries:
                raise WasiError(Errno.NOSPC)
            node = self.copy_up(source)
            self._put(found.holder, found.name, node)
            self.count += 1
            node.nlink += 1
            node.times = (*node.times[:2], self.now_ns())
            found.holder.touch(self.now_ns())
            self.changed()

    def unlink(self, path: VolumePath) -> None:
        with self.lock:
            found = self.find_entry(path)
            if isinstance(found.existing(), Dir):
                raise WasiError(Errno.ISDIR)
            self._remove(found)
        self.free_dropped()

    def rmdir(self, path: VolumePath) -> None:
        with self.lock:
            found = self.find_entry(path)
            node = found.existing()
            if not isinstance(node, Dir):
                raise WasiError(Errno.NOTDIR)
            if not self.is_empty(node):
                raise WasiError(Errno.NOTEMPTY)
            self._remove(found)

    def _remove(self, found: Found) -> None:
        counted = self._is_counted(found)
        self._take(found.holder, found.name)
        self._drop_name(found.existing(), counted=counted)
        found.holder.touch(self.now_ns())
        self.changed()

    def rename(self, old: VolumePath, new: VolumePath) -> None:
        measured: Dir | None = None
        levels = 0
        # Measuring a tree takes long, so it is done without the lock, and then everything is looked up again. If it
        # was put into another one's place meanwhile, that one is measured. Another guest may have made it deeper, by
        # what the tree's bound allowed where it was: so no tree is deeper than twice the bound.
        while True:
            with self.lock:
                source = self.find_entry(old)
                node = source.existing()
                target = self.find(new, False)
                if not self._check_rename(node, target, new.slash):
                    return
                # What is moved up, or stays as deep as it was, needs no measuring.
                to_measure = node if isinstance(node, Dir) and target.holder.depth > source.holder.depth else None
                if to_measure is not None and to_measure is measured:
                    self.check_levels(target.holder, levels)
                    to_measure = None
                if to_measure is None:
                    self._move(source, target, self.copy_up(source))
                    break
            measured, levels = to_measure, levels_of(to_measure)
        self.free_dropped()

    def _check_rename(self, node: Node, target: Found, slash: bool) -> bool:
        """Raise unless ``node`` may be moved to ``target``; ``False``: it is there."""
        if target.holder.removed:
            raise WasiError(Errno.NOENT)
        replaced = target.node
        if replaced is node:
            return False
        if isinstance(node, Dir):
            if target.holder.is_within(node):
                raise WasiError(Errno.INVAL)
            if replaced is not None:
                if not isinstance(replaced, Dir):
                    raise WasiError(Errno.NOTDIR)
                if not self.is_empty(replaced):
                    raise WasiError(Errno.NOTEMPTY)
        elif slash:
            raise WasiError(Errno.NOTDIR)
        elif isinstance(replaced, Dir):
            raise WasiError(Errno.ISDIR)
        return True

    def _move(self, source: Found, target: Found, node: Node) -> None:
        now = self.now_ns()
        counted = self._is_counted(target)
        self._take(source.holder, source.name)
        self._put(target.holder, target.name, node)
        if target.node is not None:
            self._drop_name(target.node, counted=counted)
        if isinstance(node, Dir):
            node.parent = target.holder
        node.times = (*node.times[:2], now)
        source.holder.touch(now)
        target.holder.touch(now)
        self.changed()

    def set_times(self, path: VolumePath, follow: bool, atim: int | None, mtim: int | None, perms: Permissions) -> None:
        with self.lock:
            found = self.find(path, follow or path.slash)
            node = found.existing()
            if not (perms.dir_write if isinstance(node, Dir) else perms.file_write):
                raise perms.write_refusal
            self.stamp(self.copy_up(found), atim, mtim)

    def set_dir_times(self, token: Dir | None, atim: int | None, mtim: int | None) -> None:
        with self.lock:
            self.stamp(self.copy_up_dir(token or self.root), atim, mtim)

    def opened(self, found: Found, grant: Grant, usage: FileUsage) -> Descriptor:
        """Return a descriptor for the found file."""
        node = found.node
        if not isinstance(node, File):
            raise WasiError(Errno.ACCES)
        return MemoryFile(grant, self, node)
