"""Memory images: forks see what was taken, write on their own, and copying does what mapping does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from isola_anyio.engine import ffi
from isola_anyio.engine.image import COPY_SWITCH, Image
from tests.engine.support import call, make_program

SIZE = 2 * 65536


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> ffi.Program:
    return make_program(tmp_path_factory.mktemp("code"))


@pytest.fixture
def image(program: ffi.Program) -> Iterator[Image]:
    store = ffi.Store(program, max_memory=1 << 20)
    call(store, "poke", "ii>", 4096, 41)
    call(store, "poke", "ii>", 70000, 42)
    image = Image.take(store)
    store.close()
    yield image
    image.close()


@pytest.fixture(params=["mapped", "copied"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "copied":
        monkeypatch.setenv(COPY_SWITCH, "1")


@pytest.mark.usefixtures("_way")
class TestForks:
    def test_a_fork_sees_what_was_taken(self, program: ffi.Program, image: Image) -> None:
        store = ffi.Store(program, max_memory=1 << 20)
        image.fork_into(store)
        assert [call(store, "peek", "i>i", at) for at in (4096, 70000, 0)] == [41, 42, 0]
        store.close()

    def test_what_a_fork_writes_stays_its_own(self, program: ffi.Program, image: Image) -> None:
        first, second = (ffi.Store(program, max_memory=1 << 20) for _ in range(2))
        image.fork_into(first)
        image.fork_into(second)
        call(first, "poke", "ii>", 4096, 7)
        third = ffi.Store(program, max_memory=1 << 20)
        image.fork_into(third)
        assert [call(store, "peek", "i>i", 4096) for store in (first, second, third)] == [7, 41, 41]
        for store in (first, second, third):
            store.close()

    def test_a_fork_may_grow_beyond_the_image_within_its_limit(self, program: ffi.Program, image: Image) -> None:
        store = ffi.Store(program, max_memory=SIZE + 65536)
        image.fork_into(store)
        assert call(store, "grow", "i>i", 1) == 2
        assert call(store, "peek", "i>i", SIZE) == 0
        assert call(store, "grow", "i>i", 1) == 0xFFFFFFFF
        store.close()

    def test_forks_outlive_their_image(self, program: ffi.Program, image: Image) -> None:
        store = ffi.Store(program, max_memory=1 << 20)
        image.fork_into(store)
        image.close()
        assert call(store, "peek", "i>i", 70000) == 42
        store.close()


def test_a_limit_below_the_image_is_a_memory_error(tmp_path: Path) -> None:
    grown = make_program(tmp_path)
    store = ffi.Store(grown, max_memory=1 << 20)
    call(store, "grow", "i>i", 4)
    image = Image.take(store)
    small = ffi.Store(grown, max_memory=3 * 65536)
    with pytest.raises(MemoryError):
        image.fork_into(small)
    for thing in (store, small, image):
        thing.close()


def test_saved_images_are_sparse_and_open_again(tmp_path: Path, program: ffi.Program, image: Image) -> None:
    path = tmp_path / "image"
    with path.open("wb") as out:
        image.save(out)
    assert path.stat().st_size == image.size == SIZE
    again = Image.open(path)
    store = ffi.Store(program, max_memory=1 << 20)
    again.fork_into(store)
    assert call(store, "peek", "i>i", 70000) == 42
    store.close()
    again.close()


@pytest.mark.parametrize("size", [0, 1, 65535])
def test_a_file_that_cannot_be_an_image_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(size))
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(ValueError, match="image"):
        Image.open(path)
    assert len(os.listdir("/dev/fd")) == before
