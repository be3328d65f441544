"""The queue of one sandbox's runs, one at a time, first come first served, and what all of them share.

Everything here belongs to the event loop that the sandbox was started in.
"""

from __future__ import annotations

__all__ = ["Queued", "RunQueue", "Totals"]

import itertools
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio

from isola_anyio.engine.cpu import CpuMeter
from isola_anyio.engine.wakeup import Wakeup
from isola_anyio.errors import SandboxBrokenError, SandboxClosedError
from isola_anyio.limits import Usage

if TYPE_CHECKING:
    from isola_anyio.machine import GuestMachine
    from isola_anyio.run.hostcalls import Handlers
    from isola_anyio.run.state import Patience


class Queued(Protocol):
    """A run in the queue.

    Attributes:
        turn: set when the run is first in the queue; ``None`` for a run that does not wait for that.
        is_over: it is about to leave, or has left: it has no turn any more.
    """

    turn: anyio.Event | None
    is_over: bool

    def close(self) -> None:
        """Stop the run because the sandbox is being closed."""
        ...

    async def join(self) -> None:
        """Wait until nothing of the run is left in the queue."""
        ...


@dataclass(slots=True)
class Totals:
    """What runs used, added up; as :class:`~isola_anyio.limits.Usage` has it."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    waiting_s: float = 0.0
    fuel: int | None = None
    hostcalls: int = 0
    output_bytes: int = 0
    peak_memory: int = 0
    runs: int = 0

    def usage(self, total: Usage | None = None) -> Usage:
        """Return it as what users see."""
        return Usage(
            cpu_s=self.cpu_s,
            wall_s=self.wall_s,
            waiting_s=self.waiting_s,
            fuel=self.fuel,
            hostcalls=self.hostcalls,
            output_bytes=self.output_bytes,
            peak_memory=self.peak_memory,
            runs=self.runs,
            total=total,
        )


class RunQueue:
    """The runs of one started sandbox.

    Attributes:
        machine: the guest.
        handlers: the program's hostcall handlers by name.
        patience: how long a cancelled guest may take.
        line: the runs, in the order they came; the first has its turn. Runs join and leave by themselves. Behind the
            first there may be some that have left: thousands may leave at once, and to look for each would take long.
        numbers: of the runs, which their frames carry: from 1, and never the same twice.
        news: wakes the task of the run that has its turn. One for all: a wake-up meant for a run that has just ended
            makes the next one look once for nothing.
        cpu: the guest's CPU over all runs.
        cancelled_class: what the running backend raises in a cancelled task.
        last: what the last run used.
        total: ... and all of them.
        closed: the sandbox is being closed; no run begins any more.
    """

    def __init__(self, machine: GuestMachine, handlers: Handlers, patience: Patience) -> None:
        self.machine = machine
        self.handlers = handlers
        self.patience = patience
        self.line: deque[Queued] = deque()
        self._gone = 0  # that have left, and are still in the line
        # Never the same twice, so that a late frame of a guest's earlier run is found out; 0 is the host's own SETUP.
        self.numbers = itertools.count(1)
        self.news = Wakeup()
        # One for all runs: it follows the guest from thread to thread, and a run remembers what it showed before.
        self.cpu = CpuMeter()
        self.cancelled_class = anyio.get_cancelled_exc_class()
        self.last = Totals()
        self.total = Totals()
        self.closed = False

    async def wait_for_turn(self, run: Queued) -> None:
        """Wait until ``run``, which is in the line, is first and may begin.

        Raises:
            SandboxClosedError: the sandbox was closed before that.
            SandboxBrokenError: a run before it broke the sandbox.
        """
        # No await between the look and the wait, and all on one loop: whoever leaves the line meanwhile finds the
        # event.
        if not self.closed and self.line[0] is not run:
            run.turn = anyio.Event()
            await run.turn.wait()
        if self.closed:
            raise SandboxClosedError("the sandbox was closed before this had its turn")
        self.check_whole()  # the run before may have broken it

    def check_whole(self) -> None:
        """Refuse a guest that cannot be entered any more.

        Raises:
            SandboxBrokenError: it is one.
        """
        if self.machine.broken:
            raise SandboxBrokenError(
                "the sandbox was stopped in the middle of a computation, or its guest died; create a new one"
            )

    def leave(self, run: Queued) -> None:
        """Take ``run`` out of the line; the next one has its turn."""
        line = self.line
        # Whether its turn had come or not: one that is cancelled in the moment in which it is first passes the turn on.
        if line[0] is run:
            line.popleft()
            while line and line[0].is_over:
                line.popleft()
                self._gone -= 1
            if line and line[0].turn is not None:
                line[0].turn.set()
        else:
            self._gone += 1
        # Those that are gone stay where they are until the line gets there, or is half of their kind.
        if 2 * self._gone > len(line):
            waiting = [queued for queued in line if not queued.is_over]
            line.clear()
            line.extend(waiting)
            self._gone = 0

    def close(self) -> None:
        """Stop every run; those that wait for their turn never have it."""
        # First, so that a run that gets its turn from one of these finds the queue closed.
        self.closed = True
        # A copy: a run may leave the line at once.
        for run in tuple(self.line):
            run.close()

    async def join(self) -> None:
        """Wait until a run that is in the line now has left it."""
        for run in tuple(self.line):
            await run.join()

    @property
    def usage(self) -> Usage:
        """What the last run used, and all of them."""
        return self.last.usage(self.total.usage())
