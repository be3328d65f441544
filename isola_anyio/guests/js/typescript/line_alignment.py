"""Line alignment: the tokens of stripped source, put back on the lines they have in the TypeScript source. Pure.

The stripping module prints its own layout, so that a line number in an error would be one of a text that the user has
never seen. The stripped text holds tokens of the source in their order (except where an enum or the like is
translated): they are aligned with the tokens of the source, and written with as many line ends between them.

The alignment starts from *anchors*, tokens that occur once in each text, as patience diff does. Between two anchors,
each token is aligned with the next one of its kind in the source, unless that is far away and other tokens follow it
there. A token that is aligned too early stands on too early a line, which the next token corrects. Line ends are put
only between tokens, and never where JavaScript would take one for the end of a statement.

The text is the guest's and may be long: the work grows linearly with its length, a token costs a few numbers in
arrays, and ``pause`` is called every few milliseconds, to yield to other threads, or to stop the work by raising.
"""

from __future__ import annotations

__all__ = ["align_lines"]

from array import array
from bisect import bisect_left
from io import StringIO
from typing import TYPE_CHECKING, Final

from isola_anyio.guests.js.typescript.tokens import paced, scan

if TYPE_CHECKING:
    from collections.abc import Callable

_NO_BREAK_AFTER: Final = frozenset(
    {"return", "throw", "break", "continue", "yield", "async", "let", "static", "get", "set"}
)
_NO_BREAK_BEFORE: Final = frozenset({"++", "--", "=>", "(", "["})
# Window sizes for re-synchronising token alignment; guesses that hold for the sources tried.
_NEAR: Final = 8
"""A token of the same kind within so many tokens is taken without looking at what follows it."""
_CANDIDATES: Final = 8
"""How many tokens of the same kind are looked at."""
_LOOKAHEAD: Final = 16
"""In how many tokens behind a candidate the next stripped tokens must occur."""
_NUMBERS: Final = "I"
"""Type code of the arrays: 32 bits, unsigned."""


def align_lines(source: str, stripped: str, pause: Callable[[], object] = lambda: None) -> str:
    """Return ``stripped`` with its tokens on the lines they have in ``source``."""
    kinds: dict[str, int] = {}
    given = _Text(source, kinds, pause)
    left = _Text(stripped, kinds, pause)
    places = _Alignment(given, left, kinds, pause).places
    out = StringIO()
    current = 1
    before = ""
    end = 0
    for index, place in enumerate(paced(places, pause)):
        start = left.starts[index]
        gap = stripped[end:start]
        end = left.ends[index]
        text = stripped[start:end]
        line = given.lines[place] if place < len(given.lines) else 0
        is_blank = not gap or gap.isspace()
        if not is_blank:
            # A comment, or part of a regular expression that `scan` did not recognise: it is copied.
            out.write(gap)
            current += gap.count("\n")
        if line > current and before not in _NO_BREAK_AFTER and text not in _NO_BREAK_BEFORE and text[0] != "`":
            out.write("\n" * (line - current))
            current = line
        elif is_blank and gap and before:
            out.write(" " if "\n" in gap else gap)
        out.write(text)
        current += text.count("\n")
        before = text
    out.write(stripped[end:])
    return out.getvalue() + "\n"


class _Text:
    """The tokens of a text, in arrays: their kinds, where they start and end, and their lines."""

    def __init__(self, code: str, kinds: dict[str, int], pause: Callable[[], object]) -> None:
        """``kinds`` maps the text of a token to the number of its kind; new texts are added."""
        self.kinds = array(_NUMBERS)
        self.starts = array(_NUMBERS)
        self.ends = array(_NUMBERS)
        self.lines = array(_NUMBERS)
        for token in scan(code, pause):
            self.kinds.append(kinds.setdefault(_plain(token.text), len(kinds)))
            self.starts.append(token.start)
            self.ends.append(token.start + len(token.text))
            self.lines.append(token.line)


def _plain(text: str) -> str:
    """Remove from a token what printing may change: the kind of quotes."""
    return text[1:-1] if text[0] in "\"'" else text


class _Alignment:
    """The alignment of ``left`` (stripped) with ``given`` (the source).

    Attributes:
        places: for each token of ``left`` the index of its token in ``given``; ``len(given.kinds)`` for an added one.
    """

    def __init__(self, given: _Text, left: _Text, kinds: dict[str, int], pause: Callable[[], object]) -> None:
        self._given = given.kinds
        self._left = left.kinds
        self._pause = pause
        self._none = len(given.kinds)
        self._semicolon = kinds.get(";", -1)
        # For each kind the first index in `given` that is still ahead; for each index the next of the same kind.
        self._next = array(_NUMBERS, [self._none]) * len(kinds)
        self._after = array(_NUMBERS, [self._none]) * len(given.kinds)
        for place in paced(range(self._none - 1, -1, -1), pause):
            kind = self._given[place]
            self._after[place] = self._next[kind]
            self._next[kind] = place
        self.places = array(_NUMBERS, [self._none]) * len(left.kinds)
        anchor_places, anchor_indices = self._anchors()
        begin = index_begin = 0
        for stop, index_stop in zip(anchor_places, anchor_indices, strict=True):
            self._fill(begin, stop, range(index_begin, index_stop))
            self.places[index_stop] = stop
            begin, index_begin = stop + 1, index_stop + 1
        self._fill(begin, self._none, range(index_begin, len(left.kinds)))

    def _anchors(self) -> tuple[array[int], array[int]]:
        """Return the anchors' indices in both texts: of tokens that occur once in each, the longest rising series."""
        counts = array(_NUMBERS, [0]) * len(self._next)
        for kind in paced(self._left, self._pause):
            counts[kind] += 1
        places, indices, earlier = array(_NUMBERS), array(_NUMBERS), array("i")
        tails, ends = array(_NUMBERS), array(_NUMBERS)  # of the best series of each length: its last place, and pair
        for index, kind in enumerate(paced(self._left, self._pause)):
            place = self._next[kind]
            if counts[kind] != 1 or place == self._none or self._after[place] != self._none:
                continue
            length = bisect_left(tails, place)
            if length == len(tails):
                tails.append(place)
                ends.append(len(places))
            else:
                tails[length] = place
                ends[length] = len(places)
            earlier.append(ends[length - 1] if length else -1)
            places.append(place)
            indices.append(index)
        series = array(_NUMBERS)
        pair = ends[-1] if ends else -1
        while pair >= 0:
            series.append(pair)
            pair = earlier[pair]
        series.reverse()
        return array(_NUMBERS, (places[pair] for pair in series)), array(_NUMBERS, (indices[pair] for pair in series))

    def _fill(self, begin: int, stop: int, indices: range) -> None:
        """Align the tokens between two anchors."""
        at = begin
        for index in paced(indices, self._pause):
            kind = self._left[index]
            if kind == self._semicolon:  # printed behind every statement, whether the source has one or not
                place = at if at < stop and self._given[at] == kind else self._none
            else:
                place = self._first(kind, self._left[index + 1 : index + 4], at, stop)
            if place != self._none:
                self.places[index] = place
                at = place + 1

    def _first(self, kind: int, following: array[int], start: int, stop: int) -> int:
        """Return the first place of this kind that is near, or followed by the same; ``start`` never decreases."""
        place = self._next[kind]
        while place < start:
            place = self._after[place]
        self._next[kind] = place
        for _ in range(_CANDIDATES):
            if place >= stop:
                break
            if place - start <= _NEAR:
                return place
            rest = iter(self._given[place + 1 : place + 1 + _LOOKAHEAD])
            if sum(one in rest for one in following if one != self._semicolon) >= min(2, len(following)):
                return place
            place = self._after[place]
        return self._none
