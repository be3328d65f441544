"""Turn a value into the bytes that cross the boundary, and hostile bytes back into a value.

Pure: no anyio, no wasmtime, no state. The wire form is JSON text, or, when JSON cannot say it, a frame of JSON texts
and binary segments; ``docs/values.md`` has both, with the reasons. The guests carry their own copies of the algorithm
(``guests/python/sandbox/_codec.py``, ``guests/js/sdk/core/codec.js``), because guest files never import host files;
tests in ``tests/codec`` hold the three to one model and to the same error texts.
"""

from __future__ import annotations

__all__ = [
    "MAX_DEPTH",
    "CodecError",
    "Dialect",
    "EncodeError",
    "EncodeTypeError",
    "TooLarge",
    "decode",
    "encode",
    "is_small",
    "payload_size",
]

from isola_anyio.codec.chunked.writer import is_small
from isola_anyio.codec.encoding import Dialect
from isola_anyio.codec.errors import CodecError, EncodeError, EncodeTypeError, TooLarge
from isola_anyio.codec.frame import payload_size
from isola_anyio.codec.jsontext import MAX_DEPTH
from isola_anyio.codec.plain import decode, encode
