"""Mounts: where they show, how they nest, what stays shut at their points."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from isola_anyio.mounts import MountConfig, bind
from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.files.filesystem import FileSystem
from tests.wasi.client import RW, Guest, W
from tests.wasi.test_files import refused

LIB = "usr/local/lib/python315.zip"
DATA = f"{LIB}/matplotlib/mpl-data"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    inner = BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("matplotlibrc", "backend: agg\n")
        archive.writestr("fonts/ttf/a.ttf", b"font" * 100)
        archive.writestr("../escape", b"no")
        archive.writestr("empty/", b"")
    path = tmp_path / "library.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("os.pyc", b"\0" * 5000)
        archive.writestr("matplotlib/mpl-data.zip", inner.getvalue())
    return path


@pytest.fixture
def python(library: Path, make_guest: Callable[..., Guest]) -> Guest:
    return make_guest(files=FileSystem.base(stdlib=library))


def test_the_library_archive_is_read_through_any_number_of_descriptors(python: Guest, library: Path) -> None:
    whole = library.read_bytes()
    assert python.read_file(LIB) == whole
    one, two = python.open(LIB), python.open(LIB)
    assert python.read(one, 10) == python.read(two, 10) == whole[:10]
    assert python.seek(one, -4, 2) == len(whole) - 4
    assert python.read(one, 100) == whole[-4:]
    assert python.tell(two) == 10
    assert python.pread(two, 5, 3) == whole[3:8]
    st = python.stat(LIB)
    assert (st.filetype, st.size) == (FileType.REGULAR_FILE, len(whole))
    assert python.fstat(one) == st
    refused(Errno.ROFS, python.open, LIB, RW)
    refused(Errno.ROFS, python.open, LIB, W, truncate=True)
    refused(Errno.EXIST, python.open, LIB, 0, create=True, exclusive=True)
    refused(Errno.BUSY, python.unlink, LIB)
    refused(Errno.BUSY, python.rename, LIB, "tmp/x")
    refused(Errno.NOTDIR, python.open, LIB, directory=True)
    refused(Errno.NOTDIR, python.stat, LIB + "/")
    refused(Errno.INVAL, python.readlink, LIB)
    refused(Errno.ROFS, python.utime, LIB, 1, 2)


def test_archive_data_shows_below_the_archive_file(python: Guest) -> None:
    assert python.listdir(DATA) == ["empty", "fonts", "matplotlibrc"]
    assert python.read_file(f"{DATA}/matplotlibrc") == b"backend: agg\n"
    with python.opened(f"{DATA}/fonts/ttf/a.ttf") as fd:
        assert python.read(fd, 6, 2) == b"fontfont"
        assert python.pread(fd, 10, 398) == b"nt"
        assert python.seek(fd, 0, 2) == 400
    assert python.listdir(f"{DATA}/empty") == []
    assert python.read_file(f"{DATA}/fonts/../matplotlibrc") == b"backend: agg\n"
    assert python.stat(f"{DATA}/../../../python315.zip").filetype == FileType.REGULAR_FILE
    for call in (python.unlink, python.rmdir):
        refused(Errno.ROFS, call, f"{DATA}/matplotlibrc")
    refused(Errno.ROFS, python.mkdir, f"{DATA}/x")
    refused(Errno.ROFS, python.open, f"{DATA}/matplotlibrc", RW)
    refused(Errno.BUSY, python.rmdir, DATA)


def test_between_the_archive_and_its_data_there_is_nothing(python: Guest) -> None:
    # An importer takes a directory there for a package on disk and stops looking into the archive.
    refused(Errno.NOTDIR, python.stat, f"{LIB}/matplotlib")
    refused(Errno.NOTDIR, python.open, f"{LIB}/matplotlib/__init__.py")
    refused(Errno.NOTDIR, python.open, f"{LIB}/os.py")


def test_an_archive_without_the_data_shows_an_empty_directory(tmp_path: Path, make_guest: Callable[..., Guest]) -> None:
    path = tmp_path / "plain.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("os.pyc", b"")
    g = make_guest(files=FileSystem.base(stdlib=path))
    assert g.listdir(DATA) == []


def test_a_missing_or_unfit_archive_is_the_hosts_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileSystem.base(stdlib=tmp_path / "no.zip")
    with pytest.raises(OSError, match="regular file"):
        FileSystem.base(stdlib=tmp_path)


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


def test_a_memory_mount_is_one_store_for_host_and_sandboxes(make_guest: Callable[..., Guest]) -> None:
    store = MountConfig.memory("/shared", files={"in/a.txt": b"seed", "/b": b""})
    one, two = make_guest(store), make_guest(store)
    assert one.read_file("shared/in/a.txt") == b"seed"
    one.write_file("shared/out", b"from one")
    assert two.read_file("shared/out") == b"from one"
    assert store.read("out") == store.read("/out") == b"from one"
    assert store.list() == ["/b", "/in/a.txt", "/out"]
    assert store.list("/in") == ["/in/a.txt"]
    store.write("in/deeper/c", b"host")
    assert two.read_file("shared/in/deeper/c") == b"host"
    store.remove("in/deeper/c")
    store.remove("in/deeper")
    with pytest.raises(FileNotFoundError):
        store.read("in/deeper/c")
    with pytest.raises(IsADirectoryError):
        store.read("in")
    with pytest.raises(OSError, match="empty"):
        store.remove("in")
    with pytest.raises(FileNotFoundError):
        store.list("nowhere")
    with pytest.raises(ValueError, match="guest path"):
        store.read("../x")


def test_a_memory_mount_is_safe_from_many_threads(make_guest: Callable[..., Guest]) -> None:
    store = MountConfig.memory("/shared")
    guests = [make_guest(store) for _ in range(3)]
    failures: list[BaseException] = []

    def work(g: Guest, me: int) -> None:
        try:
            for i in range(60):
                g.write_file(f"shared/{me}.{i}", b"x" * 100)
                g.rename(f"shared/{me}.{i}", "shared/common")
                store.list()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(g, me)) for me, g in enumerate(guests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.list() == ["/common"]
