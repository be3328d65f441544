"""A machine without a guest in it: what the guest does in a turn is a Python function, on a real guest thread.

For tests of the run's task and turns: where a cancellation falls in a turn is decided by events, not by luck. The fake
keeps the promises that WebAssembly and the seam keep: a computing guest notices an interrupt between two of its steps
and is dead after it, a waiting one ends at once.
"""

from __future__ import annotations

__all__ = ["CALL", "FakeGuest", "FakeMachine", "Gate", "Script", "cancelled", "runs_of", "script"]

import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import anyio

from isola_anyio import codec
from isola_anyio.engine.ffi import StoreInterrupted
from isola_anyio.engine.slots import SlotWaiter
from isola_anyio.guests import protocol
from isola_anyio.guests.protocol import HEAD, ToGuest, ToHost
from isola_anyio.limits import Limits
from isola_anyio.run.queue import RunQueue
from isola_anyio.run.services import Message
from isola_anyio.run.state import Patience

if TYPE_CHECKING:
    from isola_anyio.engine.threads import ThreadPool
    from isola_anyio.guests import Conversation
    from isola_anyio.machine import GuestMachine
    from isola_anyio.run.task import Run

CALL: Final = Message(ToGuest.CALL, b"")
SHORT_GRACE: Final = Patience(grace_s=0.05)


class FakeStore:
    """The seam's store: entered by one thread at a time, dead once a guest in it was interrupted."""

    def __init__(self) -> None:
        self.dead = False
        self.interrupted = False
        self.entered = 0
        self.inside = 0

    def enter(self) -> None:
        if self.interrupted:
            raise StoreInterrupted
        assert not self.dead, "a dead store was entered"
        self.entered += 1
        self.inside += 1
        assert self.inside == 1, "two threads are in one store"

    def leave(self, previous: None) -> None:
        self.inside -= 1

    def memory_size(self) -> int:
        return 65_536


class FakeInstance:
    """The engine's instance, without CPU slots."""

    def __init__(self, store: FakeStore) -> None:
        self.store = store
        self.waiter = SlotWaiter()
        self._woken = threading.Event()

    def interrupt(self) -> None:
        self.store.interrupted = True
        self._woken.set()

    def clear_interrupt(self) -> None:
        self.store.interrupted = False
        self._woken.clear()

    def expedite(self) -> None:
        self._woken.set()

    def let_unwind(self) -> None:
        """Nothing: there are no slots."""

    def wake(self) -> None:
        self._woken.set()

    def wait(self, seconds: float | None) -> None:
        self._woken.wait(seconds)
        self._woken.clear()
        if self.store.interrupted:
            raise StoreInterrupted

    def sleep(self, seconds: float | None) -> None:
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            if self.store.interrupted:
                raise StoreInterrupted
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            self.wait(left)


class FakeGuest:
    """What a script sees of its turn: the message's kind and body, and the door."""

    def __init__(self, machine: FakeMachine, frame: bytes, conversation: Conversation) -> None:
        kind, self.number = HEAD.unpack_from(frame)
        self.kind = ToGuest(kind)
        self.body = frame[HEAD.size :]
        self._machine = machine
        self._conversation = conversation

    def door(self, kind: ToHost, body: bytes = b"", number: int | None = None) -> bytes:
        """Make a door call, with the run's number in its head unless another is given."""
        return self._conversation.answer(kind, self.number if number is None else number, memoryview(body))

    def done(self, value: Any = None) -> None:
        """End the turn: the run is done."""
        self.door(ToHost.DONE, codec.encode(value))

    def fail(self, type_name: str = "CancelledError") -> None:
        """End the turn: the run has failed."""
        self.door(ToHost.FAIL, codec.encode({"type": type_name, "message": "", "traceback": "", "limit": None}))

    def park(self, seconds: float = -1.0) -> None:
        """End the turn: the guest waits."""
        self.door(ToHost.PARK, protocol.PARK.pack(seconds, 0))

    def wait(self, seconds: float = -1.0) -> bytes:
        """Wait inside the turn, as plain code does; the reply says whether the run is being cancelled."""
        return self.door(ToHost.WAIT, protocol.PARK.pack(seconds, 0))

    def ask(self, name: str, op: int) -> bytes:
        """Make a hostcall."""
        raw = name.encode()
        return self.door(ToHost.HOSTCALL, len(raw).to_bytes(2, "little") + raw + b"null", op)

    def write(self, text: str) -> None:
        """Write to standard output."""
        self._conversation.write(1, [memoryview(text.encode())])

    def sleep(self, seconds: float | None) -> None:
        """Sleep as plain code does."""
        self._conversation.sleep(seconds)

    def notice(self) -> None:
        """Be at an epoch check: where a computing guest notices that it was interrupted."""
        if self._machine.store.interrupted:
            self._machine.store.dead = True
            raise StoreInterrupted

    def spin(self) -> None:
        """Compute until interrupted."""
        while True:
            self.notice()


Script: TypeAlias = Callable[[FakeGuest], None]
"""One turn of the guest."""


class FakeMachine:
    """Stands for ``machine.GuestMachine``; the guest's turns are ``scripts``, the last one again and again."""

    def __init__(self, pool: ThreadPool, *scripts: Script, **limits: Any) -> None:
        self.pool = pool
        self.scripts = list(scripts)
        self.turns: list[ToGuest] = []
        self.limits = Limits(max_memory=1 << 20, **limits)
        self.driver = SimpleNamespace(dialect="python")
        self.store = FakeStore()
        self.instance = FakeInstance(self.store)
        self.port = self
        self.conversation: Any = None
        self.fresh = self.metered = self.abandoned = False

    @property
    def broken(self) -> bool:
        return self.abandoned or self.store.dead

    def prepare(self) -> None:
        """Nothing: every run of a metered fake uses the same fuel."""

    def fuel_used(self) -> int | None:
        return 7 if self.metered else None

    def deliver(self, frame: bytes, conversation: Conversation) -> None:
        guest = FakeGuest(self, frame, conversation)
        self.turns.append(guest.kind)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        script(guest)


class Gate:
    """Where a script says that it has come, and waits to be let on."""

    def __init__(self, *, opened: bool = False) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        if opened:
            self.opened.set()

    def __call__(self, _guest: FakeGuest | None = None) -> None:
        self.reached.set()
        assert self.opened.wait(10)

    async def arrive(self) -> None:
        """Wait until the script has come."""
        await anyio.to_thread.run_sync(self.reached.wait, 10)


def script(*steps: Script) -> Script:
    """Make a turn of several steps."""

    def turn(guest: FakeGuest) -> None:
        for step in steps:
            step(guest)

    return turn


def runs_of(machine: FakeMachine, patience: Patience = SHORT_GRACE, handlers: Any = None) -> RunQueue:
    """Make the queue of runs of a machine."""
    return RunQueue(cast("GuestMachine", machine), handlers or {}, patience)


async def cancelled(run: Run, when: Callable[[], Awaitable[object]]) -> None:
    """Complete a run and cancel it when ``when()`` returns."""
    async with anyio.create_task_group() as group:
        group.start_soon(run.complete)
        await when()
        group.cancel_scope.cancel()
