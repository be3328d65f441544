"""A text of an error shows the beginning of any value, builds little more than it shows, and runs nobody's code."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pytest

from isola_anyio.clipping import CLIP_CHARS, clip, type_name


class Color(enum.IntEnum):
    RED = 1


@dataclass
class Point:
    x: int
    name: str = "p"
    hidden: object = field(default=None, repr=False)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 7, -1.5, "it's", b"x", bytearray(b"x"), ..., Color),
        *([], [1, "a"], (), (1,), (1, 2), set(), {1}, frozenset(), frozenset({1}), {}, {"a": [1, {"b": ()}]}),
        *(ValueError("a", 1), ValueError(), Point(1), PurePosixPath("/a/b"), print, clip, object()),
    ],
    ids=repr,
)
def test_short_values_are_shown_as_repr_shows_them(value: object) -> None:
    expected = repr(value)
    if isinstance(value, type):
        expected = f"<class '{type_name(value(1))}'>"
    elif isinstance(value, ValueError):
        expected = expected.replace(",)", ")")
    assert clip(value) == expected


class Shown:
    def __repr__(self) -> str:
        raise AssertionError("somebody's code was run")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        "x" * 1_000_000,
        b"x" * 1_000_000,
        list(range(1_000_000)),
        dict.fromkeys(range(100_000), "x" * 1000),
        nested(100_000),
        10**100_000,
        Shown(),
        [Shown()] * 1000,
        ValueError(Shown(), "x" * 1_000_000),
        Point(1, "x" * 1_000_000),
        type("k" * 1_000_000, (), {})(),
    ],
    ids=lambda value: type(value).__name__[:20],
)
def test_long_values_and_strangers_are_shown_in_part(value: object) -> None:
    assert len(clip(value)) <= CLIP_CHARS + len("''...") + 1
    assert len(clip(value, 10)) <= 10 + len("''...") + 1


def test_a_list_that_holds_itself_is_shown() -> None:
    value: list[Any] = []
    value.append(value)
    assert clip(value) == "[[[[[[[...]]]]]]]"


class Sly(type):
    def __getattribute__(cls, name: str) -> Any:
        raise OSError("asked")


def test_a_class_whose_class_answers_for_it_has_its_own_name() -> None:
    value: Any = Sly("Hidden", (), {"__module__": "__main__"})
    assert type_name(object.__new__(value)) == "Hidden"
    assert clip(value) == "<class 'Hidden'>"
