"""Answer what the guest asks of the host: find the handler, run it, turn its end into a completion.

Plain handlers run on the guest's thread, inside the door call. Async ones are tasks of the run's task group; what
passes between the threads is a deque of requests one way, a deque of completions the other.
"""

from __future__ import annotations

__all__ = ["Handlers", "HostcallDesk", "failure"]

import inspect
import logging
import threading
from collections import OrderedDict, deque
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio

from isola_anyio import codec
from isola_anyio.concurrency import HeldUp, being_cancelled
from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.guests.protocol import ProtocolError, Status, completion
from isola_anyio.options import Handler, Handlers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from isola_anyio.codec import Dialect
    from isola_anyio.engine.cpu import CpuMeter
    from isola_anyio.values import JsonValue

PENDING_BYTES: Final = 64 << 20
"""Payload bytes of hostcalls that have not ended, beyond which a guest stands still: it must not fill the host's
memory with calls it never waits for. One payload may always be in flight, whatever its size."""
CALL_BYTES: Final = 4096
"""What a waiting hostcall counts besides its payload. It takes an eighth of that; counted so, no more than 16,384 wait,
which the garbage collector looks through in a few milliseconds while the event loop stands still."""
LARGE_ANSWER_BYTES: Final = PENDING_BYTES // 8
"""What an answer counts that is too large to be encoded on the event loop, until the guest's thread has done that."""

SMALL_ANSWER_BYTES: Final = 256 << 10
"""... and one that is small, but one of too many."""
SHARE: Final = 16
"""Answers of a millisecond's work that are encoded on the event loop before it does something else."""
TINY: Final = 128
"""What an answer weighs that never matters; see ``codec.is_small``."""
NAMES_SHOWN: Final = 20
"""Handlers that an error names; the rest are counted."""
SLICE: Final = 64
"""Handlers started, or drops looked at, before the event loop may do something else: about a millisecond's worth."""

_logger = logging.getLogger("isola_anyio.hostcalls")


def failure(name: str, exc: BaseException) -> bytes:
    """Encode an exception for the guest: its type's name and its text, never its traceback."""
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - a stranger's __str__
        text = ""
    return failure_of(name, type(exc).__name__, text)


def failure_of(name: str, type_name: str, text: str) -> bytes:
    """Encode a failure for the guest."""
    return codec.encode({"name": name, "type": type_name, "message": text[:65536]})


def _cancelled(name: str) -> bytes:
    return failure_of(name, "CancelledError", "it was cancelled")


def is_async(handler: Handler) -> bool:
    """Tell whether calling a handler gives a coroutine: looks through partials and ``__call__``."""
    while isinstance(handler, partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


class _Request(NamedTuple):
    op: int
    name: str
    work: Callable[[], Awaitable[Any]]
    size: int


class _Answer(NamedTuple):
    size: int
    completion: Callable[[], bytes]
    cancelled: bytes = b""
    """What the guest gets should making the completion be interrupted."""


class HostcallDesk:
    """The hostcalls of one run.

    What an async handler returns is encoded at once, so that what happens to it afterwards changes nothing; unless it
    is so large that the event loop would notice, then by the guest's thread, when the guest takes it.

    ``request``, ``drop`` and ``take_completions`` are called on the guest's thread or between its turns; ``start`` in
    the run's own task. Numbers of ops are the guest's: each is checked to be new.
    """

    def __init__(
        self,
        handlers: Handlers,
        *,
        owner: object,
        dialect: Dialect,
        max_payload: int,
        max_in_flight: int,
        cpu: CpuMeter,
        pause: Callable[[], object],
        on_request: Callable[[], None],
        on_news: Callable[[], None],
    ) -> None:
        self._handlers = handlers
        self._owner = owner
        self._dialect: Dialect = dialect
        self._max_payload = max_payload
        self._max_in_flight = max_in_flight
        self._cpu = cpu
        self._pause = pause
        self._on_request = on_request
        self._on_news = on_news
        self._context = copy_context()
        self._cancelled_class = anyio.get_cancelled_exc_class()
        self._lock = threading.Lock()  # for the two sums, which both sides change
        # By op, in the order they came; each use of it is one call into C, so that both threads may make them.
        self._requests: OrderedDict[int, _Request] = OrderedDict()
        self._drops: deque[int] = deque()
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._open: set[int] = set()
        self._pending_bytes = 0
        self._answer_bytes = 0
        self.completions: deque[_Answer] = deque()
        self.count = 0
        self.in_handler = False
        """Whether a plain handler has the guest's thread."""
        self._share = SHARE

    @property
    def crowded(self) -> bool:
        """Whether the guest must stand still before it may ask for more; answers it has not taken cannot help it."""
        return self._pending_bytes > PENDING_BYTES and self._answer_bytes <= PENDING_BYTES

    @property
    def has_news(self) -> bool:
        """Whether :meth:`start` has something to do."""
        return bool(self._drops) or (bool(self._requests) and self._may_start)

    @property
    def _may_start(self) -> bool:
        """Whether another handler may run: a guest that takes no answers gets no more of them."""
        return len(self._scopes) < self._max_in_flight and self._answer_bytes <= PENDING_BYTES

    def request(self, op: int, name: str, untrusted_payload: memoryview) -> bytes:
        """Take a hostcall; return the reply to the door: empty when the answer comes later."""
        self.count += 1
        if op in self._open:
            raise ProtocolError(f"op {op} is under way already")
        handler = self._handlers.get(name)
        if handler is None:
            text = f"the host has no handler named {clip(name)}; it offers {self._offer()}"
            return _reply(Status.FAILED, failure_of(name, "LookupError", text))
        if codec.payload_size(untrusted_payload) > self._max_payload:
            text = (
                f"a payload of {codec.payload_size(untrusted_payload)} bytes is over max_payload ({self._max_payload})"
            )
            return _reply(Status.FAILED, failure_of(name, "ValueError", text))
        if self._pending_bytes > PENDING_BYTES:
            text = "too many hostcalls were made without waiting for any: await some of them first"
            return _reply(Status.FAILED, failure_of(name, "BufferError", text))
        try:
            payload = codec.decode(untrusted_payload, pause=self._pause)
        except codec.CodecError as exc:
            return _reply(Status.FAILED, failure_of(name, "ValueError", str(exc)))
        if is_async(handler):
            self._queue(op, name, partial(handler, payload), len(untrusted_payload))
            return b""
        try:
            result = self._call(handler, payload)
            if inspect.isawaitable(result):
                self._queue(op, name, _constantly(result), len(untrusted_payload))
                return b""
            return _reply(Status.OK, self._encode(name, result, self._pause))
        except (Exception, self._cancelled_class) as exc:  # noqa: BLE001 - whatever it raises is the guest's to see
            return _reply(Status.FAILED, failure(name, exc))

    def _offer(self) -> str:
        """Return the names a guest may call, which are its API and no secret."""
        names = sorted(self._handlers)
        shown = ", ".join(map(clip, names[:NAMES_SHOWN]))
        left = len(names) - NAMES_SHOWN
        return f"{shown} and {left} more" if left > 0 else shown or "none"

    def _call(self, handler: Handler, payload: JsonValue) -> Any:
        """Call a plain handler, or get an async one's awaitable; what it computes is not the guest's."""
        self._cpu.pause()
        self.in_handler = True
        try:
            return self._context.run(self._call_held_up, handler, payload)
        finally:
            self.in_handler = False
            self._cpu.resume()

    def _call_held_up(self, handler: Handler, payload: JsonValue) -> Any:
        with HeldUp(self._owner):
            return handler(payload)

    def _queue(self, op: int, name: str, work: Callable[[], Awaitable[Any]], size: int) -> None:
        self._open.add(op)
        size += CALL_BYTES
        with self._lock:
            self._pending_bytes += size
        self._requests[op] = _Request(op, name, work, size)
        self._on_request()

    def drop(self, op: int) -> None:
        """The guest waits no more for this op: cancel its handler."""
        if op in self._open:
            self._drops.append(op)
            self._on_request()

    def start(self, group: TaskGroup) -> None:
        """Start the handlers that were asked for, and cancel those nobody waits for, as many as one slice holds."""
        self._share = SHARE
        for _ in range(min(SLICE, len(self._drops))):
            op = self._drops.popleft()
            scope = self._scopes.get(op)
            if scope is not None:
                scope.cancel()
            elif (request := self._requests.pop(op, None)) is not None:
                self._end(request)
        started = 0
        while self._requests and self._may_start and started < SLICE:
            op, request = self._requests.popitem(last=False)
            self._scopes[op] = scope = anyio.CancelScope()
            group.start_soon(self._serve, request, scope, name=f"hostcall {request.name}")
            started += 1
        if self.has_news:
            self._on_request()

    async def _serve(self, request: _Request, scope: anyio.CancelScope) -> None:
        answer = self._failed(request, _cancelled(request.name))
        try:
            with scope, HeldUp(self._owner):
                try:
                    answer = self._answer(request, await request.work())
                except Exception as exc:
                    # Whatever the handler raises is the guest's to see.
                    if scope.cancel_called:
                        _logger.warning("hostcall %r failed while it was being cancelled", request.name, exc_info=exc)
                    answer = self._failed(request, failure(request.name, exc))
                except self._cancelled_class as exc:
                    # Of the handler's own making, such as awaiting a future that somebody else cancelled: a failure
                    # like others. Let through, it would cancel the run that nobody cancelled.
                    if being_cancelled():
                        raise
                    answer = self._failed(request, failure(request.name, exc))
        finally:
            del self._scopes[request.op]
            self._end(request)
            with self._lock:
                self._answer_bytes += answer.size
            self.completions.append(answer)
            self._on_news()

    def _answer(self, request: _Request, result: JsonValue) -> _Answer:
        small = codec.is_small(result)
        if small and (self._share > 0 or codec.is_small(result, TINY)):
            self._share -= 1
            body = self._encode(request.name, result)
            return _Answer(len(body), partial(completion, request.op, Status.OK, body))
        later = partial(self._large_completion, request.op, request.name, result)
        size = SMALL_ANSWER_BYTES if small else LARGE_ANSWER_BYTES
        return _Answer(size, later, completion(request.op, Status.FAILED, _cancelled(request.name)))

    @staticmethod
    def _failed(request: _Request, body: bytes) -> _Answer:
        return _Answer(len(body), partial(completion, request.op, Status.FAILED, body))

    def _large_completion(self, op: int, name: str, result: JsonValue) -> bytes:
        try:
            return completion(op, Status.OK, self._encode(name, result, self._pause))
        except Exception as exc:  # noqa: BLE001 - it cannot cross, or the handler went on changing it
            return completion(op, Status.FAILED, failure(name, exc))

    def take_completions(self) -> list[bytes]:
        """Take the answers that have come, about as many as may wait; on the guest's thread."""
        records: list[bytes] = []
        size = 0
        while self.completions and size <= PENDING_BYTES:
            answer = self.completions.popleft()
            try:
                records.append(answer.completion())
            except BaseException:
                # The guest is being stopped, but may yet unwind: nothing that it waits for is lost.
                with self._lock:
                    self._answer_bytes -= answer.size
                self.put_back([*records, answer.cancelled])
                raise
            size += len(records[-1])
            with self._lock:
                self._answer_bytes -= answer.size
        if records:
            self._on_request()  # handlers may have been held back
        return records

    def put_back(self, records: list[bytes]) -> None:
        """Give back what was taken and could not be delivered."""
        with self._lock:
            self._answer_bytes += sum(map(len, records))
        self.completions.extendleft(_Answer(len(record), partial(bytes, record)) for record in reversed(records))

    def defer(self, op: int, reply: bytes | None) -> None:
        """Deliver the reply to a door call later, as a completion; ``None``: making it was given up."""
        record = (
            completion(op, Status.FAILED, _cancelled(""))
            if reply is None
            else completion(op, Status(reply[0]), reply[1:])
        )
        self.put_back([record])
        self._on_news()

    def _end(self, request: _Request) -> None:
        self._open.discard(request.op)
        with self._lock:
            self._pending_bytes -= request.size

    def _encode(self, name: str, value: JsonValue, pause: Callable[[], object] | None = None) -> bytes:
        if pause is not None:  # on the guest's thread, and not its work
            self._cpu.pause()
        try:
            return codec.encode(value, max_bytes=self._max_payload, dialect=self._dialect, pause=pause)
        except codec.EncodeError as exc:
            raise InvalidArgumentError(f"what the handler of {name!r} returned cannot cross: {exc}") from None
        finally:
            if pause is not None:
                self._cpu.resume()

    def abandon(self) -> None:
        """Forget requests that were never started: the run is over."""
        requests, self._requests = self._requests, OrderedDict()
        for request in requests.values():
            close = getattr(getattr(request.work, "awaitable", None), "close", None)
            if close is not None:
                close()


def _reply(status: Status, body: bytes) -> bytes:
    return bytes((status,)) + body


class _constantly:  # noqa: N801 - used as a function
    """A callable that gives the awaitable a plain handler returned."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self.awaitable = awaitable

    def __call__(self) -> Awaitable[Any]:
        return self.awaitable
