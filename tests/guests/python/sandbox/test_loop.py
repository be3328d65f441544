"""What a run's end finishes: generators that were left, callbacks of the last turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio import build_template
from tests.loops import ONE_LOOP

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

pytestmark = ONE_LOOP

FINALISING = """
import asyncio
from sandbox.asyncio import run
seen = []
def look():
    found = list(seen)
    seen.clear()
    return found
async def counting():
    try:
        for i in range(5): yield i
    finally:
        seen.append("begun")
        await asyncio.sleep(0.01)
        seen.append("ended")
async def breaks():
    async for i in counting():
        if i == 2: break
    return i
def breaks_in_run(): return run(breaks())
def breaks_in_asyncio_run(): return asyncio.run(breaks())
kept = []
async def keeps():
    kept.append(counting())
    return await anext(kept[-1]) + 2
async def dropped_by_a_callback():
    kept.append(counting())
    await anext(kept[-1])
    asyncio.get_running_loop().call_soon(kept.clear)
    return 2
async def held_by_a_task():
    async def read():
        async for i in counting():
            try:
                await asyncio.sleep(3600)
            finally:
                seen.append("reader")
                await asyncio.sleep(0.01)
    asyncio.create_task(read())
    await asyncio.sleep(0)
    return 2
async def callback():
    asyncio.get_running_loop().call_soon(seen.append, "ran")
    return 2
async def done_callback():
    asyncio.current_task().add_done_callback(lambda task: seen.append("ran"))
    return 2
"""


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("breaks", ["begun", "ended"]),
        ("breaks_in_run", ["begun", "ended"]),
        ("breaks_in_asyncio_run", ["begun", "ended"]),
        ("keeps", ["begun", "ended"]),
        ("dropped_by_a_callback", ["begun", "ended"]),
        ("held_by_a_task", ["reader", "begun", "ended"]),
        ("callback", ["ran"]),
        ("done_callback", ["ran"]),
    ],
)
async def test_generators_left_and_callbacks_of_the_last_turn_are_finished_before_the_run_ends(
    template: SandboxTemplate, name: str, seen: list[str]
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(FINALISING)
        for _ in range(2):
            async with sandbox.run_stream(name) as events:
                ended = [(event.type, event.data) async for event in events]
            assert ended == [("end", 2)]  # and nothing on stderr
            assert await sandbox.run("look") == seen


async def test_what_a_prelude_left_is_finished_before_the_image_is_taken() -> None:
    template = await build_template("python", prelude=FINALISING + "await breaks()\nawait callback()\nawait keeps()\n")
    try:
        async with template.create() as sandbox:
            found: Any = await sandbox.run("look")
            assert sorted(found) == ["begun", "begun", "ended", "ended", "ran"]
    finally:
        template.close()
