"""No path, link, race or special file leads a guest out of its mounts, or makes the host wait."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isola_anyio.mounts import MountConfig
from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.errno import Errno
from tests.wasi.client import RW, Guest, R, W, WasiFailure, errno_of_failure

SECRET = b"host only"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="host directories are not mounted on Windows")


@pytest.fixture
def overlaid(shared: Path, make_guest: Callable[..., Guest], resolver: str) -> Guest:
    return make_guest(MountConfig(shared, "/data", "read-write", "read-write", mode="overlay"))


@pytest.mark.parametrize("target", ["../outside", "{outside}", "in/../../outside", "/"])
def test_a_host_link_that_leads_out_is_not_followed(data: Guest, shared: Path, target: str) -> None:
    (shared / "in").mkdir()
    (shared / "link").symlink_to(target.format(outside=shared.parent / "outside"))
    for call, path in (
        (data.open, "data/link/secret.txt"),
        (data.stat, "data/link/secret.txt"),
        (data.stat, "data/link"),
    ):
        assert errno_of_failure(call, path) is Errno.PERM
    assert errno_of_failure(data.open, "data/link/new", W, create=True) is Errno.PERM
    assert errno_of_failure(data.mkdir, "data/link/new") is Errno.PERM
    assert errno_of_failure(data.unlink, "data/link/secret.txt") is Errno.PERM
    assert errno_of_failure(data.rename, "data/link/secret.txt", "data/stolen") is Errno.PERM
    assert errno_of_failure(data.link, "data/link/secret.txt", "data/stolen") is Errno.PERM
    assert errno_of_failure(data.utime, "data/link/secret.txt", 1, 2) is Errno.PERM
    assert data.stat("data/link", follow=False).filetype == FileType.SYMBOLIC_LINK
    assert os.listdir(shared.parent / "outside") == ["secret.txt"]


def test_an_overlay_does_not_follow_a_host_link_out(overlaid: Guest, shared: Path) -> None:
    (shared / "link").symlink_to("../outside")
    (shared / "absolute").symlink_to(shared.parent / "outside")
    for name in ("link", "absolute"):
        assert errno_of_failure(overlaid.open, f"data/{name}/secret.txt") is Errno.PERM
        assert errno_of_failure(overlaid.open, f"data/{name}/new", W, create=True) is Errno.PERM
        assert errno_of_failure(overlaid.listdir, f"data/{name}") is Errno.PERM


def test_dots_end_at_the_guests_root(data: Guest) -> None:
    assert data.listdir("data/../..") == ["data", "tmp"]
    assert errno_of_failure(data.open, "../../../../etc/passwd") is Errno.NOENT
    assert errno_of_failure(data.open, "data/../outside/secret.txt") is Errno.NOENT
    assert errno_of_failure(data.open, "/etc/passwd") is Errno.PERM
    with data.opened("data", directory=True) as at:
        assert errno_of_failure(data.open, "../outside/secret.txt", at=at) is Errno.PERM
        assert errno_of_failure(data.open, "..", at=at) is Errno.PERM
        assert errno_of_failure(data.link, "..", "data/x", at=at) is Errno.PERM
        assert errno_of_failure(data.readlink, "..", at=at) is Errno.PERM


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
                assert errno_of_failure(g.open, f"data/{name}", rights) is Errno.ACCES
            assert errno_of_failure(g.open, f"data/{name}", RW, create=True) is Errno.ACCES
            assert errno_of_failure(g.open, f"data/{name}", R, truncate=True) is Errno.ACCES
            assert errno_of_failure(g.open, f"data/{name}", R, directory=True) is Errno.NOTDIR
            assert g.stat(f"data/{name}").filetype != FileType.REGULAR_FILE
            assert errno_of_failure(g.utime, f"data/{name}", 1, 2) in (Errno.ACCES, Errno.PERM)
            assert errno_of_failure(g.link, f"data/{name}", "data/x") in (Errno.ACCES, Errno.PERM)
        assert len(g.listdir("data")) == 2
        g.unlink("data/fifo")
        assert (shared / "fifo").exists() == overlay
    finally:
        listening.close()


def test_replacing_the_mounted_directory_changes_nothing(data: Guest, shared: Path) -> None:
    (shared / "f").write_text("first")
    shared.rename(shared.parent / "moved")
    shared.symlink_to(shared.parent / "outside")
    assert data.read_file("data/f") == b"first"
    assert errno_of_failure(data.open, "data/secret.txt") is Errno.NOENT


@pytest.mark.slow
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


@pytest.mark.slow
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
