"""Stream arguments against a plain model: producers that end, fail or hang, guests that stop early, hosts that cancel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isola_anyio import SandboxContext, SandboxTemplate, StreamArg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

READERS = {
    "python": """
async def read(items, most):
    got = []
    if most == 0:
        return got
    async for item in items:
        got.append(item)
        if len(got) == most:
            break
    return got

def read_plainly(items, most):
    got = []
    while len(got) < most:
        try:
            got.append(next(items))
        except StopIteration:
            break
    return got

async def swallow(items, most):
    try:
        return await read(items, most)
    except Exception as error:
        return type(error).__name__
""",
    "js": """
async function read(items, most) {
  const got = []
  if (most === 0) return got
  for await (const item of items) {
    got.push(item)
    if (got.length === most) break
  }
  return got
}
async function swallow(items, most) {
  try { return await read(items, most) } catch (error) { return error.name }
}
""",
}


class Boom(Exception):
    """What a producer fails with."""


@dataclass
class Producer:
    """Gives ``count`` numbers and then ends, fails or hangs; notes what became of it."""

    count: int
    end: str
    cancel_at: int | None
    scope: anyio.CancelScope
    given: int = 0
    started: bool = False
    closed: bool = False
    failed: bool = False
    done: list[str] = field(default_factory=list)

    async def items(self) -> AsyncIterator[int]:
        """Be the stream."""
        self.started = True
        try:
            while True:
                if self.given == self.cancel_at:
                    self.scope.cancel()
                    await anyio.sleep_forever()
                if self.given == self.count:
                    break
                self.given += 1
                yield self.given - 1
            if self.end == "fail":
                self.failed = True
                raise Boom
            if self.end == "hang":
                await anyio.sleep_forever()
        finally:
            self.closed = True


@pytest.fixture(scope="module", params=["python", "js"])
def reading(request: pytest.FixtureRequest) -> Iterator[SandboxTemplate]:
    """Templates whose sandboxes read streams."""
    context = SandboxContext()

    async def build() -> SandboxTemplate:
        return await context.build_template(request.param, prelude=READERS[request.param])

    yield anyio.run(build)
    context.close()


@pytest.mark.slow
@given(
    count=st.integers(0, 12),
    end=st.sampled_from(["end", "fail", "hang"]),
    most=st.integers(0, 15),
    capacity=st.integers(1, 4),
    how=st.sampled_from(["read", "read_plainly", "swallow"]),
    cancel_at=st.none() | st.integers(0, 12),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_every_interleaving_ends_as_the_model_says(
    reading: SandboxTemplate, count: int, end: str, most: int, capacity: int, how: str, cancel_at: int | None
) -> None:
    if reading.runtime == "js" and how == "read_plainly":
        how = "read"
    if end == "hang" and most > count and (cancel_at is None or cancel_at > count):
        cancel_at = count  # the run could end in no other way
    scope = anyio.CancelScope()
    producer = Producer(count, end, cancel_at, scope)
    outcome: object = None
    async with reading.create() as sandbox:
        with scope:
            try:
                outcome = await sandbox.run(
                    how, StreamArg.from_async_iterable(producer.items(), capacity=capacity), most
                )
            except Boom:
                outcome = Boom
        assert producer.closed == producer.started
        given = producer.given
        if not sandbox.broken:
            assert await sandbox.run("read", StreamArg.from_iterable([1, 2]), 5) == [1, 2]
        assert producer.given == given
    wanted = list(range(min(most, count)))
    if scope.cancelled_caught:
        assert cancel_at is not None
    elif producer.failed:
        # What failed ahead of a guest that had enough by then may be told or not; never anything else.
        assert outcome is Boom or (outcome == wanted and most <= count)
    else:
        assert outcome == wanted
