"""No path, link, race or special file leads a guest out of its mounts, or makes the host wait."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isola_anyio.errors import InvalidArgumentError
from isola_anyio.mounts import MountConfig, bind
from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.volumes.host import links as hostlinks
from isola_anyio.wasi.volumes.host.kernelfs import is_kernel_device
from tests.wasi.client import RW, Guest, R, W, WasiFailure

SECRET = b"host only"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="host directories are not mounted on Windows")


@pytest.fixture
def data(shared: Path, make_guest: Callable[..., Guest], resolver: str) -> Guest:
    return make_guest(MountConfig(shared, "/data", "read-write", "read-write"))


@pytest.fixture
def overlaid(shared: Path, make_guest: Callable[..., Guest], resolver: str) -> Guest:
    return make_guest(MountConfig(shared, "/data", "read-write", "read-write", mode="overlay"))


def _errno(call: Callable[..., object], *args: object, **kwargs: object) -> Errno:
    with pytest.raises(WasiFailure) as caught:
        call(*args, **kwargs)
    return caught.value.errno


@pytest.mark.parametrize("target", ["../outside", "{outside}", "in/../../outside", "/"])
def test_a_host_link_that_leads_out_is_not_followed(data: Guest, shared: Path, target: str) -> None:
    (shared / "in").mkdir()
    (shared / "link").symlink_to(target.format(outside=shared.parent / "outside"))
    for call, path in (
        (data.open, "data/link/secret.txt"),
        (data.stat, "data/link/secret.txt"),
        (data.stat, "data/link"),
    ):
        assert _errno(call, path) is Errno.PERM
    assert _errno(data.open, "data/link/new", W, create=True) is Errno.PERM
    assert _errno(data.mkdir, "data/link/new") is Errno.PERM
    assert _errno(data.unlink, "data/link/secret.txt") is Errno.PERM
    assert _errno(data.rename, "data/link/secret.txt", "data/stolen") is Errno.PERM
    assert _errno(data.link, "data/link/secret.txt", "data/stolen") is Errno.PERM
    assert _errno(data.utime, "data/link/secret.txt", 1, 2) is Errno.PERM
    assert data.stat("data/link", follow=False).filetype == FileType.SYMBOLIC_LINK
    assert os.listdir(shared.parent / "outside") == ["secret.txt"]


def test_no_link_that_leads_out_is_made_by_way_of_another(data: Guest, shared: Path) -> None:
    (shared / "a/b/c").mkdir(parents=True)
    data.symlink("../../..", "data/a/b/c/up")
    data.symlink("c", "data/a/b/down")
    for start in ("data", "data/a/b/c/up"):
        with data.opened(start, directory=True) as at:
            assert _errno(data.symlink, "../etc", "x", at=at) is Errno.PERM
            assert _errno(data.symlink, "a/../etc", "x", at=at) is Errno.PERM
            assert _errno(data.symlink, "../../../../etc", "a/b/down/x", at=at) is Errno.PERM
    for path in ("data/a/b/c/up/x", "data/a/b/down/up/x", "data/a/../x"):
        assert _errno(data.symlink, "../../../etc/hostname", path) is Errno.PERM
    assert _errno(data.symlink, "/etc", "data/x") is Errno.PERM
    data.symlink("../../../in", "data/a/b/down/x")
    assert sorted(os.listdir(shared)) == ["a"]


def test_no_link_is_moved_to_where_it_leads_out(data: Guest, shared: Path) -> None:
    (shared / "a/b").mkdir(parents=True)
    (shared / "host").symlink_to("/etc")
    data.symlink("../../f", "data/a/b/l")
    data.symlink("l", "data/a/b/beside")
    assert _errno(data.rename, "data/a/b/l", "data/l") is Errno.PERM
    assert _errno(data.rename, "data/a/b/l", "data/a/l") is Errno.PERM
    assert _errno(data.link, "data/a/b/l", "data/a/l") is Errno.PERM
    data.rename("data/a/b/l", "data/a/b/m")
    data.link("data/a/b/m", "data/a/b/n")
    data.rename("data/a/b/beside", "data/beside")
    data.rename("data/host", "data/a/host")
    data.rename("data/a/host", "data/renamed")
    assert sorted(os.listdir(shared)) == ["a", "beside", "renamed"]


def test_no_directory_is_moved_to_where_a_link_in_it_leads_out(
    data: Guest, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared / "a/b/c/d").mkdir(parents=True)
    (shared / "x/y").mkdir(parents=True)
    (shared / "a/b/c/host").symlink_to("/etc")
    data.symlink("../../../..", "data/a/b/c/d/l")
    data.symlink("..", "data/a/b/c/l")
    for old, new in (("a/b/c/d", "a/b/d"), ("a/b/c", "a/c"), ("a/b", "b"), ("a/b", "x/../b"), ("a/b/c/d", "x/d")):
        assert _errno(data.rename, f"data/{old}", f"data/{new}") is Errno.PERM
    data.rename("data/a/b", "data/x/b")
    data.rename("data/x/b", "data/x/y/b")
    data.rename("data/x/y/b", "data/x/b")
    assert _errno(data.rename, "data/x/b", "data/b") is Errno.PERM
    data.unlink("data/x/b/c/d/l")
    monkeypatch.setattr(hostlinks, "CHECKED_ENTRIES_MAX", 6)
    assert _errno(data.rename, "data/x/b", "data/b") is Errno.XDEV
    data.rename("data/x/b", "data/x/same")
    monkeypatch.setattr(hostlinks, "CHECKED_ENTRIES_MAX", 7)
    data.rename("data/x/same", "data/b")
    assert sorted(os.listdir(shared)) == ["a", "b", "x"]
    assert sorted(os.listdir(shared / "b/c")) == ["d", "host", "l"]


@pytest.mark.parametrize("mount", [MountConfig.memory("/data"), None], ids=["memory", "tmp"])
def test_no_link_in_memory_leads_out_by_way_of_another(
    make_guest: Callable[..., Guest], mount: MountConfig | None
) -> None:
    g = make_guest(*([] if mount is None else [mount]))
    top = "tmp" if mount is None else "data"
    g.mkdir(f"{top}/a")
    g.symlink("..", f"{top}/a/up")
    for target, path in (("..", "x"), ("../etc", "a/up/x"), ("../..", "a/x"), ("a/../..", "x"), ("/etc", "x")):
        assert _errno(g.symlink, target, f"{top}/{path}") is Errno.PERM


def test_an_overlay_does_not_follow_a_host_link_out(overlaid: Guest, shared: Path) -> None:
    (shared / "link").symlink_to("../outside")
    (shared / "absolute").symlink_to(shared.parent / "outside")
    for name in ("link", "absolute"):
        assert _errno(overlaid.open, f"data/{name}/secret.txt") is Errno.PERM
        assert _errno(overlaid.open, f"data/{name}/new", W, create=True) is Errno.PERM
        assert _errno(overlaid.listdir, f"data/{name}") is Errno.PERM


def test_dots_end_at_the_guests_root(data: Guest) -> None:
    assert data.listdir("data/../..") == ["data", "tmp"]
    assert _errno(data.open, "../../../../etc/passwd") is Errno.NOENT
    assert _errno(data.open, "data/../outside/secret.txt") is Errno.NOENT
    assert _errno(data.open, "/etc/passwd") is Errno.PERM
    with data.opened("data", directory=True) as at:
        assert _errno(data.open, "../outside/secret.txt", at=at) is Errno.PERM
        assert _errno(data.open, "..", at=at) is Errno.PERM
        assert _errno(data.link, "..", "data/x", at=at) is Errno.PERM
        assert _errno(data.readlink, "..", at=at) is Errno.PERM


def test_dots_after_a_link_go_to_the_real_parent(data: Guest, shared: Path) -> None:
    (shared / "a/b").mkdir(parents=True)
    (shared / "a/f").write_text("right")
    (shared / "f").write_text("wrong")
    (shared / "l").symlink_to("a/b")
    assert data.read_file("data/l/../f") == b"right"
    assert data.read_file("data/l/../../f") == b"wrong"
    assert data.listdir("data/l/../../..") == ["data", "tmp"]


@pytest.mark.parametrize("overlay", [False, True])
def test_special_files_are_seen_and_not_opened(
    overlay: bool, shared: Path, make_guest: Callable[..., Guest], resolver: str
) -> None:
    mode = "overlay" if overlay else "direct"
    g = make_guest(MountConfig(shared, "/data", "read-write", "read-write", mode=mode))  # type: ignore[arg-type]
    os.mkfifo(shared / "fifo")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(shared / "socket"))
    try:
        for name in ("fifo", "socket"):
            for rights in (0, R, W, RW):
                assert _errno(g.open, f"data/{name}", rights) is Errno.ACCES
            assert _errno(g.open, f"data/{name}", RW, create=True) is Errno.ACCES
            assert _errno(g.open, f"data/{name}", R, truncate=True) is Errno.ACCES
            assert _errno(g.open, f"data/{name}", R, directory=True) is Errno.NOTDIR
            assert g.stat(f"data/{name}").filetype != FileType.REGULAR_FILE
            assert _errno(g.utime, f"data/{name}", 1, 2) in (Errno.ACCES, Errno.PERM)
            assert _errno(g.link, f"data/{name}", "data/x") in (Errno.ACCES, Errno.PERM)
        assert len(g.listdir("data")) == 2
        g.unlink("data/fifo")
        assert (shared / "fifo").exists() == overlay
    finally:
        listening.close()


def test_devices_are_not_opened(make_guest: Callable[..., Guest], resolver: str) -> None:
    if is_kernel_device(os.stat("/dev").st_dev):
        with pytest.raises(InvalidArgumentError):
            bind(MountConfig("/dev", "/data"))
        return
    g = make_guest(MountConfig("/dev", "/data"))
    assert _errno(g.open, "data/zero") is Errno.ACCES
    assert _errno(g.open, "data/null", W) in (Errno.ACCES, Errno.ROFS)


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="needs Linux's /proc")
@pytest.mark.parametrize("mode", ["direct", "overlay"])
def test_the_kernels_own_files_are_out_of_reach_of_a_mount_of_the_whole_host(
    make_guest: Callable[..., Guest], resolver: str, mode: str
) -> None:
    g = make_guest(MountConfig("/", "/host", mode=mode))  # type: ignore[arg-type]
    for path in ("proc/self/environ", "proc/self/mem", "proc/self/root", "proc/self/fd/0", "sys/kernel", "proc"):
        for call in (g.open, g.stat, g.readlink):
            assert _errno(call, f"host/{path}") in (Errno.ACCES, Errno.PERM, Errno.INVAL, Errno.LOOP)
    assert _errno(g.listdir, "host/proc") is Errno.ACCES
    with pytest.raises(InvalidArgumentError, match="kernel"):
        bind(MountConfig("/proc", "/data"))
    with pytest.raises(InvalidArgumentError, match="regular file"):
        bind(MountConfig("/proc/self/environ", "/data"))


def test_replacing_the_mounted_directory_changes_nothing(data: Guest, shared: Path) -> None:
    (shared / "f").write_text("first")
    shared.rename(shared.parent / "moved")
    shared.symlink_to(shared.parent / "outside")
    assert data.read_file("data/f") == b"first"
    assert _errno(data.open, "data/secret.txt") is Errno.NOENT


def test_swapping_a_directory_for_a_link_never_shows_the_outside(data: Guest, shared: Path) -> None:
    inside, link, way = shared / "inside", shared / "link", shared / "way"
    inside.mkdir()
    (inside / "secret.txt").write_text("inside")
    link.symlink_to("../outside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            inside.rename(way)
            way.rename(inside)
            link.rename(way)
            way.rename(link)

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes: dict[object, int] = {}
    try:
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            for path, rights in (("data/way/secret.txt", R), ("data/way/new", RW)):
                try:
                    with data.opened(path, rights, create=rights == RW) as fd:
                        outcome: object = data.read(fd)
                except WasiFailure as failure:
                    outcome = failure.errno
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
    finally:
        stop.set()
        swapper.join()
    assert SECRET not in outcomes
    assert os.listdir(shared.parent / "outside") == ["secret.txt"]
    refusals = {Errno.PERM, Errno.NOENT, Errno.LOOP, Errno.AGAIN, Errno.NOTDIR}
    assert set(outcomes) <= {b"inside", b"", *refusals}
    assert len(outcomes) > 1, "the race was never on"


def test_swapping_a_file_for_a_fifo_never_makes_the_guest_wait(data: Guest, shared: Path) -> None:
    (shared / "file").write_text("file")
    os.mkfifo(shared / "fifo")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for name in ("file", "fifo"):
                (shared / name).rename(shared / "way")
                (shared / "way").rename(shared / name)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            for rights in (R, W):
                try:
                    with data.opened("data/way", rights) as fd:
                        assert data.fstat(fd).filetype == FileType.REGULAR_FILE
                except WasiFailure as failure:
                    assert failure.errno in (Errno.NOENT, Errno.ACCES, Errno.AGAIN, Errno.NXIO, Errno.LOOP)
    finally:
        stop.set()
        swapper.join()


def test_a_very_deep_path_is_walked_or_refused(data: Guest, shared: Path) -> None:
    fd = os.open(shared, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    try:
        data.stat("data/" + "d/" * 600)
    except WasiFailure as failure:
        assert failure.errno is Errno.NAMETOOLONG
    assert data.stat("data/" + "d/" * 200).filetype == FileType.DIRECTORY
