"""No link that a guest makes or moves leads out of its mount."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from isola_anyio.mounts import MountConfig
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.volumes.host import links as hostlinks
from tests.wasi.client import Guest, errno_of_failure

pytestmark = pytest.mark.skipif(os.name == "nt", reason="host directories are not mounted on Windows")


def test_no_link_that_leads_out_is_made_by_way_of_another(data: Guest, shared: Path) -> None:
    (shared / "a/b/c").mkdir(parents=True)
    data.symlink("../../..", "data/a/b/c/up")
    data.symlink("c", "data/a/b/down")
    for start in ("data", "data/a/b/c/up"):
        with data.opened(start, directory=True) as at:
            assert errno_of_failure(data.symlink, "../etc", "x", at=at) is Errno.PERM
            assert errno_of_failure(data.symlink, "a/../etc", "x", at=at) is Errno.PERM
            assert errno_of_failure(data.symlink, "../../../../etc", "a/b/down/x", at=at) is Errno.PERM
    for path in ("data/a/b/c/up/x", "data/a/b/down/up/x", "data/a/../x"):
        assert errno_of_failure(data.symlink, "../../../etc/hostname", path) is Errno.PERM
    assert errno_of_failure(data.symlink, "/etc", "data/x") is Errno.PERM
    data.symlink("../../../in", "data/a/b/down/x")
    assert sorted(os.listdir(shared)) == ["a"]


def test_no_link_is_moved_to_where_it_leads_out(data: Guest, shared: Path) -> None:
    (shared / "a/b").mkdir(parents=True)
    (shared / "host").symlink_to("/etc")
    data.symlink("../../f", "data/a/b/l")
    data.symlink("l", "data/a/b/beside")
    assert errno_of_failure(data.rename, "data/a/b/l", "data/l") is Errno.PERM
    assert errno_of_failure(data.rename, "data/a/b/l", "data/a/l") is Errno.PERM
    assert errno_of_failure(data.link, "data/a/b/l", "data/a/l") is Errno.PERM
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
        assert errno_of_failure(data.rename, f"data/{old}", f"data/{new}") is Errno.PERM
    data.rename("data/a/b", "data/x/b")
    data.rename("data/x/b", "data/x/y/b")
    data.rename("data/x/y/b", "data/x/b")
    assert errno_of_failure(data.rename, "data/x/b", "data/b") is Errno.PERM
    data.unlink("data/x/b/c/d/l")
    monkeypatch.setattr(hostlinks, "CHECKED_ENTRIES_MAX", 6)
    assert errno_of_failure(data.rename, "data/x/b", "data/b") is Errno.XDEV
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
        assert errno_of_failure(g.symlink, target, f"{top}/{path}") is Errno.PERM
