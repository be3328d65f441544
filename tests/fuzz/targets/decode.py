"""Decoding: bytes as a value, whole and in pieces."""

from __future__ import annotations

from typing import Any

from isola_anyio import codec
from isola_anyio.codec import decoding, plain
from isola_anyio.codec.chunked import text_parts
from isola_anyio.codec.frame import pack
from isola_anyio.testing import equal_exact
from tests.fuzz.harness import Bytes, constants, measured, target

SMALL_PARTS = {
    "CUT_BYTES": 96, "PART_BYTES": 192, "_LAST_BYTES": 96, "LONG_STR_BYTES": 24, "STR_RUN_BYTES": 64, "_STEP_BYTES": 8,
    "_STR_RUN_BYTES": 16,
}  # fmt: skip
"""Texts of hundreds of bytes are cut as others are of hundreds of thousands."""


def _built(source: Bytes) -> bytes:
    """A frame whose numbers are right, of segments and a text that may be anything; its key is ``$``."""
    flags = source.u8() & 1
    segments = [source.chunk() for _ in range(source.u8() & 3)]
    text = source.rest()
    return pack("$", flags, text, segments)


def _decode(data: bytes | memoryview) -> tuple[Any, str | None]:
    try:
        return codec.decode(data), None
    except codec.CodecError as exc:
        text = str(exc)
        assert text.startswith("$")
        assert len(text) < 400, len(text)
        return None, text


@target
def decode(data: bytes) -> None:
    """A value or ``CodecError``; the same one when the text is cut into pieces. After 0xFD, a frame is built."""
    if data[:1] == b"\xfd":
        data = _built(Bytes(data[1:]))
    with measured(len(data)):
        value, problem = _decode(data)
    borrowed, problem_borrowed = _decode(memoryview(data))
    assert problem == problem_borrowed
    if problem is None:
        assert equal_exact(value, borrowed)
    with constants(SMALL_PARTS, text_parts, decoding, plain):
        in_parts, problem_in_parts = _decode(data)
    if problem_in_parts is None:
        assert problem is None, f"only accepted in parts: {problem}"
        assert equal_exact(value, in_parts)
    else:
        # No encoder makes texts of long stretches without a comma or a quote, and those are not cut.
        assert problem is not None or "not JSON that an encoder makes" in problem_in_parts, problem_in_parts
