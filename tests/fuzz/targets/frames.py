"""Frames: the door, from the guest's memory to the run."""

from __future__ import annotations

import asyncio
import atexit
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import cache
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from isola_anyio import events
from isola_anyio.building import _prelude_error
from isola_anyio.codec import plain
from isola_anyio.codec.chunked import writer
from isola_anyio.engine.slots import SlotWaiter
from isola_anyio.errors import InternalError, IsolaError
from isola_anyio.events import EventQueue
from isola_anyio.guests.build_conversation import BuildConversation
from isola_anyio.guests.protocol import HEAD, ProtocolError, ToGuest, ToHost
from isola_anyio.guests.python.driver import PythonPort
from isola_anyio.limits import Limits
from isola_anyio.machine import GuestMachine
from isola_anyio.run import frames as run_frames
from isola_anyio.run import hostcalls, output, streams
from isola_anyio.run.hostcalls import Hostcalls
from isola_anyio.run.queue import RunQueue
from isola_anyio.run.services import Message
from isola_anyio.run.state import NEW_RUN, PATIENCE, Event, Phase
from isola_anyio.run.turns import Turns
from isola_anyio.values import StreamSource
from isola_anyio.wasi.errno import WasiError
from isola_anyio.wasi.linear_memory import GuestMemory
from isola_anyio.wasi.signatures import SIGNATURES
from tests.fuzz.harness import Blocked, Bytes, constants, target

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
        self.waiter = SlotWaiter()

    def set_handlers(self, handlers: list[Callable[..., int | None]]) -> None:
        self.handlers = handlers

    def wake(self) -> None:
        """Nobody sleeps."""

    interrupt = clear_interrupt = expedite = let_unwind = wake

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
        for service in () if turns.frames is None else turns.frames.services:
            while service.cancel():
                pass
        group.cancel_scope.cancel()
    for service in () if turns.frames is None else turns.frames.services:
        service.abandon()
        if isinstance(service, Hostcalls):
            assert service.answers.size_bytes >= 0
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
