"""What a value takes decoded is told from its text: within bounds of what it takes, and never less than its length."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from isola_anyio import codec

MIB = 1 << 20
VALUES: dict[str, Any] = {
    "empty lists": [[] for _ in range(20_000)],
    "empty dicts": [{} for _ in range(20_000)],
    "dicts of one": [{"": 0} for _ in range(20_000)],
    "dicts of two": [{"a": n, "b": f"x{n}"} for n in range(20_000)],
    "dicts of many keys": [{f"{n:x}": 0} for n in range(20_000)],
    "lists of one": [[n] for n in range(20_000)],
    "small ints": [1] * 100_000,
    "ints": list(range(1000, 100_000)),
    "floats": [n / 7 for n in range(50_000)],
    "short texts": [f"text {n}" for n in range(50_000)],
    "one text": "x" * MIB,
    "one wide text": "x" * MIB + "\U0001f600",
    "records": [{"id": n, "name": f"user {n}", "tags": ["ab", "cd"], "score": n / 3} for n in range(10_000)],
}


def nothing() -> None:
    pass


@pytest.mark.parametrize("name", VALUES)
def test_the_estimate_is_near_what_the_value_takes(name: str) -> None:
    text = json.dumps(VALUES[name], ensure_ascii=False, separators=(",", ":")).encode()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    value = codec.decode(text)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert value == VALUES[name]
    estimate = codec.decoded_size(text, 1 << 40, nothing)
    assert max(len(text), 0.7 * taken) <= estimate <= 3 * taken + len(text)


def test_of_a_frame_only_its_text_is_searched() -> None:
    frame = codec.encode([b"[" * MIB, [[]]])
    assert len(frame) <= codec.decoded_size(frame, 1 << 40, nothing) <= len(frame) + 4096


def test_beyond_the_limit_nothing_is_searched_for() -> None:
    text = b"[" + b"[]," * 1_000_000 + b"[]]"
    pauses: list[None] = []
    assert codec.decoded_size(text, len(text) + 1, lambda: pauses.append(None)) > len(text)
    assert pauses == []
    codec.decoded_size(text, 1 << 40, lambda: pauses.append(None))
    assert len(pauses) == len(text) // (64 * 1024)


@pytest.mark.parametrize(
    "data", [b"", b"\xfe", b"\xfe\1\1\0\xff\xff\xff\xff\xff\xff\xff\xff", b"]]]]", b'"', bytes(99)]
)
def test_hostile_bytes_are_weighed_too(data: bytes) -> None:
    assert codec.decoded_size(memoryview(data), MIB, nothing) >= len(data)
