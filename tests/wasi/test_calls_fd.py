"""What a guest does with an open file, the same in every kind of volume."""

from __future__ import annotations

from isola_anyio.wasi.abi import FdFlags, FileType
from isola_anyio.wasi.errno import Errno
from tests.wasi.client import OUT, PATH2, ROOT, RW, Guest, R, W, refused
from tests.wasi.conftest import Place

APPEND = FdFlags.APPEND


def test_what_is_written_is_read_back(place: Place) -> None:
    g = place.guest
    with g.opened(place / "f", RW, create=True) as fd:
        assert g.write(fd, b"hel", b"", b"lo ", b"world") == 11
        assert g.tell(fd) == 11
        assert g.seek(fd, 0) == 0
        assert g.read(fd, 5, 0, 3) == b"hello wo"
        assert g.read(fd) == b"rld"
        assert g.read(fd) == b""
    assert g.read_file(place / "f") == b"hello world"


def test_pread_and_pwrite_leave_the_offset_alone(place: Place) -> None:
    g = place.guest
    with g.opened(place / "f", RW, create=True) as fd:
        assert g.pwrite(fd, b"\0\1\2\3", 0) == 4
        assert g.pread(fd, 4, 0) == b"\0\1\2\3"
        assert g.pread(fd, 4, 2) == b"\2\3"
        assert g.pread(fd, 4, 100) == b""
        assert g.pwrite(fd, b"\1\0", 2) == 2
        assert g.tell(fd) == 0
        assert g.read(fd) == b"\0\1\1\0"
        refused(Errno.INVAL, g.pread, fd, 1, 1 << 63)
        refused(Errno.INVAL, g.pwrite, fd, b"x", -1)


def test_seek_goes_by_start_current_and_end(place: Place) -> None:
    g = place.guest
    with g.opened(place / "f", RW, create=True) as fd:
        g.write(fd, bytes(100))
        assert g.seek(fd, -50, 1) == 50
        assert g.seek(fd, -10, 2) == 90
        assert g.seek(fd, 1000, 1) == 1090
        refused(Errno.INVAL, g.seek, fd, -2000, 1)
        refused(Errno.INVAL, g.seek, fd, 0, 3)
        refused(Errno.INVAL, g.seek, fd, -1, 0)
        assert g.tell(fd) == 1090
        assert g.read(fd) == b""
        g.write(fd, b"x")
        assert g.fstat(fd).size == 1091
        assert g.pread(fd, 10, 1085) == bytes(5) + b"x"


def test_append_writes_at_the_end_until_the_flag_is_dropped(place: Place) -> None:
    g = place.guest
    with g.opened(place / "f", RW, create=True, flags=APPEND) as fd:
        assert g.fdstat(fd).flags == APPEND
        g.write(fd, b"aa")
        g.seek(fd, 0)
        g.write(fd, b"bb")
        assert g.tell(fd) == 4
        g.call("fd_fdstat_set_flags", fd, 0)
        assert g.fdstat(fd).flags == 0
        g.seek(fd, 0)
        g.write(fd, b"c")
        g.call("fd_fdstat_set_flags", fd, APPEND | FdFlags.NONBLOCK)
        g.write(fd, b"d")
        assert g.fdstat(fd).flags == APPEND | FdFlags.NONBLOCK
    assert g.read_file(place / "f") == b"cabbd"


def test_two_descriptors_of_one_file_see_each_others_writes(place: Place) -> None:
    g = place.guest
    g.write_file(place / "f")
    with g.opened(place / "f", RW) as one, g.opened(place / "f", W) as two:
        g.write(two, b"\1")
        assert g.read(one) == b"\1"
        assert g.fstat(one).size == 1


def test_truncation_on_open_and_by_size(place: Place) -> None:
    g = place.guest
    g.write_file(place / "f", b"this content will be cut")
    with g.opened(place / "f", RW) as fd:
        g.call("fd_filestat_set_size", fd, 4)
        assert g.read(fd) == b"this"
        g.call("fd_filestat_set_size", fd, 8)
        assert g.pread(fd, 100, 0) == b"this\0\0\0\0"
        refused(Errno.FBIG, g.call, "fd_filestat_set_size", fd, 1 << 63)
    with g.opened(place / "f", R, truncate=True) as fd:
        assert g.read(fd) == b""
    with g.opened(place / "f", 0, truncate=True, base=0):
        pass
    assert g.stat(place / "f").size == 0


def test_allocate_extends_and_never_cuts(place: Place) -> None:
    g = place.guest
    with g.opened(place / "f", RW, create=True) as fd:
        g.call("fd_allocate", fd, 0, 100)
        assert g.fstat(fd).size == 100
        g.call("fd_allocate", fd, 10, 10)
        assert g.fstat(fd).size == 100
        g.call("fd_allocate", fd, 90, 20)
        assert g.fstat(fd).size == 110
        refused(Errno.INVAL, g.call, "fd_allocate", fd, 0, 0)
        refused(Errno.FBIG, g.call, "fd_allocate", fd, 1 << 62, 1 << 62)
    with g.opened(place / "f", R) as fd:
        refused(Errno.BADF, g.call, "fd_allocate", fd, 0, 200)


def test_descriptors_do_only_what_they_were_opened_for(place: Place) -> None:
    g = place.guest
    g.write_file(place / "f", b"data")
    with g.opened(place / "f", R) as fd:
        stat = g.fdstat(fd)
        assert stat.filetype == FileType.REGULAR_FILE
        assert stat.base & R
        assert not stat.base & W
        refused(Errno.BADF, g.write, fd, b"x")
        refused(Errno.BADF, g.pwrite, fd, b"x", 0)
        refused(Errno.BADF, g.call, "fd_filestat_set_size", fd, 0)
    with g.opened(place / "f", W) as fd:
        assert not g.fdstat(fd).base & R
        refused(Errno.BADF, g.read, fd)
        refused(Errno.BADF, g.pread, fd, 1, 0)
        g.write(fd, b"DA")
    with g.opened(place / "f", 0) as fd:
        refused(Errno.BADF, g.read, fd)
        refused(Errno.BADF, g.write, fd, b"x")
    assert g.read_file(place / "f") == b"DAta"


def test_rights_can_be_dropped_and_not_regained(place: Place) -> None:
    g = place.guest
    with g.opened(place / "f", RW, create=True) as fd:
        g.write(fd, b"abc")
        had = g.fdstat(fd)
        g.call("fd_fdstat_set_rights", fd, had.base & ~RW, had.inheriting)
        refused(Errno.BADF, g.read, fd)
        refused(Errno.BADF, g.write, fd, b"x")
        refused(Errno.NOTCAPABLE, g.call, "fd_fdstat_set_rights", fd, had.base, had.inheriting)


def test_sync_flags_and_calls_are_accepted(place: Place) -> None:
    g = place.guest
    for flag in (FdFlags.DSYNC, FdFlags.SYNC, FdFlags.RSYNC):
        with g.opened(place / "f", RW, create=True, flags=flag) as fd:
            assert g.fdstat(fd).flags == flag
            g.write(fd, b"x")
            g.call("fd_sync", fd)
            g.call("fd_datasync", fd)
    with g.opened(str(place), directory=True) as fd:
        g.call("fd_sync", fd)


def test_advice_is_checked_and_ignored(place: Place) -> None:
    g = place.guest
    with g.opened(place / "f", RW, create=True) as fd:
        g.call("fd_advise", fd, 10, 50, 0)
        refused(Errno.INVAL, g.call, "fd_advise", fd, 0, 0, 6)
        refused(Errno.INVAL, g.call, "fd_advise", fd, -1, 0, 0)
    refused(Errno.BADF, g.call, "fd_advise", ROOT, 0, 0, 0)


def test_file_operations_on_a_directory_are_refused(place: Place) -> None:
    g = place.guest
    with g.opened(str(place), directory=True) as fd:
        refused(Errno.ISDIR, g.read, fd)
        refused(Errno.ISDIR, g.pread, fd, 1, 0)
        refused(Errno.BADF, g.write, fd, b"x")
        refused(Errno.BADF, g.pwrite, fd, b"x", 0)
        for whence in (0, 1, 2):
            refused(Errno.BADF, g.seek, fd, 0, whence)
        refused(Errno.BADF, g.tell, fd)
        refused(Errno.BADF, g.call, "fd_allocate", fd, 0, 1)
        refused(Errno.INVAL, g.call, "fd_filestat_set_size", fd, 0)
    g.write_file(place / "f")
    with g.opened(place / "f") as fd:
        refused(Errno.NOTDIR, g.open, "x", RW, at=fd, create=True)
        refused(Errno.NOTDIR, g.entries, fd)
        refused(Errno.NOTDIR, g.mkdir, "x", at=fd)


def test_renumber_moves_one_descriptor_onto_another(place: Place) -> None:
    g = place.guest
    a = g.open(place / "a", RW, create=True)
    b = g.open(place / "b", RW, create=True)
    ino = g.fstat(a).ino
    g.call("fd_renumber", a, b)
    refused(Errno.BADF, g.close_fd, a)
    assert g.fstat(b).ino == ino
    refused(Errno.BADF, g.call, "fd_renumber", b, a)
    g.call("fd_renumber", b, b)
    assert g.open(place / "a") == a, "the lowest free number is given out"


def test_transfers_have_bounds(place: Place) -> None:
    g: Guest = place.guest
    g.write_file(place / "f", b"abc")
    with g.opened(place / "f", RW) as fd:
        refused(Errno.INVAL, g.call, "fd_read", fd, PATH2, 1025, OUT)
        refused(Errno.INVAL, g.call, "fd_write", fd, PATH2, -1, OUT)
        g.call("fd_read", fd, PATH2, 0, OUT)
        assert g.memory.read_u32(OUT) == 0
        refused(Errno.FAULT, g.call, "fd_read", fd, *g.iovecs([1 << 30]), OUT)
        refused(Errno.FAULT, g.call, "fd_read", fd, -8, 1, OUT)
        refused(Errno.FAULT, g.call, "fd_write", fd, *g.iovecs([1]), -1)
        assert g.tell(fd) == 0
