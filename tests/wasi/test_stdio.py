"""Standard input and output: descriptors 0 to 2 over what the host provides."""

from __future__ import annotations

from collections.abc import Callable

from isola_anyio.wasi.abi import FileType, Rights
from isola_anyio.wasi.errno import Errno
from tests.wasi.client import RW, Guest, refused


def test_output_reaches_the_host_by_descriptor(guest: Guest) -> None:
    assert guest.write(1, b"he", b"llo") == 5
    assert guest.write(2, b"err") == 3
    assert guest.stdio.written == {1: b"hello", 2: b"err"}
    refused(Errno.BADF, guest.write, 0, b"x")
    refused(Errno.BADF, guest.read, 1)


def test_input_is_the_hosts_and_ends(make_guest: Callable[..., Guest]) -> None:
    g = make_guest(stdin=b"two lines\nhere")
    assert g.read(0, 4, 4) == b"two "
    assert g.read(0) == b"lines\nhere"
    assert g.read(0) == b""


def test_standard_streams_are_neither_terminals_nor_seekable(guest: Guest) -> None:
    for fd in (0, 1, 2):
        assert guest.fdstat(fd).filetype == FileType.UNKNOWN
        assert guest.fstat(fd).filetype == FileType.UNKNOWN
        assert not guest.fdstat(fd).base & (Rights.FD_SEEK | Rights.FD_TELL)
        refused(Errno.SPIPE, guest.seek, fd, 0)
        refused(Errno.SPIPE, guest.tell, fd)
        refused(Errno.SPIPE, guest.pread, fd, 1, 0)
        guest.call("fd_fdstat_set_flags", fd, 4)
        assert guest.fdstat(fd).flags == 4


def test_standard_streams_can_be_moved_and_closed(guest: Guest) -> None:
    guest.write_file("tmp/f")
    for fd in (0, 1, 2):
        to = guest.open("tmp/f", RW)
        assert to >= 3
        guest.call("fd_renumber", fd, to)
        guest.fdstat(to)
        refused(Errno.BADF, guest.fdstat, fd)
    assert guest.open("tmp/f") >= 3
