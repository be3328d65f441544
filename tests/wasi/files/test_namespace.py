"""Mounts: where they show, how they nest, what stays shut at their points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from isola_anyio.mounts import MountConfig, bind
from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.files.filesystem import FileSystem
from tests.wasi.client import Guest, W, refused


def test_directories_on_the_way_to_mounts_are_listed(make_guest: Callable[..., Guest], shared: Path) -> None:
    (shared / "f").write_text("x")
    g = make_guest(MountConfig(shared, "/a/b/c"), MountConfig(shared / "f", "/a/g"))
    assert g.listdir(".") == ["a", "tmp"]
    assert g.listdir("a") == ["b", "g"]
    assert g.listdir("a/b") == ["c"]
    assert g.listdir("a/b/c") == ["f"]
    with g.opened("a", directory=True) as fd:
        kinds = {name: (ino, kind) for name, ino, kind in g.entries(fd)}
    assert kinds[b"b"] == (g.stat("a/b").ino, FileType.DIRECTORY)
    assert kinds[b"g"] == (g.stat("a/g").ino, FileType.REGULAR_FILE)
    for call in (g.mkdir, lambda p: g.open(p, W, create=True)):
        refused(Errno.ROFS, call, "a/new")
    for path in ("a", "a/b", "a/b/c", "tmp"):
        refused(Errno.BUSY, g.rmdir, path)
        refused(Errno.BUSY, g.rename, path, "tmp/x")
        refused(Errno.EXIST, g.mkdir, path)
        refused(Errno.ISDIR, g.open, path, W)
    refused(Errno.BUSY, g.unlink, "a/b/c")
    refused(Errno.BUSY, g.rename, "tmp", "a/b")


def test_a_rename_between_mounts_is_to_another_device(make_guest: Callable[..., Guest], shared: Path) -> None:
    g = make_guest(MountConfig(shared, "/data", "read-write", "read-write"), MountConfig.memory("/mem"))
    g.write_file("tmp/f")
    for to in ("data/f", "mem/f", "f"):
        refused(Errno.XDEV, g.rename, "tmp/f", to)
        refused(Errno.XDEV, g.link, "tmp/f", to)


@pytest.fixture
def nested(make_guest: Callable[..., Guest], shared: Path, resolver: str) -> Guest:
    """A writable mount with a read-only part of itself mounted inside it."""
    (shared / "repo/.git").mkdir(parents=True)
    (shared / "repo/.git/config").write_text("precious")
    return make_guest(
        MountConfig(shared, "/w", "read-write", "read-write"), MountConfig(shared / "repo/.git", "/w/repo/.git")
    )


@pytest.mark.parametrize(
    "path",
    [
        "w/repo/.git/config",
        "w/link/.git/config",
        "w/deep/config",
        "w/repo/x/../.git/config",
        "w/link/../repo/.git/config",
        "w/self/repo/.git/config",
        "w/self/self/link/.git/config",
        "w/../w/repo/.git/config",
    ],
)
def test_no_way_leads_around_a_mount_inside_a_mount(nested: Guest, shared: Path, path: str) -> None:
    nested.symlink("repo", "w/link")
    nested.symlink("repo/.git", "w/deep")
    nested.symlink(".", "w/self")
    nested.mkdir("w/repo/x")
    assert nested.read_file(path) == b"precious"
    for call in (
        lambda: nested.open(path, W),
        lambda: nested.open(path, W, truncate=True),
        lambda: nested.unlink(path),
    ):
        refused(Errno.ROFS, call)
    refused(Errno.XDEV, nested.link, path, "w/stolen")
    refused(Errno.XDEV, nested.rename, path, "w/stolen")
    assert (shared / "repo/.git/config").read_text() == "precious"


def test_what_a_mount_point_is_in_cannot_be_moved_away(nested: Guest, shared: Path) -> None:
    nested.symlink(".", "w/self")
    for path in ("w/repo", "w/self/repo", "w/repo/.git", "w/self/repo/.git"):
        refused(Errno.BUSY, nested.rename, path, "w/moved")
        refused(Errno.BUSY, nested.rmdir, path)
    nested.mkdir("w/other")
    refused(Errno.BUSY, nested.rename, "w/other", "w/repo")
    assert nested.listdir("w/repo") == [".git"]
    with nested.opened("w/self/repo", directory=True) as at:
        refused(Errno.ROFS, nested.open, ".git/config", W, at=at)
        assert nested.listdir(".git", at=at) == ["config"]
        refused(Errno.BUSY, nested.rmdir, ".git", at=at)
    with nested.opened("w", directory=True) as at:
        refused(Errno.PERM, nested.open, "../tmp", at=at)
        refused(Errno.PERM, nested.open, "repo/.git/../../..", at=at)
        assert nested.listdir("repo/.git/..", at=at) == [".git"]


def test_memory_may_be_mounted_inside_memory(make_guest: Callable[..., Guest]) -> None:
    inner = MountConfig.memory("/tmp/a/b", files={"f": b"inner"})
    g = make_guest(inner)
    assert g.listdir("tmp/a") == ["b"]
    g.symlink("a/b", "tmp/l")
    assert g.read_file("tmp/l/f") == b"inner"
    refused(Errno.ROFS, g.mkdir, "tmp/a/c")
    g.write_file("tmp/l/g", b"x")
    assert inner.list() == ["/f", "/g"]


def test_a_mount_covers_what_was_at_its_point(make_guest: Callable[..., Guest], shared: Path) -> None:
    (shared / "f").write_text("host")
    base = FileSystem.base(mounts=[bind(MountConfig.memory("/data", files={"m": b""}))])
    g = make_guest(files=base.fork([bind(MountConfig(shared, "/data"))]))
    assert g.listdir("data") == ["f"]
    other = make_guest(files=base.fork())
    assert other.listdir("data") == ["m"]
    base.close()
