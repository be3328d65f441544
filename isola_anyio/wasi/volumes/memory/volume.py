"""Do what guests ask of a tree in memory: create, remove, rename, link, open."""

# ruff: noqa: ARG002, D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["MemoryVolume"]

from typing import TYPE_CHECKING

from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.memory.nodes import Dir, File, Link, Node
from isola_anyio.wasi.volumes.memory.open_file import MemoryFile
from isola_anyio.wasi.volumes.memory.tree import Found, MemoryTree
from isola_anyio.wasi.volumes.paths import levels_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio.wasi.abi import FileType, Stat
    from isola_anyio.wasi.volumes.budgets import FileUsage
    from isola_anyio.wasi.volumes.descriptors import Descriptor
    from isola_anyio.wasi.volumes.interfaces import At, How, Permissions


class MemoryVolume(MemoryTree):
    """A read-write tree in memory."""

    def open(self, at: At, how: How, usage: FileUsage) -> Descriptor | Dir:
        with self.lock:
            exclusive = how.create and how.exclusive
            found = self.find(at, (how.follow or at.slash) and not exclusive)
            node = found.node
            if node is None:
                if not how.create:
                    raise WasiError(Errno.NOENT)
                how.check_create(at)
                node = File(self.dev, self.new_ino(), self._stamps(), self.nothing)
                self._insert(found, node)
                return MemoryFile(self, node)
            if isinstance(node, Dir):
                how.check_directory()
                return node
            if exclusive:
                raise WasiError(Errno.EXIST)
            if isinstance(node, Link):
                raise WasiError(Errno.LOOP)
            if how.directory or at.slash:
                raise WasiError(Errno.NOTDIR)
            how.check_file()
            if how.write or how.truncate:
                node = self.adopt(found, how.truncate)
                found = found._replace(node=node)
                if how.truncate and isinstance(node, File):
                    node.resize(0)
                    node.touch(self.now_ns())
                    self.changed()
            return self.opened(found, usage)

    def stat(self, at: At, follow: bool) -> Stat:
        with self.lock:
            node = self.find(at, follow or at.slash).existing()
            if at.slash and not isinstance(node, Dir):
                raise WasiError(Errno.NOTDIR)
            return node.stat()

    def stat_dir(self, start: Dir | None) -> Stat:
        return (start or self.root).stat()

    def list(self, start: Dir | None, limit: int) -> Iterator[tuple[bytes, int, FileType]]:
        with self.lock:
            yield from self.listing(start or self.root, limit)

    def readlink(self, at: At) -> bytes:
        with self.lock:
            node = self.find_entry(at).existing()
            if not isinstance(node, Link):
                raise WasiError(Errno.INVAL)
            return node.target

    def mkdir(self, at: At) -> None:
        with self.lock:
            found = self.find(at, False)
            if found.node is not None:
                raise WasiError(Errno.EXIST)
            self._insert(found, Dir(self.dev, self.new_ino(), self._stamps(), found.holder))

    def symlink(self, at: At, target: bytes) -> None:
        with self.lock:
            found = self.find_entry(at)
            if levels_up(target) > found.holder.depth:
                raise WasiError(Errno.PERM)
            if found.node is not None:
                raise WasiError(Errno.EXIST)
            if at.slash:
                raise WasiError(Errno.NOENT)
            self._insert(found, Link(self.dev, self.new_ino(), self._stamps(), target))

    def link(self, old: At, new: At, follow: bool) -> None:
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
            node = self.adopt(source)
            self._put(found.holder, found.name, node)
            self.count += 1
            node.nlink += 1
            node.times = (*node.times[:2], self.now_ns())
            found.holder.touch(self.now_ns())
            self.changed()

    def unlink(self, at: At) -> None:
        with self.lock:
            found = self.find_entry(at)
            if isinstance(found.existing(), Dir):
                raise WasiError(Errno.ISDIR)
            self._remove(found)

    def rmdir(self, at: At) -> None:
        with self.lock:
            found = self.find_entry(at)
            node = found.existing()
            if not isinstance(node, Dir):
                raise WasiError(Errno.NOTDIR)
            if not self.is_empty(node):
                raise WasiError(Errno.NOTEMPTY)
            self._remove(found)

    def _remove(self, found: Found) -> None:
        counted = self._is_counted(found)
        self._take(found.holder, found.name)
        self._forget(found.existing(), counted=counted)
        found.holder.touch(self.now_ns())
        self.changed()

    def rename(self, old: At, new: At) -> None:
        with self.lock:
            source = self.find_entry(old)
            node = source.existing()
            target = self.find(new, False)
            if target.holder.removed:
                raise WasiError(Errno.NOENT)
            replaced = target.node
            if replaced is node:
                return
            if isinstance(node, Dir):
                if target.holder.is_within(node):
                    raise WasiError(Errno.INVAL)
                if replaced is not None:
                    if not isinstance(replaced, Dir):
                        raise WasiError(Errno.NOTDIR)
                    if not self.is_empty(replaced):
                        raise WasiError(Errno.NOTEMPTY)
                self.check_depth(target.holder, node)
            elif new.slash:
                raise WasiError(Errno.NOTDIR)
            elif isinstance(replaced, Dir):
                raise WasiError(Errno.ISDIR)
            self._move(source, target, self.adopt(source))

    def _move(self, source: Found, target: Found, node: Node) -> None:
        now = self.now_ns()
        counted = self._is_counted(target)
        self._take(source.holder, source.name)
        self._put(target.holder, target.name, node)
        if target.node is not None:
            self._forget(target.node, counted=counted)
        if isinstance(node, Dir):
            node.parent = target.holder
        node.times = (*node.times[:2], now)
        source.holder.touch(now)
        target.holder.touch(now)
        self.changed()

    def set_times(self, at: At, follow: bool, atim: int | None, mtim: int | None, perms: Permissions) -> None:
        with self.lock:
            found = self.find(at, follow or at.slash)
            node = found.existing()
            if not (perms.dir_write if isinstance(node, Dir) else perms.file_write):
                raise perms.write_refusal
            self.stamp(self.adopt(found), atim, mtim)

    def set_dir_times(self, start: Dir | None, atim: int | None, mtim: int | None) -> None:
        with self.lock:
            self.stamp(self.adopt_dir(start or self.root), atim, mtim)

    def opened(self, found: Found, usage: FileUsage) -> Descriptor:
        """Return a descriptor for the found file."""
        node = found.node
        if not isinstance(node, File):
            raise WasiError(Errno.ACCES)
        return MemoryFile(self, node)
