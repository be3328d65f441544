"""Volumes over the host's files: a directory, or one file at a guest path of its own.

The directory is opened once, when the mount is bound, and every operation starts from that descriptor: moving or
replacing the directory on the host changes nothing for the guest. What reaches the host is either one plain component
in an open directory, or a path that the resolver confines.

Operations that change an entry (``mkdir``, ``unlink``, ``rename``, ...) resolve and hold its directory first. Between
that and the change another program may replace the entry, but only by another entry of the same directory.
"""

# ruff: noqa: ARG002, D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["HostVolume", "MountedFileVolume", "choose_resolver"]

import errno
import os
import stat as host_stat
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Final

from isola_anyio.wasi.abi import FileType, Stat
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.host.io import GuestFd, SharedFd
from isola_anyio.wasi.volumes.host.kernelfs import is_kernel_device
from isola_anyio.wasi.volumes.host.links import check_moved, check_target
from isola_anyio.wasi.volumes.host.open_file import HostFile, access_flags
from isola_anyio.wasi.volumes.host.openat2 import available
from isola_anyio.wasi.volumes.host.resolver import DIR_FLAGS, FILE_FLAGS, OpenAt2Resolver, Resolver
from isola_anyio.wasi.volumes.host.single_file import FileVolume
from isola_anyio.wasi.volumes.host.walk import WalkResolver, walk
from isola_anyio.wasi.volumes.interfaces import Volume

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from collections.abc import Set as AbstractSet

    from isola_anyio.wasi.volumes.budgets import FileUsage
    from isola_anyio.wasi.volumes.interfaces import Grant, OpenRequest, Permissions, VolumePath
    from isola_anyio.wasi.volumes.paths import Names

_CREATE_ATTEMPTS: Final = 8
"""Tries when another program creates and removes a file while it is opened for creation; a guess."""


def choose_resolver() -> Resolver:
    """Return the strictest resolver this host has."""
    return OpenAt2Resolver() if available() else WalkResolver()


def times_to_set(st: os.stat_result, atim: int | None, mtim: int | None) -> tuple[int, int]:
    """Return both time stamps (ns), those of ``st`` in place of ``None``."""
    return st.st_atime_ns if atim is None else atim, st.st_mtime_ns if mtim is None else mtim


class HostVolume(Volume):
    """A host directory; tokens of its open directories are ``SharedFd``. Safe from any thread, as it has no state."""

    is_on_disk = True

    def __init__(self, path: str | bytes | os.PathLike[str], resolver: Resolver | None = None) -> None:
        """Open the directory; ``OSError`` if there is none, ``PermissionError`` for one of a kernel file system."""
        fd = os.open(path, DIR_FLAGS & ~getattr(os, "O_NOFOLLOW", 0))
        if is_kernel_device(os.fstat(fd).st_dev):
            os.close(fd)
            raise PermissionError(errno.EACCES, "is on a file system of the kernel's own")
        self._root = SharedFd(fd)
        self._resolver = resolver or choose_resolver()

    def _fd(self, token: SharedFd | None) -> int:
        return (token or self._root).fd

    @contextmanager
    def _entry(self, path: VolumePath) -> Generator[tuple[int, bytes]]:
        """Yield a descriptor of the directory that contains the last name, and the name."""
        if not path.names or path.names[-1] == b"..":
            raise WasiError(Errno.INVAL)
        fd = self._resolver.parent(self._fd(path.start), path.names, path.links)
        try:
            yield fd, path.names[-1]
        finally:
            os.close(fd)

    @staticmethod
    def _lstat(parent: int, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def share(self) -> HostVolume:
        """Return the same volume with a reference to the directory of its own, to be closed apart from this one."""
        self._root.retain()
        return copy(self)

    def open_dir(self, names: Names) -> SharedFd:
        """Return a token for a directory at a path without links."""
        target = self._resolver.look(self._root.fd, names, False, 0)
        try:
            if not host_stat.S_ISDIR(target.st.st_mode):
                raise WasiError(Errno.NOTDIR)
            return SharedFd(target.take_dir())
        finally:
            target.close()

    def open_to_read(self, names: Names) -> int:
        """Return a host descriptor of a regular file at a path without links; the caller closes it."""
        target = self._resolver.look(self._root.fd, names, False, 0)
        try:
            if not host_stat.S_ISREG(target.st.st_mode):
                raise WasiError(Errno.ACCES)
            return target.open(os.O_RDONLY)
        finally:
            target.close()

    def canonical(self, path: VolumePath, follow: bool, covered: AbstractSet[Names], prefix: Names) -> Names:
        end = walk(self._fd(path.start), path.names, follow, path.links, covered, prefix)
        os.close(end.parent)
        return end.names

    def open(self, path: VolumePath, request: OpenRequest, grant: Grant, usage: FileUsage) -> HostFile | SharedFd:
        exclusive = request.create and request.exclusive
        follow = (request.follow or path.slash) and not exclusive
        fd = self._fd(path.start)
        GuestFd.admit(usage)
        # Looked up first and created only if missing, as what exists must be checked before it is opened. Another
        # program may create or remove the name between the two steps; then both are repeated.
        for _ in range(_CREATE_ATTEMPTS):
            try:
                target = self._resolver.look(fd, path.names, follow, path.links)
            except (FileNotFoundError, WasiError) as exc:
                if not request.create or (isinstance(exc, WasiError) and exc.errno is not Errno.NOENT):
                    raise
                created = self._create(fd, path, follow, request, grant, usage)
                if created is None:
                    continue
                return HostFile(grant, GuestFd(created, usage), usage, exclusive=True)
            try:
                mode = target.st.st_mode
                if host_stat.S_ISDIR(mode):
                    request.check_directory(grant)
                    return GuestFd(target.take_dir(), usage)
                if exclusive:
                    raise WasiError(Errno.EXIST)
                if host_stat.S_ISLNK(mode):
                    raise WasiError(Errno.LOOP)
                if request.directory or path.slash:
                    raise WasiError(Errno.NOTDIR)
                if not host_stat.S_ISREG(mode):
                    raise WasiError(Errno.ACCES)
                request.check_file(grant)
                if request.truncate:
                    cut = target.open(os.O_WRONLY)
                    try:
                        os.ftruncate(cut, 0)
                    finally:
                        os.close(cut)
                return HostFile(grant, GuestFd(target.open(access_flags(grant)), usage), usage, exclusive=True)
            finally:
                target.close()
        raise WasiError(Errno.AGAIN)

    def _create(
        self, fd: int, path: VolumePath, follow: bool, request: OpenRequest, grant: Grant, usage: FileUsage
    ) -> int | None:
        """Return a new file's descriptor, or ``None`` when another program has created one meanwhile."""
        if not grant.perms.dir_write:
            os.close(self._resolver.parent(fd, path.names, path.links))  # a missing directory is reported first
        request.check_create(path, grant)
        flags = access_flags(grant) | (os.O_EXCL if request.exclusive else 0)
        try:
            with usage.making_entry():
                return self._resolver.create(fd, path.names, follow, path.links, flags)
        except FileExistsError:
            if request.exclusive:
                raise
            return None

    def stat(self, path: VolumePath, follow: bool) -> Stat:
        st = self._resolver.stat(self._fd(path.start), path.names, follow or path.slash, path.links)
        if path.slash and not host_stat.S_ISDIR(st.st_mode):
            raise WasiError(Errno.NOTDIR)
        return Stat.of_host(st)

    def stat_dir(self, token: SharedFd | None) -> Stat:
        return Stat.of_host(os.fstat(self._fd(token)))

    def list(self, token: SharedFd | None, limit: int) -> Iterator[tuple[bytes, int, FileType]]:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | FILE_FLAGS, dir_fd=self._fd(token))
        try:
            with os.scandir(fd) as entries:
                for number, entry in enumerate(entries):
                    if number >= limit:
                        raise WasiError(Errno.OVERFLOW)
                    yield os.fsencode(entry.name), entry.inode(), _type_of(entry)
        finally:
            os.close(fd)

    def readlink(self, path: VolumePath) -> bytes:
        if not path.names:
            raise WasiError(Errno.INVAL)
        with self._entry(path) as (parent, name):
            if path.slash:
                st = self._lstat(parent, name)
                raise WasiError(Errno.INVAL if st and host_stat.S_ISDIR(st.st_mode) else Errno.NOTDIR)
            return os.readlink(name, dir_fd=parent)

    def mkdir(self, path: VolumePath) -> None:
        with self._entry(path) as (parent, name):
            os.mkdir(name, dir_fd=parent)

    def rmdir(self, path: VolumePath) -> None:
        with self._entry(path) as (parent, name):
            os.rmdir(name, dir_fd=parent)

    def unlink(self, path: VolumePath) -> None:
        with self._entry(path) as (parent, name):
            st = self._lstat(parent, name)
            if st is not None and host_stat.S_ISDIR(st.st_mode):
                raise WasiError(Errno.ISDIR)  # hosts differ: EISDIR or EPERM
            if path.slash:
                raise WasiError(Errno.NOENT if st is None else Errno.NOTDIR)
            os.unlink(name, dir_fd=parent)

    def symlink(self, path: VolumePath, target: bytes) -> None:
        with self._entry(path) as (parent, name):
            if path.slash:
                st = self._lstat(parent, name)
                if st is None:
                    raise WasiError(Errno.NOENT)
                raise WasiError(Errno.EXIST if host_stat.S_ISDIR(st.st_mode) else Errno.NOTDIR)
            check_target(self._root.fd, parent, target)
            os.symlink(target, name, dir_fd=parent)

    def link(self, old: VolumePath, new: VolumePath, follow: bool) -> None:
        if follow:
            names = self.canonical(old, True, frozenset(), ())
            old = old._replace(names=names, links=0)
        with self._entry(old) as (from_fd, from_name), self._entry(new) as (to_fd, to_name):
            st = os.stat(from_name, dir_fd=from_fd, follow_symlinks=False)
            if host_stat.S_ISDIR(st.st_mode):
                raise WasiError(Errno.PERM)
            if old.slash:
                raise WasiError(Errno.NOTDIR)
            if not host_stat.S_ISREG(st.st_mode) and not host_stat.S_ISLNK(st.st_mode):
                raise WasiError(Errno.ACCES)
            if new.slash:
                raise WasiError(Errno.NOENT if self._lstat(to_fd, to_name) is None else Errno.EXIST)
            check_moved(self._root.fd, from_fd, from_name, to_fd, self._resolver)
            os.link(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)

    def rename(self, old: VolumePath, new: VolumePath) -> None:
        with self._entry(old) as (from_fd, from_name), self._entry(new) as (to_fd, to_name):
            if old.slash or new.slash:
                st = os.stat(from_name, dir_fd=from_fd, follow_symlinks=False)
                if not host_stat.S_ISDIR(st.st_mode):
                    raise WasiError(Errno.NOTDIR)
            check_moved(self._root.fd, from_fd, from_name, to_fd, self._resolver)
            os.rename(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd)

    def set_times(self, path: VolumePath, follow: bool, atim: int | None, mtim: int | None, perms: Permissions) -> None:
        target = self._resolver.look(self._fd(path.start), path.names, follow or path.slash, path.links)
        try:
            st = target.st
            is_dir = host_stat.S_ISDIR(st.st_mode)
            if not (perms.dir_write if is_dir else perms.file_write):
                raise perms.write_refusal
            if is_dir or host_stat.S_ISREG(st.st_mode):
                target.set_times(times_to_set(st, atim, mtim))
            elif host_stat.S_ISLNK(st.st_mode):
                with self._entry(path) as (parent, name):
                    os.utime(name, ns=times_to_set(st, atim, mtim), dir_fd=parent, follow_symlinks=False)
            else:
                raise WasiError(Errno.ACCES)
        finally:
            target.close()

    def set_dir_times(self, token: SharedFd | None, atim: int | None, mtim: int | None) -> None:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | FILE_FLAGS, dir_fd=self._fd(token))
        try:
            os.utime(fd, ns=times_to_set(os.fstat(fd), atim, mtim))
        finally:
            os.close(fd)

    def sync_dir(self, token: SharedFd | None) -> None:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | FILE_FLAGS, dir_fd=self._fd(token))
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def dup_token(self, token: SharedFd | None, volume: Volume) -> SharedFd | None:
        return token and token.retain()

    def release(self, token: SharedFd | None) -> None:
        if token is not None:
            token.release()

    def close(self) -> None:
        self._root.release()


def _type_of(entry: os.DirEntry[str]) -> FileType:
    if entry.is_file(follow_symlinks=False):
        return FileType.REGULAR_FILE
    if entry.is_dir(follow_symlinks=False):
        return FileType.DIRECTORY
    return FileType.SYMBOLIC_LINK if entry.is_symlink() else FileType.UNKNOWN


class MountedFileVolume(FileVolume):
    """One host file, at a guest path of its own; opened once, when the mount is bound.

    All guests' descriptors share that host descriptor, with offsets of their own.
    """

    def __init__(self, path: str | bytes | os.PathLike[str], perms: Permissions) -> None:
        """Open the file as the permissions need; ``OSError`` as from ``open``."""
        flags = (os.O_RDWR if perms.file_read else os.O_WRONLY) if perms.file_write else os.O_RDONLY
        fd = os.open(path, flags | FILE_FLAGS)
        st = os.fstat(fd)
        if not host_stat.S_ISREG(st.st_mode) or is_kernel_device(st.st_dev):
            os.close(fd)
            raise PermissionError(errno.EACCES, "is not a regular file")
        self._shared = SharedFd(fd)

    def _open(self, request: OpenRequest, grant: Grant, usage: FileUsage) -> HostFile:
        if request.truncate:
            os.ftruncate(self._shared.fd, 0)
        return HostFile(grant, self._shared.retain(), usage, exclusive=False)

    def _stat(self) -> Stat:
        return Stat.of_host(os.fstat(self._shared.fd))

    def set_times(self, path: VolumePath, follow: bool, atim: int | None, mtim: int | None, perms: Permissions) -> None:
        self._only_root(path)
        if not perms.file_write:
            raise perms.write_refusal
        os.utime(self._shared.fd, ns=times_to_set(os.fstat(self._shared.fd), atim, mtim))

    def close(self) -> None:
        self._shared.release()
