"""Long transfers of files in memory: in pieces, between which others have the tree and a stop takes effect."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from isola_anyio.fairness import PIECE_BYTES
from isola_anyio.mounts import MountConfig
from isola_anyio.wasi.volumes.memory import open_file
from isola_anyio.wasi.volumes.memory.open_file import MemoryFile
from tests.wasi.client import RW, Guest

LONG = 3 * PIECE_BYTES + 5


class StoppedError(BaseException):
    """The guest is being stopped; not an ``Exception``, as what stops guests is none."""


@pytest.fixture
def long_file(make_guest: Callable[..., Guest]) -> tuple[Guest, MemoryFile]:
    g = make_guest(MountConfig.memory("/m"))
    opened = g.system.context.table.get(g.open("m/f", RW, create=True))
    assert isinstance(opened, MemoryFile)
    assert opened.write([memoryview(b"a" * LONG)]) == LONG
    opened.seek(0, 0)
    return g, opened


def is_free(file: MemoryFile) -> bool:
    """Whether another thread gets the tree's lock."""
    got: list[bool] = []

    def try_it() -> None:
        got.append(file.volume.lock.acquire(blocking=False))
        if got[0]:
            file.volume.lock.release()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return got[0]


def test_the_tree_is_free_between_pieces(long_file: tuple[Guest, MemoryFile], monkeypatch: pytest.MonkeyPatch) -> None:
    _, file = long_file
    free: list[bool] = []
    monkeypatch.setattr(open_file, "pause", lambda: free.append(is_free(file)))
    into = bytearray(LONG)
    assert file.read([memoryview(into)[:10], memoryview(into)[10:]]) == LONG
    assert bytes(into) == b"a" * LONG
    assert file.pwrite([memoryview(b"b" * LONG)], 0) == LONG
    assert len(free) == 8
    assert all(free)


def test_a_file_that_is_cut_meanwhile_gives_what_it_has(
    long_file: tuple[Guest, MemoryFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = long_file
    monkeypatch.setattr(open_file, "pause", lambda: file.set_size(PIECE_BYTES + 7))
    assert file.read([memoryview(bytearray(LONG))]) == PIECE_BYTES + 7


def test_who_appends_appends_each_piece(long_file: tuple[Guest, MemoryFile], monkeypatch: pytest.MonkeyPatch) -> None:
    _, file = long_file
    file.flags |= 1
    sizes: list[int] = []
    monkeypatch.setattr(open_file, "pause", lambda: sizes.append(file.stat().size))
    assert file.write([memoryview(b"b" * LONG)]) == LONG
    assert sizes[0] == LONG + PIECE_BYTES
    assert file.offset == file.stat().size == 2 * LONG


def test_a_transfer_ends_when_its_guest_is_stopped(
    long_file: tuple[Guest, MemoryFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = long_file

    def stop() -> None:
        raise StoppedError

    monkeypatch.setattr(open_file, "pause", stop)
    into = bytearray(LONG)
    with pytest.raises(StoppedError):
        file.read([memoryview(into)])
    assert into.count(b"a") == PIECE_BYTES
    assert is_free(file)


def test_many_small_views_are_moved_together(
    long_file: tuple[Guest, MemoryFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = long_file
    pauses: list[None] = []
    monkeypatch.setattr(open_file, "pause", lambda: pauses.append(None))
    into = [bytearray(1) for _ in range(1000)]
    assert file.read([memoryview(each) for each in into]) == 1000
    assert len(pauses) == 1
    assert b"".join(into) == b"a" * 1000
