"""Tokens: JavaScript or TypeScript cut into tokens, in time and memory linear in the text's length. Pure.

The text is the guest's, so every pattern here matches wherever it is tried and reads no character twice: an
unterminated literal or comment goes to the end of its line, or of the text. Two questions need more than patterns:
whether a slash begins a regular expression, which depends on the token before it, and whether a closing brace ends a
substitution of a template.
"""

from __future__ import annotations

__all__ = ["Token", "paced", "scan"]

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

_STEPS: Final = 2048
"""Tokens between two calls of ``pause``: the work of a few milliseconds."""
_TOKEN: Final = re.compile(
    r"""
      (?P<blank>\s++|//[^\n\r]*+|/\*.*?(?:\*/|\Z)|\A\#![^\n\r]*+)
    | \#?[^\W\d][\w$]*+|\$[\w$]*+|\#\$[\w$]*+
    | (?:0[xXbBoO][\da-fA-F_]++|\d[\d_]*+\.?[\d_]*+(?:[eE][+-]?[\d_]++)?|\.\d[\d_]*+(?:[eE][+-]?[\d_]++)?)n?
    | "[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"?|'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+'?
    | >>>=|\.\.\.|===|!==|\*\*=|<<=|>>=|>>>|&&=|\|\|=|\?\?=|=>|==|!=|<=|>=|&&|\|\||\?\?|\?\.(?!\d)|\+\+|--
    | [-+*%&|^]=|\*\*|<<|>>|.
    """,
    re.VERBOSE | re.DOTALL,
)
_REGEX: Final = re.compile(r"/(?:[^/\\\[\n]++|\\[^\n]|\[[^\]\\\n]*+(?:\\[^\n][^\]\\\n]*+)*+\]?)*+/?[a-z]*+")
_TEMPLATE: Final = re.compile(r"[`}](?:[^`\\$]++|\\.|\$(?!\{))*+(?:`|\$\{)?", re.DOTALL)
"""From the start of a template, or the end of a substitution, to the next substitution or the end of the template."""
_VALUE_ENDS: Final = frozenset({")", "]", "}", "++", "--"})
_WORDS_BEFORE_REGEX: Final = frozenset(
    {
        *("return", "typeof", "instanceof", "in", "of", "new", "delete", "void", "throw"),
        *("case", "do", "else", "yield", "await", "extends", "default"),
    }
)
_WORDS_BEFORE_CONDITION: Final = frozenset({"if", "while", "for", "with"})


class Token(NamedTuple):
    """One token; a template is cut into one token before each of its substitutions, and one after the last."""

    text: str
    start: int
    line: int


def scan(code: str, pause: Callable[[], object]) -> Iterator[Token]:
    """Yield the tokens of ``code`` without comments; ``pause`` is called every few milliseconds."""
    return paced(_scan(code), pause)


def paced(items: Iterable[T], pause: Callable[[], object]) -> Iterator[T]:
    """Yield the items, and call ``pause`` before every 2048th."""
    for number, item in enumerate(items):
        if number % _STEPS == 0:
            pause()
        yield item


def _scan(code: str) -> Iterator[Token]:
    at = 0
    line = 1
    context = _Context()
    while at < len(code):
        start = at
        if code[at] == "`" or (code[at] == "}" and context.in_substitution):
            match = _TEMPLATE.match(code, at)
        elif code[at] == "/" and code[at + 1 : at + 2] not in ("/", "*") and context.regex_may_follow:
            match = _REGEX.match(code, at)
        else:
            match = _TOKEN.match(code, at)
        assert match is not None  # the first two begin with what was seen; _TOKEN ends in "any character"
        at = match.end()
        if match.lastgroup is None:
            text = match.group()
            yield Token(text, start, line)
            context.take(text)
        line += code.count("\n", start, at)


class _Context:
    """What the tokens so far decide about the next: slash or regular expression, brace or end of a substitution."""

    def __init__(self) -> None:
        self.regex_may_follow = True
        self._last = ""
        self._is_member = False  # the last token is the name of a member, as in `a.if`
        self._parens = bytearray()  # for each open one: does it hold a condition, behind which no operator can follow?
        self._braces = bytearray()  # for each open one: is it a substitution?

    @property
    def in_substitution(self) -> bool:
        """Whether the next closing brace ends a substitution."""
        return bool(self._braces) and self._braces[-1] == 1

    def take(self, text: str) -> None:
        """Take the next token into account."""
        first, last = text[0], text[-1]
        is_template = first == "`" or (first == "}" and self.in_substitution)
        if first == "}" and self._braces:
            self._braces.pop()
        after_condition = False
        if is_template:
            if text.endswith("${"):
                self._braces.append(1)
        elif text == "{":
            self._braces.append(0)
        elif text == "(":
            self._parens.append(self._last in _WORDS_BEFORE_CONDITION and not self._is_member)
        elif text == ")" and self._parens:
            after_condition = self._parens.pop() == 1
        self._is_member = self._last in (".", "?.")
        self._last = text
        if text in _WORDS_BEFORE_REGEX and not self._is_member:
            self.regex_may_follow = True
        else:
            is_value = text in _VALUE_ENDS or last.isalnum() or last in "_$\"'`/"
            self.regex_may_follow = after_condition or not is_value
