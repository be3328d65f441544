"""Runs that are cancelled while another guest holds the only CPU slot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio import SandboxContext
from tests.run.places import Place
from tests.templates import built_template
from tests.timing import SLACK
from tests.waiting import cancel_when

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio import SandboxTemplate

pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def narrow() -> Iterator[SandboxTemplate]:
    """Give a template whose context lets one guest compute at a time."""
    context = SandboxContext(max_parallel=1)
    with built_template("python", context=context) as template:
        yield template
    context.close()


@pytest.mark.parametrize("name", ["value", "nap"])
async def test_a_run_cancelled_while_it_waits_for_a_cpu_slot_is_over_at_once_and_breaks_nothing(
    narrow: SandboxTemplate, name: str
) -> None:
    hog = Place(narrow, "cpu")
    async with hog.create() as hogging, narrow.create() as other:
        await hog.load(hogging)
        await other.load_script(
            "def value(): return 5\nasync def nap():\n    import asyncio; await asyncio.sleep(0.01)"
        )
        async with anyio.create_task_group() as group:
            group.start_soon(hog.go, hogging)
            await hog.settled()
            cancelled_at = await cancel_when(anyio.wait_all_tasks_blocked, lambda: other.run(name))
            assert time.perf_counter() - cancelled_at < 1 * SLACK
            assert not other.broken
            group.cancel_scope.cancel()
        assert hogging.broken
        assert await other.run("value") == 5


@pytest.mark.parametrize("name", ["await_hostcall", "sync_wait", "asyncio_sleep", "sync_sleep"])
async def test_a_waiting_guest_unwinds_although_another_holds_the_only_slot(narrow: SandboxTemplate, name: str) -> None:
    place, hog = Place(narrow, name), Place(narrow, "cpu")
    async with place.create() as waiting, hog.create() as hogging:
        await hog.load(hogging)
        await place.load(waiting)
        async with anyio.create_task_group() as group:
            async with anyio.create_task_group() as inner:
                inner.start_soon(place.go, waiting)
                await place.settled()
                group.start_soon(hog.go, hogging)
                await hog.settled()
                began = time.perf_counter()
                inner.cancel_scope.cancel()
            assert time.perf_counter() - began < 1 * SLACK
            assert not waiting.broken, name
            group.cancel_scope.cancel()
        assert await waiting.run("look") == ["CancelledError", "finally"]
