"""Which frames cross between host and guest: the numbers of docs/protocol.md, and how frames are built and taken apart.

Pure. Everything that comes from a guest is checked here before it is believed.
"""

from __future__ import annotations

__all__ = [
    "FRAME_OVERHEAD_BYTES",
    "HEAD",
    "PARK",
    "TEXT_PIECE_BYTES",
    "ProtocolError",
    "Status",
    "ToGuest",
    "ToHost",
    "completion",
    "message",
    "split_hostcall",
    "split_park",
]

import math
import struct
from enum import IntEnum
from typing import Final


class ToGuest(IntEnum):
    """Messages, host to guest."""

    SETUP = 0x01
    LOAD = 0x02
    LOAD_FILE = 0x03
    CALL = 0x04
    RESUME = 0x05
    CANCEL = 0x06
    PRELUDE = 0x07
    FREEZE = 0x08


class ToHost(IntEnum):
    """Door calls, guest to host."""

    HOSTCALL = 0x10
    EMIT = 0x11
    LOG = 0x12
    DONE = 0x13
    FAIL = 0x14
    PARK = 0x15
    WAIT = 0x16
    DROP = 0x17
    READ = 0x18
    STOP = 0x19
    RANDOM = 0x1A
    IDNA = 0x1B


class Status(IntEnum):
    """How an op ended."""

    OK = 0
    FAILED = 1
    ITEMS = 2
    ENDED = 3
    PRODUCER_FAILED = 4


class ProtocolError(Exception):
    """A guest sent a frame that makes no sense; it is stopped."""


HEAD: Final = struct.Struct("<BI")
TEXT_PIECE_BYTES: Final = 1 << 20
"""Of a guest's text, decoded in one go: where it is no UTF-8, these take four milliseconds."""
FRAME_OVERHEAD_BYTES: Final = 1 << 16
"""What a frame may be longer than the value in it."""
_COMPLETION: Final = struct.Struct("<IBI")
PARK: Final = struct.Struct("<dB")


def message(kind: ToGuest, number: int, body: bytes = b"") -> bytes:
    """Build a message to the guest."""
    return b"".join((HEAD.pack(kind, number), body))


def completion(op: int, status: Status, body: bytes) -> bytes:
    """Build one record of a RESUME."""
    # Joined, not added: for a large body that gives the GIL up.
    return b"".join((_COMPLETION.pack(op, status, len(body)), body))


def split_hostcall(untrusted_body: memoryview) -> tuple[str, memoryview]:
    """Split HOSTCALL's body into the call's name and its payload."""
    if len(untrusted_body) < 2:
        raise ProtocolError("a hostcall without a name")
    end = 2 + int.from_bytes(untrusted_body[:2], "little")
    if end > len(untrusted_body):
        raise ProtocolError("a hostcall's name ends behind its frame")
    return str(untrusted_body[2:end], "utf-8", "replace"), untrusted_body[end:]


def split_park(untrusted_body: memoryview) -> tuple[float | None, bool]:
    """Split PARK's or WAIT's body into seconds until the next timer (``None`` for none) and "waits for room"."""
    if len(untrusted_body) != PARK.size:
        raise ProtocolError(f"a park frame of {len(untrusted_body)} bytes")
    delay, flags = PARK.unpack(untrusted_body)
    if math.isnan(delay):
        raise ProtocolError("a timer that is not a number")
    return (None if delay < 0 else delay), bool(flags & 1)
