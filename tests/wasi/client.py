"""A guest for tests: packs arguments into a bytearray memory and calls ``System`` as a wasm module would."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from isola_anyio.wasi.abi import OFlags, Rights
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.files.filesystem import FileSystem
from isola_anyio.wasi.linear_memory import GuestMemory
from isola_anyio.wasi.system import System
from isola_anyio.wasi.volumes.budgets import FileLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from isola_anyio.wasi.files.mount_table import BoundMount

R = Rights.FD_READ
W = Rights.FD_WRITE
RW = R | W
OTHERS = Rights.ALL & ~RW
ROOT = 3

OUT = 64  # where results go
PATH = 1024
PATH2 = 8192
BUFFER = 16384
BUFFER_BYTES = 1 << 20
MEMORY_BYTES = BUFFER + BUFFER_BYTES


class WasiFailure(Exception):
    def __init__(self, errno: Errno, call: str) -> None:
        super().__init__(f"{call}: {errno.name}")
        self.errno = errno


def errno_of_failure(call: Callable[..., object], *args: object, **kwargs: object) -> Errno:
    with pytest.raises(WasiFailure) as caught:
        call(*args, **kwargs)
    return caught.value.errno


def refused(errno: Errno, call: Callable[..., object], *args: object, **kwargs: object) -> None:
    with pytest.raises(WasiFailure) as caught:
        call(*args, **kwargs)
    assert caught.value.errno is errno


class FakeClock:
    resolution_ns = 1

    def __init__(self) -> None:
        self.now = 1_000_000_000
        self.slept: list[float | None] = []

    def realtime_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self.now

    def monotonic_ns(self) -> int:
        return self.now

    def sleep(self, seconds: float | None) -> None:
        self.slept.append(seconds)
        self.now += int((seconds or 0) * 1e9) + 1


class Recorder:
    def __init__(self, stdin: bytes = b"") -> None:
        self.stdin = stdin
        self.written: dict[int, bytes] = {1: b"", 2: b""}

    def read(self, n: int) -> bytes:
        data, self.stdin = self.stdin[:n], self.stdin[n:]
        return data

    def write(self, fd: int, chunks: Sequence[memoryview]) -> int:
        data = b"".join(bytes(chunk) for chunk in chunks)
        self.written[fd] += data
        return len(data)


class Stat(NamedTuple):
    dev: int
    ino: int
    filetype: int
    nlink: int
    size: int
    atim: int
    mtim: int
    ctim: int


class FdStat(NamedTuple):
    filetype: int
    flags: int
    base: int
    inheriting: int


class Guest:
    """Calls raise ``WasiFailure`` with the errno; results come back as values."""

    def __init__(
        self,
        files: FileSystem | None = None,
        *,
        limits: FileLimits | None = None,
        mounts: Sequence[BoundMount] = (),
        stdin: bytes = b"",
        args: Sequence[bytes] = (),
        environ: dict[str, str] | None = None,
        clock: FakeClock | None = None,
    ) -> None:
        self.limits = limits or FileLimits()
        self.files = files or FileSystem.base(mounts=mounts, limits=self.limits)
        self.memory = GuestMemory(bytearray(MEMORY_BYTES), MEMORY_BYTES, lambda: MEMORY_BYTES)
        self.clock = clock or FakeClock()
        self.stdio = Recorder(stdin)
        self.random_calls: list[int] = []
        self.system = System(
            memory=self.memory,
            files=self.files,
            stdio=self.stdio,
            clock=self.clock,
            random=self._random,
            sleep=lambda seconds: self.clock.sleep(seconds),  # noqa: PLW0108 - a test may replace the clock's
            limits=self.limits,
            args=args,
            environ=environ or {},
        )
        self.functions = self.system.functions()

    def _random(self, n: int) -> bytes:
        self.random_calls.append(n)
        return b"\x07" * n

    def close(self) -> None:
        self.files.close()

    def call(self, name: str, *args: int) -> None:
        number = self.functions[name](*args)
        assert type(number) is int
        if self.system.fault is not None:
            raise self.system.fault
        if number:
            raise WasiFailure(Errno(number), name)

    def put(self, where: int, data: bytes | str) -> tuple[int, int]:
        data = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
        self.memory.write(where, data)
        return where, len(data)

    def read_u64(self, where: int) -> int:
        return int.from_bytes(self.memory.read(where, 8), "little")

    def iovecs(self, lengths: Sequence[int]) -> tuple[int, int]:
        at = BUFFER
        table = b""
        for n in lengths:
            table += struct.pack("<II", at, n)
            at += n
        self.put(PATH2, table)
        return PATH2, len(lengths)

    # Files

    def open(
        self,
        path: bytes | str,
        rights: int = R,
        *,
        at: int = ROOT,
        create: bool = False,
        exclusive: bool = False,
        truncate: bool = False,
        directory: bool = False,
        follow: bool = True,
        flags: int = 0,
        base: int | None = None,
        inheriting: int = Rights.ALL,
    ) -> int:
        oflags = (
            create * OFlags.CREAT | exclusive * OFlags.EXCL | truncate * OFlags.TRUNC | directory * OFlags.DIRECTORY
        )
        base = OTHERS | rights if base is None else base
        self.call("path_open", at, int(follow), *self.put(PATH, path), oflags, base, inheriting, flags, OUT)
        return self.memory.read_u32(OUT)

    @contextmanager
    def opened(self, path: bytes | str, rights: int = R, **how: object) -> Generator[int]:
        fd = self.open(path, rights, **how)  # type: ignore[arg-type]
        try:
            yield fd
        finally:
            self.close_fd(fd)

    def close_fd(self, fd: int) -> None:
        self.call("fd_close", fd)

    def read(self, fd: int, *lengths: int) -> bytes:
        self.call("fd_read", fd, *self.iovecs(lengths or (BUFFER_BYTES,)), OUT)
        return self.memory.read(BUFFER, self.memory.read_u32(OUT))

    def pread(self, fd: int, n: int, offset: int) -> bytes:
        self.call("fd_pread", fd, *self.iovecs([n]), offset, OUT)
        return self.memory.read(BUFFER, self.memory.read_u32(OUT))

    def write(self, fd: int, *parts: bytes) -> int:
        self.put(BUFFER, b"".join(parts))
        self.call("fd_write", fd, *self.iovecs([len(part) for part in parts]), OUT)
        return self.memory.read_u32(OUT)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        self.put(BUFFER, data)
        self.call("fd_pwrite", fd, *self.iovecs([len(data)]), offset, OUT)
        return self.memory.read_u32(OUT)

    def seek(self, fd: int, delta: int, whence: int = 0) -> int:
        self.call("fd_seek", fd, delta, whence, OUT)
        return self.read_u64(OUT)

    def tell(self, fd: int) -> int:
        self.call("fd_tell", fd, OUT)
        return self.read_u64(OUT)

    def fdstat(self, fd: int) -> FdStat:
        self.call("fd_fdstat_get", fd, OUT)
        return FdStat(*struct.unpack("<BxHxxxxQQ", self.memory.read(OUT, 24)))

    def _stat(self) -> Stat:
        return Stat(*struct.unpack("<QQB7xQQQQQ", self.memory.read(OUT, 64)))

    def fstat(self, fd: int) -> Stat:
        self.call("fd_filestat_get", fd, OUT)
        return self._stat()

    def stat(self, path: bytes | str, *, at: int = ROOT, follow: bool = True) -> Stat:
        self.call("path_filestat_get", at, int(follow), *self.put(PATH, path), OUT)
        return self._stat()

    def exists(self, path: bytes | str) -> bool:
        try:
            self.stat(path, follow=False)
        except WasiFailure as failure:
            assert failure.errno in (Errno.NOENT, Errno.NOTDIR)
            return False
        return True

    def entries(self, fd: int, room: int = 4096) -> list[tuple[bytes, int, int]]:
        """Read a directory as libc does: buffer by buffer, a cut entry again from its cookie."""
        found: list[tuple[bytes, int, int]] = []
        cookie = 0
        while True:
            self.call("fd_readdir", fd, BUFFER, room, cookie, OUT)
            used = self.memory.read_u32(OUT)
            packed = self.memory.read(BUFFER, used)
            at = 0
            while at + 24 <= used:
                following, ino, length, filetype = struct.unpack_from("<QQIB3x", packed, at)
                if at + 24 + length > used:
                    break
                found.append((packed[at + 24 : at + 24 + length], ino, filetype))
                cookie = following
                at += 24 + length
            if used < room:
                return found
            if not at:
                room *= 2

    def listdir(self, path: bytes | str, *, at: int = ROOT) -> list[str]:
        with self.opened(path, at=at, directory=True) as fd:
            return sorted(
                n.decode("utf-8", "surrogateescape") for n, _, _ in self.entries(fd) if n not in (b".", b"..")
            )

    def mkdir(self, path: bytes | str, *, at: int = ROOT) -> None:
        self.call("path_create_directory", at, *self.put(PATH, path))

    def rmdir(self, path: bytes | str, *, at: int = ROOT) -> None:
        self.call("path_remove_directory", at, *self.put(PATH, path))

    def unlink(self, path: bytes | str, *, at: int = ROOT) -> None:
        self.call("path_unlink_file", at, *self.put(PATH, path))

    def symlink(self, target: bytes | str, path: bytes | str, *, at: int = ROOT) -> None:
        self.call("path_symlink", *self.put(PATH2, target), at, *self.put(PATH, path))

    def readlink(self, path: bytes | str, room: int = 4096, *, at: int = ROOT) -> bytes:
        self.call("path_readlink", at, *self.put(PATH, path), BUFFER, room, OUT)
        return self.memory.read(BUFFER, self.memory.read_u32(OUT))

    def link(self, old: bytes | str, new: bytes | str, *, follow: bool = False, at: int = ROOT, to: int = ROOT) -> None:
        self.call("path_link", at, int(follow), *self.put(PATH, old), to, *self.put(PATH2, new))

    def rename(self, old: bytes | str, new: bytes | str, *, at: int = ROOT, to: int = ROOT) -> None:
        self.call("path_rename", at, *self.put(PATH, old), to, *self.put(PATH2, new))

    def utime(self, path: bytes | str, atim: int, mtim: int, flags: int = 5, *, follow: bool = True) -> None:
        self.call("path_filestat_set_times", ROOT, int(follow), *self.put(PATH, path), atim, mtim, flags)

    # Whole files

    def read_file(self, path: bytes | str) -> bytes:
        with self.opened(path) as fd:
            parts = []
            while part := self.read(fd):
                parts.append(part)
            return b"".join(parts)

    def write_file(self, path: bytes | str, data: bytes = b"") -> None:
        with self.opened(path, W, create=True, truncate=True) as fd:
            while data:
                data = data[self.write(fd, data[:BUFFER_BYTES]) :]
