"""A guest's turns during one run: everything of a run that happens on the guest's thread.

Where the guest is (:class:`Phase`) changes under ``_lock``, because a cancellation has to know: a parked guest is sent
CANCEL and unwinds, a waiting one is told in its reply, a computing one is interrupted and its instance is lost. What
a turn has come to is noted while it goes on (``_verdict``) and becomes the phase only when no wasm frame is left on
the thread, for from then on others may enter the guest or free it.
"""

from __future__ import annotations

__all__ = ["Halt", "Phase", "RunOptions", "Stop", "Turns"]

import threading
import time
from abc import ABC, abstractmethod
from contextvars import copy_context
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from isola_anyio import codec
from isola_anyio.engine import ffi
from isola_anyio.engine.cpu import CpuMeter
from isola_anyio.engine.wakeup import Wakeup
from isola_anyio.errors import (
    CpuLimitError,
    FuelExhaustedError,
    GuestError,
    InternalError,
    IsolaError,
    MemoryLimitError,
    SandboxClosedError,
)
from isola_anyio.guests import protocol
from isola_anyio.guests.protocol import ProtocolError, Status, ToGuest
from isola_anyio.limits import Usage
from isola_anyio.run.hostcalls import Handlers, HostcallDesk
from isola_anyio.run.streams import Feed
from isola_anyio.wasi.system import GuestExit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from isola_anyio.codec import Dialect
    from isola_anyio.events import Event, EventQueue
    from isola_anyio.limits import Limits
    from isola_anyio.machine import Guest
    from isola_anyio.values import JsonValue, StreamSource


class Phase(Enum):
    """Where the guest is during a run."""

    QUEUED = "queued"  # a turn is wanted and no thread has it yet
    COMPUTING = "computing"  # inside a turn
    WAITING = "waiting"  # inside a turn, blocked where it can be told of a cancellation
    PARKED = "parked"  # between turns
    ENDED = "ended"


class Stop(Enum):
    """Why a guest is being stopped."""

    CANCELLED = "cancelled"
    CPU = "cpu"
    CLOSED = "closed"


class Halt(BaseException):
    """Ends a turn from inside a host function with an error of ours; WASI lets only a BaseException through."""

    def __init__(self, error: IsolaError) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run is made of: its first message, its streams, and whom it tells."""

    call: ToGuest
    body: bytes
    streams: Sequence[StreamSource] = ()


class Turns(ABC):
    """The turns of one run. ``outcome`` is the value, or the exception to raise, once the phase is ``ENDED``."""

    def __init__(
        self, guest: Guest, number: int, options: RunOptions, handlers: Handlers, *, queue: EventQueue | None = None
    ) -> None:
        self.guest = guest
        self.number = number
        self.limits: Limits = guest.limits
        self.dialect: Dialect = guest.driver.dialect
        self._options = options
        self._news = Wakeup()
        self._lock = threading.Lock()
        self.phase = Phase.QUEUED
        self._verdict: Phase | None = None  # what the turn under way has come to; the phase follows when it is over
        self._stop: Stop | None = None
        self._started = False
        self._delivered = False  # the guest knows of this run
        self._cancel_sent = False
        self._asleep = False  # inside plain code's own sleep
        self._told = False  # the guest knows of its cancellation: it is left alone until the grace is over
        self._timer: float | None = None
        self._needs_room = False
        self._room_came = False
        self.outcome: JsonValue | BaseException = None
        self._cpu = CpuMeter()
        self.queue = queue
        if queue is not None:
            queue.on_room = self._on_room
        self._context = copy_context()
        self.desk = HostcallDesk(
            handlers,
            owner=self,
            dialect=self.dialect,
            max_payload=self.limits.max_payload,
            max_in_flight=self.limits.max_hostcalls,
            cpu=self._cpu,
            pause=self.yield_gil,
            on_request=self._news.set,
            on_news=self._on_news,
        )
        self._feeds = [
            Feed(
                source,
                owner=self,
                dialect=self.dialect,
                max_payload=self.limits.max_payload,
                pause=self.yield_gil,
                on_news=self._on_news,
            )
            for source in options.streams
        ]
        self._turn_began = 0.0
        self._silent_since_cpu = 0.0  # seconds of the guest's CPU at which it last came where it could be told
        self._began = 0.0
        self._busy_s = 0.0
        self.output_bytes = 0

    @abstractmethod
    def answer(self, kind: int, number: int, untrusted_body: memoryview) -> bytes:
        """Answer a door call."""

    @abstractmethod
    def count_output(self, size: int) -> None:
        """Count output bytes."""

    @abstractmethod
    def emit(self, event: Event, size: int) -> bool:
        """Put an event that cannot be refused; tell whether the run is still wanted."""

    @abstractmethod
    def emit_last(self, event: Event) -> None:
        """Put what is left to be shown when the run has ended."""

    def _on_news(self) -> None:
        """Something happened that the run's task, or a guest that waits inside its turn, has to look at."""
        self._news.set()
        # Whether it waits yet or not: one that has looked and is about to wait must not miss it.
        self.guest.instance.wake()

    def _on_room(self) -> None:
        self._room_came = True
        self._on_news()

    def _check_cpu(self) -> None:
        budget = self.limits.max_cpu
        if budget is None or self._cpu.now() < budget:
            return
        with self._lock:
            if self.phase is not Phase.ENDED:  # else the interrupt would hit the next run
                if self._stop is None:
                    self._stop = Stop.CPU
                self.guest.instance.interrupt()

    def _turn(self, make_frame: Callable[[], bytes]) -> None:
        """Run one turn; whatever happens, the run's task is told."""
        self._turn_began = time.monotonic()
        self._cpu.begin()
        with self._lock:
            # A turn that was asked for before the run was stopped is not begun any more.
            wanted = self._stop is None or self._cancel_sent
            self._silent_since_cpu = self._cpu.own()
            self.phase = Phase.COMPUTING if wanted else Phase.PARKED
        if not wanted:
            self._cpu.end()
            self._news.set()
            return
        try:
            self.guest.instance.enter(partial(self._deliver, make_frame))
            if self._verdict is None:
                raise ProtocolError("the guest ended its turn without a word")
        except BaseException as exc:  # noqa: BLE001 - nothing may end a guest thread
            self._end_with(exc)
        self._cpu.end()
        self._busy_s += time.monotonic() - self._turn_began
        if self._verdict is Phase.PARKED:
            self._check_cpu()
        # Only now, with no wasm frame left on this thread, may others enter the guest or free it.
        with self._lock:
            assert self._verdict is not None
            self.phase, self._verdict = self._verdict, None
            if self.phase is Phase.ENDED and self._stop is Stop.CPU and not self.guest.broken:
                self.guest.instance.forget_interrupt()  # it came when the guest had just ended by itself
        self._news.set()

    def _deliver(self, make_frame: Callable[[], bytes]) -> None:
        try:
            frame = make_frame()
        except ffi.StoreInterrupted:
            if self._stop is not Stop.CANCELLED or self._cancel_sent:
                raise
            self._verdict = Phase.PARKED  # it waits for what was being made, and hears of its cancellation instead
            return
        guest = self.guest
        try:
            guest.prepare(self)
            guest.port.deliver(frame)
        except MemoryError as exc:
            if make_frame != self._resume_frame:
                self.guest.abandoned = make_frame != self._first_frame  # it does not know that it was cancelled
                raise MemoryLimitError("MemoryError", str(exc)) from None
            guest.port.deliver(self._no_room_frame(str(exc)))

    def _first_frame(self) -> bytes:
        self._delivered = True
        return protocol.message(self._options.call, self.number, self._options.body)

    def _cancel_frame(self) -> bytes:
        self._told = True
        return protocol.message(ToGuest.CANCEL, self.number)

    def _resume_frame(self) -> bytes:
        self._resuming = records = self._collect()
        return protocol.message(ToGuest.RESUME, self.number, b"".join(records))

    _resuming: Sequence[bytes] = ()

    def _no_room_frame(self, text: str) -> bytes:
        """Completions that the guest has no memory for, as small failures."""
        failed = codec.encode({"name": "", "type": "MemoryError", "message": text})
        ops = [int.from_bytes(record[:4], "little") for record in self._resuming]
        return protocol.message(
            ToGuest.RESUME, self.number, b"".join(protocol.completion(op, Status.FAILED, failed) for op in ops)
        )

    def _collect(self) -> list[bytes]:
        """Take the completions that have come."""
        records = self.desk.take_completions()
        try:
            for feed in self._feeds:
                record = feed.completion()
                if record is not None:
                    records.append(record)
        except BaseException:
            self.desk.put_back(records)
            raise
        return records

    def _end_with(self, exc: BaseException) -> None:
        """Note how a turn ended that did not end by itself."""
        stop = self._stop
        if isinstance(exc, ffi.StoreInterrupted):
            self.guest.abandoned = True  # stopped while its message was being made, it lives and waits for it
            if stop is Stop.CPU:
                budget = self.limits.max_cpu
                exc = CpuLimitError(f"the run used up max_cpu={budget} seconds of CPU; raise it, or do less")
            elif stop is Stop.CLOSED:
                exc = SandboxClosedError("the sandbox was closed while this was running")
        elif isinstance(exc, Halt):
            exc = exc.error
        elif isinstance(exc, ffi.FuelExhausted):
            exc = FuelExhaustedError(f"the run used up max_fuel={self.limits.max_fuel}; raise it, or do less")
        elif isinstance(exc, ffi.GuestTrap):
            exc = _trap_error(exc)
        elif isinstance(exc, GuestExit):
            exc = GuestError("SystemExit", f"the guest ended its process with status {exc.code}")
        elif isinstance(exc, ProtocolError):
            self.guest.abandoned = True
            exc = GuestError("ProtocolError", f"{exc}: the guest's own runtime was tampered with")
        elif not isinstance(exc, (IsolaError, MemoryError)):
            self.guest.abandoned = True
            if isinstance(exc, Exception):
                exc = _internal(exc)  # any other is a plain handler's, meant for the program and not for its guest
        self._end(exc)

    def _end(self, outcome: JsonValue | BaseException) -> None:
        self.outcome = outcome
        if self.phase is Phase.COMPUTING or self.phase is Phase.WAITING:
            self._verdict = Phase.ENDED
        else:
            self.phase = Phase.ENDED

    @property
    def _must_tell(self) -> bool:
        """Whether the guest is to be told of its cancellation, asked where the reply can say so.

        A guest that comes here often is not interrupted: it is told the next time, and unwinds.
        """
        self._silent_since_cpu = self._cpu.own()
        return self._stop is Stop.CANCELLED and not self._told

    def _block(self, seconds: float | None = None) -> None:
        """Stand still inside the turn until there is news or the run is being cancelled."""
        with self._lock:
            self.phase = Phase.WAITING
            stopping = self._stop is Stop.CANCELLED and not self._told
        began = time.monotonic()
        try:
            self._news.set()
            if not stopping:
                self.guest.instance.wait(seconds)
        finally:
            self._busy_s -= time.monotonic() - began
            with self._lock:
                self._silent_since_cpu = self._cpu.own()
                self.phase = Phase.COMPUTING

    def sleep(self, seconds: float | None) -> None:
        """Sleep as plain code asked; a cancellation ends it, and the instance with it."""
        began = time.monotonic()
        self._asleep = True
        try:
            self.guest.instance.sleep(seconds)
        finally:
            self._asleep = False
            self._busy_s -= time.monotonic() - began

    def yield_gil(self) -> None:
        """Give way in the middle of long work for the guest, so that the event loop goes on.

        Raises:
            ffi.StoreInterrupted: the guest is being stopped, and nobody waits for the work any more.
        """
        ffi.give_way()
        if self.guest.instance.interrupted:
            raise ffi.StoreInterrupted

    def usage(self, fuel: int | None, peak_memory: int) -> Usage:
        """What the run used."""
        wall = time.monotonic() - self._began
        return Usage(
            cpu_s=self._cpu.now(),
            wall_s=wall,
            waiting_s=max(0.0, wall - self._busy_s),
            fuel=fuel,
            hostcalls=self.desk.count,
            output_bytes=self.output_bytes,
            peak_memory=peak_memory,
            runs=1,
        )


def _trap_error(trap: ffi.GuestTrap) -> GuestError:
    text = str(trap)
    if text == "stack overflow":
        return GuestError("RecursionError", "the guest's wasm stack is used up")
    return GuestError("Trap", text)


def _internal(exc: BaseException) -> InternalError:
    error = InternalError(f"a fault of isola_anyio itself, please report it: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error
