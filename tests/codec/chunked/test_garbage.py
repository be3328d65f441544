"""Full collections are put off while long values are decoded, but never for long; large values are freed in pieces."""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest

from isola_anyio import codec
from isola_anyio.codec.chunked import garbage


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let decoding put collections off by a clock that stands still and an object that remembers no other test."""
    clock = Clock()
    monkeypatch.setattr("isola_anyio.codec.decoding.no_full_collections", garbage.FullCollections(clock).put_off)
    return clock


@pytest.mark.usefixtures("clock")
def test_no_full_collection_runs_while_a_long_text_is_decoded() -> None:
    before = gc.get_threshold()
    during: list[int] = []
    nested: list[Any] = []

    def look() -> None:
        during.append(gc.get_threshold()[2])
        if not nested:
            nested.append(codec.decode(b"[" + b"1," * 150_000 + b"1]"))

    codec.decode(b"[" + b"[]," * 200_000 + b"1]", pause=look)
    assert min(during) > 10**9
    assert gc.get_threshold() == before
    for pause in (lambda: None, lambda: 1 / 0):
        with pytest.raises((codec.CodecError, ZeroDivisionError)):
            codec.decode(b"[" + b"[]," * 200_000, pause=pause)
        assert gc.get_threshold() == before


def is_put_off() -> bool:
    return gc.get_threshold()[2] > 10**9


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Full collections that are asked for: whether further ones were put off by then."""
    asked: list[bool] = []
    collect = gc.collect

    def note(generation: int | None = None) -> int:
        if generation is not None:
            return collect(generation)
        asked.append(is_put_off())
        return collect()

    monkeypatch.setattr(gc, "collect", note)
    return asked


def test_values_decoded_one_after_the_other_leave_room_for_a_full_collection_between_two(
    collected: list[bool],
) -> None:
    clock = Clock()
    full_collections = garbage.FullCollections(clock)
    before = gc.get_threshold()
    for _ in range(41):
        with full_collections.put_off():
            assert is_put_off()
            clock.now += garbage.LONGEST_S / 4
        assert gc.get_threshold() == before
    assert collected == [True] * 8


def test_values_decoded_one_over_the_other_do_so_in_the_end(collected: list[bool]) -> None:
    clock = Clock()
    full_collections = garbage.FullCollections(clock)
    before = gc.get_threshold()
    with full_collections.put_off():  # there is always one of several guests that decodes
        for _ in range(41):
            with full_collections.put_off():
                clock.now += garbage.LONGEST_S / 4
            with full_collections.put_off(is_due=False):
                pass
    assert gc.get_threshold() == before
    assert collected == [True] * 4


def test_whoever_holds_a_value_for_long_lets_collections_through() -> None:
    clock = Clock()
    full_collections = garbage.FullCollections(clock)
    before = gc.get_threshold()
    with full_collections.put_off():
        gc.collect(1)
        assert is_put_off()
        clock.now += 2 * garbage.LONGEST_S
        gc.collect(0)
        assert is_put_off()
        gc.collect(1)
        assert gc.get_threshold() == before
        with full_collections.put_off(is_due=False):  # another value does not put them off again before there was one
            assert not is_put_off()
        gc.collect()
        with full_collections.put_off(is_due=False):
            assert is_put_off()
    assert gc.get_threshold() == before
    assert full_collections._on_collection not in gc.callbacks


def test_a_full_collection_of_the_programs_starts_the_count_anew(collected: list[bool]) -> None:
    clock = Clock()
    full_collections = garbage.FullCollections(clock)
    for _ in range(8):
        with full_collections.put_off():
            clock.now += garbage.LONGEST_S / 2
        gc.collect(2)
    assert collected == []


def test_two_holders_that_end_in_the_order_they_began_give_the_programs_threshold_back() -> None:
    full_collections = garbage.FullCollections(Clock())
    before = gc.get_threshold()
    first, second = full_collections.put_off(), full_collections.put_off()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert is_put_off()
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_a_fork_has_the_programs_threshold() -> None:
    before = gc.get_threshold()
    with garbage.full_collections.put_off(is_due=False), garbage.full_collections._lock:
        child = os.fork()
        if not child:
            is_as_before = gc.get_threshold() == before
            with garbage.full_collections.put_off(is_due=False):
                is_as_before = is_as_before and is_put_off()
            os._exit(not is_as_before or gc.get_threshold() != before)
    assert os.waitpid(child, 0)[1] == 0


def nothing() -> None:
    pass


def large() -> Any:
    return {
        "a": [[{"b": ["x"] * 5000}], *([n] for n in range(3000))],
        "c": {},
        "d": None,
        "e": ([[]] * 3000, (), ((),)),
    }


def test_a_value_that_nobody_else_has_is_emptied() -> None:
    value = large()
    held = [value["a"], value["e"]]
    inner = value["a"][0][0]
    del value
    garbage.let_go(held, nothing)
    assert held == []
    assert inner == {"b": ["x"] * 5000}  # somebody has it
    pieces = 0

    def count() -> None:
        nonlocal pieces
        pieces += 1

    held = [[[] for _ in range(100_000)]]
    garbage.let_go(held, count)
    assert held == []
    assert pieces >= 100_000 // 256


@pytest.mark.parametrize("path", [(), ("a",), ("a", 0), ("a", 0, 0, "b"), ("e",), ("e", 0), ("e", 2)])
def test_what_the_program_still_has_stays_as_it_is(path: tuple[Any, ...]) -> None:
    value, expected = large(), large()
    for step in path:
        value, expected = value[step], expected[step]
    whole = large()
    kept = whole
    for step in path:
        kept = kept[step]
    held = [whole]
    del whole
    garbage.let_go(held, nothing)
    assert held == []
    assert kept == expected


def test_an_iterator_of_the_programs_goes_on() -> None:
    values = [[n] for n in range(10_000)]
    items = iter(values)
    held = [values]
    del values
    garbage.let_go(held, nothing)
    assert sum(1 for _ in items) == 10_000


def test_nothing_of_a_stranger_is_asked() -> None:
    class Stranger(list[Any]):
        def __bool__(self) -> bool:
            raise AssertionError

        __len__ = __iter__ = __getitem__ = __bool__  # type: ignore[assignment]

    held: list[Any] = [[[Stranger([1])] for _ in range(5000)], Stranger([2]), None, "text", 7]
    garbage.let_go(held, nothing)
    assert held == []


@pytest.mark.usefixtures("clock")
def test_a_threshold_that_the_program_sets_meanwhile_stays() -> None:
    before = gc.get_threshold()
    try:
        codec.decode(b"[" + b"[]," * 200_000 + b"1]", pause=lambda: gc.set_threshold(500, 5, 5))
        assert gc.get_threshold() == (500, 5, 5)
    finally:
        gc.set_threshold(*before)
