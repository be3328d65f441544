"""Full collections are put off while long values are decoded, but never for long; what is let go is freed in pieces."""

from __future__ import annotations

import gc
from itertools import groupby
from typing import Any

import pytest

from isola_anyio import codec
from isola_anyio.codec import collector


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


def test_values_decoded_one_over_the_other_let_a_full_collection_through(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    allowed = gc.get_threshold()[2]
    seen: list[bool] = []
    with collector.no_full_collections():  # there is always one of several guests that decodes
        for _ in range(40):
            with collector.no_full_collections():
                clock[0] += collector.LONGEST_S / 4
            seen.append(gc.get_threshold()[2] == allowed)
    assert gc.get_threshold()[2] == allowed
    assert max(len(list(run)) for is_allowed, run in groupby(seen) if not is_allowed) <= 5
    assert max(len(list(run)) for is_allowed, run in groupby(seen) if is_allowed) <= 5


def test_a_full_collection_that_was_let_through_starts_the_count_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [5000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with collector.no_full_collections():
        assert gc.get_threshold()[2] > 10**9
        clock[0] += collector.LONGEST_S
        with collector.no_full_collections():
            assert gc.get_threshold()[2] < 10**9
        gc.collect()
        with collector.no_full_collections():
            assert gc.get_threshold()[2] > 10**9


def test_what_is_let_go_is_emptied_and_what_it_shares_is_not() -> None:
    shared = "x" * 10
    value: Any = {"a": [[{"b": [shared] * 5000}] * 1, *range(3000)], "c": {}, "d": None}
    inner = value["a"]
    collector.let_go(value)
    assert value == {}
    assert inner == []
    collector.let_go(None)
    collector.let_go("text")


def test_a_threshold_that_the_program_sets_meanwhile_stays() -> None:
    before = gc.get_threshold()
    try:
        codec.decode(b"[" + b"[]," * 200_000 + b"1]", pause=lambda: gc.set_threshold(500, 5, 5))
        assert gc.get_threshold() == (500, 5, 5)
    finally:
        gc.set_threshold(*before)
