"""Answers: the ends of hostcalls on their way to the guest, as values still to be encoded or as completions."""

from __future__ import annotations

__all__ = ["Answer", "Answers", "cancelled", "failed", "failure", "failure_of"]

import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from isola_anyio import codec
from isola_anyio.disposal import dispose
from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.guests.protocol import Status, completion

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.run.services import ServedRun
    from isola_anyio.values import JsonValue

TAKEN_BYTES: Final = 64 << 20
"""Encoded bytes of answers after which the guest gets the next ones with its next message."""
WITHHELD_BYTES: Final = 8 << 20
"""Withheld replies that are kept for a guest that is being cancelled; beyond them it hears that they were cancelled."""
LARGE_ANSWER_BYTES: Final = 8 << 20
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


def failure(name: str, exc: BaseException) -> bytes:
    """Encode an exception for the guest: its type's name and its text, never its traceback."""
    try:
        text = _text_of(exc)
    except Exception:  # noqa: BLE001 - a stranger's __str__
        text = ""
    return failure_of(name, type(exc).__name__, text)


def _text_of(exc: BaseException) -> str:
    """Return ``str(exc)``, or where that would be long, and is cut anyway, what is left of it.

    A table in which a handler looks up a long text of the guest's raises ``KeyError``, whose text is built from all of
    it: 65 ms for 24 MB, on the event loop.
    """
    how = type(exc).__str__
    args: tuple[Any, ...] = exc.args
    if how not in _PLAIN_TEXTS or codec.is_small(args):
        return str(exc)
    shown: Any = args if len(args) != 1 else args[0]
    if type(shown) is not str:
        return clip(shown, MESSAGE_CHARS)
    start = shown[:MESSAGE_CHARS]
    return repr(start) if how is KeyError.__str__ else start


_PLAIN_TEXTS: Final = (BaseException.__str__, KeyError.__str__)


def failure_of(name: str, type_name: str, text: str) -> bytes:
    """Encode a failure for the guest."""
    return codec.encode({"name": name[:NAME_CHARS], "type": type_name[:NAME_CHARS], "message": text[:MESSAGE_CHARS]})


def cancelled(name: str) -> bytes:
    """Encode the failure of a hostcall that was cancelled."""
    return failure_of(name, "CancelledError", "it was cancelled")


class Answer(NamedTuple):
    """The end of a hostcall, to be made a completion on the guest's thread.

    Attributes:
        op: the guest's number of it.
        size: what it counts until the guest has taken it.
        completion: makes the completion.
        held: what a handler returned and is not encoded yet, in a list that is the library's only reference to it.
    """

    op: int
    size: int
    completion: Callable[[], bytes]
    held: list[Any] | None = None


def failed(op: int, body: bytes) -> Answer:
    """Return a failure as the answer to a hostcall."""
    return Answer(op, len(body), partial(completion, op, Status.FAILED, body))


class Answers:
    """The answers of one run that the guest has not taken.

    What an async handler returns is encoded at once, so that what happens to it afterwards changes nothing; unless it
    is so large that the event loop would notice, then by the guest's thread, when the guest takes it or makes its next
    hostcall.

    Who writes what: the run's task adds at the end, the guest's thread takes from the front and puts back there; each
    use of a deque is one call into C, so that both may make theirs at any time. The sums are changed by both, under
    ``_lock``. ``_share`` is the task's.

    Attributes:
        size_bytes: what those that wait count.
        late: how many of them are still values.
    """

    def __init__(self, run: ServedRun) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._waiting: deque[Answer] = deque()
        self._cut: deque[Answer] = deque()  # to be `_waiting` once the guest knows that it is cancelled
        self.size_bytes = 0
        self.late = 0
        self._share = SHARE

    def __bool__(self) -> bool:
        """Whether the guest would be given something."""
        return bool(self._waiting) or (bool(self._cut) and bool(self._run.state.notice))

    # --- the run's task

    def begin_slice(self) -> None:
        """Let as many answers be encoded on the event loop as one slice of its time holds."""
        self._share = SHARE

    def of(self, op: int, name: str, result: JsonValue) -> Answer:
        """Encode what a handler returned, now or, if it is large or one of too many, on the guest's thread."""
        small = codec.is_small(result)
        if small and (self._share > 0 or codec.is_small(result, TINY)):
            self._share -= 1
            body = self.encode(name, result, pause=False)
            return Answer(op, len(body), partial(completion, op, Status.OK, body))
        size = SMALL_ANSWER_BYTES if small else LARGE_ANSWER_BYTES
        held = [result]
        return Answer(op, size, partial(self._late_completion, op, name, held), held)

    def add(self, answer: Answer, *, cut: bool) -> None:
        """Add an answer; with ``cut`` one that the guest must not get before it knows of its cancellation."""
        with self._lock:
            self.size_bytes += answer.size
            self.late += answer.held is not None
        # The sum before the answer, which the guest's thread may take at once and subtract.
        (self._cut if cut else self._waiting).append(answer)

    def abandon(self) -> list[Any]:
        """Give the values that were never encoded: the run is over, and the guest's thread is gone."""
        held: list[Any] = []
        for answer in (*self._waiting, *self._cut):
            if answer.held:
                held += answer.held
                answer.held.clear()
        return held

    # --- the guest's thread

    def take(self) -> list[bytes]:
        """Take the completions that have come, up to `TAKEN_BYTES` and one."""
        records: list[bytes] = []
        size = 0
        if self._cut and self._run.state.notice:
            while self._cut:
                self._waiting.append(self._cut.popleft())
        while self._waiting and size <= TAKEN_BYTES:
            answer = self._waiting.popleft()
            try:
                records.append(answer.completion())
            except BaseException:
                # The guest is being stopped, but may yet unwind: nothing that it waits for is lost. The answer whose
                # encoding was given up is not encoded again, because the guest only has to hear of its cancellation.
                self._forget(answer)
                if answer.held:
                    dispose(answer.held)
                self.put_back([*records, completion(answer.op, Status.FAILED, cancelled(""))])
                raise
            size += len(records[-1])
            self._forget(answer)
        if records:
            self._run.notify_task()  # handlers may have been held back
        return records

    def _forget(self, answer: Answer) -> None:
        with self._lock:
            self.size_bytes -= answer.size
            self.late -= answer.held is not None

    def put_back(self, records: list[bytes]) -> None:
        """Give back what was taken and could not be delivered."""
        with self._lock:
            self.size_bytes += sum(map(len, records))
        # To the front, in their order: they were first. The task may append meanwhile, which is one call into C.
        self._waiting.extendleft(
            Answer(int.from_bytes(record[:4], "little"), len(record), partial(bytes, record))
            for record in reversed(records)
        )

    def withhold(self, op: int, reply: bytes | None) -> None:
        """Deliver the reply to a door call later, as a completion; ``None``: making it was given up."""
        if reply is None or self.size_bytes > WITHHELD_BYTES:  # a guest that goes on asking does not fill the memory
            record = completion(op, Status.FAILED, cancelled(""))
        else:
            record = completion(op, Status(reply[0]), reply[1:])
        self.put_back([record])
        self._run.notify()

    def encode_late(self) -> None:
        """Encode the answers that are still values, which take as much memory as the payloads of new hostcalls would.

        Given up, as :meth:`take` is, when the guest is being cancelled.
        """
        if self.late:
            self.put_back(self.take())

    def _late_completion(self, op: int, name: str, held: list[Any]) -> bytes:
        try:
            record = completion(op, Status.OK, self.encode(name, held[0], pause=True))
        except Exception as exc:  # noqa: BLE001 - it cannot cross, or the handler went on changing it
            record = completion(op, Status.FAILED, failure(name, exc))
        codec.let_go(held, self._run.give_way)
        return record

    # --- both

    def encode(self, name: str, value: JsonValue, *, pause: bool) -> bytes:
        """Encode an answer; with ``pause`` on the guest's thread, yielding the GIL, and not at the guest's expense.

        Raises:
            InvalidArgumentError: it cannot cross.
        """
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
            raise InvalidArgumentError(f"what the handler of {clip(name)} returned cannot cross: {exc}") from None
