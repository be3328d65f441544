"""All nine combinations of ``dir_perms`` and ``file_perms``, for every operation, mean what the name says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

import pytest

from isola_anyio.mounts import Access, MountConfig
from isola_anyio.wasi.abi import FdFlags
from isola_anyio.wasi.errno import Errno
from tests.wasi.client import RW, Guest, R, W, WasiFailure

Operation = Callable[[Guest], object]
Need = Literal["dir read", "dir write", "file read", "file write", "dir write and file write", "nothing"]


def _use(path: str, rights: int, **how: object) -> Operation:
    def run(g: Guest) -> None:
        with g.opened(path, rights, **how):
            pass

    return run


def _list_under(g: Guest) -> object:
    with g.opened("data/dir", directory=True) as fd:
        return g.entries(fd)


def _stamp_fd(g: Guest) -> None:
    with g.opened("data/file", 0) as fd:
        g.call("fd_filestat_set_times", fd, 1, 2, 5)


def _stamp_dir_fd(g: Guest) -> None:
    with g.opened("data/dir", directory=True) as fd:
        g.call("fd_filestat_set_times", fd, 1, 2, 5)


def _write_by_known_name(g: Guest) -> None:
    with g.opened("data/dir", directory=True) as at, g.opened("inner", W, at=at) as fd:
        g.write(fd, b"x")


OPERATIONS: list[tuple[str, Need, Operation]] = [
    ("list", "dir read", _list_under),
    ("stat an entry", "dir read", lambda g: g.stat("data/file")),
    ("stat a link itself", "dir read", lambda g: g.stat("data/link", follow=False)),
    ("read a link", "dir read", lambda g: g.readlink("data/link")),
    ("open a directory by name", "nothing", _use("data/dir", R, directory=True)),
    ("open a file for nothing", "nothing", _use("data/file", 0)),
    ("stat the mount", "nothing", lambda g: g.stat("data")),
    ("create a file", "dir write", _use("data/new", 0, create=True)),
    ("create a file to write", "dir write and file write", _use("data/new", W, create=True)),
    ("make a directory", "dir write", lambda g: g.mkdir("data/new")),
    ("remove a directory", "dir write", lambda g: g.rmdir("data/empty")),
    ("unlink", "dir write", lambda g: g.unlink("data/file")),
    ("rename", "dir write", lambda g: g.rename("data/file", "data/dir/file")),
    ("make a link", "dir write", lambda g: g.symlink("file", "data/new")),
    ("make a hard link", "dir write", lambda g: g.link("data/file", "data/new")),
    ("set a directory's times", "dir write", lambda g: g.utime("data/dir", 1, 2)),
    ("set an open directory's times", "dir write", _stamp_dir_fd),
    ("open to read", "file read", _use("data/file", R)),
    ("open to read through a link", "file read", _use("data/link", R)),
    ("open to write", "file write", _use("data/file", W)),
    ("write below by name", "file write", _write_by_known_name),
    ("open to append", "file write", _use("data/file", W, flags=FdFlags.APPEND)),
    ("cut on opening", "file write", _use("data/file", 0, truncate=True)),
    ("set a file's times", "file write", lambda g: g.utime("data/file", 1, 2)),
    ("set an open file's times", "file write", _stamp_fd),
]
ACCESSES: list[Access] = ["read", "write", "read-write"]


def _allowed(need: Need, dir_perms: Access, file_perms: Access) -> bool:
    have = {f"dir {word}" for word in dir_perms.split("-")} | {f"file {word}" for word in file_perms.split("-")}
    return need == "nothing" or all(part in have for part in need.split(" and "))


def _picture(root: Path) -> object:
    return sorted(
        (str(path.relative_to(root)), path.is_symlink() or path.stat().st_size, path.lstat().st_mtime_ns)
        for path in root.rglob("*")
    )


@pytest.fixture
def tree(shared: Path) -> Path:
    for name in ("dir", "empty"):
        (shared / name).mkdir()
    (shared / "dir/inner").write_text("inner")
    (shared / "file").write_text("content")
    (shared / "link").symlink_to("file")
    return shared


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["direct", "overlay"])
@pytest.mark.parametrize("file_perms", ACCESSES)
@pytest.mark.parametrize("dir_perms", ACCESSES)
@pytest.mark.parametrize(("name", "need", "operation"), OPERATIONS, ids=[name for name, _, _ in OPERATIONS])
def test_an_operation_is_done_or_refused_as_the_permissions_say(
    name: str,
    need: Need,
    operation: Operation,
    dir_perms: Access,
    file_perms: Access,
    mode: str,
    tree: Path,
    make_guest: Callable[..., Guest],
) -> None:
    config = MountConfig(tree, "/data", dir_perms, file_perms, mode=cast("Literal['direct', 'overlay']", mode))
    guest = make_guest(config)
    before = _picture(tree)
    if _allowed(need, dir_perms, file_perms):
        operation(guest)
        if mode == "overlay":
            assert _picture(tree) == before
        return
    with pytest.raises(WasiFailure) as caught:
        operation(guest)
    is_change = "write" in need
    read_only = dir_perms == file_perms == "read"
    assert caught.value.errno is (Errno.ROFS if is_change and read_only else Errno.ACCES)
    assert _picture(tree) == before


def test_what_is_there_or_missing_is_said_before_a_refusal(tree: Path, make_guest: Callable[..., Guest]) -> None:
    g = make_guest(MountConfig(tree, "/data"))
    for errno, call, *args in (
        (Errno.EXIST, g.mkdir, "data/dir"),
        (Errno.EXIST, g.symlink, "x", "data/link"),
        (Errno.EXIST, g.link, "data/file", "data/link"),
        (Errno.NOENT, g.unlink, "data/no"),
        (Errno.NOENT, g.rmdir, "data/no"),
        (Errno.NOENT, g.rename, "data/no", "data/x"),
        (Errno.NOENT, g.open, "data/no", W),
    ):
        with pytest.raises(WasiFailure) as caught:
            cast("Callable[..., object]", call)(*args)
        assert caught.value.errno is errno
    with pytest.raises(WasiFailure) as caught:
        g.open("data/no/new", W, create=True)
    assert caught.value.errno is Errno.NOENT
    with g.opened("data/file", R, create=True) as fd:
        assert g.read(fd) == b"content"


@pytest.mark.parametrize("file_perms", ACCESSES)
def test_a_mounted_file_obeys_its_file_permissions(
    file_perms: Access, tree: Path, make_guest: Callable[..., Guest]
) -> None:
    g = make_guest(MountConfig(tree / "file", "/etc/one", file_perms=file_perms))
    for rights, word in ((R, "read"), (W, "write")):
        if word in file_perms:
            with g.opened("etc/one", rights) as fd:
                assert (g.read(fd) == b"content") if rights == R else (g.write(fd, b"C") == 1)
        else:
            with pytest.raises(WasiFailure) as caught:
                g.open("etc/one", rights)
            assert caught.value.errno is (Errno.ROFS if word == "write" else Errno.ACCES)
    assert (tree / "file").read_text() == ("Content" if "write" in file_perms else "content")
    assert g.listdir("etc") == ["one"]
    assert g.stat("etc/one").ino == os.stat(tree / "file").st_ino
    for call, *args in ((g.unlink, "etc/one"), (g.rename, "etc/one", "etc/x"), (g.stat, "etc/one/x")):
        with pytest.raises(WasiFailure):
            cast("Callable[..., object]", call)(*args)


def test_a_mounted_file_is_appended_to_and_cut(tree: Path, make_guest: Callable[..., Guest]) -> None:
    g = make_guest(MountConfig(tree / "file", "/etc/one", file_perms="read-write"))
    with g.opened("etc/one", RW, flags=FdFlags.APPEND) as fd:
        g.write(fd, b"!")
        g.seek(fd, 0)
        g.write(fd, b"?")
        g.call("fd_fdstat_set_flags", fd, 0)
        g.seek(fd, 0)
        g.write(fd, b"C")
    assert (tree / "file").read_text() == "Content!?"
    g.utime("etc/one", 1000, 2000)
    assert g.stat("etc/one").mtim == 2000
    with g.opened("etc/one", W, truncate=True, create=True):
        pass
    assert (tree / "file").read_text() == ""
