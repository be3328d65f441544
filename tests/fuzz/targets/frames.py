"""Everything that reads a guest's bytes, as functions of bytes that raise ``AssertionError`` on a finding.

A finding is an exception that is not an answer, an answer that cannot be right, more than `MAX_CPU_S` of computing, or
memory out of proportion. The same bytes always mean the same calls: `Bytes` deals them out, and nothing is random.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import shutil
import struct
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from isola_anyio import codec, events
from isola_anyio.building import _prelude_error
from isola_anyio.cache.digests import Record, read_record
from isola_anyio.codec import buffers, decoding, plain
from isola_anyio.codec.chunked import text_parts, writer
from isola_anyio.codec.frame import pack
from isola_anyio.errors import InternalError, IsolaError
from isola_anyio.events import EventQueue
from isola_anyio.guests.build_conversation import BuildConversation
from isola_anyio.guests.protocol import HEAD, ProtocolError, ToGuest, ToHost
from isola_anyio.guests.python.driver import PythonPort
from isola_anyio.limits import Limits
from isola_anyio.machine import GuestMachine
from isola_anyio.mounts import MountConfig, bind
from isola_anyio.run import frames as run_frames
from isola_anyio.run import hostcalls, output, streams
from isola_anyio.run.hostcalls import Hostcalls
from isola_anyio.run.queue import RunQueue
from isola_anyio.run.services import Message
from isola_anyio.run.state import NEW_RUN, PATIENCE, Event, Phase
from isola_anyio.run.turns import Turns
from isola_anyio.runtimes.wasm import MalformedModuleError, export_names
from isola_anyio.testing import equal_exact
from isola_anyio.values import StreamSource
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.linear_memory import GuestMemory
from isola_anyio.wasi.signatures import SIGNATURES
from isola_anyio.wasi.system import GuestExit
from isola_anyio.wasi.volumes.budgets import FileLimits
from tests.wasi import client

MAX_CPU_S = 2.0
MEMORY_TIMES = 64
MEMORY_BYTES = 256 << 10

Target = Callable[[bytes], None]


class Blocked(BaseException):
    """The guest would stand still now: nothing is wrong, and nothing more comes of these bytes."""


class Bytes:
    """Deals bytes out; when they are used up, there are only zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, n: int) -> bytes:
        found = self._data[self._at : self._at + n]
        self._at += n
        return found

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")

    def u8(self) -> int:
        return self.number(1)

    def chunk(self) -> bytes:
        """Up to 239 bytes, or (a length above that) thousands of one byte."""
        n = self.u8()
        return self.take(n) if n < 240 else self.take(1) * ((n - 239) * 997)


def target(function: Target) -> Target:
    """Make every way to fail the same, and look at the CPU that was used."""

    @wraps(function)
    def run(data: bytes) -> None:
        began = time.thread_time()
        try:
            function(data)
        except (AssertionError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            raise AssertionError(f"{type(exc).__name__}: {exc}") from exc
        used = time.thread_time() - began
        assert used < MAX_CPU_S, f"{used:.1f} s of computing for {len(data)} bytes"

    return run


with suppress(ImportError):
    importlib.import_module("numpy")  # the codec asks for it late, and its import is not the input's memory


buffers._zeros()  # made once, too


@contextmanager
def measured(size: int) -> Generator[None]:
    """Fail if what is in here takes memory out of proportion to its input."""
    tracemalloc.start()
    try:
        yield
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak <= MEMORY_TIMES * size + MEMORY_BYTES, f"{peak} bytes of memory for {size}"


@contextmanager
def constants(values: dict[str, int], *modules: Any) -> Generator[None]:
    """Make limits small, so that short inputs come to them."""
    before = [(module, name, getattr(module, name)) for module in modules for name in values if hasattr(module, name)]
    assert {name for _, name, _ in before} == set(values)
    try:
        for module, name, _ in before:
            setattr(module, name, values[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@cache
def scratch() -> Path:
    """A directory of this process's own, gone with it."""
    path = Path(tempfile.mkdtemp(prefix="isola-fuzz-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


# --- frames: the door, from the guest's memory to the run


FRAME_MEMORY_BYTES = 1 << 20
FRAME_AT = 4096
REPLY_AT = 64
ROOM_AT = 512 << 10
DOORS = [*ToHost, 0, 0x0F, 0x1C, 0xFF]
NAMES = [b"plain", b"later", b"fails", b"odd", b"gives", b"never", b"", b"unknown", b"__rehearse_now__"]


async def _later(payload: object) -> object:
    await anyio.lowlevel.checkpoint()
    return payload


def _gives(payload: object) -> Awaitable[object]:
    return _later(payload)


def _fails(payload: object) -> object:
    raise LookupError(payload)


async def _never(payload: object) -> None:
    await anyio.sleep_forever()


HANDLERS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda payload: payload,
    "later": _later,
    "gives": _gives,
    "fails": _fails,
    "odd": lambda payload: {"it": object()},
    "never": _never,
}


async def _broken_items() -> AsyncIterator[object]:
    yield b"first"
    raise OSError("the producer broke")


SMALL_LIMITS = {"CAPACITY_EVENTS": 3, "PENDING_BYTES": 12_000, "BATCH_BYTES": 64, "TEXT_PIECE_BYTES": 16, "SMALL": 8}


class StubStore:
    """The guest's exports: an allocator that gives one place."""

    dead = False
    interrupted = False

    def __init__(self, place: int) -> None:
        self._place = place

    def export(self, name: str, params: str) -> Callable[..., int]:
        return (lambda size: self._place) if name == "host_alloc" else (lambda *args: 0)

    def memory_size(self) -> int:
        return FRAME_MEMORY_BYTES

    def enter(self) -> None:
        """Nobody stops this guest."""

    def leave(self, previous: None) -> None:
        """Nothing was entered."""


class StubInstance:
    """What a run and a port ask of an instance, without a module in it."""

    def __init__(self, place: int) -> None:
        size = FRAME_MEMORY_BYTES
        self.memory = GuestMemory(bytearray(size), size, lambda: size)
        self.store = StubStore(place)

    def set_handlers(self, handlers: list[Callable[..., int | None]]) -> None:
        self.handlers = handlers

    def wake(self) -> None:
        """Nobody sleeps."""

    interrupt = clear_interrupt = expedite = wake

    def wait(self, seconds: float | None) -> None:
        assert seconds is None or seconds == seconds
        raise Blocked

    sleep = wait


class FrameGuest:
    """A guest that is only a mouth, and the run that listens to it."""

    def __init__(self, mode: int, source: Bytes) -> None:
        self.source = source
        self.instance = StubInstance([ROOM_AT, 0, FRAME_MEMORY_BYTES - 4, 0xFFFF_FFF0][mode >> 6])
        self.machine = made = GuestMachine.__new__(GuestMachine)
        limits = Limits(max_memory=1 << 20, max_payload=2000, max_output=4000, max_hostcalls=3)
        vars(made).update(
            driver=SimpleNamespace(dialect="js" if mode & 8 else "python"),
            limits=limits,
            instance=self.instance,
            store=self.instance.store,
            abandoned=False,
            port=self,
            fresh=False,
            metered=False,
        )
        calls = SimpleNamespace(handlers=lambda: [None] * len(SIGNATURES))
        self.door = PythonPort(self.instance, calls, max_frame=limits.max_payload + (1 << 16))  # type: ignore[arg-type]
        self.build = BuildConversation(self.instance.sleep)
        self.turns: Turns | None = None
        if mode & 1:
            return
        sources = [
            StreamSource([1, "zwei", b"3", 4.5, 1 << 70], 2),
            StreamSource(_broken_items(), 1),
            StreamSource(["y" * 50, {}, {1}], 3),
        ]
        message = Message(ToGuest.CALL, b"", sources if mode & 2 else ())
        runs = RunQueue(made, HANDLERS, PATIENCE)
        self.turns = Turns(runs, message, EventQueue() if mode & 4 else None, owner=self)

    def deliver(self, frame: bytes, conversation: Any) -> None:
        """A turn: the guest says one thing after another."""
        source, turns = self.source, self.turns
        assert len(frame) >= HEAD.size
        self.door._conversation = conversation
        while source:
            step = source.u8()
            if turns is not None:
                if turns.state.pending and step < 240:
                    return
                if step < 8:
                    return
                if step < 24:
                    with suppress(WasiError):  # CANCELED
                        turns.write(1 + (step & 1), [memoryview(source.chunk())])
                    continue
                if step == 24:
                    turns.step(Event.CANCEL)
                    continue
            self.say(_frame(source), step & 7 if step >= 248 else 0)

    def say(self, frame: bytes, wild: int) -> None:
        """Make a door call as the guest's import does; ``wild`` bends the pointers."""
        memory = self.instance.memory
        memory.write(FRAME_AT, frame)
        pointer, length, out = FRAME_AT, len(frame), REPLY_AT
        if wild & 1:
            pointer = FRAME_MEMORY_BYTES - 3
        if wild & 2:
            length = -1
        if wild & 4:
            out = 0xFFFF_FFFD
        status = self.door._door(pointer, length, out, REPLY_AT + 4)
        assert status in {0, 0xFFFF_FFFE}, status
        if not status:
            at, size = memory.read_u32(REPLY_AT), memory.read_u32(REPLY_AT + 4)
            assert not size or at + size <= FRAME_MEMORY_BYTES


def _frame(source: Bytes) -> bytes:
    kind = source.u8()
    kind = DOORS[kind % len(DOORS)] if kind < 240 else kind
    number = source.u8()
    number = 1 if number < 128 else number - 128 if number < 250 else source.number(4)
    body = source.chunk()
    if kind == ToHost.HOSTCALL and (how := source.u8()) < 200:
        name = NAMES[how % len(NAMES)]
        body = len(name).to_bytes(2, "little") + name + body
        number = how if number == 1 else number
    elif kind in {ToHost.PARK, ToHost.WAIT} and (how := source.u8()) < 200:
        body = struct.pack("<dB", [-1.0, 0.0, 1e-9, 1.0, 1e308, float("inf"), float("nan")][how % 7], how >> 4)
    return HEAD.pack(kind, number) + body


async def _frames(source: Bytes) -> None:
    it = FrameGuest(source.u8(), source)
    turns = it.turns
    if turns is None:
        with suppress(ProtocolError, Blocked):
            it.deliver(bytes(HEAD.size), it.build)
        if it.build.failure is not None:
            with suppress(InternalError):
                _prelude_error(it.build.failure)
        return
    async with anyio.create_task_group() as group:
        if turns.message.streams:
            turns.frames = run_frames.Frames(turns)
            turns.frames.open(streams.Streams)
            turns.frames.services[0].start(group)
        turns.step(Event.START)
        while source and turns.state.phase is not Phase.ENDED:
            turns.run()
            await _host_step(turns, group, source.u8())
            turns.step(Event.LOOK)
            if turns.state.phase is Phase.PARKED and not turns.step(Event.DUE):
                break
        group.cancel_scope.cancel()
    for service in () if turns.frames is None else turns.frames.services:
        service.abandon()
        if isinstance(service, Hostcalls):
            assert service._answer_bytes >= 0
            assert service._pending_bytes >= 0
    assert turns.state == NEW_RUN or turns.state.phase is not Phase.NEW
    outcome = turns.outcome
    if isinstance(outcome, InternalError):
        raise outcome
    assert isinstance(outcome, (IsolaError, Blocked)) or not isinstance(outcome, BaseException), repr(outcome)


async def _host_step(turns: Turns, group: TaskGroup, how: int) -> None:
    """What happens while the guest is parked."""
    if how & 8 and turns.frames is not None:
        for service in turns.frames.services:
            service.start(group)
    if how & 16 and turns.events is not None:
        turns.events._events.clear()
    if how >= 240:
        turns.step(Event.CANCEL)
    for _ in range(how & 7):
        await anyio.lowlevel.checkpoint()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


@target
def frames(data: bytes) -> None:
    """Door calls, output and completions, in any order and form."""
    failures: list[BaseException] = []

    async def scenario() -> None:
        try:
            await _frames(Bytes(data))
        except BaseExceptionGroup as group:
            failures.append(group.exceptions[0])

    with constants(SMALL_LIMITS, events, hostcalls, output, plain, run_frames, streams, writer):
        _loop().run_until_complete(scenario())
    if failures:
        raise failures[0]


# --- wasi: every function, over in-memory files, a host directory and an overlay


ROLES = {
    "args_get": "oo", "args_sizes_get": "oo", "environ_get": "oo", "environ_sizes_get": "oo", "clock_res_get": "go",
    "clock_time_get": "gNo", "fd_advise": "fNNg", "fd_allocate": "fNN", "fd_close": "f", "fd_datasync": "f",
    "fd_fdstat_get": "fo", "fd_fdstat_set_flags": "fg", "fd_fdstat_set_rights": "frr", "fd_filestat_get": "fo",
    "fd_filestat_set_size": "fN", "fd_filestat_set_times": "fNNg", "fd_pread": "fvNo", "fd_prestat_get": "fo",
    "fd_prestat_dir_name": "fb", "fd_pwrite": "fvNo", "fd_read": "fvo", "fd_readdir": "fbNo", "fd_renumber": "ff",
    "fd_seek": "fNgo", "fd_sync": "f", "fd_tell": "fo", "fd_write": "fvo", "path_create_directory": "fP",
    "path_filestat_get": "fgPo", "path_filestat_set_times": "fgPNNg", "path_link": "fgPfP", "path_open": "fgPgrrgo",
    "path_readlink": "fPbo", "path_remove_directory": "fP", "path_rename": "fPfP", "path_symlink": "PfP",
    "path_unlink_file": "fP", "poll_oneoff": "sogo", "proc_exit": "g", "proc_raise": "g", "random_get": "b",
    "sched_yield": "", "sock_accept": "fgo", "sock_recv": "fvgoo", "sock_send": "fvgo", "sock_shutdown": "fg",
}  # fmt: skip
"""What each argument is: a descriptor, flags, a number, rights, an out pointer, or (two arguments) a path, a list of
vectors, a buffer; ``s`` are subscriptions."""

CALLS = [*SIGNATURES, *["path_open"] * 12, *["fd_write", "fd_read", "fd_readdir", "path_rename"] * 3]
PATHS = [
    b"", b".", b"..", b"tmp", b"tmp/a", b"tmp/b", b"tmp/b/c", b"host", b"host/a", b"host/d", b"host/d/x", b"over/f",
    b"over/d", b"over/d/x", b"over/l", b"over/out", b"over/out/secret", b"host/../tmp/a", b"host/../../x", b"/", b"/tmp",
    b"tmp/\xff", b"tmp/a\0b", b"n" * 300, b"tmp/" + b"d/" * 40, b"host/l", b"host/l/secret", b"../outside/secret",
]  # fmt: skip
NUMBERS = [
    0, 1, 2, 3, 7, 8, 24, 25, 255, 4096, 65535, client.MEMORY_BYTES - 1, client.MEMORY_BYTES, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1, -8, -(1 << 31), -(1 << 63),
]  # fmt: skip
RIGHTS = [client.OTHERS | client.RW, client.OTHERS | client.R, client.OTHERS | client.W, client.RW, 0, (1 << 64) - 1]
SECRET = b"host only: no guest sees this"
PATHS_AT = 8192
VECTORS_AT = 2048


class Sleepless(client.FakeClock):
    """Time goes on only in short naps."""

    def sleep(self, seconds: float | None) -> None:
        assert seconds is None or 0 <= seconds <= 86_400
        if seconds is None or seconds > 3600:
            raise Blocked
        super().sleep(seconds)


@cache
def _host() -> tuple[Path, Path]:
    outside, work, lower = (scratch() / name for name in ("outside", "work", "lower"))
    for path in (outside, work, lower, lower / "d"):
        path.mkdir()
    (outside / "secret").write_bytes(SECRET)
    (lower / "f").write_bytes(b"lower")
    (lower / "d" / "x").write_bytes(b"x" * 5000)
    (lower / "l").symlink_to("d")
    (lower / "out").symlink_to("../outside")
    os.mkfifo(lower / "fifo")
    return work, lower


def _wasi_guest() -> client.Guest:
    work, lower = _host()
    for entry in os.scandir(work):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    os.mkdir(work / "d")
    os.symlink("../outside", work / "l")
    return client.Guest(
        mounts=[
            bind(MountConfig(work, "/host", "read-write", "read-write")),
            bind(MountConfig(lower, "/over", "read-write", "read-write", mode="overlay")),
        ],
        limits=FileLimits(max_memory_bytes=2 << 20, max_open_files=16, max_written_bytes=1 << 20, max_entries=100),
        stdin=b"typed",
        args=(b"guest", b"-x"),
        environ={"A": "1", "LONG": "y" * 100},
        clock=Sleepless(),
    )


def _number(source: Bytes) -> int:
    how = source.u8()
    if how < 128:
        return NUMBERS[how] if how < len(NUMBERS) else how
    return source.number(2 if how < 200 else 4 if how < 230 else 8)


def _argument(role: str, source: Bytes, guest: client.Guest, slot: int) -> list[int]:
    if role == "f":
        return [source.u8() & 15]
    if role == "g":
        return [source.u8()]
    if role == "N":
        return [_number(source)]
    if role == "r":
        return [RIGHTS[source.u8() % len(RIGHTS)]]
    if role == "o":
        how = source.u8()
        return [client.OUT if how < 240 else _number(source)]
    if role == "b":
        return [client.BUFFER, _number(source)]
    if role == "P":
        how = source.u8()
        path = PATHS[how % len(PATHS)] if how < 200 else source.chunk()[:4096]
        return list(guest.put(PATHS_AT + slot * 512, path))
    if role == "v":
        count = source.u8() & 3
        for i in range(count):
            how = source.u8()
            start, n = (client.BUFFER, how) if how < 200 else (_number(source), _number(source))
            guest.put(VECTORS_AT + 8 * i, struct.pack("<II", start & 0xFFFF_FFFF, n & 0xFFFF_FFFF))
        return [VECTORS_AT, count]
    guest.put(VECTORS_AT, source.chunk()[:4096])
    return [VECTORS_AT]


def _wasi_calls(guest: client.Guest, source: Bytes) -> None:
    functions = guest.system.functions()
    while source:
        which = source.u8()
        if which >= 250:
            guest.put(client.BUFFER + 16 * (which - 250), source.chunk())
            continue
        name = CALLS[which % len(CALLS)]
        params = SIGNATURES[name][0]
        if which >= 240:
            args = [_number(source) for _ in params]
        else:
            args = [n for slot, role in enumerate(ROLES[name]) for n in _argument(role, source, guest, slot)]
        assert len(args) == len(params), name
        answer = functions[name](*args)
        assert type(answer) is int, name
        Errno(answer)
        if guest.system.fault is not None:
            raise AssertionError(f"{name}{args}: {guest.system.fault!r}") from guest.system.fault


@target
def wasi(data: bytes) -> None:
    """Preview 1 calls, in any order, with any arguments and memory."""
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    guest = _wasi_guest()
    try:
        _wasi_calls(guest, Bytes(data))
    except (Blocked, GuestExit):
        pass
    finally:
        usage, seen = guest.files.usage, bytes(guest.memory.buffer)
        guest.close()
    assert 0 <= usage.memory_bytes <= 2 << 20, usage.memory_bytes
    assert 0 <= usage.written_bytes <= 1 << 20, usage.written_bytes
    assert SECRET not in seen, "the guest read a file outside of its mounts"
    outside = scratch() / "outside"
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == SECRET
    assert sorted(os.listdir(_host()[1])) == ["d", "f", "fifo", "l", "out"]
    assert not before or len(os.listdir("/proc/self/fd")) <= before, "a descriptor is left open"


# --- decode


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


# --- wasm: files that name what is in other files


@target
def wasm(data: bytes) -> None:
    """A module's exports, and a cached digest's record."""
    path = scratch() / "file"
    source = Bytes(data)
    mode = source.u8()
    content = source.rest()
    if mode & 1:
        path.write_bytes(content)
        path.chmod(0o600)
        with measured(len(content)):
            record = read_record(path)
        if record is not None:
            found = path.lstat()
            assert type(record.covers(found)) is bool
            path.write_bytes(record.to_bytes())
            assert read_record(path) == record
            assert all(type(getattr(record, name)) is int for name in Record.__dataclass_fields__ if name != "sha256")
        return
    path.write_bytes((b"" if mode & 2 else b"\0asm\1\0\0\0") + content)
    with measured(len(content)):
        try:
            names = export_names(path)
        except MalformedModuleError as exc:
            assert str(exc)
        else:
            assert all(isinstance(name, str) for name in names)


TARGETS: dict[str, Target] = {"frames": frames, "wasi": wasi, "decode": decode, "wasm": wasm}
