"""Numbers and layouts of WASI preview 1 that travel through guest memory."""

from __future__ import annotations

__all__ = [
    "DIRENT",
    "EVENT",
    "FDSTAT",
    "FILESTAT",
    "IOVEC",
    "SUBSCRIPTION_BYTES",
    "EventType",
    "FdFlags",
    "FileType",
    "FstFlags",
    "OFlags",
    "Rights",
    "Stat",
]

import stat as host_stat
from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import os


class FileType(IntEnum):
    """What a descriptor or a directory entry is."""

    UNKNOWN = 0
    BLOCK_DEVICE = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 3
    REGULAR_FILE = 4
    SOCKET_DGRAM = 5
    SOCKET_STREAM = 6
    SYMBOLIC_LINK = 7


class Rights:
    """What a descriptor may be used for. Plain ints: testing an ``IntFlag`` costs a microsecond."""

    FD_DATASYNC: Final = 1 << 0
    FD_READ: Final = 1 << 1
    FD_SEEK: Final = 1 << 2
    FD_FDSTAT_SET_FLAGS: Final = 1 << 3
    FD_SYNC: Final = 1 << 4
    FD_TELL: Final = 1 << 5
    FD_WRITE: Final = 1 << 6
    FD_ADVISE: Final = 1 << 7
    FD_ALLOCATE: Final = 1 << 8
    PATH_CREATE_DIRECTORY: Final = 1 << 9
    PATH_CREATE_FILE: Final = 1 << 10
    PATH_LINK_SOURCE: Final = 1 << 11
    PATH_LINK_TARGET: Final = 1 << 12
    PATH_OPEN: Final = 1 << 13
    FD_READDIR: Final = 1 << 14
    PATH_READLINK: Final = 1 << 15
    PATH_RENAME_SOURCE: Final = 1 << 16
    PATH_RENAME_TARGET: Final = 1 << 17
    PATH_FILESTAT_GET: Final = 1 << 18
    PATH_FILESTAT_SET_SIZE: Final = 1 << 19
    PATH_FILESTAT_SET_TIMES: Final = 1 << 20
    FD_FILESTAT_GET: Final = 1 << 21
    FD_FILESTAT_SET_SIZE: Final = 1 << 22
    FD_FILESTAT_SET_TIMES: Final = 1 << 23
    PATH_SYMLINK: Final = 1 << 24
    PATH_REMOVE_DIRECTORY: Final = 1 << 25
    PATH_UNLINK_FILE: Final = 1 << 26
    POLL_FD_READWRITE: Final = 1 << 27
    SOCK_SHUTDOWN: Final = 1 << 28
    SOCK_ACCEPT: Final = 1 << 29

    ALL: Final = (1 << 30) - 1
    #: Of a directory's own descriptor: no reading, writing, seeking or resizing of it as if it were a file.
    DIRECTORY: Final = ALL & ~(
        FD_DATASYNC | FD_READ | FD_SEEK | FD_TELL | FD_WRITE | FD_ADVISE | FD_ALLOCATE | FD_FILESTAT_SET_SIZE
        | POLL_FD_READWRITE | SOCK_SHUTDOWN | SOCK_ACCEPT
    )  # fmt: skip


class OFlags:
    """How ``path_open`` opens."""

    CREAT: Final = 1
    DIRECTORY: Final = 2
    EXCL: Final = 4
    TRUNC: Final = 8
    ALL: Final = 15


class FdFlags:
    """State of an open descriptor."""

    APPEND: Final = 1
    DSYNC: Final = 2
    NONBLOCK: Final = 4
    RSYNC: Final = 8
    SYNC: Final = 16
    ALL: Final = 31


class FstFlags:
    """Which time stamps to set, and to what."""

    ATIM: Final = 1
    ATIM_NOW: Final = 2
    MTIM: Final = 4
    MTIM_NOW: Final = 8
    ALL: Final = 15


class EventType(IntEnum):
    """What a ``poll_oneoff`` subscription waits for."""

    CLOCK = 0
    FD_READ = 1
    FD_WRITE = 2


FDSTAT: Final = Struct("<BxHxxxxQQ")  # filetype, flags, rights base, rights inheriting
FILESTAT: Final = Struct("<QQB7xQQQQQ")  # dev, ino, filetype, nlink, size, atim, mtim, ctim
DIRENT: Final = Struct("<QQIB3x")  # next, ino, name length, filetype
IOVEC: Final = Struct("<II")  # pointer, length
EVENT: Final = Struct("<QHBxxxxxQHxxxxxx")  # userdata, error, type, bytes ready, flags
SUBSCRIPTION_BYTES: Final = 48

_TYPES: Final = {
    host_stat.S_IFDIR: FileType.DIRECTORY,
    host_stat.S_IFREG: FileType.REGULAR_FILE,
    host_stat.S_IFLNK: FileType.SYMBOLIC_LINK,
    host_stat.S_IFBLK: FileType.BLOCK_DEVICE,
    host_stat.S_IFCHR: FileType.CHARACTER_DEVICE,
    host_stat.S_IFSOCK: FileType.SOCKET_STREAM,
}


class Stat(NamedTuple):
    """The fields of ``filestat``; times are nanoseconds since 1970."""

    dev: int
    ino: int
    filetype: FileType
    nlink: int
    size: int
    atim: int
    mtim: int
    ctim: int

    @classmethod
    def of_host(cls, st: os.stat_result) -> Stat:
        """Translate the host's ``stat``; times before 1970 become 0, as the guest's are unsigned."""
        return cls(
            st.st_dev,
            st.st_ino or 1,
            _TYPES.get(host_stat.S_IFMT(st.st_mode), FileType.UNKNOWN),
            st.st_nlink,
            st.st_size,
            max(st.st_atime_ns, 0),
            max(st.st_mtime_ns, 0),
            max(st.st_ctime_ns, 0),
        )
