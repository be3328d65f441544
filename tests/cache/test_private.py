"""Whose directory a cache is: made private, tightened, or refused."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from pathlib import Path

import pytest

from isola_anyio.cache import DEFAULT_CACHE_DIR, open_cache
from isola_anyio.errors import InvalidArgumentError
from tests.cache.support import mode, posix, store


def test_the_default_is_the_platforms_place_for_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with open_cache() as cache:
        if sys.platform == "linux":
            assert cache.root == tmp_path / "xdg" / "isola-anyio"
        assert {path.name for path in cache.root.iterdir()} == {"runtimes", "code", "images"}
    if sys.platform == "linux":
        monkeypatch.delenv("XDG_CACHE_HOME")
        with open_cache(DEFAULT_CACHE_DIR) as cache:
            assert cache.root == tmp_path / "home" / ".cache" / "isola-anyio"
    assert repr(DEFAULT_CACHE_DIR) == "<default>"


def test_a_user_without_a_home_is_told_to_give_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *args, **kwargs: Path("~/.cache/isola-anyio"))
    with pytest.raises(InvalidArgumentError, match="no home directory"):
        open_cache()


@posix
def test_what_is_made_is_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with open_cache(tmp_path / "a" / "cache") as cache:
            path = store(cache)
            sub = cache.store_file("runtimes", "one/two", "", lambda file: file.write(b"x"))
    finally:
        os.umask(old)
    for directory in (cache.root, cache.root / "code", cache.root / "runtimes", cache.root / "images", sub.parent):
        assert mode(directory) == 0o700
    assert mode(path) == 0o600


@posix
def test_a_directory_of_ours_that_others_may_write_is_tightened(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    (root / "code").mkdir(parents=True)
    root.chmod(0o777)
    (root / "code").chmod(0o775)
    open_cache(root).close()
    assert mode(root) == mode(root / "code") == 0o700


@posix
def test_a_directory_with_other_things_in_it_loses_only_its_write_bits(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").touch()
    (tmp_path / "site").chmod(0o775)
    with open_cache(tmp_path / "site") as cache:
        assert mode(tmp_path / "site") == 0o755
        assert mode(cache.root / "code") == 0o700


@posix
def test_a_shared_directory_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    with pytest.raises(InvalidArgumentError, match="shared with other users; give a directory below it"):
        open_cache(tmp_path / "shared")
    assert mode(tmp_path / "shared") == 0o1777
    assert not list((tmp_path / "shared").iterdir())


@posix
def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_cache(tmp_path / "cache").close()
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(InvalidArgumentError, match=f"belongs to user id {uid}, not to us .*cache_dir=None") as caught:
        open_cache(tmp_path / "cache")
    assert str(tmp_path / "cache") in str(caught.value)


@posix
def test_a_kinds_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    open_cache(tmp_path / "cache").close()
    os.chown(tmp_path / "cache" / "code", 12345, -1)
    with pytest.raises(InvalidArgumentError, match="belongs to user id 12345"):
        open_cache(tmp_path / "cache")


@posix
def test_links_are_followed_when_they_are_ours_and_refused_when_they_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "far").symlink_to(tmp_path / "link" / ".." / "link")
    with open_cache(tmp_path / "far" / "cache") as cache:
        path = store(cache)
        assert cache.lookup("code", "key", ".bin") == path
        assert (tmp_path / "real" / "cache" / "code").is_dir()
    lstat = Path.lstat

    def foreign(self: Path) -> os.stat_result:
        found = lstat(self)
        return os.stat_result((*found[:4], 12345, *found[5:])) if self.name == "link" else found

    monkeypatch.setattr(Path, "lstat", foreign)
    with pytest.raises(InvalidArgumentError, match="link', a symbolic link of user id 12345"):
        open_cache(tmp_path / "far" / "cache")


@posix
def test_a_kinds_directory_may_be_moved_by_a_link_of_ours(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "code").symlink_to(tmp_path / "big")
    with open_cache(tmp_path / "cache") as cache:
        path = store(cache)
        assert cache.lookup("code", "key", ".bin") == path
        assert (tmp_path / "big" / "key.bin").read_bytes() == b"content"


@posix
def test_links_that_lead_in_a_circle_are_an_error_of_the_argument(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InvalidArgumentError, match="cannot be used"):
        open_cache(tmp_path / "a")


@pytest.mark.parametrize("value", [3, b"bytes", "", "nul\0", object(), ["x"], True])
def test_what_is_no_path_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match="cache_dir must be a directory's path or None"):
        open_cache(value)  # type: ignore[arg-type]


def test_a_path_that_cannot_be_a_directory_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidArgumentError, match=r"file.* cannot be used.*cache_dir=None"):
            open_cache(path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "code").touch()
    with pytest.raises(InvalidArgumentError, match="cannot be used"):
        open_cache(tmp_path / "cache")


def test_without_a_directory_everything_is_gone_at_the_close() -> None:
    cache = open_cache(None)
    store(cache)
    assert cache.temporary
    assert mode(cache.root) == 0o700 or sys.platform == "win32"
    cache.close()
    cache.close()
    assert cache.closed
    for use in (lambda: store(cache), lambda: cache.lookup("code", "key"), lambda: cache.scratch("code")):
        with pytest.raises(ValueError, match="is closed"):
            use()
    cache.digest_of(Path(__file__))
    assert not cache.root.exists()


def test_a_forgotten_close_is_a_resource_warning_and_leaves_nothing() -> None:
    cache = open_cache(None)
    root = cache.root
    with pytest.warns(ResourceWarning, match="unclosed <Cache"):
        del cache
        gc.collect()
    assert not root.exists()
    cache = open_cache(None)
    cache.leave_to_collector()
    root = cache.root
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del cache
    assert not root.exists()
