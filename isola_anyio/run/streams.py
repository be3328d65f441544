"""Streams: stream arguments, pumped from a producer on the host to the guest, with back pressure.

The producer's task fills a bounded buffer; the guest's thread takes batches out of it, encoded there. Whoever finds
nothing to do waits for the other: the producer for room, the guest (which returns to the host meanwhile) for items.

What waits for the guest is what is in the buffer, and of the last batch all but the first item, which the guest asked
for: until it asks again nobody knows how many of those its code has got. So a batch is half of the capacity at most,
and while the guest works through one the producer makes the next.
"""

from __future__ import annotations

__all__ = ["StreamPump", "Streams"]

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import anyio

from isola_anyio import codec
from isola_anyio.concurrency import HeldUp
from isola_anyio.disposal import dispose
from isola_anyio.engine.wakeup import Wakeup
from isola_anyio.errors import InvalidArgumentError
from isola_anyio.guests.protocol import ProtocolError, Status, ToHost, completion
from isola_anyio.run.services import GivenUp
from isola_anyio.run.state import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.abc import TaskGroup

    from isola_anyio.run.services import ServedRun
    from isola_anyio.values import JsonValue, StreamSource

BATCH_ITEMS: Final = 256
"""Items that cross in one frame at most."""
BATCH_BYTES: Final = 1 << 20
"""Encoded bytes after which a batch is closed."""
LARGE_BATCH_BYTES: Final = 16 << 10
"""The items of a longer batch are let go in pieces: they may be several thousand objects."""
_CANCELLED: Final = codec.encode({"type": "CancelledError", "message": "it was cancelled"})


class Streams:
    """The stream arguments of one run: the guest names them by their number.

    Made by the run's task before the first turn if there are any, because their producers begin with the run.
    """

    kinds = frozenset({ToHost.READ, ToHost.STOP})
    count = 0

    def __init__(self, run: ServedRun) -> None:
        self.routes: Mapping[int, Callable[[int, memoryview], bytes]] = {
            ToHost.READ: self._on_read,
            ToHost.STOP: self._on_stop,
        }
        # On the task if there are any sources, because each pump makes a wake-up of that loop's.
        self._pumps = [StreamPump(source, run) for source in run.message.streams]
        self._started = False
        self._undelivered: list[bytes] = []  # the guest thread's

    # --- the guest's thread

    def _on_read(self, op: int, untrusted_body: memoryview) -> bytes:
        return self._pump(int.from_bytes(untrusted_body[:4], "little")).read(op)

    def _on_stop(self, number: int, _untrusted_body: memoryview) -> bytes:
        self._pump(number).stop()
        return b""

    def _pump(self, number: int) -> StreamPump:
        if number >= len(self._pumps):
            raise ProtocolError(f"stream {number} does not exist")
        return self._pumps[number]

    def take_completions(self) -> list[bytes]:
        """Take a batch of each stream that the guest waits for."""
        # What an earlier turn could not deliver goes first: it was taken first.
        taken, self._undelivered = self._undelivered, []
        try:
            for pump in self._pumps:
                record = pump.take_completion()
                if record is not None:
                    taken.append(record)
        except BaseException:
            self.put_back(taken)
            raise
        return taken

    def put_back(self, records: list[bytes]) -> None:
        """Keep batches that were taken and not delivered: the guest still waits for them."""
        self._undelivered = records

    # --- the run's task

    @property
    def has_work(self) -> bool:
        """Whether producers have to be started, or one to be cancelled."""
        return not self._started or any(pump.stopped and not pump.scope.cancel_called for pump in self._pumps)

    @property
    def has_completions(self) -> bool:
        """Whether the guest waits for a stream and there is something for it."""
        return bool(self._undelivered) or any(pump.has_completion for pump in self._pumps)

    @property
    def failure(self) -> BaseException | None:
        """The first producer's exception."""
        return next((pump.failure for pump in self._pumps if pump.failure is not None), None)

    def start(self, group: TaskGroup) -> None:
        """Start the producers, and cancel those whose streams the guest wants no more of."""
        if not self._started:
            self._started = True
            for number, pump in enumerate(self._pumps):
                pump.is_producing = True
                group.start_soon(pump.produce, name=f"stream argument {number}")
        for pump in self._pumps:
            if pump.stopped:
                pump.scope.cancel()

    @property
    def has_tasks(self) -> bool:
        """Whether a producer has yet to end."""
        return any(pump.is_producing for pump in self._pumps)

    def cancel(self) -> bool:
        """Do nothing: producers, which are few, are cancelled with the group."""
        return False

    def abandon(self) -> None:
        """Drop items that the guest has not taken; producers are tasks of the run's group, and have ended with it."""
        for pump in self._pumps:
            pump.drop_items()


class StreamPump:
    """One stream argument of one run.

    The guest's thread takes from ``_items``, the producer's task adds to it: ``deque``'s own methods are atomic.
    ``_held``, ``_waiting_op``, ``_taken`` and ``stopped`` are written on the guest's thread, ``_ended`` and ``_cut`` by
    the producer's task, or by the guest's thread when an item cannot cross, which is the end of both.
    """

    def __init__(self, source: StreamSource, run: ServedRun) -> None:
        self._source = source
        self._run = run
        self._items: deque[JsonValue] = deque()
        self._ended = False
        self._cut = False
        """The producer was cancelled with the run. A guest that knows of that hears of it, should it read on."""
        self._held = 0
        """Items handed over that may be waiting inside the guest."""
        self._waiting_op: int | None = None
        self._room = Wakeup()
        self._taken = 0
        self.is_producing = False
        self.scope = anyio.CancelScope()
        self.failure: BaseException | None = None
        self.stopped = False

    @property
    def has_completion(self) -> bool:
        """Whether the guest waits for this stream and there is something for it."""
        if self._waiting_op is None:
            return False
        return bool(self._items) or self._ended or (self._cut and bool(self._run.state.notice))

    # --- the guest's thread

    def take_completion(self) -> bytes | None:
        """Answer the READ that waits, if there is something for it now."""
        op = self._waiting_op
        if op is None:
            return None
        answer = self._answer()
        if answer is None:
            return None
        # Only now: while a batch was being made it could have been given up, and the guest would still wait.
        self._waiting_op = None
        return completion(op, *answer)

    def read(self, op: int) -> bytes:
        """Answer READ: a batch, the end, or nothing when the guest has to wait."""
        # It asks for more, so it has got everything of the last batch.
        self._held = 0
        self._room.set()
        try:
            answer = self._answer()
            if answer is None:
                self._waiting_op = op
                # The producer may have put an item between the look and the line above; it then told nobody.
                answer = self._answer()
                if answer is None:
                    return b""
        except GivenUp:  # it waits for the batch, and hears of its cancellation instead
            self._waiting_op = op
            self._run.must_tell(Event.DEFERRABLE)
            return b""
        self._waiting_op = None
        status, body = answer
        return bytes((status,)) + body

    def stop(self) -> None:
        """The guest wants no more."""
        self.stopped = True
        self.drop_items()
        self._run.notify()

    def drop_items(self) -> None:
        """Drop what is in the buffer; by either side, once nothing is to be put there any more."""
        held: list[object] = []
        with suppress(IndexError):
            while True:
                held.append(self._items.popleft())
        dispose(held)

    def _answer(self) -> tuple[Status, bytes] | None:
        items = self._items
        if items:
            return self._batch()
        # The end is looked at after the items, and the items once more after the end: the producer puts the last one
        # first.
        if not self._ended:
            return (Status.PRODUCER_FAILED, _CANCELLED) if self._cut and self._run.state.notice else None
        if items:  # the last one was put before the end was marked
            return self._batch()
        if self.failure is not None:
            text = str(self.failure)[:65536]
            return Status.PRODUCER_FAILED, codec.encode({"type": type(self.failure).__name__, "message": text})
        return Status.ENDED, b""

    def _batch(self) -> tuple[Status, bytes]:
        items = self._items
        count = min(len(items), BATCH_ITEMS, (self._source.capacity + 1) // 2)
        self._held = count - 1  # first, so that what leaves the buffer counts all the while
        batch = [items.popleft() for _ in range(count)]
        self._taken += count
        self._room.set()
        try:
            try:
                body = self._encode(batch, min(BATCH_BYTES, self._run.limits.max_payload), wrap=1)
            except codec.EncodeError:
                return self._careful_batch(batch)
        except BaseException:  # the guest is being stopped, but may yet unwind
            self._untake(batch)
            self._held = 0
            raise
        if len(body) > LARGE_BATCH_BYTES:
            codec.let_go(batch, self._run.give_way)
        return Status.ITEMS, body

    def _careful_batch(self, batch: list[JsonValue]) -> tuple[Status, bytes]:
        """Send what can be sent of a batch that is too large or holds an item that cannot cross."""
        good = 0
        size = 0
        for item in batch:
            try:
                size += len(self._encode(item, self._run.limits.max_payload))
            except codec.EncodeError as exc:
                if good:
                    break
                return self._end_uncrossable(self._taken - len(batch), exc)
            if good and size > BATCH_BYTES:
                break
            good += 1
        body = self._encode(batch[:good], None, wrap=1)
        # After the good ones are encoded, which may be given up: then the whole batch is put back by the caller.
        self._untake(batch[good:])
        self._held = good - 1
        return Status.ITEMS, body

    def _end_uncrossable(self, index: int, exc: codec.EncodeError) -> tuple[Status, bytes]:
        """End the stream at an item that cannot cross."""
        self.failure = InvalidArgumentError(f"item {index} of a stream argument: {exc}")
        self._ended = True
        self.drop_items()
        self.stopped = True
        self._run.notify()
        text = str(self.failure)
        return Status.PRODUCER_FAILED, codec.encode({"type": "InvalidArgumentError", "message": text})

    def _untake(self, batch: list[JsonValue]) -> None:
        """Put back what was taken and not handed over."""
        self._items.extendleft(reversed(batch))
        self._taken -= len(batch)

    def _encode(self, value: Any, max_bytes: int | None, *, wrap: int = 0) -> bytes:
        run = self._run
        return codec.encode(value, max_bytes=max_bytes, dialect=run.dialect, wrap=wrap, pause=run.yield_gil)

    # --- the producer's task

    async def produce(self) -> None:
        """Pull items from the source until it ends, fails, or the guest wants no more; a task of the run."""
        items, capacity = self._items, self._source.capacity
        ended = False  # stays so when the run is cancelled: the guest must not take what it got for the whole stream
        try:
            with self.scope, HeldUp(self._run.owner):
                try:
                    async for item in self._source:
                        # The item, then the look whether the guest waits; the guest says that it waits, then looks for
                        # items.
                        items.append(item)
                        if self._waiting_op is not None:
                            self._run.notify()
                        # `_held` is set before items leave the buffer, so the sum is never too small.
                        while len(items) + self._held >= capacity:
                            await self._room.wait()
                except Exception as exc:  # noqa: BLE001 - a producer's failure is told to the guest and raised by run
                    if not self.stopped:
                        self.failure = exc
            ended = True
        finally:
            try:
                # The producer is the program's: what it holds is given back, also when the run is being cancelled.
                with anyio.CancelScope(shield=True):
                    await self._source.aclose()
            finally:
                self.is_producing = False
                self._ended = self._ended or ended
                self._cut = not self._ended
                self._run.notify()
