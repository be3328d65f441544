"""Every budget holds, exactly, and what is given back can be used again."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from isola_anyio.mounts import MountConfig
from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.volumes.budgets import NEW_ENTRY_BYTES, FileLimits
from isola_anyio.wasi.volumes.host import io as hostio
from isola_anyio.wasi.volumes.memory import overlay, volume
from isola_anyio.wasi.volumes.memory import view as hostside
from isola_anyio.wasi.volumes.memory.content import CHUNK_BYTES, CHUNK_COST_BYTES, CHUNK_LEAST_BYTES
from isola_anyio.wasi.volumes.memory.nodes import Dir, levels_of
from isola_anyio.wasi.volumes.memory.tree import NODE_COST_BYTES
from tests.wasi.client import BUFFER_BYTES, OUT, PATH2, RW, Guest, W, WasiFailure, refused

Make = Callable[..., Guest]


def test_open_files_are_counted(make_guest: Make) -> None:
    g = make_guest(limits=FileLimits(max_open_files=3))
    fds = [g.open("tmp", directory=True) for _ in range(3)]
    refused(Errno.MFILE, g.open, "tmp", directory=True)
    refused(Errno.MFILE, g.open, "tmp/new", W, create=True)
    assert not g.exists("tmp/new")
    g.close_fd(fds[0])
    assert g.open("tmp", directory=True) == fds[0]


def test_memory_is_charged_and_given_back(make_guest: Make) -> None:
    g = make_guest()
    usage = g.files.usage
    g.write_file("tmp/file", b"x" * 1000)
    assert usage.memory_bytes == NODE_COST_BYTES + 4 + CHUNK_COST_BYTES + 1000
    g.write_file("tmp/file", b"y")
    assert usage.memory_bytes == NODE_COST_BYTES + 4 + CHUNK_COST_BYTES + 1
    with g.opened("tmp/file", W):
        g.unlink("tmp/file")
        assert usage.memory_bytes == CHUNK_COST_BYTES + 1, "an open file still holds its bytes"
    assert usage.memory_bytes == 0
    g.symlink("target", "tmp/l")
    assert usage.memory_bytes == NODE_COST_BYTES + 1 + 6
    g.rename("tmp/l", "tmp/m")
    g.unlink("tmp/m")
    g.mkdir("tmp/d")
    g.rmdir("tmp/d")
    assert usage.memory_bytes == 0


def test_memory_runs_out_with_enospc_and_what_fitted_stays(make_guest: Make) -> None:
    g = make_guest(limits=FileLimits(max_memory_bytes=300_000))
    with g.opened("tmp/f", RW, create=True) as fd:
        written = 0
        with pytest.raises(Exception, match="NOSPC"):
            while True:
                written += g.write(fd, b"z" * 50_000)
        assert 200_000 < written < 300_000
        assert g.fstat(fd).size == written
        assert g.files.usage.memory_bytes <= 300_000
        g.call("fd_filestat_set_size", fd, 0)
        g.seek(fd, 0)
        g.write(fd, b"again")
    assert g.read_file("tmp/f") == b"again"


def test_the_hosts_own_budget_is_asked(make_guest: Make) -> None:
    charged: list[int] = []

    def charge(delta: int) -> bool:
        charged.append(delta)
        if sum(charged) <= 10_000:
            return True
        charged.pop()
        return False

    g = make_guest(limits=FileLimits(charge=charge))
    g.write_file("tmp/f", b"x" * 5000)
    with g.opened("tmp/f", W) as fd:
        g.seek(fd, 0, 2)
        refused(Errno.NOSPC, g.write, fd, b"x" * 9000)
    assert sum(charged) == g.files.usage.memory_bytes
    g.unlink("tmp/f")
    assert sum(charged) == 0


def test_a_sparse_file_costs_what_it_holds(make_guest: Make) -> None:
    g = make_guest(limits=FileLimits(max_memory_bytes=400_000))
    with g.opened("tmp/sparse", RW, create=True) as fd:
        g.call("fd_filestat_set_size", fd, 1 << 40)
        g.call("fd_allocate", fd, 1 << 41, 1 << 41)
        assert g.fstat(fd).size == 1 << 42
        assert g.files.usage.memory_bytes < 1000
        g.pwrite(fd, b"tail", (1 << 42) - 4)
        assert g.pread(fd, 100, (1 << 42) - 6) == b"\0\0tail"
        assert g.pread(fd, 4, 1 << 41) == bytes(4)
        assert g.files.usage.memory_bytes < CHUNK_BYTES + 2000
        for i in range(4):
            g.pwrite(fd, b"x", i << 30)
        with pytest.raises(Exception, match="NOSPC"):
            for i in range(10_000):
                g.pwrite(fd, b"x", (i << 30) + (1 << 35))
        g.call("fd_filestat_set_size", fd, 1 << 30)
        assert g.pread(fd, 1, 0) == b"x"
        assert g.files.usage.memory_bytes < 2000


def test_one_byte_chunks_are_charged_for_what_they_cost(make_guest: Make) -> None:
    g = make_guest(limits=FileLimits(max_memory_bytes=100_000))
    with g.opened("tmp/f", RW, create=True) as fd:
        n = 0
        with pytest.raises(Exception, match="NOSPC"):
            while True:
                g.pwrite(fd, b"x", n * CHUNK_BYTES)
                n += 1
    assert n < 100_000 / CHUNK_LEAST_BYTES


def test_chunks_of_a_sparse_file_are_given_back_as_they_were_charged(make_guest: Make) -> None:
    g = make_guest()
    with g.opened("tmp/f", RW, create=True) as fd:
        empty = g.files.usage.memory_bytes
        for i in range(40):
            g.pwrite(fd, b"x", i * CHUNK_BYTES)
            g.pwrite(fd, b"y" * 5000, i * CHUNK_BYTES + 1)
        held = g.files.usage.memory_bytes
        g.call("fd_filestat_set_size", fd, 20 * CHUNK_BYTES + 100)
        assert empty < g.files.usage.memory_bytes < held
        g.call("fd_filestat_set_size", fd, 1 << 50)
        g.call("fd_filestat_set_size", fd, 10 * CHUNK_BYTES)
        assert g.pread(fd, 2, 9 * CHUNK_BYTES) == b"xy"
        g.call("fd_filestat_set_size", fd, 0)
        assert g.files.usage.memory_bytes == empty
        assert not g.files.usage.dropped


@pytest.mark.parametrize("mode", ["tmp", "disk"])
def test_a_path_leads_through_so_many_components_only(make_guest: Make, shared: Path, mode: str) -> None:
    g = make_guest(MountConfig(shared, "/disk", "read-write", "read-write"), MountConfig.memory("/disk/inner"))
    g.mkdir(f"{mode}/d")
    g.write_file(f"{mode}/d/f", b"found")
    links = 10
    for i in range(links):
        down = "d/" if i == 0 else f"l{i - 1}/"
        g.symlink(f"{'./' * 100}{down}", f"{mode}/l{i}")
    assert g.read_file(f"{mode}/l{links - 1}/f") == b"found"
    deep = "/".join(["e"] * 200)
    for depth in range(200):
        g.mkdir(f"{mode}/" + deep[: 2 * depth + 1])
    g.symlink("../" * 200 + deep, f"{mode}/{deep}/again0")
    for i in range(1, 30):
        g.symlink("../" * 200 + deep + f"/again{i - 1}", f"{mode}/{deep}/again{i}")
    assert g.stat(f"{mode}/{deep}/again3").filetype == FileType.DIRECTORY
    refused(Errno.LOOP, g.stat, f"{mode}/{deep}/again29")


def test_entries_are_counted(make_guest: Make) -> None:
    g = make_guest(limits=FileLimits(max_entries=3))
    g.mkdir("tmp/d")
    g.write_file("tmp/f")
    g.symlink("f", "tmp/l")
    for call in (
        lambda: g.mkdir("tmp/x"),
        lambda: g.open("tmp/x", W, create=True),
        lambda: g.symlink("f", "tmp/x"),
        lambda: g.link("tmp/f", "tmp/x"),
    ):
        refused(Errno.NOSPC, call)
    g.rename("tmp/f", "tmp/l")
    g.link("tmp/l", "tmp/x")
    refused(Errno.NOSPC, g.mkdir, "tmp/y")


def test_a_memory_mount_has_its_own_budget(make_guest: Make) -> None:
    store = MountConfig.memory("/m", max_bytes=10_000)
    g = make_guest(store)
    refused(Errno.NOSPC, g.write_file, "m/f", bytes(10_000))
    with pytest.raises(OSError, match="space"):
        store.write("f", bytes(20_000))
    store.remove("f")
    g.write_file("m/f", bytes(9000))
    assert g.files.usage.memory_bytes == 0


def test_writing_to_host_files_is_bounded(make_guest: Make, shared: Path) -> None:
    limits = FileLimits(max_written_bytes=NEW_ENTRY_BYTES + 1000)
    g = make_guest(MountConfig(shared, "/data", "read-write", "read-write"), limits=limits)
    with g.opened("data/f", RW, create=True) as fd:
        g.write(fd, b"x" * 600)
        refused(Errno.DQUOT, g.write, fd, b"x" * 401)
        refused(Errno.DQUOT, g.pwrite, fd, b"x" * 401, 0)
        g.pwrite(fd, b"y" * 300, 0)
        refused(Errno.DQUOT, g.call, "fd_filestat_set_size", fd, 1 << 40)
        refused(Errno.DQUOT, g.call, "fd_allocate", fd, 0, 1 << 40)
        g.call("fd_filestat_set_size", fd, 0)
        g.call("fd_filestat_set_size", fd, 100)
        refused(Errno.DQUOT, g.write, fd, b"x")
    with g.opened("data/f", W, flags=1) as fd:
        refused(Errno.DQUOT, g.write, fd, b"x")
    assert (shared / "f").stat().st_size == 100
    assert g.files.usage.written_bytes == NEW_ENTRY_BYTES + 1000


def test_what_is_made_on_the_host_counts_as_written(make_guest: Make, shared: Path, resolver: str) -> None:
    limits = FileLimits(max_written_bytes=4 * NEW_ENTRY_BYTES)
    g = make_guest(MountConfig(shared, "/data", "read-write", "read-write"), MountConfig.memory("/m"), limits=limits)
    g.mkdir("m/free")
    g.mkdir("data/d")
    refused(Errno.EXIST, g.mkdir, "data/d")
    refused(Errno.NOENT, g.mkdir, "data/none/x")
    g.write_file("data/f")
    g.write_file("data/f")
    refused(Errno.EXIST, g.open, "data/f", W, create=True, exclusive=True)
    g.symlink("f", "data/l")
    refused(Errno.EXIST, g.symlink, "f", "data/l")
    refused(Errno.PERM, g.symlink, "..", "data/x")
    g.link("data/f", "data/hard")
    refused(Errno.EXIST, g.link, "data/f", "data/hard")
    assert g.files.usage.written_bytes == 4 * NEW_ENTRY_BYTES
    for refuse in (
        lambda: g.mkdir("data/x"),
        lambda: g.open("data/x", W, create=True),
        lambda: g.open("data/x", W, create=True, exclusive=True),
        lambda: g.symlink("f", "data/x"),
        lambda: g.link("data/f", "data/x"),
    ):
        refused(Errno.DQUOT, refuse)
    assert sorted(os.listdir(shared)) == ["d", "f", "hard", "l"]
    g.mkdir("m/still free")


@pytest.mark.parametrize("mode", ["direct", "overlay"])
def test_few_open_files_are_descriptors_of_the_hosts(
    make_guest: Make, shared: Path, monkeypatch: pytest.MonkeyPatch, mode: Literal["direct", "overlay"]
) -> None:
    (shared / "f").write_text("")
    limits = FileLimits(max_host_files=3)
    mounts = [MountConfig(shared, "/data", "read-write", "read-write", mode=mode), MountConfig(shared / "f", "/one")]
    g = make_guest(*mounts, limits=limits)
    fds = [g.open("data/f") for _ in range(3)]
    refused(Errno.MFILE, g.open, "data/f")
    g.open("one")
    g.open("tmp", directory=True)
    g.close_fd(fds.pop())
    monkeypatch.setattr(hostio, "_max_for_guests", lambda: 4)
    g.open("data/f")
    other = make_guest(*mounts, limits=limits)
    other.open("data/f")
    refused(Errno.NFILE, other.open, "data/f")
    g.close_fd(fds.pop())
    other.open("data/f")
    for guest in (g, other):
        guest.close()
        assert guest.files.usage.host_fds == 0
    make_guest(*mounts).open("data/f")


def test_listing_a_host_directory_is_bounded(make_guest: Make, shared: Path) -> None:
    for i in range(5):
        (shared / str(i)).write_text("")
    g = make_guest(MountConfig(shared, "/data"), limits=FileLimits(max_listing=4))
    with g.opened("data", directory=True) as fd:
        refused(Errno.OVERFLOW, g.entries, fd)


def test_what_is_kept_of_a_listing_is_charged_until_the_directory_is_closed(make_guest: Make) -> None:
    g = make_guest(limits=FileLimits(max_memory_bytes=100_000))
    for i in range(50):
        g.mkdir(f"tmp/{i}")
    held = g.files.usage.memory_bytes
    with g.opened("tmp", directory=True) as fd:
        assert len(g.entries(fd)) == len(g.entries(fd)) == 52
        cost = g.files.usage.memory_bytes - held
        assert 52 * 70 < cost < 52 * 80
    assert g.files.usage.memory_bytes == held
    fds = []
    with pytest.raises(Exception, match="NOSPC"):
        while True:
            fds.append(g.open("tmp", directory=True))
            g.entries(fds[-1])
    assert 10 < len(fds) < 25
    for fd in fds:
        g.close_fd(fd)
    assert g.files.usage.memory_bytes == held


def test_paths_names_and_links_are_bounded(make_guest: Make) -> None:
    g = make_guest(limits=FileLimits(max_path_bytes=100, max_name_bytes=10, max_symlinks=3, max_depth=7))
    refused(Errno.NAMETOOLONG, g.stat, "tmp/" + "x" * 11)
    refused(Errno.NAMETOOLONG, g.stat, "tmp/" + "x/" * 50)
    refused(Errno.NAMETOOLONG, g.symlink, "x" * 101, "tmp/l")
    at = g.open("tmp", directory=True)
    with pytest.raises(WasiFailure, match="NAMETOOLONG"):
        while True:
            g.mkdir("d", at=at)
            at, above = g.open("d", directory=True, at=at), at
            g.close_fd(above)
    assert len(g.files.table.get(at).inner) == 7  # type: ignore[attr-defined]
    g.write_file("tmp/l0")
    for i in range(1, 5):
        g.symlink(f"l{i - 1}", f"tmp/l{i}")
    g.stat("tmp/l3")
    refused(Errno.LOOP, g.stat, "tmp/l4")


def _nested(g: Guest, top: str, levels: int) -> str:
    """Make ``levels`` directories below one another, beginning with ``top``; return the innermost one's path."""
    for _ in range(levels):
        g.mkdir(top)
        top += "/d"
    return top.removesuffix("/d")


@pytest.mark.parametrize("mode", ["memory", "overlay"])
def test_directories_nest_no_deeper_by_moving_them_than_by_making_them(
    make_guest: Make, shared: Path, mode: str
) -> None:
    mount = MountConfig(shared, "/m", "read-write", "read-write", mode="overlay")
    g = make_guest(MountConfig.memory("/m") if mode == "memory" else mount)
    limit = FileLimits().max_tree_depth
    innermost = _nested(g, "m/a", limit)
    refused(Errno.NAMETOOLONG, g.mkdir, innermost + "/d")
    g.write_file(innermost + "/f")
    _nested(g, "m/b", 2)
    outer, inner = innermost.removesuffix("/d"), innermost.removesuffix("/d/d")
    refused(Errno.NAMETOOLONG, g.rename, "m/b", outer + "/b")
    g.rename("m/b", inner + "/b")
    g.rename("m/a/d", "m/c")
    g.mkdir("m/a/e")
    refused(Errno.NAMETOOLONG, g.rename, "m/a", "m/c" + "/d" * (limit - 2) + "/a")
    g.rename("m/a", "m/c/a")
    view = g.files.mount_view("/m")
    assert view.list() == ["/c" + "/d" * (limit - 2) + "/f"]


def test_a_fork_nests_directories_no_deeper_than_its_template(make_guest: Make) -> None:
    template = make_guest(limits=FileLimits(max_tree_depth=10))
    _nested(template, "tmp/a", 8)
    _nested(template, "tmp/b", 3)
    g = Guest(template.files.fork())
    try:
        refused(Errno.NAMETOOLONG, g.rename, "tmp/b", "tmp/a" + "/d" * 7 + "/b")
        refused(Errno.NAMETOOLONG, g.rename, "tmp/a", "tmp/b/d/d/a")
        g.rename("tmp/a", "tmp/b/d/a")
    finally:
        g.close()


def test_what_the_host_lists_is_bounded(make_guest: Make, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostside, "LISTED_BYTES_MAX", 1000)
    monkeypatch.setattr(overlay, "LISTED_BYTES_MAX", 1000)
    g = make_guest(MountConfig(shared, "/m", "read-write", "read-write", mode="overlay"))
    view = g.files.mount_view("/m")
    g.mkdir("m/" + "d" * 199)
    for name in "abc":
        g.write_file("m/" + "d" * 199 + f"/{name}")
    assert len(view.list()) == 3
    assert len(view.changes()) == 4
    g.write_file("m/" + "d" * 199 + "/e")
    for ask in (view.list, view.changes):
        with pytest.raises(OSError, match="too large") as caught:
            ask()
        assert caught.value.errno == errno.EOVERFLOW


def test_the_host_reads_no_more_than_it_wants_of_a_size_the_guest_made_up(make_guest: Make) -> None:
    shared = MountConfig.memory("/m")
    g = make_guest(shared)
    view = g.files.mount_view("/m")
    with g.opened("m/f", RW, create=True) as fd:
        g.write(fd, b"data")
        for size in (hostside.READ_BYTES_MAX + 1, 1 << 40, (1 << 63) - 1):
            g.call("fd_filestat_set_size", fd, size)
            for read in (view.read, shared.read):
                with pytest.raises(OSError, match="too large") as caught:
                    read("f")
                assert caught.value.errno == errno.EFBIG
        g.call("fd_filestat_set_size", fd, 10)
    for read in (view.read, shared.read):
        assert read("f", max_bytes=10) == b"data" + bytes(6)
        with pytest.raises(OSError, match="too large"):
            read("f", max_bytes=9)
    shared.write("f", b"")
    assert shared.read("f", max_bytes=0) == b""


def test_what_the_host_reads_is_held_once(make_guest: Make) -> None:
    g = make_guest()
    view = g.files.mount_view("/tmp")
    view.write("f", bytes(8 << 20))
    tracemalloc.start()
    try:
        assert len(view.read("f")) == 8 << 20
        assert tracemalloc.get_traced_memory()[1] < 9 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_the_paths_a_guest_asks_for_are_remembered_in_bounded_memory(make_guest: Make) -> None:
    g = make_guest()
    lexical = g.files.namespace.table.lexical
    tracemalloc.start()
    try:
        for i in range(500):
            for length in (39, 500):
                g.exists(f"tmp/{i:04}" + "/zz" * length)
        held = sum(trace.size for trace in tracemalloc.take_snapshot().traces)
    finally:
        tracemalloc.stop()
    assert held < 4 << 20
    assert len(lexical) >= 500
    g.exists("tmp/short")
    assert b"tmp/short" in lexical


def test_one_call_moves_a_bounded_number_of_bytes(make_guest: Make) -> None:
    g = make_guest(limits=FileLimits(max_transfer_bytes=1000, max_iovecs=4))
    with g.opened("tmp/f", RW, create=True) as fd:
        assert g.write(fd, b"x" * 600, b"y" * 600) == 1000
        assert g.pread(fd, BUFFER_BYTES, 0) == b"x" * 600 + b"y" * 400
        refused(Errno.INVAL, g.call, "fd_write", fd, PATH2, 5, OUT)


def test_what_is_put_in_the_place_of_a_measured_tree_is_measured_too(
    make_guest: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree is measured without its lock, and another guest of the mount comes in between."""
    shared = MountConfig.memory("/m")
    limits = FileLimits(max_tree_depth=10)
    g = make_guest(shared, limits=limits)
    shared._volume.usage.limits = limits
    _nested(g, "m/small", 1)
    _nested(g, "m/deep", 6)
    _nested(g, "m/holder", 5)
    measured: list[int] = []
    measure = levels_of

    def swap_and_measure(top: Dir) -> int:
        measured.append(measure(top))
        if len(measured) == 1:
            g.rename("m/small", "m/moved")
            g.rename("m/deep", "m/small")
        return measured[-1]

    monkeypatch.setattr(volume, "levels_of", swap_and_measure)
    refused(Errno.NAMETOOLONG, g.rename, "m/small", "m/holder" + "/d" * 4 + "/x")
    assert measured == [1, 6]
    g.rename("m/moved", "m/holder" + "/d" * 4 + "/x")
