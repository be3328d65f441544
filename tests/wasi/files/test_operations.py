"""What a guest does by path, the same in every kind of volume. Many cases follow the official preview 1 programs."""

from __future__ import annotations

import pytest

from isola_anyio.wasi.abi import FdFlags, FileType, FstFlags, Rights
from isola_anyio.wasi.errno import Errno
from tests.wasi.client import OUT, PATH, PATH2, ROOT, RW, R, W, WasiFailure, refused
from tests.wasi.conftest import Place


def test_a_directory_descriptor_passes_on_no_more_than_it_has(place: Place) -> None:
    g = place.guest
    g.write_file(place / "f", b"x")
    with g.opened(str(place), directory=True, inheriting=Rights.ALL & ~W) as at:
        with g.opened("f", RW, at=at) as fd:
            refused(Errno.BADF, g.write, fd, b"y")
        had = g.fdstat(at)
        g.call("fd_fdstat_set_rights", at, had.base & ~Rights.PATH_FILESTAT_SET_SIZE, had.inheriting)
        refused(Errno.NOTCAPABLE, g.open, "f", R, at=at, truncate=True)
        g.call("fd_fdstat_set_rights", at, 0, 0)
        refused(Errno.NOTCAPABLE, g.open, "f", R, at=at)
        refused(Errno.NOTCAPABLE, g.stat, "f", at=at)


# Opening


def test_opening_what_is_missing_creates_it_only_when_asked(place: Place) -> None:
    g = place.guest
    refused(Errno.NOENT, g.open, place / "f")
    refused(Errno.NOENT, g.open, place / "no/f", RW, create=True)
    with g.opened(place / "f", 0, create=True, base=0):
        pass
    refused(Errno.EXIST, g.open, place / "f", RW, create=True, exclusive=True)
    with g.opened(place / "g", RW, create=True, exclusive=True):
        pass
    assert g.listdir(str(place)) == ["f", "g"]


def test_a_trailing_slash_means_a_directory(place: Place) -> None:
    g = place.guest
    refused(Errno.ISDIR, g.open, place / "new/", RW, create=True)
    assert not g.exists(place / "new")
    refused(Errno.NOENT, g.open, place / "new/")
    g.write_file(place / "f")
    g.mkdir(place / "d/")
    for path in ("f/", "f///", "f/."):
        refused(Errno.NOTDIR, g.open, place / path)
        refused(Errno.NOTDIR, g.stat, place / path)
    with g.opened(place / "d///"), g.opened(place / "d/."):
        pass
    refused(Errno.NOTDIR, g.unlink, place / "f/")
    refused(Errno.NOTDIR, g.rename, place / "f/", place / "g")
    refused(Errno.NOTDIR, g.rename, place / "f", place / "g/")
    refused(Errno.NOENT, g.link, place / "f", place / "link/")
    refused(Errno.NOTDIR, g.open, place / "f/x")
    refused(Errno.NOTDIR, g.stat, place / "f/x")


def test_directories_open_for_reading_only(place: Place) -> None:
    g = place.guest
    g.mkdir(place / "d")
    for how in ({}, {"directory": True}, {"flags": FdFlags.NONBLOCK}):
        with g.opened(place / "d", R, **how) as fd:
            assert g.fdstat(fd).filetype == FileType.DIRECTORY
            assert not g.fdstat(fd).base & (Rights.FD_SEEK | Rights.FD_FILESTAT_SET_SIZE | W)
    refused(Errno.ISDIR, g.open, place / "d", RW)
    refused(Errno.ISDIR, g.open, place / "d", RW, directory=True)
    refused(Errno.ISDIR, g.open, place / "d", W, create=True)
    refused(Errno.EXIST, g.open, place / "d", W, create=True, exclusive=True)
    refused(Errno.ISDIR, g.open, place / "d", R, truncate=True)
    refused(Errno.INVAL, g.open, place / "new", R, create=True, directory=True)
    g.write_file(place / "f")
    refused(Errno.NOTDIR, g.open, place / "f", R, directory=True)
    refused(Errno.INVAL, g.call, "path_open", ROOT, 0, PATH, 1, 16, 0, 0, 0, OUT)
    refused(Errno.INVAL, g.call, "path_open", ROOT, 0, PATH, 1, 0, 0, 0, 32, OUT)


def test_interesting_paths(place: Place) -> None:
    g = place.guest
    g.mkdir(place / "dir")
    g.mkdir(place / "dir/nested")
    g.write_file(place / "dir/nested/file", b"x")
    with g.opened(str(place), directory=True) as at:
        with g.opened("dir/.//nested/../../dir/nested/../nested///./file", at=at) as fd:
            assert g.read(fd) == b"x"
        refused(Errno.PERM, g.open, "/dir/nested/file", at=at)
        refused(Errno.PERM, g.open, "dir/nested/../../../dir/nested/file", at=at)
        refused(Errno.PERM, g.stat, "..", at=at)
    refused(Errno.INVAL, g.open, place / "dir/nested/file\0")
    refused(Errno.NOENT, g.open, "")
    refused(Errno.NOENT, g.stat, place / "no/../dir")
    refused(Errno.NAMETOOLONG, g.stat, place / ("n" * 256))
    refused(Errno.NAMETOOLONG, g.stat, place / ("n/" * 2100))
    assert g.stat(place / "dir/nested/..").ino == g.stat(place / "dir").ino
    assert g.read_file(f"../../{place}/../{place}/dir/nested/file") == b"x"


def test_names_that_are_not_utf8_are_kept(place: Place) -> None:
    g = place.guest
    name = b"\xff\xfe caf\xe9 \xf0\x9f\x90\x8d"
    path = str(place).encode() + b"/" + name
    g.write_file(path, b"x")
    assert g.read_file(path) == b"x"
    with g.opened(str(place), directory=True) as fd:
        assert name in [entry[0] for entry in g.entries(fd)]


# Directories


def test_a_directory_lists_itself_its_parent_and_its_entries(place: Place) -> None:
    g = place.guest
    with g.opened(str(place), directory=True) as fd:
        dot, dots = g.entries(fd)
        assert (dot[0], dot[2]) == (b".", FileType.DIRECTORY)
        assert (dots[0], dots[2]) == (b"..", FileType.DIRECTORY)
        assert dot[1] == g.fstat(fd).ino
        g.write_file(place / "file")
        g.mkdir(place / "dir")
        g.symlink("file", place / "link")
        found = {name: (ino, kind) for name, ino, kind in g.entries(fd)}
        for name, kind in ((b"file", 4), (b"dir", 3), (b"link", 7)):
            st = g.stat(str(place).encode() + b"/" + name, follow=False)
            assert found[name] == (st.ino, kind)
            assert st.filetype == kind


def test_listing_from_a_cookie_goes_on_where_it_was_cut(place: Place) -> None:
    g = place.guest
    for i in range(60):
        g.write_file(place / f"file.{i}")
    with g.opened(str(place), directory=True) as fd:
        for room in (100, 256, 4096):
            assert len(g.entries(fd, room)) == 62
        g.call("fd_readdir", fd, PATH2, 30, 0, OUT)
        assert g.memory.read_u32(OUT) == 30, "the buffer is filled and the last entry cut"
        g.call("fd_readdir", fd, PATH2, 4096, 62, OUT)
        assert g.memory.read_u32(OUT) == 0
        g.call("fd_readdir", fd, PATH2, 4096, -1, OUT)
        assert g.memory.read_u32(OUT) == 0
        g.call("fd_readdir", fd, PATH2, 0, 0, OUT)
        assert g.memory.read_u32(OUT) == 0


def test_deleting_while_listing_loses_no_entry(place: Place) -> None:
    g = place.guest
    names = {f"f{i}" for i in range(100)}
    for name in names:
        g.write_file(place / name)
    with g.opened(str(place), directory=True) as fd:
        g.call("fd_readdir", fd, PATH2, 300, 0, OUT)
        for name in sorted(names)[:50]:
            g.unlink(place / name)
        seen, cookie = set(), 0
        while True:
            g.call("fd_readdir", fd, PATH2, 300, cookie, OUT) if cookie else None
            used = g.memory.read_u32(OUT)
            data, at = g.memory.read(PATH2, used), 0
            while at + 24 <= used:
                length = int.from_bytes(data[at + 16 : at + 20], "little")
                if at + 24 + length > used:
                    break
                cookie = int.from_bytes(data[at : at + 8], "little")
                seen.add(data[at + 24 : at + 24 + length].decode())
                at += 24 + length
            if used < 300:
                break
    assert seen == names | {".", ".."}


def test_directories_are_made_and_removed(place: Place) -> None:
    g = place.guest
    g.mkdir(place / "d")
    refused(Errno.EXIST, g.mkdir, place / "d")
    refused(Errno.NOENT, g.mkdir, place / "no/d")
    g.mkdir(place / "d/e")
    refused(Errno.NOTEMPTY, g.rmdir, place / "d")
    refused(Errno.NOTEMPTY, g.rmdir, place / "d/e/..")
    refused(Errno.EXIST, g.mkdir, place / "d/e/..")
    g.rmdir(place / "d/e/")
    g.rmdir(place / "d")
    refused(Errno.NOENT, g.rmdir, place / "d")
    g.write_file(place / "f")
    refused(Errno.NOTDIR, g.rmdir, place / "f")
    refused(Errno.NOTDIR, g.rmdir, place / "f/")
    refused(Errno.EXIST, g.mkdir, place / "f")


def test_unlink_removes_anything_but_directories(place: Place) -> None:
    g = place.guest
    g.mkdir(place / "d")
    refused(Errno.ISDIR, g.unlink, place / "d")
    refused(Errno.ISDIR, g.unlink, place / "d/")
    refused(Errno.ISDIR, g.unlink, place / "d/..")
    refused(Errno.NOENT, g.unlink, place / "no")
    g.write_file(place / "f", b"x")
    with g.opened(place / "f", RW) as fd:
        g.unlink(place / "f")
        refused(Errno.NOENT, g.stat, place / "f")
        assert g.read(fd) == b"x", "an open file outlives its name"
        g.write(fd, b"y")
        assert g.fstat(fd).nlink == 0


def test_rename_moves_and_replaces_as_posix_says(place: Place) -> None:
    g = place.guest
    g.mkdir(place / "source")
    g.rename(place / "source/", place / "target/")
    refused(Errno.NOENT, g.open, place / "source", directory=True)
    g.mkdir(place / "source")
    g.rename(place / "source", place / "target")
    g.mkdir(place / "source")
    g.write_file(place / "target/file", b"1")
    refused(Errno.NOTEMPTY, g.rename, place / "source", place / "target")
    refused(Errno.NOTDIR, g.rename, place / "source", place / "target/file")
    refused(Errno.ISDIR, g.rename, place / "target/file", place / "source")
    refused(Errno.INVAL, g.rename, place / "target", place / "target/x")
    refused(Errno.NOENT, g.rename, place / "no", place / "x")
    refused(Errno.NOENT, g.rename, place / "source", place / "no/x")
    refused(Errno.BUSY, g.rename, place / "target/..", place / "x")
    g.write_file(place / "file", b"2")
    g.rename(place / "file", place / "target/file")
    g.rename(place / "target/file", place / "target/file")
    assert g.read_file(place / "target/file") == b"2"
    g.rename(place / "target", place / "source")
    assert g.listdir(place / "source") == ["file"]
    assert g.listdir(str(place)) == ["source"]


def test_an_open_directory_stays_usable_when_it_is_renamed(place: Place) -> None:
    g = place.guest
    g.mkdir(place / "a")
    with g.opened(place / "a", directory=True) as at:
        g.rename(place / "a", place / "b")
        with g.opened("f", RW, at=at, create=True) as fd:
            g.write(fd, b"x")
    assert g.read_file(place / "b/f") == b"x"


def test_a_removed_directory_that_is_open_takes_no_new_entries(place: Place) -> None:
    g = place.guest
    g.mkdir(place / "d")
    with g.opened(place / "d", directory=True) as at:
        g.rmdir(place / "d")
        refused(Errno.NOENT, g.open, "f", RW, at=at, create=True)
        refused(Errno.NOENT, g.mkdir, "f", at=at)
        assert [name for name, _, _ in g.entries(at) if name not in (b".", b"..")] == []


# Links


def test_links_are_followed_in_the_middle_and_at_the_end_when_asked(place: Place) -> None:
    g = place.guest
    g.mkdir(place / "dir")
    g.write_file(place / "dir/file", b"x")
    g.symlink("dir/file", place / "link")
    g.symlink("dir", place / "dirlink")
    assert g.readlink(place / "link") == b"dir/file"
    assert g.readlink(place / "link", 4) == b"dir/"
    assert g.stat(place / "link", follow=False).filetype == FileType.SYMBOLIC_LINK
    assert g.stat(place / "link", follow=False).size == 8
    assert g.stat(place / "link").filetype == FileType.REGULAR_FILE
    assert g.stat(place / "dirlink/", follow=False).filetype == FileType.DIRECTORY
    assert g.read_file(place / "dirlink/file") == b"x"
    assert g.read_file(place / "dirlink/../link") == b"x"
    refused(Errno.LOOP, g.open, place / "link", follow=False)
    with pytest.raises(WasiFailure) as caught:
        g.open(place / "dirlink", directory=True, follow=False)
    assert caught.value.errno in (Errno.LOOP, Errno.NOTDIR)
    refused(Errno.NOTDIR, g.open, place / "link", directory=True)
    refused(Errno.INVAL, g.readlink, place / "dir/file")
    refused(Errno.INVAL, g.readlink, place / "dir")
    refused(Errno.NOENT, g.readlink, place / "no")
    g.unlink(place / "dirlink")
    assert g.listdir(place / "dir") == ["file"]


def test_dangling_links_and_loops(place: Place) -> None:
    g = place.guest
    g.symlink("target", place / "link")
    refused(Errno.LOOP, g.open, place / "link", follow=False)
    refused(Errno.NOENT, g.open, place / "link")
    refused(Errno.NOENT, g.stat, place / "link")
    refused(Errno.EXIST, g.open, place / "link", RW, create=True, exclusive=True)
    with g.opened(place / "link", RW, create=True) as fd:
        g.write(fd, b"through")
    assert g.read_file(place / "target") == b"through"
    g.symlink("loop", place / "loop")
    refused(Errno.LOOP, g.open, place / "loop")
    refused(Errno.LOOP, g.stat, place / "loop/x")
    g.symlink("b", place / "a")
    g.symlink("a", place / "b")
    refused(Errno.LOOP, g.stat, place / "a")


def test_a_link_is_made_where_nothing_is(place: Place) -> None:
    g = place.guest
    refused(Errno.NOENT, g.symlink, "source", place / "target/")
    g.mkdir(place / "target")
    refused(Errno.EXIST, g.symlink, "source", place / "target/")
    refused(Errno.EXIST, g.symlink, "source", place / "target")
    g.write_file(place / "file")
    refused(Errno.NOTDIR, g.symlink, "source", place / "file/")
    refused(Errno.EXIST, g.symlink, "source", place / "file")
    refused(Errno.NOENT, g.symlink, "", place / "x")


def test_links_that_lead_out_as_written_are_not_made(place: Place) -> None:
    g = place.guest
    g.mkdir(place / "d")
    for target in ("/", "/etc/passwd", "..", "../x", "d/../../x"):
        refused(Errno.PERM, g.symlink, target, place / "l")
    g.symlink("../d", place / "d/l")
    assert g.stat(place / "d/l").ino == g.stat(place / "d").ino
    refused(Errno.PERM, g.symlink, "../../x", place / "d/m")


def test_hard_links_share_one_file(place: Place) -> None:
    g = place.guest
    g.write_file(place / "file", b"x")
    g.mkdir(place / "sub")
    g.link(place / "file", place / "sub/link")
    one, two = g.stat(place / "file"), g.stat(place / "sub/link")
    assert one == two
    assert one.nlink == 2
    with g.opened(place / "sub/link", W) as fd:
        g.write(fd, b"y")
    assert g.read_file(place / "file") == b"y"
    refused(Errno.EXIST, g.link, place / "file", place / "sub/link")
    refused(Errno.EXIST, g.link, place / "file", place / "file")
    refused(Errno.EXIST, g.link, place / "file", place / "sub")
    with pytest.raises(WasiFailure) as caught:
        g.link(place / "sub", place / "dirlink")
    assert caught.value.errno in (Errno.PERM, Errno.ACCES)
    refused(Errno.NOENT, g.link, place / "no", place / "x")
    g.unlink(place / "file")
    assert g.stat(place / "sub/link").nlink == 1
    refused(Errno.XDEV, g.link, place / "sub/link", "x")


def test_a_hard_link_to_a_link_is_to_the_link_itself_unless_followed(place: Place) -> None:
    g = place.guest
    g.symlink("target", place / "dangling")
    g.link(place / "dangling", place / "second")
    assert g.readlink(place / "second") == b"target"
    refused(Errno.NOENT, g.link, place / "dangling", place / "x", follow=True)
    g.write_file(place / "target", b"t")
    refused(Errno.EXIST, g.link, place / "target", place / "dangling")
    g.link(place / "dangling", place / "third", follow=True)
    assert g.stat(place / "third", follow=False).filetype == FileType.REGULAR_FILE


# Times


def test_time_stamps_are_set_one_by_one(place: Place) -> None:
    g = place.guest
    g.write_file(place / "f", b"x")
    with g.opened(place / "f", RW) as fd:
        g.call("fd_filestat_set_times", fd, 111, 222_000, FstFlags.ATIM | FstFlags.MTIM)
        assert g.fstat(fd)[5:7] == (111, 222_000)
        g.call("fd_filestat_set_times", fd, 5, 333_000, FstFlags.MTIM)
        assert g.fstat(fd)[5:7] == (111, 333_000)
        g.call("fd_filestat_set_times", fd, 0, 0, FstFlags.ATIM_NOW)
        assert g.fstat(fd).atim > 1 << 60
        assert g.fstat(fd).mtim == 333_000
        g.call("fd_filestat_set_times", fd, 0, 0, 0)
        for flags in (3, 12, 15, 16):
            refused(Errno.INVAL, g.call, "fd_filestat_set_times", fd, 1, 2, flags)
            refused(Errno.INVAL, g.utime, place / "f", 1, 2, flags)
    g.utime(place / "f", 1000, 2000)
    assert g.stat(place / "f")[5:7] == (1000, 2000)
    g.mkdir(place / "d")
    g.utime(place / "d", 1000, 2000)
    assert g.stat(place / "d")[5:7] == (1000, 2000)
    with g.opened(place / "d", directory=True) as fd:
        g.call("fd_filestat_set_times", fd, 3000, 4000, 5)
        assert g.fstat(fd).mtim == 4000
    refused(Errno.NOENT, g.utime, place / "no", 1, 2)


def test_a_links_own_times_are_set_without_following(place: Place) -> None:
    g = place.guest
    g.write_file(place / "file")
    g.symlink("file", place / "link")
    before = g.stat(place / "file").mtim
    g.utime(place / "link", 0, 5000, FstFlags.MTIM, follow=False)
    assert g.stat(place / "link", follow=False).mtim == 5000
    assert g.stat(place / "file").mtim == before
    g.utime(place / "link", 0, 6000, FstFlags.MTIM)
    assert g.stat(place / "file").mtim == 6000


# Identity


def test_identity_is_device_and_number(place: Place) -> None:
    g = place.guest
    g.write_file(place / "a")
    g.write_file(place / "b")
    a, b, root = g.stat(place / "a"), g.stat(place / "b"), g.stat(".")
    assert a.dev == b.dev
    assert a.ino != b.ino
    assert 0 not in (a.ino, b.ino, root.ino)
    assert (g.stat(str(place)).dev, g.stat(str(place)).ino) != (root.dev, root.ino)
