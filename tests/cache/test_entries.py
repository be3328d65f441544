"""Entries of a cache: what is trusted in it, and how it is written."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from isola_anyio.cache import Cache, digests, entries, open_cache
from tests.cache.support import mode, names, posix, store


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


@pytest.mark.slow
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
