"""WASI: every function, over in-memory files, a host directory and an overlay."""

from __future__ import annotations

import os
import shutil
import struct
from functools import cache
from pathlib import Path

from isola_anyio.mounts import MountConfig, bind
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.signatures import SIGNATURES
from isola_anyio.wasi.system import GuestExit
from isola_anyio.wasi.volumes.budgets import FileLimits
from tests.fuzz.harness import Blocked, Bytes, scratch, target
from tests.wasi import client

ROLES = {
    "args_get": "oo", "args_sizes_get": "oo", "environ_get": "oo", "environ_sizes_get": "oo", "clock_res_get": "go",
    "clock_time_get": "gNo", "fd_advise": "fNNg", "fd_allocate": "fNN", "fd_close": "f", "fd_datasync": "f",
    "fd_fdstat_get": "fo", "fd_fdstat_set_flags": "fg", "fd_fdstat_set_rights": "frr", "fd_filestat_get": "fo",
    "fd_filestat_set_size": "fN", "fd_filestat_set_times": "fNNg", "fd_pread": "fvNo", "fd_prestat_get": "fo",
    "fd_prestat_dir_name": "fb", "fd_pwrite": "fvNo", "fd_read": "fvo", "fd_readdir": "fbNo", "fd_renumber": "ff",
    "fd_seek": "fNgo", "fd_sync": "f", "fd_tell": "fo", "fd_write": "fvo", "path_create_directory": "fP",
    "path_filestat_get": "fgPo", "path_filestat_set_times": "fgPNNg", "path_link": "fgPfP", "path_open": "fgPgrrgo",
    "path_readlink": "fPbo", "path_remove_directory": "fP", "path_rename": "fPfP", "path_symlink": "PfP",
    "path_unlink_file": "fP", "poll_oneoff": "sogo", "proc_exit": "g", "proc_raise": "g", "random_get": "b",
    "sched_yield": "", "sock_accept": "fgo", "sock_recv": "fvgoo", "sock_send": "fvgo", "sock_shutdown": "fg",
}  # fmt: skip
"""What each argument is: a descriptor, flags, a number, rights, an out pointer, or (two arguments) a path, a list of
vectors, a buffer; ``s`` are subscriptions."""

CALLS = [*SIGNATURES, *["path_open"] * 12, *["fd_write", "fd_read", "fd_readdir", "path_rename"] * 3]
PATHS = [
    b"", b".", b"..", b"tmp", b"tmp/a", b"tmp/b", b"tmp/b/c", b"host", b"host/a", b"host/d", b"host/d/x", b"over/f",
    b"over/d", b"over/d/x", b"over/l", b"over/out", b"over/out/secret", b"host/../tmp/a", b"host/../../x", b"/", b"/tmp",
    b"tmp/\xff", b"tmp/a\0b", b"n" * 300, b"tmp/" + b"d/" * 40, b"host/l", b"host/l/secret", b"../outside/secret",
]  # fmt: skip
NUMBERS = [
    0, 1, 2, 3, 7, 8, 24, 25, 255, 4096, 65535, client.MEMORY_BYTES - 1, client.MEMORY_BYTES, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1, -8, -(1 << 31), -(1 << 63),
]  # fmt: skip
RIGHTS = [client.OTHERS | client.RW, client.OTHERS | client.R, client.OTHERS | client.W, client.RW, 0, (1 << 64) - 1]
SECRET = b"host only: no guest sees this"
PATHS_AT = 8192
VECTORS_AT = 2048


class Sleepless(client.FakeClock):
    """Time goes on only in short naps."""

    def sleep(self, seconds: float | None) -> None:
        assert seconds is None or 0 <= seconds <= 86_400
        if seconds is None or seconds > 3600:
            raise Blocked
        super().sleep(seconds)


@cache
def _host() -> tuple[Path, Path]:
    outside, work, lower = (scratch() / name for name in ("outside", "work", "lower"))
    for path in (outside, work, lower, lower / "d"):
        path.mkdir()
    (outside / "secret").write_bytes(SECRET)
    (lower / "f").write_bytes(b"lower")
    (lower / "d" / "x").write_bytes(b"x" * 5000)
    (lower / "l").symlink_to("d")
    (lower / "out").symlink_to("../outside")
    os.mkfifo(lower / "fifo")
    return work, lower


def _wasi_guest() -> client.Guest:
    work, lower = _host()
    for entry in os.scandir(work):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    os.mkdir(work / "d")
    os.symlink("../outside", work / "l")
    return client.Guest(
        mounts=[
            bind(MountConfig(work, "/host", "read-write", "read-write")),
            bind(MountConfig(lower, "/over", "read-write", "read-write", mode="overlay")),
        ],
        limits=FileLimits(max_memory_bytes=2 << 20, max_open_files=16, max_written_bytes=1 << 20, max_entries=100),
        stdin=b"typed",
        args=(b"guest", b"-x"),
        environ={"A": "1", "LONG": "y" * 100},
        clock=Sleepless(),
    )


def _number(source: Bytes) -> int:
    how = source.u8()
    if how < 128:
        return NUMBERS[how] if how < len(NUMBERS) else how
    return source.number(2 if how < 200 else 4 if how < 230 else 8)


def _argument(role: str, source: Bytes, guest: client.Guest, slot: int) -> list[int]:
    if role == "f":
        return [source.u8() & 15]
    if role == "g":
        return [source.u8()]
    if role == "N":
        return [_number(source)]
    if role == "r":
        return [RIGHTS[source.u8() % len(RIGHTS)]]
    if role == "o":
        how = source.u8()
        return [client.OUT if how < 240 else _number(source)]
    if role == "b":
        return [client.BUFFER, _number(source)]
    if role == "P":
        how = source.u8()
        path = PATHS[how % len(PATHS)] if how < 200 else source.chunk()[:4096]
        return list(guest.put(PATHS_AT + slot * 512, path))
    if role == "v":
        count = source.u8() & 3
        for i in range(count):
            how = source.u8()
            start, n = (client.BUFFER, how) if how < 200 else (_number(source), _number(source))
            guest.put(VECTORS_AT + 8 * i, struct.pack("<II", start & 0xFFFF_FFFF, n & 0xFFFF_FFFF))
        return [VECTORS_AT, count]
    guest.put(VECTORS_AT, source.chunk()[:4096])
    return [VECTORS_AT]


def _wasi_calls(guest: client.Guest, source: Bytes) -> None:
    functions = guest.system.functions()
    while source:
        which = source.u8()
        if which >= 250:
            guest.put(client.BUFFER + 16 * (which - 250), source.chunk())
            continue
        name = CALLS[which % len(CALLS)]
        params = SIGNATURES[name][0]
        if which >= 240:
            args = [_number(source) for _ in params]
        else:
            args = [n for slot, role in enumerate(ROLES[name]) for n in _argument(role, source, guest, slot)]
        assert len(args) == len(params), name
        answer = functions[name](*args)
        assert type(answer) is int, name
        Errno(answer)
        if guest.system.fault is not None:
            raise AssertionError(f"{name}{args}: {guest.system.fault!r}") from guest.system.fault


@target
def wasi(data: bytes) -> None:
    """Preview 1 calls, in any order, with any arguments and memory."""
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    guest = _wasi_guest()
    try:
        _wasi_calls(guest, Bytes(data))
    except (Blocked, GuestExit):
        pass
    finally:
        usage, seen = guest.files.usage, bytes(guest.memory.buffer)
        guest.close()
    assert 0 <= usage.memory_bytes <= 2 << 20, usage.memory_bytes
    assert 0 <= usage.written_bytes <= 1 << 20, usage.written_bytes
    assert SECRET not in seen, "the guest read a file outside of its mounts"
    outside = scratch() / "outside"
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == SECRET
    assert sorted(os.listdir(_host()[1])) == ["d", "f", "fifo", "l", "out"]
    assert not before or len(os.listdir("/proc/self/fd")) <= before, "a descriptor is left open"
