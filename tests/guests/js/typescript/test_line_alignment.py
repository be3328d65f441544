"""Tokens go back to their lines, whatever the text, in time and memory that grow with it."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from isola_anyio.guests.js.typescript.line_alignment import align_lines
from tests.timing import SLACK


@pytest.mark.parametrize(
    ("source", "stripped"),
    [
        ("let a: number\n\n= 1\nlet b = 2", "let a = 1;\nlet b = 2;\n"),
        ("interface A {\n x: 1\n}\nf(\n`a\n${ `b\n` }`,\n1)\ng()", "f(`a\n${`b\n`}`, 1);\ng();\n"),
        (
            "// c\nconst r = /[/'\"`]\\//g; const q = 4 / 2 / 1\nx()",
            "const r = /[/'\"`]\\//g;\nconst q = 4 / 2 / 1;\nx();\n",
        ),
        (
            "type A = 1\nreturnish\nfunction f(): A {\n  return <A>\n   g() }",
            "returnish;\nfunction f() {\n\treturn g();\n}\n",
        ),
    ],
)
def test_tokens_return_to_their_lines(source: str, stripped: str) -> None:
    out = align_lines(source, stripped)
    assert "".join(out.split()) == "".join(stripped.split())
    for word in ("x()", "let b", "returnish", "g("):
        if word in stripped and "return g(" not in stripped:
            assert line_of(word, out) == line_of(word, source)


def line_of(word: str, text: str) -> int:
    return next(number for number, line in enumerate(text.splitlines()) if word in line)


def test_nothing_is_put_between_return_and_its_value() -> None:
    out = align_lines("function f(): A {\n  return <A>\n   g() }", "function f() {\n\treturn g();\n}\n")
    assert "return g(" in out


def test_a_long_source_is_put_back_in_no_time() -> None:
    source = "\n".join(
        f"interface I{i} {{\n  a: number\n}}\nfunction f{i}(a: I{i}): void {{\n  throw a\n}}" for i in range(2000)
    )
    stripped = "\n".join(f"function f{i}(a) {{\n\tthrow a;\n}}" for i in range(2000)) + "\n"
    out = align_lines(source, stripped).splitlines()
    assert [line for line in range(len(out)) if "throw" in out[line]] == [6 * i + 4 for i in range(2000)]


@pytest.mark.parametrize(
    ("source", "stripped", "word", "line"),
    [
        ("let a: number = `${\n[/[/*]/]}`\nfound()", "let a = `${[/[/*]/]}`;\nfound();\n", "found", 3),
        ("let a: T = `${`${\n/`/}`}`\nfound()", "let a = `${`${/`/}`}`;\nfound();\n", "found", 3),
        ("if (a as b) /'/.test(c)\n\nfound()", "if (a) /'/.test(c);\nfound();\n", "found", 3),
        ("let a: T = b / c / d\n/* / */\nfound()", "let a = b / c / d;\nfound();\n", "found", 3),
    ],
)
def test_a_slash_is_read_for_what_it_is(source: str, stripped: str, word: str, line: int) -> None:
    out = align_lines(source, stripped)
    assert "".join(out.split()) == "".join(stripped.split())
    assert line_of(word, out) == line - 1


def test_what_is_within_a_regular_expression_stays_as_it_is() -> None:
    stripped = "if (a) {}\n/a  b/.test(c);\nlet d = () => /a  b/;\nif (a) /a  b/.test(c);\n"
    assert align_lines(stripped, stripped).count("/a  b/") == 3


LENGTH = 100_000
HOSTILE = {
    "regular expressions that look like comments": ("`${[", "/[/*]/,", "1]}`"),
    "comments that never end": ("", "/*", ""),
    "strings that never end": ("", '"\\', ""),
    "classes that never end": ("", "=/[", ""),
    "templates in templates": ("", "`${", ""),
    "parentheses": ("", "(", ""),
    "an array of numbers": ("[", "1,", "1]"),
    "one long string of escapes": ('"', "\\a", '"'),
    "one long template of dollars": ("`", "$", "`"),
    "tokens that are seldom near": ("a ", "b c d e f g h i j ", "a"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_no_longer_and_no_more_memory_than_other_text(name: str) -> None:
    head, unit, tail = HOSTILE[name]
    text = head + unit * (LENGTH // len(unit)) + tail
    start = time.perf_counter()
    align_lines(text, text)
    assert time.perf_counter() - start < 1.5 * SLACK  # where the work is not linear, the best case takes half a minute
    part = text[: LENGTH // 8]
    tracemalloc.start()
    align_lines(part, part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * len(part)


@pytest.mark.slow
def test_others_get_their_turn_and_may_stop_it() -> None:
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        if pauses == stop_at:
            raise InterruptedError

    text = "a b " * 10_000
    stop_at = -1
    align_lines(text, text, pause)
    assert pauses > 2 * 20_000 / 2048
    for which in (1, pauses // 2, pauses):
        stop_at = which
        pauses = 0
        with pytest.raises(InterruptedError):
            align_lines(text, text, pause)
