"""Hostcalls: find the handler a guest calls, run it, turn its end into a completion.

Plain handlers run on the guest's thread, inside the door call. Async ones are tasks of the run's task group; what
passes between the threads is a dict of requests one way, the answers of ``answers.py`` the other.
"""

from __future__ import annotations

__all__ = ["Handlers", "Hostcalls"]

import inspect
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from itertools import islice
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio

from isola_anyio import codec
from isola_anyio.codec.chunked.garbage import full_collections
from isola_anyio.concurrency import HeldUp, being_cancelled
from isola_anyio.disposal import dispose
from isola_anyio.engine import ffi
from isola_anyio.errors import LimitError, clip
from isola_anyio.fairness import baton
from isola_anyio.guests.protocol import ProtocolError, Status, ToHost, split_hostcall
from isola_anyio.options import Handler, Handlers
from isola_anyio.run.answers import Answer, Answers, cancelled, failed, failure, failure_of
from isola_anyio.run.failures import Halt
from isola_anyio.run.services import GivenUp
from isola_anyio.run.state import Event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from anyio.abc import TaskGroup

    from isola_anyio.run.services import ServedRun
    from isola_anyio.values import JsonValue

PENDING_BYTES: Final = 64 << 20
"""Bytes that payloads take, decoded, of hostcalls that have not ended, above which a guest is blocked (the high-water
mark): it must not fill the host's memory with calls it never waits for. One payload may always be in flight, whatever
its size."""
CALL_BYTES: Final = 4096
"""What a pending hostcall counts besides its payload. It takes an eighth of that; counted so, no more than 16,384 are
pending, which the garbage collector looks through in a few milliseconds while the event loop waits."""
LARGE_PAYLOAD_BYTES: Final = 16 << 10
"""A longer payload is let go in pieces: decoded it may be several thousand objects."""
HUGE_PAYLOAD_BYTES: Final = 1 << 20
"""Of a longer payload full collections are put off, while a plain handler has it, or until the run is over: they would
look through all of it."""
HUGE_PENDING_BYTES: Final = 4 << 20
"""The same for shorter payloads that are pending at once and take more, decoded: some 70,000 containers."""
TINY_PAYLOAD_BYTES: Final = 128
"""The longest payload that needs not be weighed: decoded it takes less than every call counts."""
NAMES_SHOWN: Final = 20
"""Handlers that an error names; the rest are counted."""
SLICE: Final = 64
"""Handlers started, or drops looked at, before the event loop may do something else: about a millisecond's worth."""

_logger = logging.getLogger("isola_anyio.hostcalls")


def _is_async(handler: Handler) -> bool:
    """Tell whether calling a handler gives a coroutine: looks through partials and ``__call__``."""
    while isinstance(handler, partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


class _Request(NamedTuple):
    """A hostcall whose handler is a task, or will be one.

    Attributes:
        op: the guest's number of it.
        name: the handler's.
        work: what is awaited, made with what is in ``held``.
        held: the payload, or nothing; in a list so that this is the only reference that is the library's.
        size: what it counts towards the bytes that are pending.
    """

    op: int
    name: str
    work: Callable[..., Awaitable[Any]]
    held: list[Any]
    size: int


class Hostcalls:
    """The hostcalls of one run.

    ``handle``, ``drop``, ``take_completions`` and ``put_back`` are called on the guest's thread, inside a turn;
    ``start``, ``has_work``, ``has_completions`` and ``abandon`` in the run's own task. Numbers of ops are the guest's:
    each is checked to be new.

    Who writes what: ``_requests`` and ``_drops`` are filled by the guest's thread and emptied by the task; each use of
    them is one call into C, so that both may make theirs at any time. ``_scopes`` and ``_cut`` are the task's.
    ``_open`` is added to by the guest's thread and taken from by the task. ``_pending_bytes`` is changed by both,
    under ``_lock``.

    Attributes:
        count: hostcalls made so far; written on the guest's thread.
        answers: those that the guest has not taken.
    """

    kinds = frozenset({ToHost.HOSTCALL, ToHost.DROP})
    failure = None

    def __init__(self, run: ServedRun) -> None:
        self._run = run
        self.routes: Mapping[int, Callable[[int, memoryview], bytes]] = {
            ToHost.HOSTCALL: self.handle,
            ToHost.DROP: self.drop,
        }
        self.count = 0
        self.answers = Answers(run)
        self._lock = threading.Lock()
        self._requests: OrderedDict[int, _Request] = OrderedDict()  # by op, in the order they came
        self._drops: deque[int] = deque()
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._cut: set[int] = set()  # ops whose handlers were cancelled with the run
        self._open: set[int] = set()
        self._pending_bytes = 0
        self._holds_collections = False  # written on the guest's thread, and by the task when the run is over

    # --- the guest's thread

    def handle(self, op: int, untrusted_body: memoryview) -> bytes:
        """Answer HOSTCALL; empty when the answer comes later, as a completion.

        A guest that is cancelled while its answer is made gets that answer with its next message, and hears of its
        cancellation first: the empty reply makes it park.
        """
        run = self._run
        # Looked at without the lock: a sum that is a moment old blocks the guest a moment too long, or not this time.
        while self._pending_bytes > PENDING_BYTES and self._is_over_high_water():
            if run.must_tell(Event.DEFERRABLE):
                return b""  # never answered, because never taken
            run.block()
        try:
            if self.answers.late:
                self.answers.encode_late()
            reply: bytes | None = self._reply(op, untrusted_body)
        except GivenUp:
            reply = None
        # Asked in any case, also after `GivenUp`: it withdraws an interrupt that this guest is not to notice any more.
        is_told = run.must_tell(Event.DEFERRABLE)
        # With an empty reply its handler is a task: the guest waits for the completion anyway, and hears of a
        # cancellation there.
        if reply == b"" or (not is_told and reply is not None):
            return reply
        self.answers.withhold(op, reply)
        return b""

    def _is_over_high_water(self) -> bool:
        """Whether waiting can help: answers that the guest has not taken, it takes only when it goes on."""
        return self._pending_bytes > PENDING_BYTES and self.answers.size_bytes <= PENDING_BYTES

    def _reply(self, op: int, untrusted_body: memoryview) -> bytes:
        run = self._run
        limits = run.limits
        if limits.max_total_hostcalls is not None and self.count >= limits.max_total_hostcalls:
            raise Halt(
                LimitError(
                    f"the run made more than max_total_hostcalls={limits.max_total_hostcalls} hostcalls; raise it, or "
                    "ask for less",
                    limit="hostcalls",
                )
            )
        self.count += 1
        name, untrusted_payload = split_hostcall(untrusted_body)
        # Two answers for one op would be one too many; the guest's own runtime never does that.
        if op in self._open:
            raise ProtocolError(f"op {op} is under way already")
        handler = run.handlers.get(name)
        if handler is None:
            text = f"the host has no handler named {clip(name)}; it offers {self._offer()}"
            return _FAILED + failure_of(name, "LookupError", text)
        size = codec.payload_size(untrusted_payload)
        if size > limits.max_payload:
            text = f"a payload of {size} bytes is over max_payload ({limits.max_payload})"
            return _FAILED + failure_of(name, "ValueError", text)
        if self._pending_bytes > PENDING_BYTES:
            text = "too many hostcalls were made without waiting for any: await some of them first"
            return _FAILED + failure_of(name, "BufferError", text)
        try:
            held = [codec.decode(untrusted_payload, pause=run.yield_gil)]
        except codec.CodecError as exc:
            return _FAILED + failure_of(name, "ValueError", str(exc))
        try:
            if _is_async(handler):
                self._queue(op, name, handler, held, untrusted_payload)
                return b""
            if len(untrusted_payload) <= LARGE_PAYLOAD_BYTES:
                return self._call(op, name, handler, held, untrusted_payload)
            is_huge = len(untrusted_payload) > HUGE_PAYLOAD_BYTES
            with full_collections.put_off(is_due=False) if is_huge else nullcontext():
                reply = self._call(op, name, handler, held, untrusted_payload)
                # Not if it is queued: what was awaited may have it.
                if reply:
                    codec.let_go(held, run.give_way)
        except BaseException:  # given up: what is on its way refers to the payload until it has been caught
            dispose(held)
            raise
        return reply

    def _call(self, op: int, name: str, handler: Handler, held: list[Any], untrusted_payload: memoryview) -> bytes:
        """Answer by a plain handler; empty if it returned something to be awaited."""
        results: list[Any] = []
        try:
            results.append(self._serve_plain(handler, held[0]))
            if inspect.isawaitable(results[0]):
                given = _Given(results.pop())
                try:
                    self._queue(op, name, given, held, untrusted_payload)
                except BaseException:
                    given.close(name)
                    raise
                return b""
            body = self.answers.encode(name, results[0], pause=True)
            if len(body) > LARGE_PAYLOAD_BYTES:
                codec.let_go(results, self._run.give_way)
            # Joined, not added: for a large body that gives the GIL up.
            return b"".join((_OK, body))
        except (Exception, self._run.cancelled_class) as exc:  # noqa: BLE001 - whatever it raises is the guest's to see
            dispose(results)
            return _FAILED + failure(name, exc)
        except BaseException:
            dispose(results)
            raise

    def _offer(self) -> str:
        """Return the names a guest may call, which are its API and no secret."""
        names = sorted(self._run.handlers)
        shown = ", ".join(map(clip, names[:NAMES_SHOWN]))
        left = len(names) - NAMES_SHOWN
        return f"{shown} and {left} more" if left > 0 else shown or "none"

    def _serve_plain(self, handler: Handler, payload: JsonValue) -> Any:
        """Call a plain handler, or get an async one's awaitable; what it computes is not the guest's CPU."""
        run = self._run
        # The phase before the meter: what the task sees as SERVED it does not hold against the guest.
        run.step(Event.SERVE)
        run.cpu.pause()
        baton.give_up()  # the program's code is under no rule of ours
        try:
            return run.context.run(_call_held_up, run.owner, handler, payload)
        finally:
            ffi.trap_handlers.glance()  # the guest goes on in this very turn
            run.cpu.resume()
            run.step(Event.SERVED)

    def _queue(
        self, op: int, name: str, work: Callable[..., Awaitable[Any]], held: list[Any], untrusted_payload: memoryview
    ) -> None:
        """Have the run's task start a handler."""
        size = CALL_BYTES
        if len(untrusted_payload) > TINY_PAYLOAD_BYTES:
            # May be given up, and then nothing was queued.
            size += codec.decoded_size(untrusted_payload, PENDING_BYTES, self._run.yield_gil)
        # Open before the task can see the request, which may end it before this returns.
        self._open.add(op)
        with self._lock:
            self._pending_bytes += size
        if len(untrusted_payload) > HUGE_PAYLOAD_BYTES or self._pending_bytes > HUGE_PENDING_BYTES:
            self._hold_collections()
        self._requests[op] = _Request(op, name, work, held, size)
        self._run.notify_task()

    def _hold_collections(self) -> None:
        if not self._holds_collections:
            self._holds_collections = True
            full_collections.begin(is_due=False)

    def drop(self, op: int, _untrusted_body: memoryview) -> bytes:
        """Answer DROP: the guest waits no more for this op, whose handler is cancelled."""
        if op in self._open:
            self._drops.append(op)
            self._run.notify_task()
        return b""

    def take_completions(self) -> list[bytes]:
        """Take the answers that have come."""
        return self.answers.take()

    def put_back(self, records: list[bytes]) -> None:
        """Give back what was taken and could not be delivered."""
        self.answers.put_back(records)

    # --- the run's task

    @property
    def has_work(self) -> bool:
        """Whether :meth:`start` has something to do."""
        return bool(self._drops) or (bool(self._requests) and self._may_start)

    @property
    def has_completions(self) -> bool:
        """Whether a parked guest would be given something."""
        return bool(self.answers)

    @property
    def _may_start(self) -> bool:
        """Whether another handler may run: a guest that takes no answers gets no more of them."""
        return len(self._scopes) < self._run.limits.max_hostcalls and self.answers.size_bytes <= PENDING_BYTES

    def start(self, group: TaskGroup) -> None:
        """Start the handlers that were asked for, and cancel those nobody waits for, as many as one slice holds."""
        self.answers.begin_slice()
        for _ in range(min(SLICE, len(self._drops))):
            # Already running, not started, or over: the answer of one that is over crossed the DROP, and the guest
            # ignores it.
            op = self._drops.popleft()
            scope = self._scopes.get(op)
            if scope is not None:
                scope.cancel()
            elif (request := self._requests.pop(op, None)) is not None:
                self._end(request)
                if isinstance(request.work, _Given):
                    request.work.close(request.name)
                dispose(request.held)
        started = 0
        while self._requests and self._may_start and started < SLICE:
            op, request = self._requests.popitem(last=False)
            # Kept before the task has begun, so that a DROP that comes first cancels it. Shielded, because whoever
            # cancels the run would cancel a thousand handlers in one step; `cancel` does that in slices.
            self._scopes[op] = scope = anyio.CancelScope(shield=True)
            group.start_soon(self._serve, request, scope, name=f"hostcall {request.name}")
            started += 1
        if self.has_work:
            self._run.notify_task()

    @property
    def has_tasks(self) -> bool:
        """Whether a handler has yet to end."""
        return bool(self._scopes)

    def cancel(self) -> bool:
        """Cancel a slice of the handlers that run, which are shielded; tell whether there are more."""
        left = ((op, scope) for op, scope in self._scopes.items() if not scope.cancel_called)
        for op, scope in islice(left, SLICE):
            self._cut.add(op)
            scope.cancel()
        return next(left, None) is not None

    async def _serve(self, request: _Request, scope: anyio.CancelScope) -> None:
        """Run an async handler; a task of the run's group."""
        answer: Answer | None = None
        try:
            with scope, HeldUp(self._run.owner):
                try:
                    answer = self.answers.of(request.op, request.name, await request.work(*request.held))
                except Exception as exc:
                    # Whatever the handler raises is the guest's to see.
                    if scope.cancel_called:
                        _logger.warning("hostcall %r failed while it was being cancelled", request.name, exc_info=exc)
                    answer = failed(request.op, failure(request.name, exc))
                except self._run.cancelled_class as exc:
                    # Of the handler's own making, such as awaiting a future that somebody else cancelled: a failure
                    # like others. Let through, it would cancel the run that nobody cancelled.
                    if being_cancelled():
                        if request.size > LARGE_PAYLOAD_BYTES:
                            clear_frames(exc.__traceback__)  # which have the payload, and are over
                        raise
                    answer = failed(request.op, failure(request.name, exc))
        finally:
            # Of a handler that was cancelled with the whole run, and not because the guest dropped its call, the guest
            # must not hear before it knows of its own cancellation: it would take that for the handler's failure.
            cut = answer is None and (request.op in self._cut or not scope.cancel_called)
            self._cut.discard(request.op)
            ffi.trap_handlers.guard()  # the guest may be computing meanwhile
            if answer is None:
                answer = failed(request.op, cancelled(request.name))
            del self._scopes[request.op]
            self._end(request)
            if request.size > LARGE_PAYLOAD_BYTES:
                if answer.held and answer.held[0] is request.held[0]:
                    request.held.clear()  # its only reference is the answer's now
                dispose(request.held)
            self.answers.add(answer, cut=cut)
            self._run.notify()

    def _end(self, request: _Request) -> None:
        self._open.discard(request.op)
        with self._lock:
            self._pending_bytes -= request.size

    def abandon(self) -> None:
        """Forget requests that were never started and answers that were never taken: the run is over."""
        # The guest's thread is gone: nobody else has them.
        requests, self._requests = self._requests, OrderedDict()
        held: list[Any] = []
        for request in requests.values():
            if isinstance(request.work, _Given):
                request.work.close(request.name)
            held += request.held
            request.held.clear()
        held += self.answers.abandon()
        dispose(held)
        if self._holds_collections:
            self._holds_collections = False
            full_collections.end()


_OK: Final = bytes((Status.OK,))
_FAILED: Final = bytes((Status.FAILED,))


def _call_held_up(owner: object, handler: Handler, payload: JsonValue) -> Any:
    with HeldUp(owner):
        return handler(payload)


class _Given:
    """The work of a plain handler that returned an awaitable: awaiting that."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self._awaitable = awaitable

    def __call__(self, _payload: JsonValue) -> Awaitable[Any]:
        return self._awaitable

    def close(self, name: str) -> None:
        """Nobody will await it: a coroutine must not be left for the collector to complain about. Raises nothing."""
        try:
            close = getattr(self._awaitable, "close", None)
            if close is not None:
                close()
        except Exception as exc:
            _logger.warning("what hostcall %r returned could not be closed", name, exc_info=exc)
