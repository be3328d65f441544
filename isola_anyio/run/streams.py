"""Feed a guest's stream argument from a producer on the host, with backpressure.

The producer's task fills a bounded buffer; the guest's thread takes batches out of it, encoded there. Whoever finds
nothing to do waits for the other: the producer for room, the guest (which returns to the host meanwhile) for items.

What waits for the guest is what is in the buffer, and of the last batch all but the first item, which the guest asked
for: until it asks again nobody knows how many of those its code has got. So a batch is half of the capacity at most,
and while the guest works through one the producer makes the next.
"""

from __future__ import annotations

__all__ = ["Feed", "FeedFailed"]

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import anyio

from isola_anyio import codec
from isola_anyio.concurrency import HeldUp
from isola_anyio.engine.wakeup import Wakeup
from isola_anyio.errors import InvalidArgumentError
from isola_anyio.guests.protocol import Status, completion

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.codec import Dialect
    from isola_anyio.values import JsonValue, StreamSource

BATCH_ITEMS: Final = 256
"""Items that cross in one frame at most."""
BATCH_BYTES: Final = 1 << 20
"""Encoded bytes after which a batch is closed."""


class FeedFailed(Exception):  # noqa: N818 - says what happened
    """Carries a producer's exception out of the feed's own bookkeeping."""


class Feed:
    """One stream argument of one run."""

    def __init__(
        self,
        source: StreamSource,
        *,
        owner: object,
        dialect: Dialect,
        max_payload: int,
        pause: Callable[[], object],
        on_news: Callable[[], None],
    ) -> None:
        self._source = source
        self._owner = owner
        self._dialect: Dialect = dialect
        self._max_payload = max_payload
        self._pause = pause
        self._on_news = on_news
        self._items: deque[JsonValue] = deque()
        self._ended = False
        self._held = 0
        """Items handed over that may be waiting inside the guest."""
        self._waiting_op: int | None = None
        self._room = Wakeup()
        self._taken = 0
        self.scope = anyio.CancelScope()
        self.failure: BaseException | None = None
        self.stopped = False

    @property
    def has_news(self) -> bool:
        """Whether the guest waits for this stream and there is something for it."""
        return self._waiting_op is not None and bool(self._items or self._ended)

    # --- the guest's thread

    def completion(self) -> bytes | None:
        """Answer the READ that waits, if there is something for it now."""
        op = self._waiting_op
        if op is None:
            return None
        answer = self._answer()
        if answer is None:
            return None
        self._waiting_op = None
        return completion(op, *answer)

    def read(self, op: int) -> bytes:
        """Answer READ: a batch, the end, or nothing when the guest has to wait."""
        self._held = 0
        self._room.set()
        answer = self._answer()
        if answer is None:
            self._waiting_op = op
            # The producer may have put an item between the look and the line above.
            answer = self._answer()
            if answer is None:
                return b""
            self._waiting_op = None
        status, body = answer
        return bytes((status,)) + body

    def stop(self) -> None:
        """The guest wants no more."""
        self.stopped = True
        self._items.clear()
        self._on_news()

    def _answer(self) -> tuple[Status, bytes] | None:
        items = self._items
        if items:
            return self._batch()
        if not self._ended:
            return None
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
            body = self._encode(batch, min(BATCH_BYTES, self._max_payload), wrap=1)
        except codec.EncodeError:
            return self._careful_batch(batch)
        except BaseException:  # the guest is being stopped, but may yet unwind
            items.extendleft(reversed(batch))
            self._taken -= count
            self._held = 0
            raise
        return Status.ITEMS, body

    def _careful_batch(self, batch: list[JsonValue]) -> tuple[Status, bytes]:
        """Send what can be sent of a batch that is too large or holds an item that cannot cross."""
        good: list[JsonValue] = []
        size = 0
        while batch:
            try:
                size += len(self._encode(batch[0], self._max_payload))
            except codec.EncodeError as exc:
                if good:
                    break
                index = self._taken - len(batch)
                self.failure = InvalidArgumentError(f"item {index} of a stream argument: {exc}")
                self._ended = True
                self._items.clear()
                batch.clear()
                self.stopped = True
                self._on_news()
                text = str(self.failure)
                return Status.PRODUCER_FAILED, codec.encode({"type": "InvalidArgumentError", "message": text})
            if good and size > BATCH_BYTES:
                break
            good.append(batch.pop(0))
        self._taken -= len(batch)
        self._items.extendleft(reversed(batch))
        self._held = len(good) - 1
        return Status.ITEMS, self._encode(good, None, wrap=1)

    def _encode(self, value: Any, max_bytes: int | None, *, wrap: int = 0) -> bytes:
        return codec.encode(value, max_bytes=max_bytes, dialect=self._dialect, wrap=wrap, pause=self._pause)

    # --- the run's loop

    async def produce(self) -> None:
        """Pull items from the source until it ends, fails, or the guest wants no more; a task of the run."""
        items, capacity = self._items, self._source.capacity
        ended = False  # stays so when the run is cancelled: the guest must not take what it got for the whole stream
        try:
            with self.scope, HeldUp(self._owner):
                try:
                    async for item in self._source:
                        items.append(item)
                        if self._waiting_op is not None:
                            self._on_news()
                        while len(items) + self._held >= capacity:
                            await self._room.wait()
                except Exception as exc:  # noqa: BLE001 - a producer's failure is told to the guest and raised by run
                    if not self.stopped:
                        self.failure = exc
            ended = True
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await self._source.aclose()
            finally:
                self._ended = self._ended or ended
                self._on_news()
