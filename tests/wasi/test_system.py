"""Every function of preview 1 is there, takes what its signature says, and is refused where there is nothing to do."""

from __future__ import annotations

import inspect
import struct

import pytest

from isola_anyio.wasi.abi import FileType, Rights
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.signatures import SIGNATURES
from tests.wasi.client import MEMORY_BYTES, OUT, PATH, ROOT, RW, Guest, R, WasiFailure, refused


def test_every_function_takes_what_its_signature_says(guest: Guest) -> None:
    functions = guest.system.functions()
    assert set(functions) == set(SIGNATURES)
    assert len(SIGNATURES) == 46
    for name, (params, returns) in SIGNATURES.items():
        assert set(params) <= set("iI")
        assert returns == (name != "proc_exit")
        if name == "proc_exit":
            assert len(inspect.signature(functions[name]).parameters) == 1
            continue
        refused_or_not = functions[name](*[0] * len(params))
        assert isinstance(refused_or_not, int), name
        assert guest.system.fault is None, name
        with pytest.raises(TypeError):
            functions[name](*[0] * (len(params) + 1))
            assert guest.system.fault is not None
            raise guest.system.fault
        guest.system.context.fault = None


# The preopen


def test_the_only_preopen_is_the_root(guest: Guest) -> None:
    guest.call("fd_prestat_get", ROOT, OUT)
    assert guest.memory.read(OUT, 8) == bytes(4) + struct.pack("<I", 1)
    guest.call("fd_prestat_dir_name", ROOT, OUT, 1)
    assert guest.memory.read(OUT, 1) == b"/"
    guest.call("fd_prestat_dir_name", ROOT, OUT, 9)
    refused(Errno.NAMETOOLONG, guest.call, "fd_prestat_dir_name", ROOT, OUT, 0)
    with guest.opened("tmp", directory=True) as fd:
        for other in (0, 1, 2, fd, 99, -1):
            refused(Errno.BADF, guest.call, "fd_prestat_get", other, OUT)
            refused(Errno.BADF, guest.call, "fd_prestat_dir_name", other, OUT, 1)
    stat = guest.fdstat(ROOT)
    assert stat.filetype == FileType.DIRECTORY
    assert stat.inheriting == Rights.ALL, "a libc asks for no more than this when it opens a file"
    assert not stat.base & (RW | Rights.FD_SEEK)
    guest.close_fd(guest.open(".", 0, base=stat.base, inheriting=stat.inheriting))


def test_the_preopen_can_be_closed_or_covered(guest: Guest) -> None:
    tmp = guest.open("tmp", directory=True)
    ino = guest.fstat(tmp).ino
    guest.call("fd_renumber", tmp, ROOT)
    assert guest.fstat(ROOT).ino == ino
    refused(Errno.BADF, guest.call, "fd_prestat_get", ROOT, OUT)
    guest.close_fd(ROOT)
    refused(Errno.BADF, guest.open, "tmp")


# What there is none of


def test_there_are_no_sockets_and_no_signals(guest: Guest) -> None:
    for name, rest in (("sock_accept", 2), ("sock_recv", 5), ("sock_send", 4), ("sock_shutdown", 1)):
        refused(Errno.NOTSOCK, guest.call, name, 1, *[0] * rest)
        refused(Errno.BADF, guest.call, name, 99, *[0] * rest)
    refused(Errno.NOSYS, guest.call, "proc_raise", 9)


def test_a_call_with_bad_pointers_changes_nothing(guest: Guest) -> None:
    opened = len(guest.files.table.open)
    oflags = 1
    refused(
        Errno.FAULT, guest.call, "path_open", ROOT, 0, *guest.put(PATH, "tmp/f"), oflags, Rights.ALL, 0, 0, MEMORY_BYTES
    )
    refused(Errno.FAULT, guest.call, "path_open", ROOT, 0, MEMORY_BYTES, 5, oflags, Rights.ALL, 0, 0, OUT)
    refused(Errno.NAMETOOLONG, guest.call, "path_open", ROOT, 0, PATH, 5000, oflags, Rights.ALL, 0, 0, OUT)
    refused(Errno.FAULT, guest.call, "path_open", ROOT, 0, PATH, -1, oflags, Rights.ALL, 0, 0, OUT)
    assert len(guest.files.table.open) == opened
    assert guest.listdir("tmp") == []
    with pytest.raises(WasiFailure):
        guest.open("tmp/f", R)
