"""Text of guests is shown without what a terminal obeys, and can be encoded."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isola_anyio import GuestError
from isola_anyio.printable import printable, printable_json, printable_line, printable_on_terminal

ANY_TEXT = st.text(st.characters() | st.sampled_from("\ud800\udfff\x1b\x9b\r\n\t\u202e\u2066\x7f\0"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("ValueError: no\n\tmore", "ValueError: no\n\tmore"),
        ("naïve 漢字 👩\u200d💻 עברית\u200f", "naïve 漢字 👩\u200d💻 עברית\u200f"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b2J\x85\x7f", "\\x9b2J\\x85\\x7f"),
        ("over\rwrite\b\0", "over\\rwrite\\x08\\x00"),
        ("a\ud800b\udfff", "a\\ud800b\\udfff"),
        ("if user != 'a\u202e \u2066", "if user != 'a\\u202e \\u2066"),
        ("\\x1b", "\\x1b"),
    ],
)
def test_what_a_terminal_obeys_is_shown_as_an_escape_and_all_else_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(ANY_TEXT)
def test_whatever_the_text_it_can_be_encoded_and_is_shown_the_same_a_second_time(text: str) -> None:
    for show in (printable, printable_line, printable_on_terminal, printable_json):
        shown = show(text)
        shown.encode()
        assert show(shown) == shown
        assert not set(shown) & set("\x1b\x9b\0\x7f\u202e\u2066")
    assert "\n" not in printable_line(text)
    assert printable_on_terminal(text).count("\r") == text.count("\r")


@given(ANY_TEXT)
def test_json_with_escapes_says_the_same(text: str) -> None:
    assert json.loads(printable_json(json.dumps(text, ensure_ascii=False))) == text


def test_an_error_of_a_guest_is_fit_to_be_shown_whoever_makes_it() -> None:
    error = GuestError("E\nrror\x1b", "m\ud800\n", "t\x1b[2J\n")
    assert (error.type, error.message, error.traceback) == ("E\\nrror\\x1b", "m\\ud800\n", "t\\x1b[2J\n")
    assert str(error) == "E\\nrror\\x1b: m\\ud800\n\nt\\x1b[2J\n"


def test_a_line_has_no_separators_of_lines() -> None:
    assert printable_line("a\u2028b\u2029c\nd") == "a\\u2028b\\u2029c\\nd"
