"""Hostcalls: find the handler a guest calls, run it, turn its end into a completion.

Plain handlers run on the guest's thread, inside the door call. Async ones are tasks of the run's task group; what
passes between the threads is a dict of requests one way, a deque of answers the other. Longer than other modules by a
few lines, because the two ends of a hostcall are read together.
"""

from __future__ import annotations

__all__ = ["Handlers", "Hostcalls"]

import inspect
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio

from isola_anyio import codec
from isola_anyio.concurrency import HeldUp, being_cancelled
from isola_anyio.engine import ffi
from isola_anyio.errors import InvalidArgumentError, LimitError, clip
from isola_anyio.guests.protocol import ProtocolError, Status, ToHost, completion, split_hostcall
from isola_anyio.options import Handler, Handlers
from isola_anyio.run.failures import Halt
from isola_anyio.run.services import GivenUp
from isola_anyio.run.state import Event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from anyio.abc import TaskGroup

    from isola_anyio.run.services import ServedRun
    from isola_anyio.values import JsonValue

PENDING_BYTES: Final = 64 << 20
"""Payload bytes of hostcalls that have not ended, above which a guest is blocked (the high-water mark): it must not
fill the host's memory with calls it never waits for. One payload may always be in flight, whatever its size."""
CALL_BYTES: Final = 4096
"""What a pending hostcall counts besides its payload. It takes an eighth of that; counted so, no more than 16,384 are
pending, which the garbage collector looks through in a few milliseconds while the event loop waits."""
WITHHELD_BYTES: Final = 8 << 20
"""Withheld replies that are kept for a guest that is being cancelled; beyond them it hears that they were cancelled."""
LARGE_ANSWER_BYTES: Final = PENDING_BYTES // 8
"""What an answer counts that is too large to be encoded on the event loop, until the guest's thread has done that."""
SMALL_ANSWER_BYTES: Final = 256 << 10
"""What a small answer counts whose encoding is left to the guest's thread, because this slice's share is spent."""
SHARE: Final = 16
"""Answers of a millisecond's work that are encoded on the event loop before it does something else."""
TINY: Final = 128
"""What an answer weighs that is always encoded at once; see ``codec.is_small``."""
NAME_CHARS: Final = 1024
MESSAGE_CHARS: Final = 65_536
"""How much of a hostcall's name, of an exception's type and of its text a failure tells the guest."""
NAMES_SHOWN: Final = 20
"""Handlers that an error names; the rest are counted."""
SLICE: Final = 64
"""Handlers started, or drops looked at, before the event loop may do something else: about a millisecond's worth."""

_logger = logging.getLogger("isola_anyio.hostcalls")


def _failure(name: str, exc: BaseException) -> bytes:
    """Encode an exception for the guest: its type's name and its text, never its traceback."""
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - a stranger's __str__
        text = ""
    return _failure_of(name, type(exc).__name__, text)


def _failure_of(name: str, type_name: str, text: str) -> bytes:
    """Encode a failure for the guest."""
    return codec.encode({"name": name[:NAME_CHARS], "type": type_name[:NAME_CHARS], "message": text[:MESSAGE_CHARS]})


def _cancelled(name: str) -> bytes:
    return _failure_of(name, "CancelledError", "it was cancelled")


def _is_async(handler: Handler) -> bool:
    """Tell whether calling a handler gives a coroutine: looks through partials and ``__call__``."""
    while isinstance(handler, partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


class _Request(NamedTuple):
    """A hostcall whose handler is a task, or will be one."""

    op: int
    name: str
    work: Callable[[], Awaitable[Any]]
    size: int


class _Answer(NamedTuple):
    """The end of a hostcall, to be made a completion on the guest's thread."""

    op: int
    size: int
    completion: Callable[[], bytes]


class Hostcalls:
    """The hostcalls of one run.

    What an async handler returns is encoded at once, so that what happens to it afterwards changes nothing; unless it
    is so large that the event loop would notice, then by the guest's thread, when the guest takes it.

    ``handle``, ``drop``, ``take_completions`` and ``put_back`` are called on the guest's thread, inside a turn;
    ``start``, ``has_work``, ``has_completions`` and ``abandon`` in the run's own task. Numbers of ops are the guest's:
    each is checked to be new.

    Who writes what: ``_requests`` and ``_drops`` are filled by the guest's thread and emptied by the task, ``_answers``
    the other way round; each use of them is one call into C, so that both may make theirs at any time. ``_scopes`` is
    the task's. ``_open`` is added to by the guest's thread and taken from by the task. The two sums are changed by
    both, under ``_lock``.
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
        """Hostcalls made so far; written on the guest's thread."""
        self._lock = threading.Lock()
        self._requests: OrderedDict[int, _Request] = OrderedDict()  # by op, in the order they came
        self._drops: deque[int] = deque()
        self._answers: deque[_Answer] = deque()
        self._cut: deque[_Answer] = deque()  # to be `_answers` once the guest knows that it is cancelled
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._open: set[int] = set()
        self._pending_bytes = 0
        self._answer_bytes = 0
        self._share = SHARE

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
            reply: bytes | None = self._reply(op, untrusted_body)
        except GivenUp:
            reply = None
        # Its handler is a task: the guest waits for the completion anyway, and hears of a cancellation there.
        if reply == b"":
            return reply
        # Asked in any case, also after `GivenUp`: it withdraws an interrupt that this guest is not to notice any more.
        if not run.must_tell(Event.DEFERRABLE) and reply is not None:
            return reply
        self._defer(op, reply)
        return b""

    def _is_over_high_water(self) -> bool:
        """Whether waiting can help: answers that the guest has not taken, it takes only when it goes on."""
        return self._pending_bytes > PENDING_BYTES and self._answer_bytes <= PENDING_BYTES

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
            return _FAILED + _failure_of(name, "LookupError", text)
        size = codec.payload_size(untrusted_payload)
        if size > limits.max_payload:
            text = f"a payload of {size} bytes is over max_payload ({limits.max_payload})"
            return _FAILED + _failure_of(name, "ValueError", text)
        if self._pending_bytes > PENDING_BYTES:
            text = "too many hostcalls were made without waiting for any: await some of them first"
            return _FAILED + _failure_of(name, "BufferError", text)
        try:
            payload = codec.decode(untrusted_payload, pause=run.yield_gil)
        except codec.CodecError as exc:
            return _FAILED + _failure_of(name, "ValueError", str(exc))
        if _is_async(handler):
            self._queue(op, name, partial(handler, payload), len(untrusted_payload))
            return b""
        try:
            result = self._serve_plain(handler, payload)
            if inspect.isawaitable(result):
                self._queue(op, name, _Given(result), len(untrusted_payload))
                return b""
            return _OK + self._encode(name, result, pause=True)
        except (Exception, run.cancelled_class) as exc:  # noqa: BLE001 - whatever it raises is the guest's to see
            return _FAILED + _failure(name, exc)

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
        try:
            return run.context.run(_call_held_up, run.owner, handler, payload)
        finally:
            ffi.trap_handlers.glance()  # the guest goes on in this very turn
            run.cpu.resume()
            run.step(Event.SERVED)

    def _queue(self, op: int, name: str, work: Callable[[], Awaitable[Any]], size: int) -> None:
        """Have the run's task start a handler."""
        size += CALL_BYTES
        # Open before the task can see the request, which may end it before this returns.
        self._open.add(op)
        with self._lock:
            self._pending_bytes += size
        self._requests[op] = _Request(op, name, work, size)
        self._run.notify_task()

    def drop(self, op: int, _untrusted_body: memoryview) -> bytes:
        """Answer DROP: the guest waits no more for this op, whose handler is cancelled."""
        if op in self._open:
            self._drops.append(op)
            self._run.notify_task()
        return b""

    def take_completions(self) -> list[bytes]:
        """Take the answers that have come, about as many as may be pending."""
        records: list[bytes] = []
        size = 0
        if self._cut and self._run.state.notice:
            while self._cut:
                self._answers.append(self._cut.popleft())
        while self._answers and size <= PENDING_BYTES:
            answer = self._answers.popleft()
            try:
                records.append(answer.completion())
            except BaseException:
                # The guest is being stopped, but may yet unwind: nothing that it waits for is lost. The answer whose
                # encoding was given up is not encoded again, because the guest only has to hear of its cancellation.
                with self._lock:
                    self._answer_bytes -= answer.size
                self.put_back([*records, completion(answer.op, Status.FAILED, _cancelled(""))])
                raise
            size += len(records[-1])
            with self._lock:
                self._answer_bytes -= answer.size
        if records:
            self._run.notify_task()  # handlers may have been held back
        return records

    def put_back(self, records: list[bytes]) -> None:
        """Give back what was taken and could not be delivered."""
        with self._lock:
            self._answer_bytes += sum(map(len, records))
        # To the front, in their order: they were first. The task may append meanwhile, which is one call into C.
        self._answers.extendleft(
            _Answer(_op_of(record), len(record), partial(bytes, record)) for record in records[::-1]
        )

    def _defer(self, op: int, reply: bytes | None) -> None:
        """Deliver the reply to a door call later, as a completion; ``None``: making it was given up."""
        if reply is None or self._answer_bytes > WITHHELD_BYTES:  # a guest that goes on asking does not fill the memory
            record = completion(op, Status.FAILED, _cancelled(""))
        else:
            record = completion(op, Status(reply[0]), reply[1:])
        self.put_back([record])
        self._run.notify()

    def _encode(self, name: str, value: JsonValue, *, pause: bool) -> bytes:
        """Encode an answer; with ``pause`` on the guest's thread, yielding the GIL, and not at the guest's expense."""
        run = self._run
        try:
            if not pause:
                return codec.encode(value, max_bytes=run.limits.max_payload, dialect=run.dialect)
            run.cpu.pause()
            try:
                return codec.encode(value, max_bytes=run.limits.max_payload, dialect=run.dialect, pause=run.yield_gil)
            finally:
                run.cpu.resume()
        except codec.EncodeError as exc:
            raise InvalidArgumentError(f"what the handler of {name!r} returned cannot cross: {exc}") from None

    # --- the run's task

    @property
    def has_work(self) -> bool:
        """Whether :meth:`start` has something to do."""
        return bool(self._drops) or (bool(self._requests) and self._may_start)

    @property
    def has_completions(self) -> bool:
        """Whether a parked guest would be given something."""
        return bool(self._answers) or (bool(self._cut) and bool(self._run.state.notice))

    @property
    def _may_start(self) -> bool:
        """Whether another handler may run: a guest that takes no answers gets no more of them."""
        return len(self._scopes) < self._run.limits.max_hostcalls and self._answer_bytes <= PENDING_BYTES

    def start(self, group: TaskGroup) -> None:
        """Start the handlers that were asked for, and cancel those nobody waits for, as many as one slice holds."""
        self._share = SHARE
        for _ in range(min(SLICE, len(self._drops))):
            # Already running, not started, or over: the answer of one that is over crossed the DROP, and the guest
            # ignores it.
            op = self._drops.popleft()
            scope = self._scopes.get(op)
            if scope is not None:
                scope.cancel()
            elif (request := self._requests.pop(op, None)) is not None:
                self._end(request)
        started = 0
        while self._requests and self._may_start and started < SLICE:
            op, request = self._requests.popitem(last=False)
            # Kept before the task has begun, so that a DROP that comes first cancels it.
            self._scopes[op] = scope = anyio.CancelScope()
            group.start_soon(self._serve, request, scope, name=f"hostcall {request.name}")
            started += 1
        if self.has_work:
            self._run.notify_task()

    async def _serve(self, request: _Request, scope: anyio.CancelScope) -> None:
        """Run an async handler; a task of the run's group."""
        answer: _Answer | None = None
        try:
            with scope, HeldUp(self._run.owner):
                try:
                    answer = self._answered(request, await request.work())
                except Exception as exc:
                    # Whatever the handler raises is the guest's to see.
                    if scope.cancel_called:
                        _logger.warning("hostcall %r failed while it was being cancelled", request.name, exc_info=exc)
                    answer = _failed(request, _failure(request.name, exc))
                except self._run.cancelled_class as exc:
                    # Of the handler's own making, such as awaiting a future that somebody else cancelled: a failure
                    # like others. Let through, it would cancel the run that nobody cancelled.
                    if being_cancelled():
                        raise
                    answer = _failed(request, _failure(request.name, exc))
        finally:
            # Of a handler that was cancelled with the whole run, and not because the guest dropped its call, the guest
            # must not hear before it knows of its own cancellation: it would take that for the handler's failure.
            answers = self._cut if answer is None and not scope.cancel_called else self._answers
            ffi.trap_handlers.guard()  # the guest may be computing meanwhile
            if answer is None:
                answer = _failed(request, _cancelled(request.name))
            del self._scopes[request.op]
            self._end(request)
            with self._lock:
                self._answer_bytes += answer.size
            # The sum before the answer, which the guest's thread may take at once and subtract.
            answers.append(answer)
            self._run.notify()

    def _answered(self, request: _Request, result: JsonValue) -> _Answer:
        """Encode what a handler returned, now or, if it is large or one of too many, on the guest's thread."""
        op, name = request.op, request.name
        small = codec.is_small(result)
        if small and (self._share > 0 or codec.is_small(result, TINY)):
            self._share -= 1
            body = self._encode(name, result, pause=False)
            return _Answer(op, len(body), partial(completion, op, Status.OK, body))
        size = SMALL_ANSWER_BYTES if small else LARGE_ANSWER_BYTES
        return _Answer(op, size, partial(self._late_completion, op, name, result))

    def _late_completion(self, op: int, name: str, result: JsonValue) -> bytes:
        """Encode an answer on the guest's thread."""
        try:
            return completion(op, Status.OK, self._encode(name, result, pause=True))
        except Exception as exc:  # noqa: BLE001 - it cannot cross, or the handler went on changing it
            return completion(op, Status.FAILED, _failure(name, exc))

    def _end(self, request: _Request) -> None:
        self._open.discard(request.op)
        with self._lock:
            self._pending_bytes -= request.size

    def abandon(self) -> None:
        """Forget requests that were never started: the run is over."""
        # The guest's thread is gone: nobody else has them.
        requests, self._requests = self._requests, OrderedDict()
        for request in requests.values():
            if isinstance(request.work, _Given):
                try:
                    request.work.close()
                except Exception as exc:
                    _logger.warning("what hostcall %r returned could not be closed", request.name, exc_info=exc)


_OK: Final = bytes((Status.OK,))
_FAILED: Final = bytes((Status.FAILED,))


def _op_of(record: bytes) -> int:
    return int.from_bytes(record[:4], "little")


def _failed(request: _Request, body: bytes) -> _Answer:
    return _Answer(request.op, len(body), partial(completion, request.op, Status.FAILED, body))


def _call_held_up(owner: object, handler: Handler, payload: JsonValue) -> Any:
    with HeldUp(owner):
        return handler(payload)


class _Given:
    """The work of a plain handler that returned an awaitable: awaiting that."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self._awaitable = awaitable

    def __call__(self) -> Awaitable[Any]:
        return self._awaitable

    def close(self) -> None:
        """Nobody will await it: a coroutine must not be left for the collector to complain about."""
        close = getattr(self._awaitable, "close", None)
        if close is not None:
            close()
