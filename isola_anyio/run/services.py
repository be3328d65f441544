"""Services: what answers the requests that a guest makes of its host during a run.

Hostcalls are one, stream arguments another. A service of a new kind is a class with the shape of :class:`Service` and
one entry in ``frames.SERVICES``. It lives on both sides: door calls are handled on the guest's thread, inside a turn;
what takes longer is started by the run's task, in the run's task group, and comes back as completions, which the guest
gets with its next message, or in the reply to a WAIT.

A service reaches its run through :class:`ServedRun` and nothing else.
"""

from __future__ import annotations

__all__ = ["DELIVERED", "GivenUp", "Message", "ServedRun", "Service"]

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from isola_anyio.guests.protocol import ToGuest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextvars import Context

    from anyio.abc import TaskGroup

    from isola_anyio.codec import Dialect
    from isola_anyio.engine.cpu import CpuMeter
    from isola_anyio.events import EventQueue
    from isola_anyio.limits import Limits
    from isola_anyio.run.state import Action, Event, State
    from isola_anyio.values import JsonValue, StreamSource


class GivenUp(BaseException):
    """Long work for a guest is given up, because the guest is being cancelled and can be told at once.

    Raised by :meth:`ServedRun.yield_gil` and caught where the guest can be told instead of being answered. Not an
    ``Exception``, so that nothing on its way takes it for one.
    """


class Message(NamedTuple):
    """What a run begins with: its first message, and the sources of its stream arguments.

    Attributes:
        kind: the message's.
        body: what follows its head; empty as long as it is not encoded.
        streams: the sources, by number.
        encode: returns the body of a large message that is not encoded yet; called with a pause, on a guest thread.
        held: what it encodes, until it has.
    """

    kind: ToGuest
    body: bytes
    streams: Sequence[StreamSource] = ()
    encode: Callable[[Callable[[], object]], bytes] | None = None
    held: list[Any] | None = None


DELIVERED: Final = Message(ToGuest.CALL, b"")
"""Takes a message's place once the guest has it: a run may wait for hours, and its arguments may be large."""


class ServedRun(Protocol):
    """What a service may ask of the run it serves.

    Attributes:
        owner: the run, as what waits for the handlers and producers that a service calls; see ``concurrency.HeldUp``.
        message: what the run begins with; empty once the guest has it.
        handlers: the program's hostcall handlers by name.
        state: where the run is; read by anybody, written by ``step`` alone.
        limits: the sandbox's.
        dialect: the codec's dialect that the guest reads.
        context: a copy of the context in which the run was asked for; only the guest's thread enters it.
        cancelled_class: what the running backend raises in a cancelled task.
        cpu: the guest's CPU.
        events: where events go, ``None`` for a run whose events nobody reads.
    """

    owner: object
    message: Message
    handlers: Mapping[str, Callable[[Any], Any]]
    state: State
    limits: Limits
    dialect: Dialect
    context: Context
    cancelled_class: type[BaseException]
    cpu: CpuMeter
    events: EventQueue | None

    def step(self, event: Event) -> tuple[Action, ...]:
        """Report an event of the guest thread's; give the actions that are left to the caller."""
        ...

    def must_tell(self, event: Event) -> bool:
        """Whether the guest has to hear now that it is cancelled.

        ``event`` is ``TELLABLE`` where the reply can say so; it counts as told from here on. ``DEFERRABLE`` where the
        reply is withheld instead: the guest parks, and is sent CANCEL.
        """
        ...

    def yield_gil(self) -> None:
        """Let others have the GIL, and the slot, in the middle of long work on the guest's thread, which has no lock.

        Raises:
            GivenUp: the guest is being cancelled and has not been told.
            ffi.StoreInterrupted: the guest is being stopped, and nobody waits for the work any more.
        """
        ...

    def give_way(self) -> None:
        """As :meth:`yield_gil`, for work that is not given up; raises nothing."""
        ...

    def block(self, seconds: float | None = None) -> None:
        """Wait on the guest's behalf, on its thread, until there is news, or for ``seconds``.

        Returns at once when the guest is to be told that it is cancelled.

        Raises:
            ffi.StoreInterrupted: the guest is being stopped.
        """
        ...

    def notify_task(self) -> None:
        """Make the run's task look; from any thread."""
        ...

    def notify(self) -> None:
        """Make the run's task look, or the guest if it waits inside its turn; from any thread."""
        ...

    def check_number(self, number: int) -> None:
        """Refuse a frame that another run's number is on."""
        ...

    def check_payload(self, untrusted_body: memoryview) -> None:
        """Refuse a value over ``max_payload``."""
        ...

    def decode(self, untrusted_body: memoryview) -> JsonValue:
        """Decode a value, yielding the GIL now and then; as :meth:`yield_gil`, and a ``ProtocolError`` for no value."""
        ...


class Service(Protocol):
    """One kind of requests of one run."""

    @property
    def routes(self) -> Mapping[int, Callable[[int, memoryview], bytes]]:
        """The door calls it handles: called with the head's number and the body, on the guest's thread."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether :meth:`start` has something to do; asked by the run's task."""
        ...

    @property
    def has_completions(self) -> bool:
        """Whether a parked guest would be given something; asked by the run's task."""
        ...

    @property
    def count(self) -> int:
        """How many hostcalls it took, for ``Usage``."""
        ...

    @property
    def failure(self) -> BaseException | None:
        """What the run has to raise whatever the guest made of it."""
        ...

    @property
    def has_tasks(self) -> bool:
        """Whether any of its tasks has yet to end; asked by the run's task."""
        ...

    def start(self, group: TaskGroup) -> None:
        """Start, in the run's task group, what was asked for, and cancel what nobody waits for any more."""
        ...

    def cancel(self) -> bool:
        """Cancel its tasks that are shielded, as many as one slice of the event loop's time holds.

        For a run that is cancelled, or over. The run's task then cancels the group, and with it those that are not
        shielded.

        Returns:
            whether there are more.
        """
        ...

    def take_completions(self) -> list[bytes]:
        """Take the records that have come, for the guest; on its thread, inside a turn."""
        ...

    def put_back(self, records: list[bytes]) -> None:
        """Give back what was taken, when the message that was to carry it is not delivered; on the same thread."""
        ...

    def abandon(self) -> None:
        """Drop what was never started: the run is over; on the run's task."""
        ...
