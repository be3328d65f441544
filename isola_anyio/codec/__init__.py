"""Codec: values as the bytes that cross the boundary, and hostile bytes as values.

Imports neither anyio nor wasmtime, and keeps nothing of a value. Not free of state: while a large value is under way,
the process's full garbage collections are put off, and `chunked.garbage` remembers since when.

The wire form is JSON text, or, when JSON cannot say the value, a frame of one JSON text and binary segments;
``docs/values.md`` has both, with the reasons. Small plain values take the fast path in `plain`; everything else is in
`encoding`, `decoding` and `chunked`.

**Three copies.** The algorithm stands three times: here, in ``guests/python/sandbox/_codec*.py`` and in
``guests/js/sdk/core/codec.js``. One source for the two in Python was weighed and left. They share tables and texts but
not their trust: this one refuses hostile bytes within bounded time and memory, gives way to other threads and is
checked by two type checkers, while the guest's trusts its host, runs before anything else is imported and has to stay
small, because its pages are in every sandbox's image. What holds the copies together is in ``tests/codec``: one model
of what comes back (`isola_anyio.testing.expected_round_trip`), the same error texts asked of each, and
``test_copies.py``, which compares the tables, limits and classes of the two in Python entry by entry. Whoever
changes an entry of one copy is told which entry of the other differs.
"""

from __future__ import annotations

__all__ = [
    "COPY_BYTES",
    "MAX_DEPTH",
    "SMALL",
    "CodecError",
    "Dialect",
    "EncodeError",
    "EncodeTypeError",
    "TooLarge",
    "decode",
    "decoded_size",
    "encode",
    "format_path",
    "is_alone",
    "is_small",
    "join",
    "let_go",
    "payload_size",
    "weight",
]

from isola_anyio.codec.chunked.garbage import is_alone, let_go
from isola_anyio.codec.chunked.writer import SMALL, is_small, weight
from isola_anyio.codec.decoded_size import decoded_size
from isola_anyio.codec.encoding import Dialect
from isola_anyio.codec.errors import CodecError, EncodeError, EncodeTypeError, TooLarge, format_path
from isola_anyio.codec.frame import COPY_BYTES, join, payload_size
from isola_anyio.codec.jsontext import MAX_DEPTH
from isola_anyio.codec.plain import decode, encode
