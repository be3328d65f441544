"""JSON text: ``json``'s C encoder and scanner, and searches in a text for what ``json`` has lost or must not read.

``json.dumps`` accepts more than a value may hold, and loses some of it silently. Walking every value to find out would
cost more than encoding it, so the *text* is searched, at C speed, for what such a loss leaves behind:

- A key that is not a str becomes one: ``{1: 2}`` gives ``{"1":2}``. Only if a key looks like a number, ``true``,
  ``false`` or ``null`` are the types of the value's keys looked at.
- Nesting deeper than `MAX_DEPTH` needs more than `MAX_DEPTH` opening brackets. Only then are they paired up.
- An int outside ±(2**53-1), which JavaScript cannot hold, has at least 16 digits. Only then is the value walked.
- A surrogate cannot be encoded as UTF-8.
"""

from __future__ import annotations

__all__ = [
    "COERCED_KEY",
    "INT_MARKS",
    "LONG_INT_MARK",
    "MAX_DEPTH",
    "MAX_INT_DIGITS",
    "MAX_SAFE_INT",
    "bracket_marks",
    "brackets_open_after",
    "chunks",
    "chunks_ascii",
    "chunks_finite",
    "has_surrogate_pair",
    "is_exact",
    "is_too_deep",
    "loose_int",
    "mask_escapes",
    "scan",
    "scanner",
]

import json
import re
import sys
from itertools import accumulate
from json import encoder as _encoder
from typing import TYPE_CHECKING, Any, Final

from isola_anyio.codec.errors import CodecError
from isola_anyio.kinds import base_of, items_of, iterate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_DEPTH: Final = 500
"""How deep lists and dicts may nest: half of CPython's default recursion limit, because ``json`` recurses both ways."""

MAX_INT_DIGITS: Final = 4300
"""CPython's default limit of digits in an int, whose conversion is quadratic; longer ints cross as bytes."""

MAX_SAFE_INT: Final = 2**53 - 1
"""JavaScript's ``Number.MAX_SAFE_INTEGER``: above it two ints may be the same number."""

_KEY_SEPARATOR: Final = ":"
_ITEM_SEPARATOR: Final = ","

COERCED_KEY: Final = re.compile(r'"[-0-9tfnNI](?:(?<=[-0-9])[0-9.e+\-]*|rue|alse|ull|aN|I?nfinity)":')
_LONG_INT: Final = re.compile(r"(?:^|[\[,:])-?[0-9]{16}[0-9]*(?:$|[,\]}])")
_SURROGATE_PAIR: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_HUGE_INT: Final = re.compile(rf"[0-9]{{{MAX_INT_DIGITS + 1}}}")
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_ONLY_STR: Final = frozenset({str})

INT_MARKS: Final = bytes.maketrans(b"123456789[:-", b"0" * 9 + b",,,")
LONG_INT_MARK: Final = b"," + b"0" * 16
_CLOSERS: Final = bytes.maketrans(b"[{", b"]}")
_RISE: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_MARKS: Final = bytes(set(range(256)) - set(b'[]{}"'))
_DIGIT_RUN: Final = 600
"""Below 640, the least that ``sys.set_int_max_str_digits`` takes."""
_RUN: Final = 64
"""How many brackets are counted at once; half a dozen sizes were tried and differ little."""


def _refuse(value: object) -> object:
    raise TypeError(type(value).__name__)


def _chunk_encoder(encode_str: Callable[[str], str], *, allow_nan: bool) -> Callable[[Any, int], Iterable[str]]:
    """Return ``json``'s encoder as it is inside, without the 1 µs that ``json.dumps`` takes to build one for each call.

    No markers: a cycle is found by the recursion limit instead, which makes the encoder stateless (markers are shared
    between threads) and the text 10 % cheaper.
    """
    make: Any = getattr(_encoder, "c_make_encoder", None)
    if make is None:  # not CPython
        dumps = json.JSONEncoder(
            ensure_ascii=encode_str is _encoder.encode_basestring_ascii,
            check_circular=False,
            allow_nan=allow_nan,
            separators=(_ITEM_SEPARATOR, _KEY_SEPARATOR),
            default=_refuse,
        ).encode
        return lambda value, _level: (dumps(value),)
    encoder: Callable[[Any, int], Iterable[str]] = make(
        None, _refuse, encode_str, None, _KEY_SEPARATOR, _ITEM_SEPARATOR, False, False, allow_nan
    )
    return encoder


_functions: Any = _encoder  # typeshed has not heard of the C functions that `json` passes around
_encode_str: Callable[[str], str] = _functions.encode_basestring
_encode_str_ascii: Callable[[str], str] = _functions.encode_basestring_ascii

chunks: Final = _chunk_encoder(_encode_str, allow_nan=True)
"""The chunks of a value's JSON text, for ``"".join``; the second argument is always 0.

Not escaped beyond need; ``NaN`` and ``Infinity`` as Python's ``json`` writes and reads them.
"""

chunks_ascii: Final = _chunk_encoder(_encode_str_ascii, allow_nan=True)
"""The same in ASCII, for surrogates and for readers without a UTF-8 decoder."""

chunks_finite: Final = _chunk_encoder(_encode_str, allow_nan=False)
"""The same, but ``ValueError`` for the floats that strict JSON has no word for."""


def scanner(
    *,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
    parse_int: Callable[[str], Any] | None = None,
) -> Callable[[str, int], tuple[Any, int]]:
    """Return a function that reads one JSON value at an offset: ``json.loads`` without its two regex matches."""
    decoder: Any = json.JSONDecoder(object_hook=object_hook, object_pairs_hook=object_pairs_hook, parse_int=parse_int)
    scan_once: Callable[[str, int], tuple[Any, int]] = decoder.scan_once
    return scan_once


def loose_int(digits: str) -> int:
    """Read an int of up to `MAX_INT_DIGITS` digits, whatever the program has set ``sys.set_int_max_str_digits`` to.

    With a lower limit the value has to cross all the same; without a limit, an int of a guest's could take seconds.
    """
    sign, digits = (-1, digits[1:]) if digits[:1] == "-" else (1, digits)
    if len(digits) > MAX_INT_DIGITS:
        raise ValueError(f"an int of {len(digits)} digits")
    number = 0
    for start in range(0, len(digits), _DIGIT_RUN):
        run = digits[start : start + _DIGIT_RUN]
        number = number * 10 ** len(run) + int(run)
    return sign * number


scan: Final = scanner()
"""Reads JSON under CPython's default limit of digits."""


def is_exact(text: str, raw: bytes, value: Any, max_depth: int, *, js: bool) -> bool:
    """Whether ``text``, which ``json`` made of ``value``, lost nothing and nests no deeper than ``max_depth``.

    ``raw`` is ``text`` in UTF-8. A ``False`` may be wrong about an int: something that looks like one in a str.
    """
    return not (
        is_too_deep(text, max_depth)
        or ("{" in text and COERCED_KEY.search(text) is not None and not _has_only_str_keys(value))
        or (_has_unsafe_int(text, raw) if js else _has_huge_int(text))
    )


def _has_only_str_keys(value: Any) -> bool:
    """Whether every key of every dict in ``value`` is a str; ``value`` has just been encoded, so it has no cycle."""
    left: list[Any] = [value]
    while left:
        found = left.pop()
        base = base_of(found)
        if base is dict:
            try:
                items: dict[Any, Any] = dict(items_of(found))
            except Exception:  # noqa: BLE001 - a stranger's `items`, which was fine a moment ago
                return False
            kinds: set[type] = set(map(type, items))
            if not kinds <= _ONLY_STR and not all(issubclass(kind, str) for kind in kinds):
                return False
            left.extend([item for item in items.values() if type(item) not in _SCALARS])
        elif base is list or base is tuple:
            left.extend([item for item in iterate(found, base) if type(item) not in _SCALARS])
    return True


def _has_unsafe_int(text: str, raw: bytes) -> bool:
    """Whether ``text`` may hold an int beyond `MAX_SAFE_INT`; ``raw`` is ``text`` in UTF-8."""
    return LONG_INT_MARK in (b"," + raw).translate(INT_MARKS) and _LONG_INT.search(text) is not None


def _has_huge_int(text: str) -> bool:
    """Whether ``text`` may hold an int of more than `MAX_INT_DIGITS` digits, if the program has allowed such ints."""
    limit = sys.get_int_max_str_digits()
    return not 0 < limit <= MAX_INT_DIGITS and _HUGE_INT.search(text) is not None


def has_surrogate_pair(text: str) -> bool:
    """Whether ``text`` has two surrogates in a row that JSON reads back as one character, as in UTF-16."""
    return not text.isascii() and _SURROGATE_PAIR.search(text) is not None


def is_too_deep(text: str, limit: int) -> bool:
    """Whether lists and dicts nest deeper than ``limit`` in ``text``; of malformed JSON, in what precedes the error.

    Strings are dropped and brackets counted `_RUN` at a time, which costs a fraction of parsing.
    """
    if text.count("[") + text.count("{") <= limit:
        return False
    marks = bracket_marks(mask_escapes(text.encode("utf-8", "surrogatepass")))
    depth = 0
    for start in range(0, len(marks), _RUN):
        run = marks[start : start + _RUN]
        opened = run.count(b"[") + run.count(b"{")
        if depth + opened > limit and depth + _peak(run) > limit:
            return True
        depth += 2 * opened - len(run)
    return False


def mask_escapes(raw: bytes) -> bytes:
    """Return JSON text with escaped backslashes and quotes blanked: every quote left begins or ends a string.

    Every byte keeps its place. ``raw`` neither begins nor ends inside of an escape.
    """
    return raw.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in raw else raw


def bracket_marks(masked: bytes) -> bytes:
    """Return the brackets outside of strings; ``masked`` begins outside of one."""
    # Invariant: a bracket is inside of a string if and only if the number of quotes before it is odd. Dropping all
    # other characters keeps it, and so does dropping two neighbouring quotes. Splitting at quotes then gives what is
    # outside of strings and what is inside by turns:
    #     [{"a":"]"},"b"]  ->  [{"""]"}""]  ->  [{"]"}]  ->  [{  ]  }]  ->  [{}]
    marks = masked.translate(None, _NOT_MARKS).replace(b'""', b"")
    return b"".join(marks.split(b'"')[::2]) if b'"' in marks else marks


def brackets_open_after(opened: bytes, marks: bytes, limit: int) -> bytes:
    """Return the brackets that are open after ``marks``; ``opened`` are those open before it.

    Raises:
        CodecError: a bracket closes what was not open, or there are more than ``limit``.
    """
    for start in range(0, len(marks), _RUN):
        run = marks[start : start + _RUN]
        if len(opened) + run.count(b"[") + run.count(b"{") > limit and len(opened) + _peak(run) > limit:
            raise CodecError("$", f"nested deeper than {MAX_DEPTH} levels")
        while True:
            left = run.replace(b"[]", b"").replace(b"{}", b"")
            if len(left) == len(run):
                break
            run = left
        closers = len(run.rstrip(b"[{"))  # what is left closes first, then opens
        if closers:
            if opened[-closers:][::-1].translate(_CLOSERS) != run[:closers]:
                raise CodecError("$", "not JSON: brackets that do not match")
            opened = opened[:-closers]
        opened += run[closers:]
    return opened


def _peak(run: bytes) -> int:
    """Return the deepest level within ``run``, relative to its start."""
    return max(accumulate(map(_RISE.__getitem__, run), initial=0))
