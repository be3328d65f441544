"""Carry one guest's messages: bytes to strings and back, source files to the engine, and the loop that is a turn.

A frame to the guest is one string, ``<kind><number> <body>``, when its body is JSON text; else a string for the head
and a ``Uint8Array``. The door is the same the other way round. What travels between this module and the rest of the
host are the frames of docs/protocol.md, as for every guest.

A turn is: the dispatcher, the microtasks, and ``pump`` with the microtasks again until one of DONE, FAIL and PARK has
come through the door.
"""

from __future__ import annotations

__all__ = ["IMPORTS", "JsPort"]

import json
import struct
from typing import TYPE_CHECKING, Final

from isola_anyio import codec
from isola_anyio.errors import InternalError, clip
from isola_anyio.guests.js import rehearsal
from isola_anyio.guests.js.exports import Js, JsError
from isola_anyio.guests.js.idna import domain_to_ascii
from isola_anyio.guests.js.loader import SourceError, is_module
from isola_anyio.guests.js.patch import NAME_BYTES, TRACKER_EXPORT
from isola_anyio.guests.js.typescript import TypeScriptError, is_typescript, may_be_typescript
from isola_anyio.guests.protocol import HEAD, Call, Door, ProtocolError, Status
from isola_anyio.wasi.errno import WasiError
from isola_anyio.wasi.signatures import SIGNATURES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isola_anyio.engine.instance import Instance
    from isola_anyio.guests import DoorHandler
    from isola_anyio.guests.js.loader import Loader
    from isola_anyio.guests.js.patch import Layout
    from isola_anyio.wasi.system import System

IMPORTS: Final = (
    ("env", "host_call", "iiiii", True),
    ("env", "host_interrupt", "", True),
    ("env", "host_module_normalize", "iiiii", True),
    ("env", "host_module_load", "iii", True),
)
_ROOM: Final = 0x1F
"""A door call of this port's alone: is there room to read a frame of that many bytes?"""
_SEGMENTS: Final = 0xFE
"""First byte of a value that is not JSON text; see docs/values.md."""
_RECORD: Final = b"\x1e"
_FIELD: Final = b"\x1f"
_COMPLETION: Final = struct.Struct("<IBI")
_HEAD_BYTES: Final = 16
"""A kind, a number of 32 bits and a blank fit; so does any other number that the dispatcher sends."""
_TOLD: Final = 2
"""LOG's reply to a guest that talks on after it was cancelled; to JavaScript it is undefined."""
_MAX_RANDOM_BYTES: Final = 65536
_NO_MEMORY: Final = codec.encode(
    {"type": "InternalError", "message": "out of memory", "traceback": "", "limit": "memory"}
)
_THROWN_NULL: Final = b'{"type":"Error","message":"null","traceback":"","limit":null}'
"""What the engine throws when there is no memory left for an error object."""
_FULL_BYTES: Final = 2 << 20
"""A memory that cannot grow by this much counts as full; the engine grows it by what it needs."""
_STUCK: Final = codec.encode(
    {
        "type": "Error",
        "message": "the prelude waits for something that nothing will bring about",
        "traceback": "",
        "limit": None,
    }
)
_SCOPE: Final = "\n;globalThis[Symbol.for('isola.scope')]?.((n)=>{try{return eval(n)}catch{}});"
"""Put behind a module: lets its names be looked up after it has run."""

# --- what the image remembers ----------------------------------------------------------------------------------------
# At the bottom of memory, which linkers leave alone so that null points to nothing.
_NOTE_AT: Final = 64
_NOTE: Final = struct.Struct("<4sI11I")
_NOTE_MAGIC: Final = b"isla"
_FUNCTIONS: Final = (*("dispatch", "pump", "adopt", "adoptModule", "refuse", "refuseWith", "collapse", "onRejection"),)

_STACK_PROBE: Final = 0xABCD11
"""A stack size nobody uses, to find the engine's field by."""
_STACK_TOP: Final = range(0xF0000, 0x100001)
"""Where the stack begins in builds whose stack is the first MiB, growing down; a probe elsewhere is not understood."""
_STACK_LIMIT: Final = 0x80000
"""How far down JavaScript may use it. Half of it, because the engine's recursive C functions use up to 16 times as much
of the 8 MiB of the other stack, the one wasm calls are on, and when that is used up the instance dies: with this much
a plain function recurses 3,270 deep, and ``JSON.parse`` of nested brackets still fails in time. Nesting in source text
that costs more than that (100,000 times ``(`` in ``eval``) ends the sandbox."""
_TRACKER_OFFSET: Final = 52
"""From the stack size to the rejection tracker, in the engine's ``JSRuntime``."""


class JsPort:
    """The message port of one JavaScript instance."""

    def __init__(
        self, instance: Instance, system: System, answer: DoorHandler, loader: Loader, *, max_frame: int
    ) -> None:
        self._js = Js(instance)
        self._memory = instance.memory
        self._instance = instance
        self._system = system
        self._answer = answer
        self._loader = loader
        self._max_frame = max_frame
        self._sdk: Mapping[str, str] | None = None
        self._functions: dict[str, int] = {}
        self._name_buffer = 0
        self._name_bytes = 0
        self._ended = False
        self._parked: float | None = None
        self._loaded: set[str] = set()
        calls = system.functions()
        handlers = [calls[name] for name in SIGNATURES]
        instance.set_handlers([*handlers, self._door, self._interrupt, self._normalize, self._load_module])

    # --- building the template -------------------------------------------------------------------------------------

    def boot(self, sdk: Mapping[str, str], layout: Layout | None) -> None:
        """Load the SDK into a fresh engine and note where things are.

        ``layout`` is that of an adapted module; ``None`` for any other.
        """
        js = self._js
        js.make_buffers()
        self._sdk = sdk
        try:
            js.free_value(js.evaluate_module(b'import "isola:main";', "isola:boot", now=True))
        except JsError as exc:
            raise InternalError(f"the JavaScript guest's own modules did not load: {self._tell(exc)}") from None
        finally:
            self._sdk = None
        scope = js.global_object()
        sdk_object = js.get(scope, "__isola")
        self._functions = {name: js.get(sdk_object, name) for name in _FUNCTIONS}
        door = b"__isola_door"
        pointer = js.put(door)
        js.call(js.get(sdk_object, "install"), js.new_function(pointer, len(door)))
        for handle in (sdk_object, scope):
            js.free_value(handle)
        js.free_value(js.evaluate(b"delete globalThis.__isola"))
        js.drain()
        runtime = self._find_runtime()
        if runtime is not None:
            self._memory.write_u32(runtime + 8, _STACK_LIMIT)
            if layout is not None and self._is_adapted():
                self._connect(layout, runtime)
        environment = self._environment()
        if environment:
            options = {"env": environment, "seed": "0" * 64, "max_payload": self._max_frame}
            self._send(Call.SETUP, 0, codec.encode(options, dialect="js"))
        note = (js.out, js.scratch, js.undefined, *self._functions.values())
        self._memory.write(_NOTE_AT, _NOTE.pack(_NOTE_MAGIC, self._name_buffer, *note))

    def _environment(self) -> dict[str, str]:
        """Read the template's variables from the operating system, as a libc would."""
        sizes = self._js.out
        self._system.environ_sizes_get(sizes, sizes + 4)
        count, length = self._memory.read_u32(sizes), self._memory.read_u32(sizes + 4)
        if not count:
            return {}
        room = 4 * count + length
        pointers = self._js.allocate(room)
        try:
            self._system.environ_get(pointers, pointers + 4 * count)
            raw = self._memory.read(pointers + 4 * count, length)
        finally:
            self._js.qjs_free(pointers, room)
        pairs = (entry.decode("utf-8", "surrogateescape").partition("=") for entry in raw.split(b"\0") if entry)
        return {name: value for name, _, value in pairs}

    def _is_adapted(self) -> bool:
        try:
            self._instance.store.export(TRACKER_EXPORT, "iIIii>")
        except LookupError:
            return False
        return True

    def _connect(self, layout: Layout, runtime: int) -> None:
        """Switch on what ``patch.py`` prepared."""
        function = self._functions["onRejection"]
        self._memory.write(layout.hook, self._memory.read(function, 8))
        self._memory.write_u32(runtime + _TRACKER_OFFSET, layout.tracker)
        self._name_buffer, self._name_bytes = layout.name_buffer, NAME_BYTES

    def _find_runtime(self) -> int | None:
        """Find the engine's stack size, which its stack top and its stack limit follow.

        The engine compares the stack pointer with a limit that is zero in WASI builds, so that a deep recursion runs
        over the end of the stack and the instance dies. With the limit set it is an error like any other.
        """
        self._js.set_max_stack_size(_STACK_PROBE)
        size = self._instance.store.memory_size()
        memory = self._memory.slice(0, size)
        found: list[int] = []
        raw = bytes(memory)
        probe = _STACK_PROBE.to_bytes(4, "little")
        at = raw.find(probe)
        while at >= 0:
            if at % 4 == 0 and self._memory.read_u32(at + 4) in _STACK_TOP and self._memory.read_u32(at + 8) == 0:
                found.append(at)
            at = raw.find(probe, at + 1)
        return found[0] if len(found) == 1 else None

    def _recall(self) -> None:
        """Read the note, in a fork."""
        magic, name_buffer, out, scratch, undefined, *functions = _NOTE.unpack(self._memory.read(_NOTE_AT, _NOTE.size))
        if magic != _NOTE_MAGIC:
            raise InternalError("the JavaScript guest was used before it was booted")
        self._js.out, self._js.scratch, self._js.undefined = out, scratch, undefined
        self._name_buffer = name_buffer
        self._name_bytes = NAME_BYTES if name_buffer else 0
        self._functions = dict(zip(_FUNCTIONS, functions, strict=True))

    # --- turns -----------------------------------------------------------------------------------------------------

    def deliver(self, frame: bytes) -> None:
        """Run one turn with a message; see :class:`~isola_anyio.guests.Port`."""
        if not self._functions:
            self._recall()
        kind, number = HEAD.unpack_from(frame)
        body = frame[HEAD.size :]
        self._ended = False
        if kind in (Call.LOAD, Call.PRELUDE):
            self._load(kind, number, *map(str, codec.decode(body)))
        elif kind == Call.LOAD_FILE:
            self._load_file(number, str(codec.decode(body)))
        elif kind == Call.FREEZE:
            self._freeze(number)
            return
        elif kind == Call.RESUME:
            self._resume(number, body)
        else:
            self._send(kind, number, body)
        if kind == Call.SETUP:
            self._js.drain()
            return
        self._finish(number)
        while kind == Call.PRELUDE and self._parked is not None:
            self._wait_in_prelude(number)

    def _wait_in_prelude(self, number: int) -> None:
        """While a template is built nobody else waits."""
        assert self._parked is not None
        if self._parked < 0:
            self._parked = None
            self._answer(HEAD.pack(Door.FAIL, number) + _STUCK)
            return
        self._instance.sleep(self._parked)
        self._ended = False
        self._resume(number, b"")
        self._finish(number)

    def _send(self, kind: int, number: int, body: bytes) -> None:
        """Give the dispatcher a message."""
        js = self._js
        if body and body[0] == _SEGMENTS:
            head = js.string(b"%c%d " % (kind, number))
            try:
                value = js.uint8array(body)
                try:
                    self._call("dispatch", head, value)
                finally:
                    js.free_value(value)
            finally:
                js.free_value(head)
            return
        message = js.string(b"%c%d %b" % (kind, number, body))
        try:
            self._call("dispatch", message)
        finally:
            js.free_value(message)

    def _resume(self, number: int, records: bytes) -> None:
        """Give the dispatcher completions: as text if all of them are, which is the way that costs less."""
        texts: list[bytes] = []
        at = 0
        while at < len(records):
            op, status, length = _COMPLETION.unpack_from(records, at)
            at += _COMPLETION.size
            body = records[at : at + length]
            at += length
            if body[:1] == b"\xfe":
                break
            texts.append(b"%d %d %b" % (op, status, body))
        else:
            self._send(Call.RESUME, number, _RECORD.join(texts))
            return
        js = self._js
        head = js.string(b"%c%d " % (Call.RESUME, number))
        try:
            value = js.uint8array(records)
            try:
                self._call("dispatch", head, value)
            finally:
                js.free_value(value)
        finally:
            js.free_value(head)

    def _call(self, function: str, *arguments: int) -> None:
        """Call one of the SDK's functions; what it throws becomes the run's failure."""
        try:
            self._js.call(self._functions[function], *arguments)
        except JsError as exc:
            self._collapse(exc)

    def _collapse(self, exc: JsError) -> None:
        try:
            self._js.call(self._functions["collapse"], exc.handle)
        except JsError as second:
            self._js.free_value(second.handle)
        finally:
            self._js.free_value(exc.handle)

    def _finish(self, number: int) -> None:
        """Run what is ready, until the dispatcher has ended the turn."""
        js = self._js
        pump = self._functions["pump"]
        self._parked = None
        failures = 0
        js.drain()
        while True:
            try:
                js.call(pump)
            except JsError as exc:
                self._collapse(exc)
                failures += 1
                if failures > 1 and not self._ended:
                    self._answer(HEAD.pack(Door.FAIL, number) + _NO_MEMORY)
                    return
            if self._ended:
                return
            js.drain()

    def _freeze(self, number: int) -> None:
        """Rehearse, forget and collect, right before the image is taken."""
        answer = self._answer
        try:
            self._answer = rehearsal.answer
            for frame in rehearsal.frames():
                self.deliver(frame)
        finally:
            self._answer = answer
        self._loaded.clear()
        self._send(Call.FREEZE, number, b"")
        self._js.drain()
        self._js.run_gc()
        self._js.qjs_result_free()

    # --- source ------------------------------------------------------------------------------------------------------

    def _load(self, kind: int, number: int, code: str, filename: str) -> None:
        self._send(kind, number, b"")
        try:
            if may_be_typescript(filename, code):
                code = self._strip(code, filename)
            self._evaluate(code, filename)
        except SourceError as exc:
            self._refuse(exc)

    def _load_file(self, number: int, path: str) -> None:
        self._send(Call.LOAD_FILE, number, b"")
        full = "/" + path.lstrip("/")
        try:
            code = self._loader.read(full)
            if may_be_typescript(full, code):
                code = self._strip(code, full)
            if is_module(full, code):
                self._evaluate_module(code, full)
            else:
                self._evaluate(code, full)
        except SourceError as exc:
            self._refuse(exc)

    def _strip(self, code: str, filename: str) -> str:
        """Strip a source that may be TypeScript; one that only looks like it stays as it is."""
        try:
            return self._loader.strip(code, filename)
        except TypeScriptError as exc:
            if is_typescript(filename):
                raise SourceError("SyntaxError", str(exc)) from None
            return code

    def _evaluate(self, code: str, filename: str) -> None:
        """Start a script; when it does not compile, what is left of it without types."""
        if "\0" in code:
            raise SourceError("SyntaxError", f"{filename} contains a NUL character")
        self._name(filename)
        js = self._js
        try:
            promise = js.evaluate(code.encode("utf-8", "replace"))
        except JsError as exc:
            promise = self._evaluate_stripped(code, filename, exc)
            if promise == 0:
                return
        self._call("adopt", promise)
        js.free_value(promise)

    def _evaluate_stripped(self, code: str, filename: str, failure: JsError) -> int:
        """Try without types; a handle of the promise, or 0 when the guest has been told of the failure."""
        js = self._js
        for stripped in self._other_readings(code, filename):
            try:
                promise = js.evaluate(stripped.encode("utf-8", "replace"))
            except JsError as exc:
                js.free_value(exc.handle)
                continue
            js.free_value(failure.handle)
            return promise
        self._call("refuse", failure.handle)
        js.free_value(failure.handle)
        return 0

    def _other_readings(self, code: str, filename: str) -> list[str]:
        try:
            stripped = self._loader.strip(code, filename)
        except TypeScriptError:
            return []
        return [] if stripped == code else [stripped]

    def _evaluate_module(self, code: str, path: str) -> None:
        js = self._js
        name = path if path not in self._loaded else f"{path}?{len(self._loaded)}"
        self._loaded.add(name)
        try:
            promise = js.evaluate_module((code + _SCOPE).encode("utf-8", "replace"), name)
        except JsError as exc:
            self._call("refuse", exc.handle)
            js.free_value(exc.handle)
            return
        handle = js.string(name.encode("utf-8", "replace"))
        self._call("adoptModule", promise, handle)
        js.free_value(handle)
        js.free_value(promise)

    def _refuse(self, error: SourceError) -> None:
        js = self._js
        kind, message = js.string(error.type.encode()), js.string(error.message.encode("utf-8", "replace"))
        self._call("refuseWith", kind, message)
        js.free_value(kind)
        js.free_value(message)

    def _name(self, filename: str) -> None:
        """Say what the next script is called."""
        if self._name_buffer:
            if filename.startswith("isola:"):  # such names are the SDK's, which may import the SDK
                filename = "./" + filename
            name = filename.encode("utf-8", "replace").replace(b"\0", b"")[: self._name_bytes - 1]
            self._memory.write(self._name_buffer, name.decode("utf-8", "ignore").encode() + b"\0")

    # --- what the guest calls ------------------------------------------------------------------------------------

    def _interrupt(self) -> int:
        """Poll of the engine's own; the epoch stops it better."""
        return 0

    def _normalize(self, base: int, base_length: int, specifier: int, length: int, out_length: int) -> int:
        read = self._memory.read
        try:
            name = read(specifier, length).decode("utf-8", "replace")
            origin = read(base, base_length).decode("utf-8", "replace")
        except WasiError:
            return 0
        if origin.startswith("isola:"):
            found: str | None = name
        elif name.startswith("isola:"):
            found = None
        else:
            found = self._loader.normalize(origin, name)
        return self._give(None if found is None else found.encode("utf-8", "surrogateescape"), out_length)

    def _load_module(self, name: int, length: int, out_length: int) -> int:
        try:
            wanted = self._memory.read(name, length).decode("utf-8", "surrogateescape")
        except WasiError:
            return 0
        if wanted.startswith("isola:"):
            source = None if self._sdk is None else self._sdk.get(wanted[6:])
            return self._give(None if source is None else source.encode(), out_length)
        return self._give(self._loader.module(wanted), out_length)

    def _give(self, data: bytes | None, out_length: int) -> int:
        """Hand bytes over to the guest, which frees them; 0 for nothing."""
        if data is None:
            return 0
        pointer = self._js.qjs_alloc(len(data))
        if pointer:
            self._memory.write(pointer, data)
            self._memory.write_u32(out_length, len(data))
        return pointer

    def _door(self, _name: int, _name_length: int, _this: int, count: int, arguments: int) -> int:
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
        body = text[blank + 1 :]
        if kind == Door.RANDOM:
            return js.uint8array(self._random(body))
        if kind == _ROOM:
            return js.new_bool(int(self._has_room(body)))
        if kind == Door.IDNA:
            ascii_form = domain_to_ascii(body.decode("utf-8", "replace"))
            return js.new_undefined() if ascii_form is None else js.string(ascii_form.encode())
        if kind in (Door.DONE, Door.FAIL):
            self._ended = True
            if body == _THROWN_NULL and self._is_full():
                body = _NO_MEMORY
        elif kind == Door.PARK:
            self._ended = True
            return self._park(number, body)
        try:
            frame = HEAD.pack(kind, number) + _body(kind, body, extra)
        except (ValueError, OverflowError, RecursionError) as exc:
            raise ProtocolError(f"a door call of kind {kind:#x} that makes no sense: {clip(str(exc))}") from None
        reply = self._answer(frame)
        try:
            return self._reply(kind, reply)
        except MemoryError as exc:
            return js.string(_no_room(kind, str(exc)))

    def _has_room(self, length: bytes) -> bool:
        """Tell whether a frame of that length can be read: the wrapper copies it, and ends the instance if not."""
        if self._instance.store.memory_size() <= self._instance.max_memory // 2:
            return True
        try:
            self._js.make_sure(2 * int(length[:_HEAD_BYTES]))
        except (MemoryError, ValueError):
            return False
        return True

    def _is_full(self) -> bool:
        return self._instance.store.memory_size() + _FULL_BYTES > self._instance.max_memory

    def _park(self, number: int, body: bytes) -> int:
        delay, _, flags = body.partition(b" ")
        try:
            seconds = float(delay)
        except ValueError:
            raise ProtocolError("a turn that ends with no time") from None
        self._parked = seconds
        self._answer(HEAD.pack(Door.PARK, number) + struct.pack("<dB", seconds, flags == b"1"))
        return self._js.new_undefined()

    def _random(self, body: bytes) -> bytes:
        """Fill as ``random_get`` does, which a seed makes repeatable."""
        length = int(body) if body.isdigit() and len(body) < _HEAD_BYTES else 0
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
        if kind in (Door.EMIT, Door.LOG):
            return js.new_bool(reply[0]) if reply[0] < _TOLD else js.new_undefined()
        return js.uint8array(reply) if reply[1:2] == b"\xfe" else js.string(reply)

    def _tell(self, exc: JsError) -> str:
        """Say what was thrown, for a report of a fault of our own."""
        js = self._js
        parts = (js.read_text(js.get(exc.handle, name), 4096) for name in ("message", "stack"))
        return " ".join(part.decode("utf-8", "replace") for part in parts if part)


def _no_room(kind: int, text: str) -> bytes:
    """Answer a request whose answer the guest has no memory for: it failed."""
    status = Status.PRODUCER_FAILED if kind == Door.READ else Status.FAILED
    return bytes((status,)) + codec.encode({"name": "", "type": "MemoryError", "message": text})


def _body(kind: int, text: bytes, extra: bytes | None) -> bytes:
    """Build the body that docs/protocol.md has for this kind."""
    if kind == Door.HOSTCALL:
        name, field, value = text.partition(_FIELD)
        if not field:
            raise ProtocolError("a hostcall without a name")
        called = str(json.loads(name)).encode("utf-8", "surrogatepass")[:0xFFFF]
        return len(called).to_bytes(2, "little") + called + (value if extra is None else extra)
    if kind == Door.LOG:
        return bytes((text[0] - 0x30 if text else 1,)) + text[1:]
    if kind == Door.READ:
        return (int(text) if text.isdigit() else 0xFFFF_FFFF).to_bytes(4, "little")
    return text if extra is None else extra
