"""Rehearsal: messages that take a guest through its common paths once, before its image is taken.

What the engine allocates on a first call (shapes, atoms, room in its tables) is then part of the image and shared by
all forks, instead of being allocated in each.
"""

from __future__ import annotations

__all__ = ["REHEARSAL", "frames"]

from typing import TYPE_CHECKING, Final

from isola_anyio import codec
from isola_anyio.guests.protocol import Status, ToGuest, ToHost, completion, message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from isola_anyio.guests import Conversation

_ROUNDS: Final = 3
_SCRIPT: Final = """
globalThis.__r_plain = (a, b, c) => [a, b, c];
globalThis.__r_async = async (a) => { await null; return { a }; };
globalThis.__r_call = async (payload) => await hostcall("__rehearse", payload);
globalThis.__r_later = async (payload) => await hostcall("__rehearse_later", payload);
globalThis.__r_stream = function* (n) { console.log("rehearsal %d", n); for (let i = 0; i < n; i++) yield i; };
globalThis.__r_throw = () => { throw new TypeError("rehearsal"); };
"""
_CLEAN: Final = "for (const n of ['plain','async','call','later','stream','throw']) delete globalThis['__r_' + n];"


class _Rehearsal:
    """Answers the door as a host would; what the rehearsal writes is dropped."""

    def answer(self, kind: int, number: int, untrusted_body: memoryview) -> bytes:  # noqa: ARG002 - the interface
        """Answer a door call."""
        if kind == ToHost.HOSTCALL:
            return b"" if b"__rehearse_later" in bytes(untrusted_body) else b'\0{"ok":true}'
        return b"\1" if kind in (ToHost.EMIT, ToHost.LOG) else b""

    def write(self, fd: int, untrusted_chunks: Sequence[memoryview]) -> None:
        """Drop output."""

    def sleep(self, seconds: float | None) -> None:
        """Nobody waits in a rehearsal."""


REHEARSAL: Final[Conversation] = _Rehearsal()


def frames() -> Iterator[bytes]:
    """Yield the messages of the rehearsal."""
    op = 0
    yield _setup()
    yield message(ToGuest.LOAD, 0, codec.encode([_SCRIPT, "<rehearsal>"], dialect="js"))
    for _ in range(_ROUNDS):
        for name in ("plain", "async", "stream", "throw"):
            yield _call(name, [3, "two", {"c": 1.5}])
        op += 2
        yield _call("call", [{"a": 1}])
        yield _call("later", [{"a": 1}])
        yield message(ToGuest.RESUME, 0, completion(op, Status.OK, b'{"b":2}'))
    yield message(ToGuest.LOAD, 0, codec.encode([_CLEAN, "<rehearsal>"], dialect="js"))
    yield _setup()


def _setup() -> bytes:
    options: dict[str, object] = {"env": {}, "seed": "0" * 64, "max_payload": 1 << 26}
    return message(ToGuest.SETUP, 0, codec.encode(options, dialect="js"))


def _call(name: str, args: list[object]) -> bytes:
    return message(ToGuest.CALL, 0, codec.encode([f"__r_{name}", args, {}, []], dialect="js"))
