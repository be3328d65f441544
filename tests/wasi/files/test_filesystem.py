"""A fork starts as its template is, costs nothing, and goes its own way; so does a template read back from disk."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from isola_anyio.mounts import MountConfig, bind
from isola_anyio.wasi.abi import FdFlags, FileType
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.files.dump import dump_files, load_files
from isola_anyio.wasi.files.filesystem import FileSystem
from isola_anyio.wasi.volumes.budgets import FileLimits
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume
from tests.wasi.client import ROOT, RW, Guest, R, W, refused
from tests.wasi.files.conftest import Fork


def test_a_fork_has_what_the_template_had(template: Guest, fork: Fork) -> None:
    child = fork(template)
    assert child.listdir("tmp") == ["d", "f", "hard", "soft"]
    assert child.read_file("tmp/f") == b"template"
    assert child.readlink("tmp/soft") == b"d/g"
    assert child.stat("tmp/hard")[:3] == child.stat("tmp/d/g")[:3] == template.stat("tmp/d/g")[:3]
    assert child.stat("tmp/f") == template.stat("tmp/f")
    child.write_file("tmp/hard", b"changed")
    assert child.read_file("tmp/soft") == b"changed", "two names are still one file"
    assert child.stat("tmp/d/g").nlink == 2


def test_a_fork_and_its_template_do_not_see_each_others_changes(template: Guest, fork: Fork) -> None:
    one, two = fork(template), fork(template)
    with one.opened("tmp/f", RW) as fd:
        one.pwrite(fd, b"ONE", 0)
    one.unlink("tmp/d/g")
    one.rmdir("tmp/d/e")
    one.write_file("tmp/new", b"")
    template.write_file("tmp/f", b"later")
    template.rename("tmp/d", "tmp/moved")
    assert one.read_file("tmp/f") == b"ONEplate"
    assert one.listdir("tmp/d") == []
    assert two.read_file("tmp/f") == b"template"
    assert two.listdir("tmp/d") == ["e", "g"]
    assert two.listdir("tmp") == ["d", "f", "hard", "soft"]
    assert one.stat("tmp/hard").nlink == 1
    assert two.stat("tmp/hard").nlink == 2
    assert template.read_file("tmp/f") == b"later"


def test_a_forks_new_files_get_numbers_of_their_own(template: Guest, fork: Fork) -> None:
    child = fork(template)
    old = {child.stat(f"tmp/{name}").ino for name in child.listdir("tmp")}
    child.write_file("tmp/new")
    assert child.stat("tmp/new").ino not in old


def test_open_descriptors_go_along(template: Guest, fork: Fork) -> None:
    memory = template.open("tmp/f", RW, flags=FdFlags.APPEND)
    template.read(memory, 3)
    library = template.open("usr/local/lib/python315.zip")
    template.read(library, 7)
    host = template.open("data/host.txt")
    template.read(host, 1)
    directory = template.open("tmp/d", directory=True)
    host_directory = template.open("data", directory=True)
    child = fork(template)
    assert child.tell(memory) == 3
    assert child.read(memory) == b"plate"
    child.write(memory, b"!")
    assert child.read_file("tmp/f") == b"template!", "the descriptor and the name lead to one file"
    assert child.fdstat(memory) == template.fdstat(memory)
    assert child.read(library, 3) == b"\7\10\11"
    assert template.read(library, 1) == b"\7", "each has its own offset"
    assert child.read(host) == b"ost"
    assert child.listdir(".", at=directory) == ["e", "g"]
    assert child.read_file("data/host.txt") == b"host"
    assert child.listdir(".", at=host_directory) == ["host.txt"]
    child.call("fd_prestat_get", ROOT, 64)
    assert child.open("tmp/f") == host_directory + 1
    template.close()
    assert child.pread(library, 1, 255) == b"\xff"


def test_descriptors_that_write_to_the_host_stay_behind(template: Guest, fork: Fork) -> None:
    writing = template.open("data/host.txt", RW)
    reading = template.open("data/host.txt", R)
    child = fork(template)
    refused(Errno.BADF, child.fstat, writing)
    child.fstat(reading)
    assert child.open("tmp/f") == writing, "its number is free"


def test_files_without_a_name_go_along_while_they_are_open(template: Guest, fork: Fork) -> None:
    fd = template.open("tmp/f", RW)
    template.unlink("tmp/f")
    gone = template.open("tmp/d/e", directory=True)
    template.rmdir("tmp/d/e")
    child = fork(template)
    assert child.read(fd) == b"template"
    assert child.fstat(fd).nlink == 0
    child.write(fd, b"!")
    assert template.fstat(fd).size == 8
    if child.files.table.open.get(gone):
        refused(Errno.NOENT, child.mkdir, "x", at=gone)


def test_overlays_are_forked_too(template: Guest, fork: Fork, shared: Path) -> None:
    template.write_file("over/host.txt", b"HOST")
    template.write_file("over/new", b"n")
    reading = template.open("over/host.txt")
    child = fork(template)
    assert child.read_file("over/host.txt") == b"HOST"
    assert child.read(reading) == b"HOST"
    child.unlink("over/host.txt")
    child.write_file("over/more", b"m")
    assert template.listdir("over") == ["host.txt", "new"]
    assert child.listdir("over") == ["more", "new"]
    assert sorted(os.listdir(shared)) == ["host.txt"]
    kinds = [(change.path, change.kind) for change in child.files.mount_view("/over").changes()]
    assert kinds == [("/host.txt", "deleted"), ("/more", "added"), ("/new", "added")]


def test_what_is_shared_is_charged_to_nobody_until_it_is_changed(template: Guest, fork: Fork) -> None:
    template.write_file("tmp/big", bytes(1 << 20))
    assert template.files.usage.memory_bytes > 1 << 20
    child = fork(template)
    assert child.files.usage.memory_bytes == 0
    assert len(child.read_file("tmp/big")) == 1 << 20
    assert child.files.usage.memory_bytes == 0
    with child.opened("tmp/big", W) as fd:
        child.pwrite(fd, b"x", 500_000)
    assert 0 < child.files.usage.memory_bytes < 100_000, "one chunk was copied"
    child.unlink("tmp/big")
    assert child.files.usage.memory_bytes == 0


def test_forking_costs_the_same_however_much_the_template_holds(
    template: Guest, make_guest: Callable[..., Guest]
) -> None:
    for i in range(300):
        template.write_file(f"tmp/f{i}", b"x")
    first = template.files.fork()
    frozen = first.namespace.table.by_point[b"tmp",].volume.freeze()  # type: ignore[attr-defined]
    second = template.files.fork()
    assert second.namespace.table.by_point[b"tmp",].volume.freeze() is frozen  # type: ignore[attr-defined]
    child = make_guest(files=second)
    child.read_file("tmp/f7")
    assert second.namespace.table.by_point[b"tmp",].volume.freeze() is frozen, "reading changes nothing"  # type: ignore[attr-defined]
    child.write_file("tmp/f7", b"y")
    assert make_guest(files=second.fork()).read_file("tmp/f7") == b"y"
    first.close()


def test_forks_of_forks(template: Guest, fork: Fork, make_guest: Callable[..., Guest]) -> None:
    child = fork(template)
    child.write_file("tmp/d/new", b"child")
    grandchild = make_guest(files=child.files.fork())
    assert grandchild.listdir("tmp/d") == ["e", "g", "new"]
    grandchild.unlink("tmp/d/new")
    assert child.read_file("tmp/d/new") == b"child"
    assert not template.exists("tmp/d/new")


def test_a_fork_takes_its_own_mounts_and_closes_only_those(
    template: Guest, make_guest: Callable[..., Guest], shared: Path
) -> None:
    (shared / "host.txt").write_text("host")
    fds = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    child = template.files.fork([bind(MountConfig(shared, "/mine"))], FileLimits(max_open_files=1))
    g = Guest(child, limits=FileLimits())
    assert g.listdir("mine") == ["host.txt"]
    assert not template.exists("mine")
    child.close()
    child.close()
    assert template.listdir("data") == ["host.txt"]
    if fds:
        assert len(os.listdir("/proc/self/fd")) == fds


@pytest.mark.parametrize("kind", ["direct", "overlay", "memory"])
def test_a_directory_kept_open_where_the_fork_has_a_mount_of_its_own_is_not_open_in_it(
    make_guest: Callable[..., Guest], shared: Path, kind: str
) -> None:
    (shared / "old").mkdir()
    (shared / "sub").mkdir()
    (shared / "sub/old").write_text("the template's")
    mount = (
        MountConfig.memory("/data", files={"sub/old": b"the template's"})
        if kind == "memory"
        else MountConfig(shared, "/data", mode="direct" if kind == "direct" else "overlay")
    )
    template = make_guest(mount, MountConfig(shared / "old", "/other"))
    root, below, other = (template.open(path, directory=True) for path in ("data", "data/sub", "other"))
    file = template.open("data/sub/old")
    mine = shared.parent / "mine"
    mine.mkdir()
    child = template.files.fork([bind(MountConfig(mine, "/data", "read-write", "read-write"))])
    g = make_guest(files=child)
    for fd in (root, below):
        refused(Errno.BADF, g.mkdir, "x", at=fd)
        refused(Errno.BADF, g.listdir, ".", at=fd)
    assert g.listdir(".", at=other) == []
    assert g.read(file) == b"the template's"
    g.mkdir("data/x")
    assert os.listdir(mine) == ["x"]
    assert sorted(os.listdir(shared)) == ["old", "sub"]
    assert os.listdir(shared / "sub") == ["old"]
    assert template.listdir("data", at=3) == (["sub"] if kind == "memory" else ["old", "sub"])


def test_a_fork_outlives_its_template(
    template: Guest, make_guest: Callable[..., Guest], shared: Path, library_file: Path
) -> None:
    (shared / "host.txt").write_text("host")
    fds = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    child = make_guest(files=template.files.fork())
    grandchild = make_guest(files=child.files.fork())
    template.close()
    child.close()
    if fds:
        assert len(os.listdir("/proc/self/fd")) == fds, "what the template opened is still in use"
    for path in ("data/host.txt", "over/host.txt"):
        assert grandchild.read_file(path) == b"host"
    assert grandchild.read_file("usr/local/lib/python315.zip") == library_file.read_bytes()
    grandchild.close()
    if fds:
        assert len(os.listdir("/proc/self/fd")) < fds
    for closed in (template, child, grandchild):
        with pytest.raises(ValueError, match="closed"):
            closed.files.fork([bind(MountConfig(shared, "/mine"))])
    if fds:
        assert len(os.listdir("/proc/self/fd")) < fds, "mounts given in vain are closed"


def test_what_a_sandbox_held_is_free_when_it_is_closed(make_guest: Callable[..., Guest]) -> None:
    base = make_guest()
    base.mkdir("tmp/d")
    base.write_file("tmp/d/f", b"x")
    for look in (False, True):
        g = make_guest(files=base.files.fork())
        g.write_file("tmp/d/f", b"y" * 1000)
        g.mkdir("tmp/d/e")
        view = g.files.mount_view("/tmp") if look else None
        volume = g.files.namespace.table.by_point[b"tmp",].volume
        assert isinstance(volume, MemoryVolume)
        directory = weakref.ref(volume.dir_at((b"d",)))
        del volume
        gc.disable()
        try:
            g.close()
            assert (directory() is not None) == look, "without waiting for a garbage collection"
        finally:
            gc.enable()
        if view is not None:
            assert view.read("d/f") == b"y" * 1000
    assert base.read_file("tmp/d/f") == b"x"


@pytest.mark.slow
def test_a_deep_tree_is_frozen_without_recursion(make_guest: Callable[..., Guest]) -> None:
    g = make_guest(limits=FileLimits(max_tree_depth=10_000))

    def dig() -> int:
        at = g.open("tmp", directory=True)
        for _ in range(2000):
            g.mkdir("d", at=at)
            below = g.open("d", directory=True, at=at)
            g.close_fd(at)
            at = below
        return at

    moved = dig()
    g.rename("tmp/d", "tmp/moved")
    at = dig()
    g.rename("tmp/moved", "below", to=at)
    g.close_fd(at)
    at = moved
    g.write_file("tmp/f")
    child = make_guest(files=g.files.fork())
    assert child.stat(".", at=at).filetype == FileType.DIRECTORY
    other = FileSystem.base()
    load_files(other, dump_files(g.files))
    other.close()
