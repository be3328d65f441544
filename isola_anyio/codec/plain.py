"""Plain values: those that JSON says as they are, both ways, and the codec's two entrances.

Nearly every value is small and plain, so its way is one function in this file: ``json``'s C encoder or scanner, then
searches in the text that run in C. Whatever a search finds is only *perhaps* wrong. `encoding` and `decoding` settle
it, and do everything else: escapes and frames, large values, the texts of errors.

Each quick check here is necessary for the full check in `jsontext` to fail, never sufficient; a test holds both ways
to the same bytes, values and errors.
"""

from __future__ import annotations

__all__ = ["decode", "encode"]

from sys import get_int_max_str_digits
from typing import TYPE_CHECKING, Any, Final

from isola_anyio.codec.chunked.text_parts import PART_BYTES
from isola_anyio.codec.chunked.writer import SMALL, weight
from isola_anyio.codec.decoding import decode_any, refusal, scan_shallow
from isola_anyio.codec.encoding import encode_any, encode_escaped
from isola_anyio.codec.errors import CodecError, TooLarge
from isola_anyio.codec.frame import MAGIC, payload_size
from isola_anyio.codec.jsontext import (
    COERCED_KEY,
    INT_MARKS,
    LONG_INT_MARK,
    MAX_DEPTH,
    MAX_INT_DIGITS,
    chunks,
    chunks_finite,
    is_exact,
    scan,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.codec.encoding import Dialect

_WEIGHTLESS: Final[frozenset[object]] = frozenset({float, bool, type(None)})


def encode(
    value: Any,
    *,
    max_bytes: int | None = None,
    root: str = "$",
    dialect: Dialect = "python",
    wrap: int = 0,
    pause: Callable[[], object] | None = None,
) -> bytes:
    """Return ``value`` as the bytes that ``dialect``'s guest, or `decode`, reads back exactly.

    Args:
        value: a value of ``JsonValue``; nothing of it is kept.
        max_bytes: the most it may count (see `payload_size`).
        root: what ``value`` is called in error paths.
        dialect: the guest that will decode it.
        wrap: how many of its outer levels are the protocol's and do not count as nesting.
        pause: called every few milliseconds while a large ``value`` is encoded, to let other threads run, which must
            not change the value. An exception of its ends the encoding. Without it a large value holds the
            interpreter's lock for as long as it takes, seconds perhaps.

    Raises:
        EncodeTypeError: something in it has a type that cannot cross.
        EncodeError: a list or dict contains itself, or nests deeper than 500.
        TooLarge: it counts more than ``max_bytes``.
    """
    js = dialect == "js"
    max_depth = MAX_DEPTH + wrap
    raw: bytes | None = None
    by_escapes = False
    if pause is None or type(value) in _WEIGHTLESS or weight(value, SMALL) <= SMALL:
        pause = None
        try:
            text = "".join(chunks_finite(value, 0) if js else chunks(value, 0))
            raw = text.encode()
        except UnicodeEncodeError:
            text = ""  # a surrogate; JSON in ASCII may say it
        except Exception:  # noqa: BLE001 - what `json` raises, or a stranger's `items`; the slow path says what it was
            by_escapes = True
        else:
            if (
                text.count("[") + text.count("{") > max_depth
                or ("{" in text and COERCED_KEY.search(text) is not None)
                or (
                    LONG_INT_MARK in (b"," + raw).translate(INT_MARKS)
                    if js
                    else not 0 < get_int_max_str_digits() <= MAX_INT_DIGITS
                )
            ) and not is_exact(text, raw, value, max_depth, js=js):
                text, raw, by_escapes = "", None, True
    if raw is None:
        raw = (encode_escaped if by_escapes else encode_any)(value, root, max_depth, pause, js=js)
    if max_bytes is not None and len(raw) > max_bytes and payload_size(raw) > max_bytes:
        raise TooLarge(root, payload_size(raw), max_bytes)
    return raw


def decode(data: bytes | memoryview, *, max_bytes: int | None = None, pause: Callable[[], object] | None = None) -> Any:
    """Return the value that ``data`` encodes.

    Typed buffers are views of ``data`` if it is ``bytes``; a ``memoryview`` may be of borrowed memory, such as a
    guest's, and nothing of it is kept.

    Args:
        data: what a guest, or `encode`, made. Untrusted.
        max_bytes: the most that ``data`` may count (see `payload_size`).
        pause: called every few milliseconds while a long ``data`` is decoded, to let other threads run. An exception
            of its ends the decoding.

    Raises:
        CodecError: ``data`` is not a value.
        TooLarge: ``data`` counts more than ``max_bytes``.
    """
    size = len(data)
    if max_bytes is not None and payload_size(data) > max_bytes:
        raise TooLarge("$", payload_size(data), max_bytes)
    if size > PART_BYTES or (size and data[0] == MAGIC) or get_int_max_str_digits() != MAX_INT_DIGITS:
        return decode_any(data, pause)
    try:
        text = str(data, "utf-8")
        # `json` recurses, so depth is bounded before it parses: no text nests deeper than its number of brackets.
        value, end = (scan if text.count("[") + text.count("{") <= MAX_DEPTH else scan_shallow)(text, 0)
    except (ValueError, StopIteration, RecursionError) as exc:
        raise refusal(exc) from None
    if end != len(text):
        raise CodecError("$", f"not JSON: something follows the value at character {end}")
    return value
