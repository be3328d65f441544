"""The cache directory: whose it is, what is trusted in it, and who may build."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import anyio
import pytest

from isola_anyio.cache import DEFAULT_CACHE_DIR, Cache, digests, entries, open_cache
from isola_anyio.errors import InvalidArgumentError
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator

posix = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes are POSIX's")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with open_cache(tmp_path / "cache") as opened:
        yield opened


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe a stamp at once, as if the file had not been touched for long."""
    monkeypatch.setattr(digests, "SETTLE_NS", -(10**18))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed."""
    paths: list[Path] = []

    def counting(path: Path, *args: object, **kwargs: object) -> object:
        paths.append(path)
        return digests.hash_file(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(entries, "hash_file", counting)
    return paths


def store(cache: Cache, content: bytes = b"content", key: str = "key") -> Path:
    return cache.store_file("code", key, ".bin", lambda file: file.write(content))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(cache: Cache) -> set[str]:
    return {path.name for path in (cache.root / "code").iterdir() if path.name != ".commit"}


# Whose directory it is


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


# What is trusted in it


def test_an_entry_is_found_as_it_was_stored(cache: Cache) -> None:
    assert cache.lookup("code", "key", ".bin") is None
    path = store(cache, b"one")
    assert path == cache.path("code", "key", ".bin") == cache.lookup("code", "key", ".bin")
    assert cache.read_verified("code", "key", ".bin") == b"one"
    assert store(cache, b"two") == path
    assert cache.read_verified("code", "key", ".bin") == b"two"
    assert cache.lookup("code", "key", ".bin", verify=True) == path
    cache.discard("code", "key", ".bin")
    cache.discard("code", "key", ".bin")
    assert cache.lookup("code", "key", ".bin") is None
    assert cache.read_verified("code", "key", ".bin") is None
    assert names(cache) == set()


@pytest.mark.parametrize("key", ["", ".", "..", "../x", "a/../b", "a/b/c", "/a", "a/", "a\0", ".hidden", "a b", "a\n"])
def test_a_key_cannot_lead_out_of_its_directory(cache: Cache, key: str) -> None:
    with pytest.raises(ValueError, match="not a cache entry's name"):
        cache.path("code", key)
    with pytest.raises(ValueError, match="not a cache entry's name"):
        cache.path("code", "key", f"/{key}")


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "grow", "empty", "no record", "torn record", "odd record", "other record"]
)
def test_a_damaged_entry_is_a_miss_and_removed(cache: Cache, damage: str, verify: bool) -> None:
    path = store(cache, bytes(1000))
    record = path.with_name("key.bin.digest")
    match damage:
        case "flip":
            with path.open("r+b") as file:
                file.seek(500)
                file.write(b"\x01")
        case "truncate":
            os.truncate(path, 999)
        case "grow":
            os.truncate(path, 1001)
        case "empty":
            os.truncate(path, 0)
        case "no record":
            record.unlink()
        case "torn record":
            record.write_bytes(record.read_bytes()[:50])
        case "odd record":
            record.write_text('{"sha256": 3}')
        case _:
            other = store(cache, b"x" * 1000, key="other")
            record.write_bytes(other.with_name("other.bin.digest").read_bytes())
    assert cache.lookup("code", "key", ".bin", verify=verify) is None
    assert not path.exists()
    assert not record.exists()
    assert store(cache) == cache.lookup("code", "key", ".bin")


def test_bytes_that_changed_are_not_read(cache: Cache) -> None:
    path = store(cache, b"right")
    path.write_bytes(b"wrong")
    assert cache.read_verified("code", "key", ".bin") is None
    assert not path.exists()


def test_another_digest_than_the_wanted_one_is_a_miss(cache: Cache) -> None:
    path = store(cache)
    assert cache.lookup("code", "key", ".bin", sha256="0" * 64) is None
    assert not path.exists()


@posix
@pytest.mark.parametrize("kind", ["link", "writable", "directory", "pipe"])
def test_what_is_not_a_file_of_ours_alone_is_a_miss_and_replaced(cache: Cache, tmp_path: Path, kind: str) -> None:
    path = store(cache)
    match kind:
        case "link":
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
        case "writable":
            path.chmod(0o620)
        case "directory":
            path.unlink()
            (path / "in").mkdir(parents=True)
        case _:
            path.unlink()
            os.mkfifo(path)
    assert cache.lookup("code", "key", ".bin", verify=True) is None
    assert not os.path.lexists(path)
    assert cache.read_verified("code", "key", ".bin") is None
    assert store(cache) == cache.lookup("code", "key", ".bin")


@posix
def test_a_subdirectory_that_others_may_write_is_not_believed(cache: Cache) -> None:
    path = cache.store_file("runtimes", "sub/file", ".bin", lambda file: file.write(b"x"))
    path.parent.chmod(0o777)
    assert cache.lookup("runtimes", "sub/file", ".bin") is None
    assert cache.store_file("runtimes", "sub/file", ".bin", lambda file: file.write(b"x")) == path
    assert mode(path.parent) == 0o700
    assert cache.lookup("runtimes", "sub/file", ".bin") == path


@pytest.mark.usefixtures("aged")
def test_an_entry_that_did_not_change_is_hashed_once(cache: Cache, hashed: list[Path]) -> None:
    path = store(cache)
    hashed.clear()
    with open_cache(cache.root) as other:
        for _ in range(3):
            assert other.lookup("code", "key", ".bin") == path
    assert len(hashed) <= 1
    hashed.clear()
    assert cache.lookup("code", "key", ".bin", verify=True) == path
    assert len(hashed) == 1


def test_a_stamp_as_young_as_the_file_proves_nothing(cache: Cache, hashed: list[Path]) -> None:
    store(cache)
    hashed.clear()
    for _ in range(2):
        assert cache.lookup("code", "key", ".bin") is not None
    assert len(hashed) == 2


@pytest.mark.usefixtures("aged")
def test_a_copied_cache_is_believed_after_hashing(cache: Cache, tmp_path: Path) -> None:
    import shutil

    store(cache)
    shutil.copytree(cache.root, tmp_path / "copy")
    with open_cache(tmp_path / "copy") as copy:
        assert copy.read_verified("code", "key", ".bin") == b"content"
        assert copy.lookup("code", "key", ".bin") is not None


@posix
def test_an_entry_is_found_in_a_cache_that_cannot_be_written(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store(cache)

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(entries, "FileLock", refuse)
    monkeypatch.setattr(Cache, "_write_record", refuse)
    assert cache.lookup("code", "key", ".bin") == path


# How it is written


def test_nothing_is_seen_before_the_writer_is_done_and_nothing_left_when_it_fails(cache: Cache) -> None:
    def writer(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        assert cache.lookup("code", "key", ".bin") is None
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.store_file("code", "key", ".bin", writer)
    assert names(cache) == set()
    store(cache, b"old")
    with pytest.raises(KeyboardInterrupt):
        cache.store_file("code", "key", ".bin", lambda file: writer_over_old(file, cache))
    assert cache.read_verified("code", "key", ".bin") == b"old"


def writer_over_old(file: BinaryIO, cache: Cache) -> None:
    file.write(b"new")
    assert cache.read_verified("code", "key", ".bin") == b"old"
    raise KeyboardInterrupt


def test_a_full_disk_is_the_systems_error_and_leaves_nothing(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        store(cache)
    assert names(cache) == set()


def test_temporaries_in_use_are_not_swept_and_others_are(cache: Cache) -> None:
    scratch = cache.scratch("images")
    (scratch.path / "part").write_bytes(b"x")
    orphan = cache.root / "images" / ".tmp-0123456789abcdef"
    orphan.mkdir()
    (orphan / "part").write_bytes(b"x")
    dead = cache.root / "code" / ".tmp-fedcba9876543210"
    dead.write_bytes(b"x")
    dead.with_name(f"{dead.name}.lock").touch()
    open_cache(cache.root).close()
    assert (scratch.path / "part").exists()
    assert not orphan.exists()
    assert names(cache) == set()
    scratch.close()
    scratch.close()
    assert list((cache.root / "images").iterdir()) == []


def test_readers_and_writers_in_many_threads_never_see_half_an_entry(cache: Cache) -> None:
    contents = [bytes([number]) * 10_000 for number in range(4)]
    bad: list[object] = []
    done = threading.Event()

    def write(content: bytes) -> None:
        for _ in range(10):
            store(cache, content)

    def read() -> None:
        while not done.is_set():
            content = cache.read_verified("code", "key", ".bin")
            cache.lookup("code", "key", ".bin")
            if content is not None and content not in contents:
                bad.append(content[:10])

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not bad
    assert cache.read_verified("code", "key", ".bin") in contents
    assert names(cache) == {"key.bin", "key.bin.digest"}


def test_the_digest_of_a_strangers_file_follows_its_content(cache: Cache, tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "file"
    for content in (b"one", b"two", b"one"):
        path.write_bytes(content)
        assert cache.digest_of(path) == hashlib.sha256(content).hexdigest()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        cache.digest_of(path)


# Who may build


async def test_one_builds_at_a_time_and_the_next_one_follows(cache: Cache) -> None:
    inside = 0
    turns = 0

    async def build() -> None:
        nonlocal inside, turns
        async with cache.building("code", "key"):
            inside += 1
            assert inside == 1
            await anyio.lowlevel.checkpoint()
            inside -= 1
            turns += 1

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(build)
        async with cache.building("code", "other"):
            pass
    assert turns == 5


async def test_waiting_for_a_turn_is_cancelled_at_once_and_leaves_the_turn_free(cache: Cache) -> None:
    async with cache.building("code", "key"):
        begun = time.monotonic()
        with anyio.move_on_after(0.05) as scope:
            async with cache.building("code", "key"):
                pytest.fail("two at a time")
        assert scope.cancelled_caught
        assert time.monotonic() - begun < 1 * SLACK
    with anyio.fail_after(5):
        async with cache.building("code", "key"):
            pass


async def test_the_turn_is_given_up_when_the_builder_is_cancelled_or_fails(cache: Cache) -> None:
    with anyio.CancelScope() as scope:
        async with cache.building("code", "key"):
            scope.cancel()
            await anyio.sleep_forever()
    with pytest.raises(ZeroDivisionError):
        async with cache.building("code", "key"):
            raise ZeroDivisionError
    with anyio.fail_after(5):
        async with cache.building("code", "key"):
            pass


async def test_a_cancelled_call_never_takes_the_turn(cache: Cache) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with cache.building("code", "key"):
            pytest.fail("took it")
    assert scope.cancelled_caught


async def test_a_turn_held_by_another_process_is_waited_for_and_freed_by_its_death(cache: Cache) -> None:
    script = """
import sys, anyio
from isola_anyio.cache import open_cache
async def main():
    async with open_cache(sys.argv[1]).building("code", "key"):
        print("held", flush=True)
        sys.stdin.read()
anyio.run(main)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(cache.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert await anyio.to_thread.run_sync(child.stdout.readline) == f"held{os.linesep}".encode()
        with anyio.move_on_after(0.05) as scope:
            async with cache.building("code", "key"):
                pytest.fail("two at a time")
        assert scope.cancelled_caught
        child.kill()
        with anyio.fail_after(10):
            async with cache.building("code", "key"):
                pass


def test_threads_with_loops_of_their_own_take_turns(cache: Cache) -> None:
    inside: list[int] = []
    most: list[int] = []

    async def build() -> None:
        for _ in range(3):
            async with cache.building("code", "key"):
                inside.append(1)
                most.append(len(inside))
                await anyio.lowlevel.checkpoint()
                inside.pop()

    threads = [
        threading.Thread(target=anyio.run, args=(build,), kwargs={"backend": backend})
        for backend in ("asyncio", "trio", "asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 12


def _take_a_turn(root: str) -> None:
    async def build() -> None:
        with open_cache(root) as cache:
            async with cache.building("code", "key"):
                store(cache, b"from the child")

    anyio.run(build)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_a_thread_holds_the_turn_waits_for_it(cache: Cache) -> None:
    held, release = threading.Event(), threading.Event()

    async def hold() -> None:
        async with cache.building("code", "key"):
            held.set()
            await anyio.to_thread.run_sync(release.wait)
            store(cache, b"from the parent")

    holder = threading.Thread(target=anyio.run, args=(hold,))
    holder.start()
    held.wait()
    child = multiprocessing.get_context("fork").Process(target=_take_a_turn, args=(str(cache.root),))
    child.start()
    release.set()
    holder.join()
    child.join(60)
    assert child.exitcode == 0
    assert cache.read_verified("code", "key", ".bin") == b"from the child"
