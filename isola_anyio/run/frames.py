"""Frames: what a guest may say during a turn besides ending it, and who answers which kind.

The kinds are those of ``docs/protocol.md``. Each frame is checked before it is believed, by whoever answers it. All of
it happens on the guest's thread, inside a turn, except where a method says otherwise; DONE, FAIL and PARK, which end a
turn, are answered by ``Turns`` itself.
"""

from __future__ import annotations

__all__ = ["SERVICES", "Frames"]

import math
import time
from typing import TYPE_CHECKING, Final

from isola_anyio.guests import protocol
from isola_anyio.guests.protocol import ProtocolError, ToHost
from isola_anyio.run.hostcalls import Hostcalls
from isola_anyio.run.output import Output
from isola_anyio.run.services import GivenUp
from isola_anyio.run.state import Event
from isola_anyio.run.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.run.services import ServedRun, Service

SERVICES: Final[tuple[type[Hostcalls | Streams], ...]] = (Hostcalls, Streams)
"""The kinds of services. One is made for a run when the guest makes the first door call of its ``kinds``."""
_CANCELLED: Final = b"\1"
"""WAIT's reply to a guest that is being cancelled."""


class Frames:
    """The frames of one run.

    Attributes:
        output: where output, logs and partial results go.
        services: those that were made so far. Replaced as a whole, on the guest's thread or before the first turn, so
            that the run's task, which looks through it, sees one tuple or the other.
    """

    def __init__(self, run: ServedRun) -> None:
        self._run = run
        self.output = Output(run)
        self.services: tuple[Service, ...] = ()
        self._routes: dict[int, Callable[[int, memoryview], bytes]] = {
            ToHost.EMIT: self.output.on_emit,
            ToHost.LOG: self.output.on_log,
            ToHost.WAIT: self._on_wait,
        }

    def answer(self, kind: int, number: int, untrusted_body: memoryview) -> bytes:
        """Answer a door call."""
        route = self._routes.get(kind)
        if route is None:
            route = self._open_route(kind)
        return route(number, untrusted_body)

    def open(self, kind: type[Hostcalls | Streams]) -> None:
        """Make a service; on the guest's thread, or on the run's task before the first turn."""
        service = kind(self._run)
        self._routes.update(service.routes)
        # A new tuple: the task may be in the middle of the old one, and finds this service at its next look.
        self.services = (*self.services, service)

    def _open_route(self, kind: int) -> Callable[[int, memoryview], bytes]:
        for service in SERVICES:
            if kind in service.kinds:
                self.open(service)
                return self._routes[kind]
        raise ProtocolError(f"an unknown door call {kind:#x}")

    def take_completions(self) -> list[bytes]:
        """Take the completions that have come; all of them, or, when that is given up, none."""
        taken: list[tuple[Service, list[bytes]]] = []
        try:
            for service in self.services:
                taken.append((service, service.take_completions()))  # noqa: PERF401 - what was taken must be known
        # The guest gets none of them in this turn; those of the service that gave up are back with it already.
        except BaseException:
            for service, records in taken:
                service.put_back(records)
            raise
        return [record for _, records in taken for record in records]

    def _on_wait(self, number: int, untrusted_body: memoryview) -> bytes:
        """Answer WAIT: block until there are completions, the timer is due, or the run is being cancelled."""
        run = self._run
        run.check_number(number)
        delay, _ = protocol.split_park(untrusted_body)
        end = math.inf if delay is None else time.monotonic() + delay
        while True:
            # In this order, each time round: a cancellation before completions, so that a guest that is always answered
            # at once hears of it; and completions before the clock, so that what has come in time is delivered.
            if run.must_tell(Event.TELLABLE):
                return _CANCELLED
            try:
                records = self.take_completions()
            except GivenUp:
                continue  # it is told, above
            left = end - time.monotonic()
            if records or left <= 0:
                return b"".join((b"\0", *records))
            # Whatever comes from the look above to the wait leaves a flag up, and the wait returns at once.
            run.block(None if left == math.inf else left)
