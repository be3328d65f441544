"""An overlay reads the host's files and keeps every change to itself."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from isola_anyio.errors import InvalidArgumentError
from isola_anyio.fairness import PIECE_BYTES
from isola_anyio.mounts import MountConfig, bind
from isola_anyio.wasi.abi import Stat
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.volumes.budgets import FileLimits
from isola_anyio.wasi.volumes.host.open_file import HostFile
from isola_anyio.wasi.volumes.interfaces import VolumePath
from isola_anyio.wasi.volumes.memory import overlay
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume
from tests.wasi.client import RW, Guest, R, W, refused
from tests.wasi.files.test_permissions import _picture


@pytest.fixture
def tree(shared: Path) -> Path:
    (shared / "dir/sub").mkdir(parents=True)
    (shared / "dir/a.txt").write_text("a on the host")
    (shared / "dir/sub/b.txt").write_text("b on the host")
    (shared / "link").symlink_to("dir/a.txt")
    os.link(shared / "dir/a.txt", shared / "hard")
    return shared


@pytest.fixture
def over(tree: Path, make_guest: Callable[..., Guest]) -> Guest:
    return make_guest(MountConfig(tree, "/o", "read-write", "read-write", mode="overlay"))


def _changes(g: Guest) -> list[tuple[str, str]]:
    return [(change.path, change.kind) for change in g.files.mount_view("/o").changes()]


def test_reading_changes_nothing_and_costs_nothing(over: Guest, tree: Path) -> None:
    assert over.listdir("o") == ["dir", "hard", "link"]
    assert over.read_file("o/dir/sub/b.txt") == b"b on the host"
    assert over.read_file("o/link") == b"a on the host"
    assert over.stat("o/dir/a.txt").ino == os.stat(tree / "dir/a.txt").st_ino
    assert over.listdir("o/dir") == ["a.txt", "sub"]
    assert _changes(over) == []
    assert over.files.usage.memory_bytes == 0


def test_changes_stay_in_memory_and_are_listed(over: Guest, tree: Path) -> None:
    before = _picture(tree)
    with over.opened("o/dir/a.txt", RW) as fd:
        over.pwrite(fd, b"A", 0)
        over.call("fd_filestat_set_size", fd, 4)
    over.write_file("o/dir/new.txt", b"new")
    over.mkdir("o/made")
    over.write_file("o/made/c.txt", b"c")
    over.unlink("o/dir/sub/b.txt")
    over.rmdir("o/dir/sub")
    over.unlink("o/link")
    over.symlink("made", "o/link")
    assert over.read_file("o/dir/a.txt") == b"A on"
    assert over.listdir("o") == ["dir", "hard", "link", "made"]
    assert over.listdir("o/dir") == ["a.txt", "new.txt"]
    assert _picture(tree) == before
    assert _changes(over) == [
        ("/dir/a.txt", "modified"),
        ("/dir/new.txt", "added"),
        ("/dir/sub", "deleted"),
        ("/link", "modified"),
        ("/made", "added"),
        ("/made/c.txt", "added"),
    ]
    view = over.files.mount_view("/o")
    assert view.guest == "/o"
    over.close()
    assert view.read("dir/a.txt") == b"A on", "what was written outlives the sandbox"
    assert view.read("/made/c.txt") == b"c"
    assert ("/dir/sub", "deleted") in [(change.path, change.kind) for change in view.changes()]
    assert view.list() == ["/dir/a.txt", "/dir/new.txt", "/link", "/made/c.txt"]
    with pytest.raises(FileNotFoundError):
        view.read("hard")


def test_a_directory_made_where_one_was_removed_is_empty(over: Guest) -> None:
    over.unlink("o/dir/a.txt")
    over.unlink("o/dir/sub/b.txt")
    over.rmdir("o/dir/sub")
    over.rmdir("o/dir")
    assert not over.exists("o/dir")
    over.mkdir("o/dir")
    assert over.listdir("o/dir") == []
    over.write_file("o/dir/a.txt", b"again")
    assert over.read_file("o/dir/a.txt") == b"again"
    assert _changes(over) == [
        ("/dir", "modified"),
        ("/dir/a.txt", "modified"),
        ("/dir/sub", "deleted"),
    ] or ("/dir/a.txt", "modified") in _changes(over)


def test_host_directories_and_files_can_be_renamed(over: Guest, tree: Path) -> None:
    before = _picture(tree)
    over.rename("o/dir", "o/moved")
    assert over.listdir("o") == ["hard", "link", "moved"]
    assert over.read_file("o/moved/sub/b.txt") == b"b on the host"
    refused(Errno.NOENT, over.read_file, "o/link")
    over.write_file("o/moved/sub/b.txt", b"B")
    over.rename("o/moved/a.txt", "o/a.txt")
    over.rename("o/hard", "o/moved/a.txt")
    assert over.read_file("o/a.txt") == b"a on the host"
    assert over.listdir("o/moved") == ["a.txt", "sub"]
    assert _picture(tree) == before
    kinds = dict(_changes(over))
    assert kinds["/dir"] == kinds["/hard"] == "deleted"
    assert kinds["/moved"] == kinds["/moved/sub/b.txt"] == kinds["/moved/a.txt"] == kinds["/a.txt"] == "added"
    refused(Errno.NOTEMPTY, over.rmdir, "o/moved")
    over.mkdir("o/dir")
    assert over.listdir("o/dir") == []
    refused(Errno.INVAL, over.rename, "o/moved", "o/moved/sub/x")


def test_hard_links_and_times_are_the_overlays_own(over: Guest, tree: Path) -> None:
    before = _picture(tree)
    over.link("o/dir/a.txt", "o/second")
    with over.opened("o/second", W) as fd:
        over.write(fd, b"!")
    assert over.read_file("o/dir/a.txt") == b"! on the host"
    over.utime("o/dir/sub/b.txt", 1000, 2000)
    over.utime("o/dir/sub", 1000, 3000)
    over.utime("o/link", 1000, 4000, follow=False)
    assert over.stat("o/dir/sub/b.txt").mtim == 2000
    assert over.stat("o/dir/sub").mtim == 3000
    assert over.stat("o/link", follow=False).mtim == 4000
    with over.opened("o/hard", R) as fd:
        over.call("fd_filestat_set_times", fd, 1000, 5000, 5)
        assert over.fstat(fd).mtim == 5000
        assert over.read(fd) == b"a on the host"
    assert over.stat("o/hard").mtim == 5000
    with over.opened("o/hard", R) as fd:
        over.unlink("o/hard")
    assert _picture(tree) == before


def test_a_descriptor_opened_before_the_first_change_keeps_the_hosts_bytes(over: Guest) -> None:
    with over.opened("o/dir/a.txt") as fd:
        over.write_file("o/dir/a.txt", b"changed")
        assert over.read(fd) == b"a on the host"
        over.call("fd_filestat_set_times", fd, 1, 2000, 5)
        assert over.stat("o/dir/a.txt").mtim == 2000
        over.unlink("o/dir/a.txt")
        refused(Errno.ROFS, over.call, "fd_filestat_set_times", fd, 1, 2, 5)


def test_an_open_directory_of_the_host_follows_its_rename(over: Guest) -> None:
    with over.opened("o/dir", directory=True) as at:
        over.rename("o/dir", "o/moved")
        assert over.listdir(".", at=at) == ["a.txt", "sub"]
        over.mkdir("x", at=at)
    assert over.listdir("o/moved") == ["a.txt", "sub", "x"]


def test_what_the_host_changes_shows_through(over: Guest, tree: Path) -> None:
    over.write_file("o/dir/mine", b"")
    (tree / "dir/later").write_text("later")
    assert over.listdir("o/dir") == ["a.txt", "later", "mine", "sub"]
    assert over.read_file("o/dir/later") == b"later"
    (tree / "dir/sub/b.txt").unlink()
    refused(Errno.NOENT, over.stat, "o/dir/sub/b.txt")


def test_copies_are_charged_and_bounded(tree: Path, make_guest: Callable[..., Guest]) -> None:
    (tree / "big").write_bytes(bytes(300_000))
    g = make_guest(
        MountConfig(tree, "/o", "read-write", "read-write", mode="overlay"),
        limits=FileLimits(max_memory_bytes=200_000),
    )
    refused(Errno.NOSPC, g.open, "o/big", RW)
    assert g.files.usage.memory_bytes == 0
    assert g.stat("o/big").size == 300_000
    with g.opened("o/big", W, truncate=True) as fd:
        g.write(fd, b"small")
    assert g.read_file("o/big") == b"small"
    g.unlink("o/big")
    assert g.files.usage.memory_bytes == 0


def test_looking_at_a_large_tree_holds_nothing(over: Guest, tree: Path) -> None:
    for i in range(50):
        (tree / f"d{i}").mkdir()
    for i in range(50):
        over.stat(f"o/d{i}/")
    volume = over.files.namespace.table.by_point[b"o",].volume
    assert len(volume._seen) <= 1  # type: ignore[attr-defined]


def test_only_mounts_in_memory_have_a_view(over: Guest, tree: Path, make_guest: Callable[..., Guest]) -> None:
    g = make_guest(MountConfig(tree, "/direct"))
    for path, says in (("/nowhere", "is not a mount"), ("tmp", "absolute"), ("/direct", "files of the host")):
        with pytest.raises(InvalidArgumentError, match=says):
            g.files.mount_view(path)
    g.write_file("tmp/result", b"42")
    view = g.files.mount_view("/tmp")
    assert view.read("result") == b"42"
    assert view.changes() == []
    view.write("from/host", b"h")
    assert g.read_file("tmp/from/host") == b"h"


def _nest(g: Guest, top: str, levels: int) -> str:
    """Make directories with long names below one another; return the innermost one's path."""
    path = top
    g.mkdir(path)
    for _ in range(levels):
        path += "/" + "d" * 200
        g.mkdir(path)
    return path


def test_a_directory_in_place_of_a_hosts_link_is_listed(over: Guest) -> None:
    over.unlink("o/link")
    over.mkdir("o/link")
    over.write_file("o/link/x")
    expected = [("/link", "modified"), ("/link/x", "added")]
    assert _changes(over) == expected
    view = over.files.mount_view("/o")
    over.close()
    assert [(change.path, change.kind) for change in view.changes()] == expected


def test_directories_of_the_host_in_place_of_its_links_are_listed(over: Guest) -> None:
    over.unlink("o/link")
    over.rename("o/dir", "o/link")
    over.unlink("o/link/a.txt")
    assert _changes(over) == [
        ("/dir", "deleted"),
        ("/link", "modified"),
        ("/link/sub", "added"),
        ("/link/sub/b.txt", "added"),
    ]


def test_paths_longer_than_any_of_the_hosts_are_listed(over: Guest) -> None:
    innermost = _nest(over, "o/A", 14)
    _nest(over, "o/B", 14)
    over.rename("o/B", innermost + "/B")
    changes = _changes(over)
    assert len(changes) == 30
    assert max(len(path) for path, _ in changes) > 5000
    view = over.files.mount_view("/o")
    over.close()
    assert [(change.path, change.kind) for change in view.changes()] == changes
    assert view.list() == []


def test_a_list_that_fails_as_the_sandbox_ends_fails_for_whoever_asks(
    over: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    over.write_file("o/new")
    view = over.files.mount_view("/o")
    monkeypatch.setattr(overlay, "LISTED_BYTES_MAX", 3)
    over.close()
    for _ in range(2):
        with pytest.raises(OSError, match="too large") as caught:
            view.changes()
        assert caught.value.errno == errno.EOVERFLOW
    assert view.read("new") == b""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc, which is not mounted")
def test_every_volume_and_descriptor_is_closed_whatever_closing_another_raises(tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    mounts = [MountConfig(tree, f"/{name}", "read-write", "read-write", mode="overlay") for name in "abc"]
    g = Guest(mounts=[bind(mount) for mount in mounts])
    g.open("a/hard")
    g.open("b/hard")
    volume = g.files.namespace.table.by_point[b"a",].volume

    def close() -> None:
        type(volume).close(volume)
        raise OSError(errno.EIO, "the disk is gone")

    volume.close = close  # type: ignore[method-assign]
    opened = next(d for fd, d in g.files.table if fd > 3)
    assert isinstance(opened, HostFile)
    os.close(opened._shared.fd)
    with pytest.raises(OSError, match=r"the disk is gone|Bad file descriptor"):
        g.close()
    assert len(os.listdir("/proc/self/fd")) == before


def _is_locked(volume: MemoryVolume) -> bool:
    got: list[bool] = []

    def look() -> None:
        got.append(volume.lock.acquire(blocking=False))
        if got[0]:
            volume.lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return not got[0]


@pytest.mark.parametrize("change", ["open", "rename", "link", "utime"])
def test_the_tree_is_free_while_bytes_are_copied(
    over: Guest, tree: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"x" * (2 * PIECE_BYTES + 1)
    (tree / "large").write_bytes(data)
    volume = over.files.namespace.table.by_point[(b"o",)].volume
    assert isinstance(volume, MemoryVolume)
    locked: list[bool] = []
    monkeypatch.setattr(overlay, "pause", lambda: locked.append(_is_locked(volume)))
    if change == "open":
        over.call("fd_close", over.open("o/large", RW))
    elif change == "rename":
        over.rename("o/large", "o/dir/large")
    elif change == "link":
        over.link("o/large", "o/dir/large")
    else:
        over.utime("o/large", 1, 2)
    assert locked == [False] * 3
    view = over.files.mount_view("/o")
    assert view.read("dir/large" if change in {"rename", "link"} else "large") == data
    over.unlink("o/dir/large" if change in {"rename", "link"} else "o/large")
    if change == "link":
        over.unlink("o/large")
    assert over.files.usage.memory_bytes < PIECE_BYTES


def test_a_copy_that_is_stopped_leaves_nothing(over: Guest, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "large").write_bytes(b"x" * (2 * PIECE_BYTES + 1))

    class StoppedError(BaseException):
        pass

    def stop() -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(overlay, "pause", stop)
        with pytest.raises(StoppedError):
            over.open("o/large", RW)
    assert over.files.usage.memory_bytes == 0
    assert _changes(over) == []
    with over.opened("o/large", RW) as fd:
        over.pwrite(fd, b"y", 0)
    assert over.files.mount_view("/o").read("large")[:2] == b"yx"


def test_a_host_file_that_changes_while_it_is_copied_is_copied_again(
    over: Guest, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "f").write_bytes(b"old")

    def change() -> None:
        monkeypatch.setattr(overlay, "pause", lambda: None)
        (tree / "f").write_bytes(b"changed")

    monkeypatch.setattr(overlay, "pause", change)
    over.call("fd_close", over.open("o/f", RW))
    assert over.files.mount_view("/o").read("f") == b"changed"


def test_many_changes_are_found_by_one_listing(over: Guest, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "_MANY_NAMES", 2)
    for name in ("one", "two", "three"):
        over.write_file(f"o/dir/{name}", b"x")
    over.unlink("o/dir/a.txt")
    volume = over.files.namespace.table.by_point[(b"o",)].volume
    assert isinstance(volume, overlay.OverlayVolume)
    looked: list[object] = []
    stat = volume._lower.stat

    def look(path: VolumePath, follow: bool) -> Stat:
        looked.append(path.names)
        return stat(path, follow)

    monkeypatch.setattr(volume._lower, "stat", look)
    assert _changes(over) == [
        ("/dir/a.txt", "deleted"),
        ("/dir/one", "added"),
        ("/dir/three", "added"),
        ("/dir/two", "added"),
    ]
    assert (b"dir", b"one") not in looked
