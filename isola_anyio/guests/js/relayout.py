"""Put the tokens of stripped source back on the lines they came from.

The stripping module prints its own layout, so that a line number in an error would be of a text nobody has seen. What
is left after stripping are, but for what enums and the like turn into, tokens of the source in their order: they are
aligned with the source's, and written out with as many line ends between them as there were. Pure.

Line ends are put only between tokens, and never where JavaScript would take one for the end of a statement.
"""

from __future__ import annotations

__all__ = ["relayout"]

import re
from difflib import SequenceMatcher
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>//[^\n\r]*|/\*.*?\*/|\A\#![^\n\r]*)
    | (?P<word>\#?[^\W\d][\w$]*|\$[\w$]*|\#\$[\w$]*)
    | (?P<number>(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*\.?[\d_]*(?:[eE][+-]?[\d_]+)?|\.\d[\d_]*(?:[eE][+-]?[\d_]+)?)n?)
    | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<mark>>>>=|\.\.\.|===|!==|\*\*=|<<=|>>=|>>>|&&=|\|\|=|\?\?=|=>|==|!=|<=|>=|&&|\|\||\?\?|\?\.(?!\d)|\+\+|--
        |[-+*%&|^]=|\*\*|<<|>>|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_REGEX: Final = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*")
_VALUE_ENDS: Final = frozenset({")", "]", "}", "++", "--"})
_WORDS_BEFORE_REGEX: Final = frozenset(
    {
        *("return", "typeof", "instanceof", "in", "of", "new", "delete", "void", "throw"),
        *("case", "do", "else", "yield", "await", "extends", "default"),
    }
)
_NO_BREAK_AFTER: Final = frozenset(
    {"return", "throw", "break", "continue", "yield", "async", "let", "static", "get", "set"}
)
_NO_BREAK_BEFORE: Final = frozenset({"++", "--", "=>", "(", "[", "`"})


class _Token(NamedTuple):
    text: str
    line: int
    glued: bool  # nothing stands between it and the token before


def relayout(source: str, stripped: str) -> str:
    """Return ``stripped`` with its tokens on the lines they have in ``source``."""
    given = _tokens(source)
    left = _tokens(stripped)
    lines: list[int | None] = [None] * len(left)
    matcher = SequenceMatcher(None, [_plain(one.text) for one in given], [_plain(one.text) for one in left])
    for start, at, count in matcher.get_matching_blocks():
        for offset in range(count):
            lines[at + offset] = given[start + offset].line
    out: list[str] = []
    current = 1
    before = ""
    for token, line in zip(left, lines, strict=True):
        may_break = before not in _NO_BREAK_AFTER and token.text not in _NO_BREAK_BEFORE
        if line is not None and line > current and may_break:
            out.append("\n" * (line - current))
            current = line
        elif not token.glued:
            out.append(" ")
        out.append(token.text)
        current += token.text.count("\n")
        before = token.text
    return "".join(out).lstrip(" ") + "\n"


def _plain(text: str) -> str:
    """Strip what printing may change of a token: the kind of quotes."""
    return text[1:-1] if text[0] in "\"'" else text


def _tokens(code: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    line = 1
    glued = True
    while at < len(code):
        if code[at] == "`":
            end = _template_end(code, at)
        elif _regex_may_start(code, at, tokens):
            found = _REGEX.match(code, at)
            end = at + 1 if found is None else found.end()
        else:
            match = _TOKEN.match(code, at)
            assert match is not None  # the last alternative takes any character
            end = match.end()
            if match.lastgroup in ("space", "comment"):
                line += code.count("\n", at, end)
                at = end
                glued = False
                continue
        tokens.append(_Token(code[at:end], line, glued))
        line += code.count("\n", at, end)
        at = end
        glued = True
    return tokens


def _regex_may_start(code: str, at: int, before: list[_Token]) -> bool:
    if code[at] != "/" or code[at + 1 : at + 2] in "/*":
        return False
    return not before or _regex_may_follow(before[-1].text)


def _regex_may_follow(before: str) -> bool:
    if before in _WORDS_BEFORE_REGEX:
        return True
    last = before[-1]
    return before not in _VALUE_ENDS and not (last.isalnum() or last in "_$\"'`/")


def _template_end(code: str, start: int) -> int:
    """Return where the template that begins at ``start`` ends, with all that is in its ``${...}``."""
    at = start + 1
    while at < len(code):
        if code[at] == "\\":
            at += 2
        elif code[at] == "`":
            return at + 1
        elif code.startswith("${", at):
            at = _substitution_end(code, at + 2)
        else:
            at += 1
    return len(code)


def _substitution_end(code: str, start: int) -> int:
    depth = 1
    at = start
    while at < len(code):
        if code[at] == "`":
            at = _template_end(code, at)
            continue
        match = _TOKEN.match(code, at)
        assert match is not None
        at = match.end()
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                return at
    return len(code)
