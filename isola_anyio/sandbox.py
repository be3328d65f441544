"""A sandbox: one guest with its life cycle, its runs in turn, and nothing of it left when it is closed."""

from __future__ import annotations

__all__ = ["Sandbox"]

import itertools
import warnings
from collections import deque
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
    start_ungrouped,
)
from isola_anyio.engine.run_sync import run_sync
from isola_anyio.engine.wakeup import current_loop, loop_caller
from isola_anyio.errors import (
    GuestError,
    InvalidArgumentError,
    SandboxBrokenError,
    SandboxBusyError,
    SandboxClosedError,
    clip,
)
from isola_anyio.events import EndEvent, ErrorEvent, EventQueue, EventStream
from isola_anyio.guests.protocol import ToGuest
from isola_anyio.limits import Usage
from isola_anyio.run.task import Run
from isola_anyio.run.turns import RunOptions
from isola_anyio.values import bind_arguments

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from anyio.abc import TaskGroup

    from isola_anyio.limits import Limits
    from isola_anyio.machine import Guest
    from isola_anyio.run.hostcalls import Handlers
    from isola_anyio.values import BoundArguments, JsonValue
    from isola_anyio.wasi.volumes.memory.view import MountView

_MAX_CODE_BYTES: Final = 64 << 20
"""How long a script may be; ``max_payload`` is about values."""
_LARGE_GUEST_BYTES: Final = 96 << 20
"""A guest with more memory than this is freed on a thread: giving it back to the kernel takes milliseconds."""


def _argument_error(bound: BoundArguments, guest: Guest) -> InvalidArgumentError | None:
    """Say which argument cannot cross by itself: encode them one by one until one fails."""
    streams = {where for where, _ in bound.streams}
    indices = (index for index in itertools.count() if index not in streams)
    places: list[tuple[str, Any]] = [(f"argument {next(indices)}", value) for value in bound.positional]
    places += [(f"argument {name!r}", value) for name, value in bound.named.items()]
    for where, value in places:
        try:
            codec.encode(value, max_bytes=guest.limits.max_payload, dialect=guest.driver.dialect)
        except codec.EncodeError as found:
            return InvalidArgumentError(f"{where} cannot cross: {found}")
    return None


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
class Sandbox(AsyncResource):
    """One sandbox, made by :meth:`SandboxTemplate.create` or :meth:`SandboxTemplate.instantiate`.

    It belongs to the event loop it is started in. ``async with sandbox`` starts and closes it; so do :meth:`start`
    and :meth:`aclose`. Runs take turns, first come first served. When it is closed nothing of it is running: no guest
    code, no hostcall, no stream producer.
    """

    def __init__(self, fork: Callable[[], Guest], handlers: Handlers, limits: Limits) -> None:
        self._fork = fork
        self._handlers = handlers
        self._limits = limits
        self._state = _State.NEW
        self._guest: Guest | None = None
        self._usage = Usage(total=Usage())
        self._line: deque[_Activity] = deque()
        self._numbers = itertools.count(1)
        self._activities: set[_Activity] = set()
        self._group: TaskGroup | None = None
        self._closed = anyio.Event()
        self._home: object = None  # the event loop it was started in

    def __repr__(self) -> str:
        return f"<Sandbox {self._state.value}{', broken' if self.broken else ''} at {id(self):#x}>"

    def __del__(self) -> None:
        if getattr(self, "_state", None) is _State.STARTED:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)

    # --- life cycle --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Fork the guest. A second call does nothing.

        Raises:
            SandboxClosedError: the sandbox, its template or its context is closed.
        """
        await anyio.lowlevel.checkpoint()
        if self._state is _State.CLOSED:
            raise SandboxClosedError("the sandbox is closed; create another from the template")
        if self._state is _State.NEW:
            self._guest = self._fork()
            self._home = current_loop()
            self._state = _State.STARTED

    async def aclose(self) -> None:
        """Stop whatever runs, free everything. A second call waits for the first.

        Releases even when cancelled; the wait for a guest thread to come back is bounded by what the guest's plain
        hostcall handlers take.

        Raises:
            SandboxBusyError: called by a handler of the sandbox's own run, which it would wait for; or from another
                event loop while the sandbox is in use in its own.
        """
        self._refuse_own_handlers()
        if self._activities:
            self._refuse_other_loops()
        if self._state is _State.CLOSED:
            await self._closed.wait()
            return
        self._state = _State.CLOSED
        try:
            for activity in list(self._activities):
                activity.close()
            await outlast(lambda: not self._activities, self._wait_for_an_activity)
        finally:
            try:
                await self._release()
            finally:
                self._closed.set()
        await anyio.lowlevel.checkpoint()

    async def _wait_for_an_activity(self) -> None:
        for activity in list(self._activities):
            await activity.ended.wait()

    async def _release(self) -> None:
        guest, self._guest = self._guest, None
        if guest is None:
            return
        self._usage = guest.usage
        try:
            if guest.memory_size > _LARGE_GUEST_BYTES:
                with anyio.CancelScope(shield=True):
                    await run_sync(guest.pool, guest.close, stop=lambda: None, urgent=True)
        finally:
            guest.close()

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
        return await self._complete(self._call_options(name, args, kwargs))

    async def load_script(self, code: str, *, filename: str = "<script>") -> None:
        """Run top-level code, which may use ``await``; the names it defines persist.

        Raises:
            As :meth:`run`; a syntax error is a ``GuestError`` too.
        """
        await self._complete(self._checked_script(code, filename))

    async def load_file(self, guest_path: str) -> None:
        """Run a file the guest can see as :meth:`load_script` does.

        Raises:
            As :meth:`run`; a missing file is a ``GuestError`` of the guest's own type.
        """
        if not isinstance(guest_path, str) or not guest_path:
            raise InvalidArgumentError(f"load_file takes a path inside the guest, not {clip(guest_path)}")
        self._usable()
        body = codec.encode(guest_path)
        await self._complete(RunOptions(ToGuest.LOAD_FILE, body))

    def run_stream(self, name: str, /, *args: Any, **kwargs: Any) -> EventStream:
        """Start a guest function and stream its events; arguments and errors as :meth:`run`.

        It runs in the sandbox's task group; a sandbox started by :meth:`start` has none, and ends it in
        :meth:`aclose`.
        """
        return self._stream(self._call_options(name, args, kwargs))

    def load_stream(self, code: str, *, filename: str = "<script>") -> EventStream:
        """:meth:`load_script` with its output as events."""
        return self._stream(self._checked_script(code, filename))

    def _call_options(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunOptions:
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError(f"run takes the name of a guest function, not {clip(name)}")
        guest = self._usable()
        bound = bind_arguments(args, kwargs)
        streams = [(where, number) for number, (where, _) in enumerate(bound.streams)]
        value = [name, bound.positional, bound.named, streams]
        try:
            body = codec.encode(value, dialect=guest.driver.dialect, wrap=2)
        except codec.EncodeError as exc:
            raise _argument_error(bound, guest) or InvalidArgumentError(f"the arguments cannot cross: {exc}") from None
        # The limit is each argument's; together they may be more.
        if len(body) > guest.limits.max_payload and (error := _argument_error(bound, guest)) is not None:
            raise error
        return RunOptions(ToGuest.CALL, body, tuple(source for _, source in bound.streams))

    def _checked_script(self, code: str, filename: str) -> RunOptions:
        for what, value in (("code", code), ("filename", filename)):
            if not isinstance(value, str):
                raise InvalidArgumentError(f"{what} is a str, not {clip(value)}")
        guest = self._usable()
        try:
            body = codec.encode([code, filename], max_bytes=_MAX_CODE_BYTES, dialect=guest.driver.dialect)
        except codec.EncodeError as exc:
            raise InvalidArgumentError(f"the script cannot cross: {exc}") from None
        return RunOptions(ToGuest.LOAD, body)

    def _usable(self) -> Guest:
        """Return the guest if a run may be asked for."""
        guest = self._alive()
        self._refuse_own_handlers()  # first: a plain handler is on a thread of its own, and its run is what matters
        self._refuse_other_loops()
        return guest

    def _alive(self) -> Guest:
        """Return the guest if there is one; from any thread."""
        guest = self._guest
        if guest is None or self._state is not _State.STARTED:
            advice = "is closed" if self._state is _State.CLOSED else "was not started; use `async with` or start()"
            raise SandboxClosedError(f"the sandbox {advice}")
        if guest.broken:
            raise SandboxBrokenError(
                "the sandbox was stopped in the middle of a computation, or its guest died; create a new one"
            )
        return guest

    def _refuse_other_loops(self) -> None:
        """Refuse what would touch another event loop's tasks from here."""
        if current_loop() is not self._home:
            raise SandboxBusyError(
                "the sandbox belongs to the event loop it was started in, and this is another: create one here from "
                "the same template"
            )

    def _refuse_own_handlers(self, awaited: Run | None = None) -> None:
        """Refuse to wait for a run, ``awaited`` or whichever is under way, when called by what it waits for."""
        run = self._line[0].run if self._line else None
        if run is not None and awaited in (None, run) and is_held_up_by_caller(run):
            raise SandboxBusyError(
                "a handler or a producer of this sandbox's own run would wait for itself: let it return first, or use "
                "another sandbox"
            )

    async def _complete(self, options: RunOptions) -> JsonValue:
        await anyio.lowlevel.checkpoint_if_cancelled()
        return await _Activity(self, options).perform()

    def _stream(self, options: RunOptions) -> EventStream:
        streaming = _Streaming(self, options)
        streaming.begin(self._group)
        return EventStream._create(streaming)  # noqa: SLF001 - its only maker

    # --- state -------------------------------------------------------------------------------------------------

    @property
    def usage(self) -> Usage:
        """What the last run used, with the total of all in ``usage.total``; kept after a failure and after closing."""
        guest = self._guest
        return self._usage if guest is None else guest.usage

    @property
    def memory_size(self) -> int:
        """Bytes of guest linear memory right now; 0 when not started or closed."""
        return 0 if self._guest is None else self._guest.memory_size

    def mount(self, guest_path: str) -> MountView:
        """Look at a memory or overlay mount of this sandbox from the host's side; see :class:`MountView`.

        Raises:
            InvalidArgumentError: nothing of that kind is mounted there.
            SandboxClosedError: the sandbox is closed, or was not started.
        """
        return self._alive().files.mount_view(guest_path)

    @property
    def closed(self) -> bool:
        """Whether :meth:`aclose` was called."""
        return self._state is _State.CLOSED

    @property
    def broken(self) -> bool:
        """Whether the guest was stopped in the middle of a computation; it runs nothing more."""
        return self._guest is not None and self._guest.broken


class _Activity:
    """One use of a sandbox, waiting for its turn or running; what closing the sandbox has to stop and wait for."""

    def __init__(self, sandbox: Sandbox, options: RunOptions, queue: EventQueue | None = None) -> None:
        self._sandbox = sandbox
        self._options = options
        self._queue = queue
        self.run: Run | None = None
        self._in_line = False
        self._turn: anyio.Event | None = None
        self._waiting = anyio.CancelScope()
        self.ended = anyio.Event()

    def close(self) -> None:
        """Stop it because the sandbox is being closed."""
        self._waiting.cancel()
        if self.run is not None:
            self.run.close()

    def refuse_own_handlers(self) -> None:
        """Refuse to wait for this when called from inside a handler of its run."""
        if self.run is not None:
            self._sandbox._refuse_own_handlers(self.run)  # noqa: SLF001 - same module

    def stand_in_line(self) -> None:
        """Take a place among the sandbox's runs: first come, first served."""
        self._in_line = True
        self._sandbox._line.append(self)  # noqa: SLF001 - same module
        self._sandbox._activities.add(self)  # noqa: SLF001 - same module

    async def perform(self) -> JsonValue:
        """Wait for the turn, run, return the value."""
        sandbox = self._sandbox
        if not self._in_line:
            self.stand_in_line()
        try:
            await self._wait_for_turn()
            guest = sandbox._usable()  # noqa: SLF001 - same module
            number = next(sandbox._numbers)  # noqa: SLF001 - same module
            self.run = Run(guest, number, self._options, sandbox._handlers, queue=self._queue)  # noqa: SLF001
            return await self.run.complete()
        finally:
            self._leave_line()
            sandbox._activities.discard(self)  # noqa: SLF001 - same module
            self.ended.set()

    async def _wait_for_turn(self) -> None:
        line = self._sandbox._line  # noqa: SLF001 - same module
        if line[0] is not self:
            self._turn = anyio.Event()
            with self._waiting:
                await self._turn.wait()
        if line[0] is not self or self._sandbox.closed:
            raise SandboxClosedError("the sandbox was closed before this had its turn")

    def _leave_line(self) -> None:
        line = self._sandbox._line  # noqa: SLF001 - same module
        line.remove(self)
        if line and line[0]._turn is not None:  # noqa: SLF001 - same class
            line[0]._turn.set()  # noqa: SLF001 - same class


class _Streaming:
    """A run whose events are streamed, by a task of its own."""

    def __init__(self, sandbox: Sandbox, options: RunOptions) -> None:
        self.queue = EventQueue()
        self._activity = _Activity(sandbox, options, self.queue)
        self._scope = anyio.CancelScope()
        self._call_soon = loop_caller()
        self._is_alone = False
        self.refuse_own_handlers = self._activity.refuse_own_handlers

    def begin(self, group: TaskGroup | None) -> None:
        """Start the run's task; its turn is the next from now."""
        self._activity.stand_in_line()
        self._is_alone = group is None
        if group is None:
            start_ungrouped(self._work, name="isola event stream")
        else:
            group.start_soon(self._work, name="isola event stream")

    async def _work(self) -> None:
        error: BaseException | None = SandboxClosedError("the run was cancelled before it ended")
        try:
            with self._scope:
                try:
                    value = await self._activity.perform()
                    self.queue.put(EndEvent(data=value), 0)
                    error = None
                except GuestError as exc:
                    self.queue.put(ErrorEvent(data=f"{exc.type}: {exc.message}", exception=exc), 0)
                    error = None
                except BaseException as exc:
                    # Raised where the events are read; what is not an Exception, in the sandbox's group if it has one.
                    if is_cancellation(exc) or not (isinstance(exc, Exception) or self._is_alone):
                        raise
                    error = exc
        finally:
            self.queue.end(error)

    def cancel(self) -> None:
        """Cancel the run."""
        self._scope.cancel()

    def abandon(self, *, cancel: bool) -> None:
        """Nobody has the stream any more; a collector may call this on any thread."""
        self._call_soon(self._scope.cancel if cancel else self.queue.discard)

    async def join(self) -> None:
        """Wait until nothing of the run is left."""
        with anyio.CancelScope(shield=True):
            await self._activity.ended.wait()
