"""Put the tokens of stripped source back on the lines they came from.

The stripping module prints its own layout, so that a line number in an error would be of a text nobody has seen. What
is left after stripping are, but for what enums and the like turn into, tokens of the source in their order: they are
aligned with the source's, and written out with as many line ends between them as there were. Pure.

The alignment starts from the tokens that occur once in each text, as patience diff does; between two of those, each
token is the first of its kind that is left, unless that is far and what follows it differs. A token that is aligned
too early stands on an earlier line, which the next one mends. Line ends are put only between tokens, and never where
JavaScript would take one for the end of a statement.
"""

from __future__ import annotations

__all__ = ["relayout"]

import re
from bisect import bisect_left
from collections import Counter
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
_NEAR: Final = 8
_CANDIDATES: Final = 8
_LOOKAHEAD: Final = 16
"""How far is far, and how much is looked at then; guesses that hold for the sources tried."""
_NO_BREAK_BEFORE: Final = frozenset({"++", "--", "=>", "(", "[", "`"})


class _Token(NamedTuple):
    text: str
    line: int
    glued: bool  # nothing stands between it and the token before


def relayout(source: str, stripped: str) -> str:
    """Return ``stripped`` with its tokens on the lines they have in ``source``."""
    given = _tokens(source)
    left = _tokens(stripped)
    lines = _align([_plain(one.text) for one in given], [_plain(one.text) for one in left])
    out: list[str] = []
    current = 1
    before = ""
    for token, at in zip(left, lines, strict=True):
        line = None if at is None else given[at].line
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


def _align(given: list[str], left: list[str]) -> list[int | None]:
    """Say for each token of ``left`` which of ``given`` it is; ``None`` for one that was added."""
    found: list[int | None] = [None] * len(left)
    places: dict[str, list[int]] = {}
    for at, text in enumerate(given):
        places.setdefault(text, []).append(at)
    anchors = [*_anchors(places, left), (len(given), len(left))]
    start_given = start_left = 0
    for at_given, at_left in anchors:
        _fill(given, left, places, found, range(start_given, at_given), range(start_left, at_left))
        if at_left < len(left):
            found[at_left] = at_given
        start_given, start_left = at_given + 1, at_left + 1
    return found


def _anchors(places: dict[str, list[int]], left: list[str]) -> list[tuple[int, int]]:
    """Pair the tokens that occur once in each text: the longest series that rises in both."""
    counts = Counter(left)
    alone = {text for text, count in counts.items() if count == 1 and len(places.get(text, ())) == 1}
    pairs = [(places[text][0], at) for at, text in enumerate(left) if text in alone]
    tails: list[int] = []
    chain: list[tuple[int, int]] = []  # index into `tails` and into `pairs` of the one before
    ends: list[int] = []
    for index, (place, _) in enumerate(pairs):
        slot = bisect_left(tails, place)
        if slot == len(tails):
            tails.append(place)
            ends.append(index)
        else:
            tails[slot] = place
            ends[slot] = index
        chain.append((slot, ends[slot - 1] if slot else -1))
    series: list[tuple[int, int]] = []
    at = ends[-1] if ends else -1
    while at >= 0:
        series.append(pairs[at])
        at = chain[at][1]
    return series[::-1]


def _fill(
    given: list[str],
    left: list[str],
    places: dict[str, list[int]],
    found: list[int | None],
    range_given: range,
    range_left: range,
) -> None:
    """Align what is between two anchors."""
    at = range_given.start
    for index in range_left:
        text = left[index]
        if text == ";":  # printed everywhere, written by few
            place = at if at < range_given.stop and given[at] == ";" else None
        else:
            place = _first(given, left[index + 1 : index + 4], places.get(text, []), at, range_given.stop)
        if place is not None:
            found[index] = place
            at = place + 1


def _first(given: list[str], following: list[str], places: list[int], start: int, stop: int) -> int | None:
    """Find the first place that is near, or after which the same follows."""
    first = bisect_left(places, start)
    for place in places[first : first + _CANDIDATES]:
        if place >= stop:
            break
        if place - start <= _NEAR:
            return place
        rest = iter(given[place + 1 : place + 1 + _LOOKAHEAD])
        if sum(text in rest for text in following if text != ";") >= min(2, len(following)):
            return place
    return None


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
