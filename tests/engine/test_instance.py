"""One guest's instance: that it stops where it waits, and that its memory's limit can be moved while it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from isola_anyio.engine import ffi
from isola_anyio.engine.instance import Instance
from isola_anyio.engine.threads import ThreadPool
from tests.engine.support import call, make_program

PAGE_BYTES = 65_536
REFUSED = 0xFFFFFFFF


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> ffi.Program:
    return make_program(tmp_path_factory.mktemp("code"))


@pytest.fixture
def instance(program: ffi.Program) -> Iterator[Instance]:
    pool = ThreadPool(max_parallel=1)
    instance = Instance(program, pool=pool, max_memory=16 * PAGE_BYTES)
    yield instance
    instance.close()
    pool.retire()


@pytest.mark.parametrize("seconds", [0, -1, 10, None])
def test_an_interrupted_guest_stops_where_it_asks_to_sleep_however_short(
    instance: Instance, seconds: float | None
) -> None:
    instance.interrupt()
    with pytest.raises(ffi.StoreInterrupted):
        instance.sleep(seconds)


def test_memory_limit_lowered_in_a_host_call_holds_for_what_grows_after_it(instance: Instance) -> None:
    store = instance.store
    limits = iter([6, 4, 1, 8])

    def give(number: int) -> int:
        store.limit_memory(next(limits) * PAGE_BYTES)
        return number

    instance.set_handlers([give])
    for room, refused in ((4, 5), (0, 1), (0, 1), (2, 3)):
        call(store, "ask", "i>i", 0)
        assert call(store, "grow", "i>i", refused) == REFUSED
        assert call(store, "grow", "i>i", room) != REFUSED
    assert store.memory_size() == 8 * PAGE_BYTES


def test_memory_limit_set_by_another_thread_holds_when_the_guest_is_entered_next(instance: Instance) -> None:
    store = instance.store
    outside = threading.Thread(target=store.limit_memory, args=(3 * PAGE_BYTES,))
    outside.start()
    outside.join()
    assert call(store, "grow", "i>i", 2) == REFUSED
    assert call(store, "grow", "i>i", 1) == 2
    store.close()
    store.limit_memory(PAGE_BYTES)
