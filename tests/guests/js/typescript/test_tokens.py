"""Source is cut into tokens as its language has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isola_anyio.guests.js.typescript.tokens import paced, scan


def cut(code: str) -> list[str]:
    return [token.text for token in scan(code, lambda: None)]


@pytest.mark.parametrize(
    ("code", "tokens"),
    [
        ("a+++b", "a ++ + b"),
        ("a?.b ?? .5e-3", "a ?. b ?? .5e-3"),
        ("a?.5:1_0n", "a ? .5 : 1_0n"),
        ("#x in $y", "#x in $y"),
        ("'a\\'b' \"c", "'a\\'b' \"c"),
        ("a / b / c", "a / b / c"),
        ("a++ / b / c", "a ++ / b / c"),
        ("(a) / b / c", "( a ) / b / c"),
        ("a[0] / b / c", "a [ 0 ] / b / c"),
        ("return /b/g", "return /b/g"),
        ("x = /[/]/.y", "x = /[/]/ . y"),
        ("if (a()) /b/g", "if ( a ( ) ) /b/g"),
        ("o.if(a) / b / c", "o . if ( a ) / b / c"),
        ("o.return / b / c", "o . return / b / c"),
        ("`a${b}c` / d / e", "`a${ b }c` / d / e"),
        ("`${{}}`", "`${ { } }`"),
        ("`${`${1}`}`", "`${ `${ 1 }` }`"),
        ("`$\\${`", "`$\\${`"),
        ("}`a`", "} `a`"),
        ("a // b\nc /* d\n */ e", "a c e"),
        ("#!x\na #!x", "a # ! x"),
        ("/* a", ""),
        ("x = /[a", "x = /[a"),
    ],
)
def test_tokens_are_the_languages(code: str, tokens: str) -> None:
    assert cut(code) == tokens.split()


@given(st.text("`${}()[]/*\\'\"\n ab.1#=", max_size=60))
def test_any_text_is_cut_in_order_and_only_blanks_are_left_out(code: str) -> None:
    end = 0
    for text, start, line in scan(code, lambda: None):
        assert code[start : start + len(text)] == text != ""
        assert line == 1 + code.count("\n", 0, start)
        gap = code[end:start]
        assert gap.strip() == "" or "/" in gap or gap.startswith("#!")
        end = start + len(text)


def test_pauses_come_with_the_items() -> None:
    seen: list[int] = []
    pauses: list[int] = []
    for item in paced(range(5000), lambda: pauses.append(len(seen))):
        seen.append(item)  # noqa: PERF402 - each pause looks at how many have come
    assert seen == list(range(5000))
    assert pauses == [0, 2048, 4096]
