"""Port: one guest's messages and door calls, converted between frames and JavaScript strings, and the loop of a turn.

A frame to the guest is one string, ``<kind><number> <body>``, when its body is JSON text; else a string for the head
and a ``Uint8Array``. Door calls have the same form in the other direction. Towards the rest of the host, frames are
those of docs/protocol.md, as for every kind of guest.

A turn is one call of the dispatcher, the microtasks, and then ``pump`` and the microtasks again until one of DONE, FAIL
and PARK has come through the door.
"""

from __future__ import annotations

__all__ = ["IMPORTS", "JsPort"]

import json
import math
import struct
from typing import TYPE_CHECKING, Final

from isola_anyio import codec
from isola_anyio.engine.ffi import yield_gil
from isola_anyio.errors import clip
from isola_anyio.fairness import PIECE_BYTES, join_in_pieces
from isola_anyio.guests.js import rehearsal
from isola_anyio.guests.js.boot import boot, read_environment
from isola_anyio.guests.js.exports import Js
from isola_anyio.guests.js.handles import Sdk
from isola_anyio.guests.js.idna import domain_to_ascii
from isola_anyio.guests.js.sources import Sources
from isola_anyio.guests.protocol import HEAD, PARK, ProtocolError, Status, ToGuest, ToHost
from isola_anyio.guests.silence import SILENCE
from isola_anyio.wasi.errno import WasiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isola_anyio.engine.instance import Instance
    from isola_anyio.guests import Conversation
    from isola_anyio.guests.js.engine_patch import Layout
    from isola_anyio.guests.js.loader import Loader
    from isola_anyio.wasi.system import System

IMPORTS: Final = (
    ("env", "host_call", "iiiii", True),
    ("env", "host_interrupt", "", True),
    ("env", "host_module_normalize", "iiiii", True),
    ("env", "host_module_load", "iii", True),
)
_ROOM: Final = 0x1F
"""A door call that only this port knows: is there room to read a frame of that many bytes?"""
_SEGMENTS: Final = 0xFE
"""First byte of a value that is not JSON text; see docs/values.md."""
_RECORD: Final = b"\x1e"
_FIELD: Final = b"\x1f"
_COMPLETION: Final = struct.Struct("<IBI")
_HEAD_BYTES: Final = 16
"""Room for a kind, a number of 32 bits and a blank."""
_NUMBER_BYTES: Final = 32
"""Of a number in a door call; JavaScript writes no number with more characters, and reading digits holds the GIL."""
_LARGE_KINDS: Final = frozenset((ToHost.DONE, ToHost.EMIT, ToHost.HOSTCALL))
"""Kinds of door calls with a value, which is not copied in one go if it is large."""
_TOLD: Final = 2
"""LOG's reply that delivers a cancellation to a guest that is computing; to JavaScript it is undefined."""
_MAX_NAME_BYTES: Final = 0xFFFF
_MAX_RANDOM_BYTES: Final = 65536
_MAX_DOMAIN_BYTES: Final = 8192
"""Of a domain that is asked about; the answer for one of so many characters is that it is none."""
_NO_MEMORY: Final = codec.encode(
    {"type": "InternalError", "message": "out of memory", "traceback": "", "limit": "memory"}
)
_THROWN_NULL: Final = b'{"type":"Error","message":"null","traceback":"","limit":null}'
"""FAIL's body when the engine threw ``null``, which it does when no memory is left for an error object."""
_FULL_BYTES: Final = 2 << 20
"""A memory that cannot grow by this much counts as full; the engine grows it by as much as it needs."""
_STUCK: Final = codec.encode(
    {
        "type": "Error",
        "message": "the prelude waits for something that nothing will bring about",
        "traceback": "",
        "limit": None,
    }
)


class JsPort:
    """The message port of one JavaScript instance."""

    def __init__(self, instance: Instance, system: System, loader: Loader, *, max_frame: int) -> None:
        self._js = Js(instance)
        self._sdk = Sdk(self._js)
        self._sources = Sources(self._js, self._sdk, loader)
        self._memory = instance.memory
        self._instance = instance
        self._system = system
        self._conversation: Conversation = SILENCE
        self._max_frame = max_frame
        self._ended = False
        self._in_door = False
        self._parked: float | None = None
        imports = (self._door, self._interrupt, self._sources.normalize, self._sources.module)
        instance.set_handlers([*system.handlers(), *imports])

    def boot(self, modules: Mapping[str, str], layout: Layout | None, conversation: Conversation) -> None:
        """Load the SDK into a fresh engine; see ``boot.py``."""
        self._conversation = conversation
        self._sources.own = modules
        try:
            boot(self._js, self._sdk, self._instance, layout)
        finally:
            self._sources.own = None
        environment = read_environment(self._js, self._system)
        if environment:
            options = {"env": environment, "seed": "0" * 64, "max_payload": self._max_frame}
            self._send(ToGuest.SETUP, 0, codec.encode(options, dialect="js"))
        self._sdk.note()

    # --- turns -----------------------------------------------------------------------------------------------------

    def deliver(self, frame: bytes, conversation: Conversation) -> None:
        """Run one turn with a message; see :class:`~isola_anyio.guests.Port`."""
        previous, self._conversation = self._conversation, conversation
        try:
            self._take_turn(frame)
        finally:
            self._conversation = previous  # silence, which keeps nothing of the run alive; or the rehearsing build's

    def reseed(self, seed: bytes) -> None:
        """Do nothing: no guest reaches the engine's own generator, and the SDK's is seeded by a message."""

    def _take_turn(self, frame: bytes) -> None:
        self._sdk.recall()
        kind, number = HEAD.unpack_from(frame)
        body: bytes | memoryview = frame[HEAD.size :] if len(frame) <= PIECE_BYTES else memoryview(frame)[HEAD.size :]
        self._ended = False
        if kind in (ToGuest.LOAD, ToGuest.PRELUDE):
            self._send(kind, number, b"")
            self._sources.load(*map(str, codec.decode(body, pause=yield_gil)))
        elif kind == ToGuest.LOAD_FILE:
            self._send(kind, number, b"")
            self._sources.load_file(str(codec.decode(body)))
        elif kind == ToGuest.FREEZE:
            self._freeze(number)
            return
        elif kind == ToGuest.RESUME:
            self._resume(number, body)
        else:
            self._send(kind, number, body)
        if kind == ToGuest.SETUP:
            self._js.drain()
            return
        self._finish(number)
        while kind == ToGuest.PRELUDE and self._parked is not None:
            self._wait_in_prelude(number)

    def _wait_in_prelude(self, number: int) -> None:
        """While a template is built nobody else waits."""
        assert self._parked is not None
        if self._parked < 0:
            self._parked = None
            self._conversation.answer(ToHost.FAIL, number, memoryview(_STUCK))
            return
        self._instance.sleep(self._parked)
        self._ended = False
        self._resume(number, b"")
        self._finish(number)

    def _send(self, kind: int, number: int, body: bytes | memoryview) -> None:
        """Call the dispatcher with a message."""
        js = self._js
        if body and body[0] == _SEGMENTS:
            head = js.string(b"%c%d " % (kind, number))
            try:
                value = js.uint8array(body)
                try:
                    self._sdk.call("dispatch", head, value)
                finally:
                    js.free_value(value)
            finally:
                js.free_value(head)
            return
        head_bytes = b"%c%d " % (kind, number)
        message = js.string(head_bytes + body if isinstance(body, bytes) else join_in_pieces((head_bytes, body)))
        try:
            self._sdk.call("dispatch", message)
        finally:
            js.free_value(message)

    def _resume(self, number: int, records: bytes | memoryview) -> None:
        """Call the dispatcher with completions: as text if all of them are text, which costs less, unless long."""
        texts: list[bytes] = []
        at = 0
        while at < len(records):
            if not isinstance(records, bytes):
                break
            op, status, length = _COMPLETION.unpack_from(records, at)
            at += _COMPLETION.size
            body = records[at : at + length]
            at += length
            if body[:1] == b"\xfe":
                break
            texts.append(b"%d %d %b" % (op, status, body))
        else:
            self._send(ToGuest.RESUME, number, _RECORD.join(texts))
            return
        js = self._js
        head = js.string(b"%c%d " % (ToGuest.RESUME, number))
        try:
            value = js.uint8array(records)
            try:
                self._sdk.call("dispatch", head, value)
            finally:
                js.free_value(value)
        finally:
            js.free_value(head)

    def _finish(self, number: int) -> None:
        """Run what is ready, until the dispatcher has ended the turn."""
        self._parked = None
        failures = 0
        while True:
            self._js.drain()
            failures += not self._sdk.call("pump")
            if not self._ended and failures > 1:
                self._conversation.answer(ToHost.FAIL, number, memoryview(_NO_MEMORY))
                return
            if self._ended:
                return

    def _freeze(self, number: int) -> None:
        """Rehearse, forget and collect, right before the image is taken."""
        for frame in rehearsal.frames():
            self.deliver(frame, rehearsal.REHEARSAL)
        self._sources.forget()
        self._send(ToGuest.FREEZE, number, b"")
        self._js.drain()
        self._js.run_gc()
        self._js.qjs_result_free()

    # --- what the guest calls ------------------------------------------------------------------------------------

    def _interrupt(self) -> int:
        """Answer the engine's own poll for interruption with "go on": epochs interrupt the guest."""
        return 0

    def _door(self, _name: int, _name_length: int, _this: int, count: int, arguments: int) -> int:
        if self._in_door:  # host and guest would call one another until the stack ends
            raise ProtocolError("the engine's own functions called the host")
        self._in_door = True
        handle = self._answer_door(count, arguments)
        self._in_door = False  # an exception ends the guest
        return handle

    def _answer_door(self, count: int, arguments: int) -> int:
        js = self._js
        try:
            handles = [self._memory.read_u32(arguments + 4 * index) for index in range(min(count, 2))]
        except WasiError:
            raise ProtocolError("a door call from outside the memory") from None
        text = js.read_text(handles[0], self._max_frame) if handles else None
        extra = js.read_bytes(handles[1], self._max_frame) if count > 1 else None
        if text is None or (count > 1 and extra is None):
            raise ProtocolError("a door call that is no frame, or too long")
        blank = text.find(b" ")
        if not 2 <= blank <= _HEAD_BYTES or not text[1:blank].isdigit():
            raise ProtocolError("a door call without a number")
        kind = text[0]
        number = int(text[1:blank]) & 0xFFFF_FFFF
        if len(text) > PIECE_BYTES and kind in _LARGE_KINDS:
            return self._answer_large(kind, number, text, blank + 1, extra)
        body = text[blank + 1 :]
        if kind == ToHost.RANDOM:
            return js.uint8array(self._random(body))
        if kind == _ROOM:
            return js.new_bool(int(self._has_room(body)))
        if kind == ToHost.IDNA:
            ascii_form = domain_to_ascii(body[:_MAX_DOMAIN_BYTES].decode("utf-8", "replace"))
            return js.new_undefined() if ascii_form is None else js.string(ascii_form.encode())
        if kind in (ToHost.DONE, ToHost.FAIL):
            self._ended = True
            if body == _THROWN_NULL and self._is_full():
                body = _NO_MEMORY
        elif kind == ToHost.PARK:
            self._ended = True
            return self._park(number, body)
        try:
            untrusted_body = memoryview(_body(kind, body, extra))
        except (ValueError, OverflowError, RecursionError) as exc:
            raise ProtocolError(f"a door call of kind {kind:#x} that makes no sense: {clip(str(exc))}") from None
        return self._converse(kind, number, untrusted_body)

    def _answer_large(self, kind: int, number: int, text: bytes, start: int, extra: bytes | None) -> int:
        """Answer a door call whose body, from ``start`` on, is too long to be copied in one go."""
        body = memoryview(text)[start:]
        if kind == ToHost.DONE:
            self._ended = True
        if kind != ToHost.HOSTCALL:
            return self._converse(kind, number, body if extra is None else memoryview(extra))
        end = text.find(_FIELD, start)
        if end < 0:
            raise ProtocolError("a hostcall without a name")
        # What is small is built as ever: all but the value.
        name = text[start : min(end, start + _MAX_NAME_BYTES + 1)]
        try:
            head = _body(kind, name + _FIELD, None)
        except (ValueError, RecursionError) as exc:
            raise ProtocolError(f"a hostcall whose name makes no sense: {clip(str(exc))}") from None
        value = memoryview(text)[end + 1 :] if extra is None else extra
        return self._converse(kind, number, memoryview(join_in_pieces((head, value))))

    def _converse(self, kind: int, number: int, untrusted_body: memoryview) -> int:
        reply = self._conversation.answer(kind, number, untrusted_body)
        js = self._js
        try:
            return self._reply(kind, reply)
        except MemoryError as exc:
            return js.string(_no_room(kind, str(exc)))

    def _has_room(self, length: bytes) -> bool:
        """Return whether there is room to read a frame of that length: without room, its copy ends the instance."""
        if self._instance.store.memory_size() <= self._instance.max_memory // 2:
            return True
        wanted = _count(length)
        if wanted is None or wanted > self._max_frame:
            return False
        try:
            self._js.make_sure(2 * wanted)
        except MemoryError:
            return False
        return True

    def _is_full(self) -> bool:
        return self._instance.store.memory_size() + _FULL_BYTES > self._instance.max_memory

    def _park(self, number: int, body: bytes) -> int:
        delay, _, flags = body.partition(b" ")
        try:
            seconds = float(delay) if len(delay) <= _NUMBER_BYTES else math.nan
        except ValueError:
            seconds = math.nan
        if math.isnan(seconds):
            raise ProtocolError("a turn that ends with no time")
        self._parked = seconds
        self._conversation.answer(ToHost.PARK, number, memoryview(PARK.pack(seconds, flags == b"1")))
        return self._js.new_undefined()

    def _random(self, body: bytes) -> bytes:
        """Return bytes from ``random_get``, which a sandbox's seed makes repeatable."""
        length = _count(body) or 0
        if length > _MAX_RANDOM_BYTES:
            raise ProtocolError(f"{length} random bytes at once")
        pointer = self._js.allocate(max(1, length))
        try:
            self._system.random_get(pointer, length)
            return self._memory.read(pointer, length)
        finally:
            self._js.qjs_free(pointer, max(1, length))

    def _reply(self, kind: int, reply: bytes) -> int:
        js = self._js
        if not reply:
            return js.new_undefined()
        if kind in (ToHost.EMIT, ToHost.LOG):
            return js.new_bool(reply[0]) if reply[0] < _TOLD else js.new_undefined()
        return js.uint8array(reply) if reply[1:2] == b"\xfe" else js.string(reply)


def _count(text: bytes) -> int | None:
    """Return a number of digits; ``None`` for what is none, or too long for one."""
    return int(text) if len(text) <= _NUMBER_BYTES and text.isdigit() else None


def _no_room(kind: int, text: str) -> bytes:
    """Build the answer to a request whose answer the guest has no memory for: a failure."""
    status = Status.PRODUCER_FAILED if kind == ToHost.READ else Status.FAILED
    return bytes((status,)) + codec.encode({"name": "", "type": "MemoryError", "message": text})


def _body(kind: int, text: bytes, extra: bytes | None) -> bytes:
    """Build the body of a frame of this kind, as docs/protocol.md describes it."""
    if kind == ToHost.HOSTCALL:
        name, field, value = text.partition(_FIELD)
        if not field:
            raise ProtocolError("a hostcall without a name")
        # No hostcall has a longer name, so it is not parsed: nothing could interrupt the parser.
        called = name if len(name) > _MAX_NAME_BYTES else str(json.loads(name)).encode("utf-8", "surrogatepass")
        called = called[:_MAX_NAME_BYTES]
        return len(called).to_bytes(2, "little") + called + (value if extra is None else extra)
    if kind == ToHost.LOG:
        return bytes((text[0] - 0x30 if text else 1,)) + text[1:]
    if kind == ToHost.READ:
        op = _count(text)
        return (0xFFFF_FFFF if op is None else op).to_bytes(4, "little")
    return text if extra is None else extra
