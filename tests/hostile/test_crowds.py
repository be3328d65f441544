"""Crowds: what hundreds of guests can do to an event loop and a neighbour that one cannot.

They compute together, wait together, and are cancelled in one step. Nothing here is about one guest's attack, so there
is no table: each test makes its crowd and says how it ends.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import anyio
import pytest

from isola_anyio import IsolaError, Sandbox, SandboxTemplate
from tests.hostile.conftest import Neighbours, Templates
from tests.hostile.harness import GUEST, HANDLERS
from tests.hostile.watch import Watch, watching
from tests.timing import NOISE
from tests.waiting import until

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc"),
    pytest.mark.slow,
    pytest.mark.timing,
    pytest.mark.timeout(120),
]

GAP_S: Final = 0.05
ANSWER_S: Final = 0.5
ALL_ASIDE_S: Final = 4.0
"""Guests that compute for ever take turns after two seconds; by then each of a crowd has had one."""
SPIN: Final = "function attack() { for (;;); }"
PARK_AND_SPIN: Final = "async function attack() { try { await hostcall('parked') } finally { for (;;); } }"
PARK: Final = "async function attack() { await hostcall('parked') }"
SLEEP: Final = "async function attack() { hostcall('parked'); await new Promise((r) => setTimeout(r, 1e8)) }"


class Crowd:
    """Sandboxes that are all given the same attack.

    Attributes:
        parked: how many of their guests have called the handler ``parked``.
    """

    def __init__(self) -> None:
        self.sandboxes: list[Sandbox] = []
        self.parked = 0

    async def park(self, payload: object) -> None:
        """Be the handler; it never answers."""
        self.parked += 1
        await anyio.sleep_forever()

    async def attack(self, sandbox: Sandbox) -> None:
        with suppress(IsolaError):
            await sandbox.run("attack")

    async def all_parked(self) -> None:
        await until(lambda: self.parked == len(self.sandboxes))


@asynccontextmanager
async def crowd_of(count: int, script: str, template: SandboxTemplate) -> AsyncGenerator[Crowd]:
    crowd = Crowd()
    async with AsyncExitStack() as stack:
        for _ in range(count):
            options: dict[str, Any] = {"hostcalls": {**HANDLERS, "parked": crowd.park}}
            sandbox = await template.instantiate(**options)
            stack.push_async_callback(sandbox.aclose)
            await sandbox.start()
            await sandbox.load_script(GUEST["js"] + script)
            crowd.sandboxes.append(sandbox)
        yield crowd


async def cancel_together(
    runs: Sequence[Callable[[], Coroutine[Any, Any, object]]],
    ready: Callable[[], Awaitable[object]],
    neighbour: Sandbox,
) -> Watch:
    """Start everything, and cancel it in one step when it is ready; return what the loop and the neighbour met.

    What starting them costs the loop is the program's own doing, and is not counted.
    """
    scope, over = anyio.CancelScope(), anyio.Event()

    async def all_runs() -> None:
        with scope:
            async with anyio.create_task_group() as group:
                for run in runs:
                    group.start_soon(run)
        over.set()

    async with anyio.create_task_group() as group:
        group.start_soon(all_runs)
        await ready()
        async with watching(neighbour) as watch:
            await until(lambda: watch.answers > 2)
            scope.cancel()
            await over.wait()
    return watch


def check(watch: Watch) -> None:
    gap, answer = watch.max_gap_s, watch.max_answer_s
    assert gap <= GAP_S * NOISE, f"the event loop stood still for {gap * 1000:.0f} ms"
    assert answer <= ANSWER_S * NOISE, f"the neighbour waited {answer:.2f} s for an answer"


@pytest.mark.parametrize("script", [PARK_AND_SPIN, PARK, SLEEP], ids=["spin in their cleanup", "call", "sleep"])
@pytest.mark.parametrize("count", [80, 400])
async def test_guests_that_wait_are_cancelled_together(
    script: str, count: int, templates: Templates, neighbours: Neighbours
) -> None:
    if script is PARK_AND_SPIN and count > 80:
        pytest.skip("each has a second of grace, and so many slots")
    template = templates("js", False)
    neighbour = await neighbours(template)
    async with crowd_of(count, script, template) as crowd:
        runs = [partial(crowd.attack, sandbox) for sandbox in crowd.sandboxes]
        check(await cancel_together(runs, crowd.all_parked, neighbour))


@pytest.mark.parametrize("count", [1000, 4000])
async def test_runs_in_line_are_cancelled_together(count: int, templates: Templates, neighbours: Neighbours) -> None:
    template = templates("js", False)
    neighbour = await neighbours(template)
    # So many tasks cost the event loop its time whatever they wait for.
    plain = await cancel_together([anyio.sleep_forever] * count, anyio.wait_all_tasks_blocked, neighbour)
    async with crowd_of(1, PARK, template) as crowd:
        runs = [partial(crowd.attack, crowd.sandboxes[0]) for _ in range(count)]
        watch = await cancel_together(runs, crowd.all_parked, neighbour)
    if count > 1000:
        watch.max_gap_s -= 2 * plain.max_gap_s
    check(watch)


async def test_guests_that_compute_for_ever_take_turns_with_a_neighbour(
    templates: Templates, neighbours: Neighbours
) -> None:
    template = templates("js", False)
    neighbour = await neighbours(template)
    async with crowd_of(80, SPIN, template) as crowd:

        async def turns_begin() -> None:
            await anyio.sleep(ALL_ASIDE_S)

        runs = [partial(crowd.attack, sandbox) for sandbox in crowd.sandboxes]
        check(await cancel_together(runs, turns_begin, neighbour))
