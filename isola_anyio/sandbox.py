"""A sandbox: one guest with its life cycle, its runs in turn, and nothing of it left when it is closed."""

from __future__ import annotations

__all__ = ["Sandbox"]

import warnings
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, final

import anyio
from anyio.abc import AsyncResource

from isola_anyio import codec
from isola_anyio.concurrency import (
    is_cancellation,
    is_held_up_by_caller,
    outlast,
    single_exception,
)
from isola_anyio.construction import made_by
from isola_anyio.disposal import dispose
from isola_anyio.engine.run_sync import run_sync
from isola_anyio.engine.slots import Rank
from isola_anyio.engine.wakeup import current_loop, loop_finder
from isola_anyio.errors import (
    InvalidArgumentError,
    IsolaError,
    SandboxBusyError,
    SandboxClosedError,
    clip,
)
from isola_anyio.events import EventStream
from isola_anyio.guests.protocol import ToGuest
from isola_anyio.kinds import text_of
from isola_anyio.limits import Usage
from isola_anyio.run.messages import call_message, script_message
from isola_anyio.run.queue import RunQueue
from isola_anyio.run.services import Message
from isola_anyio.run.streaming import Streaming
from isola_anyio.run.task import Run
from isola_anyio.values import bind_arguments

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from anyio.abc import TaskGroup

    from isola_anyio.machine import GuestMachine
    from isola_anyio.run.hostcalls import Handlers
    from isola_anyio.run.state import Patience
    from isola_anyio.values import JsonValue
    from isola_anyio.wasi.volumes.memory.view import MountView

_MAX_PATH_CHARS: Final = 65_536
"""No file of the guest's has a longer path; a guess."""
_PLAIN_TYPES: Final = frozenset({bool, bytes, dict, float, int, list, str, tuple, type(None)})
"""Arguments of these types are values and nothing else: no ``Arg``, no stream."""


def _text(value: object, what: str) -> str:
    """Return ``value`` if it is a text that is not empty."""
    if text := text_of(value):
        return text
    raise InvalidArgumentError(f"{what}, not {clip(value)}")


async def _leave_group(group: TaskGroup, passing: BaseException | None) -> BaseException | None:
    """Leave a cancelled task group with a cancellation, or nothing, on its way; return what is on its way then."""
    traceback = None if passing is None else passing.__traceback__
    try:
        if await group.__aexit__(None if passing is None else type(passing), passing, traceback):
            return None
    except BaseExceptionGroup as caught:
        return single_exception(caught) or caught
    except BaseException as caught:  # noqa: BLE001 - the caller raises it
        return caught
    return passing


class _State(Enum):
    NEW = "new"
    STARTED = "started"
    CLOSED = "closed"


@final
@made_by("template.create() or template.instantiate()")
class Sandbox(AsyncResource):
    """One sandbox, made by :meth:`SandboxTemplate.create` or :meth:`SandboxTemplate.instantiate`.

    It belongs to the event loop it is started in. ``async with sandbox`` starts and closes it; so do :meth:`start`
    and :meth:`aclose`. Runs take turns, first come first served. When it is closed nothing of it is running: no guest
    code, no hostcall, no stream producer.
    """

    _fork: Callable[[], GuestMachine]
    _handlers: Handlers
    _patience: Patience
    _state: _State
    _runs: RunQueue | None
    """From :meth:`start` on, and also when closed: it has the usage."""
    _group: TaskGroup | None
    """While it is entered by ``async with``: where streams' runs are tasks."""
    _closed: anyio.Event
    _home: object
    """The event loop it was started in."""
    _find_loop: Callable[[], object]

    @classmethod
    def _create(cls, fork: Callable[[], GuestMachine], handlers: Handlers, patience: Patience) -> Self:
        """Make a sandbox that is not started; ``fork`` makes its guest."""
        self = object.__new__(cls)
        self._fork = fork
        self._handlers = handlers
        self._patience = patience
        self._state = _State.NEW
        self._runs = None
        self._group = None
        self._closed = anyio.Event()
        self._home = None
        self._find_loop = current_loop
        return self

    def __repr__(self) -> str:
        return f"<Sandbox {self._state.value}{', broken' if self.broken else ''} at {id(self):#x}>"

    def __del__(self) -> None:
        if getattr(self, "_state", None) is _State.STARTED:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)

    # --- life cycle --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Fork the guest. A second call does nothing.

        A checkpoint first: cancelled there, it has forked nothing, and may be called again.

        Raises:
            SandboxClosedError: the sandbox, its template or its context is closed.
            IsolaError: the machine has no room for another guest.
        """
        await anyio.lowlevel.checkpoint()
        if self._state is _State.CLOSED:
            raise SandboxClosedError("the sandbox is closed; create another from the template")
        if self._state is _State.NEW:
            self._runs = RunQueue(self._fork(), self._handlers, self._patience)
            self._home = current_loop()
            self._find_loop = loop_finder()
            self._state = _State.STARTED

    async def aclose(self) -> None:
        """Stop whatever runs, free everything. A second call waits for the first.

        Releases even when cancelled; the wait for a guest thread to come back is bounded by what the guest's plain
        hostcall handlers take.

        Raises:
            SandboxBusyError: called by a handler of the sandbox's own run, which it would wait for; or from another
                event loop while the sandbox is in use in its own.
        """
        runs = self._runs
        if runs is not None and runs.line:
            self._refuse_own_handlers()
            self._refuse_other_loops()
        if self._state is _State.CLOSED:
            await self._closed.wait()
            return
        self._state = _State.CLOSED
        try:
            if runs is not None:
                runs.close()
                await outlast(lambda: not runs.line, runs.join)
        finally:
            try:
                if runs is not None:
                    await self._release(runs.machine)
            finally:
                self._closed.set()
        await anyio.lowlevel.checkpoint()

    @staticmethod
    async def _release(machine: GuestMachine) -> None:
        try:
            if machine.takes_long_to_free:
                # No thread to be had is no reason for not closing: it is freed here then.
                with anyio.CancelScope(shield=True), suppress(IsolaError):
                    await run_sync(machine.pool, machine.close, stop=lambda: None, rank=Rank.FINAL)
        finally:
            machine.close()

    async def __aenter__(self) -> Self:
        if self._group is not None:
            raise SandboxBusyError("the sandbox is entered already; it has one `async with`, which its runs share")
        await self.start()
        group = anyio.create_task_group()
        try:
            await group.__aenter__()
        except BaseException:
            await self.aclose()
            raise
        self._group = group
        return self

    async def __aexit__(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride] - as a task group
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        group, self._group = self._group, None
        assert group is not None
        # The body's own failure stays out of the group, which would wrap it; only a cancellation goes through it.
        own = exc if exc is not None and not is_cancellation(exc) else None
        passing = exc if own is None else None
        try:
            await self.aclose()
        except BaseException as caught:  # noqa: BLE001 - a cancellation, raised below
            passing = passing or caught
        group.cancel_scope.cancel()
        failure = await _leave_group(group, passing)
        if own is not None:
            if failure is not None and not is_cancellation(failure):
                raise BaseExceptionGroup("the body of a sandbox and a task of it failed", [own, failure])
            return False
        if failure is exc:
            return False
        if failure is not None:
            raise failure
        return True

    # --- running -----------------------------------------------------------------------------------------------

    async def run(self, name: str, /, *args: Any, **kwargs: Any) -> JsonValue:
        """Call a guest function and return its final value; partial results and output are discarded.

        Cancelling it stops the guest: one that waits unwinds within a second and the sandbox stays usable; one that
        computes is interrupted, and the sandbox is :attr:`broken`.

        Args:
            name: a name of the guest's global scope.
            args: values, :class:`Arg`, :class:`StreamArg`, or anyio object receive streams.
            kwargs: the same, by name (JavaScript receives them as one trailing object).

        Raises:
            InvalidArgumentError: an argument cannot cross.
            GuestError: the function raised, or there is none of this name.
            LimitError: a limit stopped it.
            SandboxClosedError, SandboxBrokenError, SandboxBusyError: it cannot run.
        """
        message = self._call_message(name, args, kwargs)
        del args, kwargs  # a large message has its own references, and gives them up when it is encoded
        await anyio.lowlevel.checkpoint_if_cancelled()  # from here as `_complete`, in line: the most frequent call
        assert self._runs is not None
        run = Run(self._runs, message)
        del message
        return await run.complete()

    async def load_script(self, code: str, *, filename: str = "<script>") -> None:
        """Run top-level code, which may use ``await``; the names it defines persist.

        Cancelling it stops the guest, as with :meth:`run`; names that were defined by then stay.

        Args:
            code: source, 64 MiB at most; what it writes is discarded.
            filename: what tracebacks call it.

        Raises:
            InvalidArgumentError: the code or its name is no text, or too long.
            GuestError: it raised; a syntax error is one too.
            LimitError: a limit stopped it.
            SandboxClosedError, SandboxBrokenError, SandboxBusyError: it cannot run.
        """
        dispose([await self._complete(self._script_message(code, filename))])  # None, if the guest is what it was

    async def load_file(self, guest_path: str) -> None:
        """Run a file the guest can see as :meth:`load_script` does, and with the same effect when cancelled.

        Args:
            guest_path: where the guest sees it.

        Raises:
            InvalidArgumentError: the path is no text, or empty.
            GuestError: it raised; of a missing file it is the guest's own ``FileNotFoundError``.
            LimitError: a limit stopped it.
            SandboxClosedError, SandboxBrokenError, SandboxBusyError: it cannot run.
        """
        path = _text(guest_path, "load_file takes a path inside the guest")
        self._usable()
        if len(path) > _MAX_PATH_CHARS:
            raise InvalidArgumentError(f"a path of {len(path)} characters is longer than any: {clip(path)}")
        body = codec.encode(path)
        dispose([await self._complete(Message(ToGuest.LOAD_FILE, body))])

    def run_stream(self, name: str, /, *args: Any, **kwargs: Any) -> EventStream:
        """Start a guest function and stream its events; arguments as :meth:`run`.

        The run is a task of the sandbox's task group; a sandbox started by :meth:`start` has none, and ends it in
        :meth:`aclose`. Leaving the stream's ``async with``, or closing it, cancels the run; see :class:`EventStream`.

        Raises:
            InvalidArgumentError: an argument cannot cross.
            SandboxClosedError, SandboxBrokenError, SandboxBusyError: it cannot run. What goes wrong later is raised,
                or is an :class:`ErrorEvent`, where the events are read.
        """
        return self._stream(self._call_message(name, args, kwargs))

    def load_stream(self, code: str, *, filename: str = "<script>") -> EventStream:
        """:meth:`load_script` with its output as events; errors and cancellation as :meth:`run_stream`."""
        return self._stream(self._script_message(code, filename))

    def _call_message(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Message:
        if type(name) is not str or not name:
            name = _text(name, "run takes the name of a guest function")
        machine = self._usable().machine
        dialect = machine.driver.dialect
        if _PLAIN_TYPES.issuperset(map(type, args)) and (
            not kwargs or _PLAIN_TYPES.issuperset(map(type, kwargs.values()))
        ):
            # Nearly every call: small, and of plain values.
            value = [name, list(args), kwargs, []]
            if codec.weight(value, codec.SMALL) <= codec.SMALL:
                with suppress(codec.EncodeError):
                    body = codec.encode(value, dialect=dialect, wrap=2)
                    if len(body) <= machine.limits.max_payload:
                        return Message(ToGuest.CALL, body)
        return call_message(name, bind_arguments(args, kwargs), machine.limits, dialect)

    def _script_message(self, code: str, filename: str) -> Message:
        source, name = text_of(code), text_of(filename)
        if source is None:
            raise InvalidArgumentError(f"code is a str, not {clip(code)}")
        if name is None:
            raise InvalidArgumentError(f"filename is a str, not {clip(filename)}")
        return script_message(source, name, self._usable().machine.driver.dialect)

    def _usable(self) -> RunQueue:
        """Return the queue of runs if a run may be asked for, here and now."""
        runs = self._runs
        if runs is None or self._state is not _State.STARTED or runs.machine.abandoned or runs.machine.store.dead:
            runs = self._alive()
        # A plain handler is on a thread of its own, where no loop runs; that its own run waits for it is what matters.
        if runs.line:
            self._refuse_own_handlers()
        try:
            here = self._find_loop()
        except RuntimeError:
            here = None
        if here is not self._home:
            self._refuse_other_loops()
        return runs

    def _alive(self) -> RunQueue:
        """Return the queue of runs if there is a guest to run something; from any thread."""
        runs = self._runs
        if runs is None or self._state is not _State.STARTED:
            advice = "is closed" if self._state is _State.CLOSED else "was not started; use `async with` or start()"
            raise SandboxClosedError(f"the sandbox {advice}")
        runs.check_whole()
        return runs

    def _refuse_other_loops(self) -> None:
        """Refuse what would touch another event loop's tasks from here."""
        if current_loop() is not self._home:
            raise SandboxBusyError(
                "the sandbox belongs to the event loop it was started in, and this is another: create one here from "
                "the same template"
            )

    def _refuse_own_handlers(self, awaited: Run | None = None) -> None:
        """Refuse to wait for a run, ``awaited`` or whichever is under way, when called by what it waits for."""
        line = () if self._runs is None else self._runs.line
        run = line[0] if line else None
        if run is not None and awaited in (None, run) and is_held_up_by_caller(run):
            raise SandboxBusyError(
                "a handler or a producer of this sandbox's own run would wait for itself: let it return first, or use "
                "another sandbox"
            )

    async def _complete(self, message: Message) -> JsonValue:
        await anyio.lowlevel.checkpoint_if_cancelled()
        assert self._runs is not None
        run = Run(self._runs, message)
        del message  # the run lets go of it once the guest has it
        return await run.complete()

    def _stream(self, message: Message) -> EventStream:
        assert self._runs is not None
        streaming = Streaming(self._runs, message, self._refuse_own_handlers)
        streaming.begin(self._group)
        return EventStream._create(streaming)  # noqa: SLF001 - its only maker

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def usage(self) -> Usage:
        """What the last run used, with the total of all in ``usage.total``; kept after a failure and after closing."""
        return Usage(total=Usage()) if self._runs is None else self._runs.usage

    @property
    def memory_size(self) -> int:
        """Bytes of guest linear memory right now; 0 when not started or closed."""
        return 0 if self._runs is None or self.closed else self._runs.machine.memory_size

    def mount(self, guest_path: str) -> MountView:
        """Look at a memory or overlay mount of this sandbox from the host's side; see :class:`MountView`.

        Raises:
            InvalidArgumentError: nothing of that kind is mounted there.
            SandboxClosedError: the sandbox is closed, or was not started.
        """
        return self._alive().machine.files.mount_view(guest_path)

    @property
    def closed(self) -> bool:
        """Whether :meth:`aclose` was called."""
        return self._state is _State.CLOSED

    @property
    def broken(self) -> bool:
        """Whether the guest was stopped in the middle of a computation; it runs nothing more."""
        return self._runs is not None and not self.closed and self._runs.machine.broken
