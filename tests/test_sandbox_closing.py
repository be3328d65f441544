"""A sandbox whose closing is cancelled closes all the same, and gives everything back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio import SandboxClosedError
from tests.run.places import Place

if TYPE_CHECKING:
    from isola_anyio import Sandbox, SandboxTemplate


async def test_cancelled_between_fork_and_first_use_everything_is_given_back(template: SandboxTemplate) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with template.create():
            pytest.fail("the body ran")
    assert scope.cancelled_caught
    sandbox = await template.instantiate()
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with sandbox:
            pytest.fail("the body ran")
    assert scope.cancelled_caught
    await sandbox.aclose()
    with anyio.CancelScope() as scope:
        async with template.create() as sandbox:
            scope.cancel()
            await sandbox.load_script("x = 1")
    assert sandbox.closed


@pytest.mark.parametrize("name", ["await_hostcall", "cpu"])
async def test_a_cancelled_aclose_closes_all_the_same(template: SandboxTemplate, name: str) -> None:
    place = Place(template, name)
    ended: list[str] = []

    async def go(sandbox: Sandbox) -> None:
        with pytest.raises(SandboxClosedError):
            await place.go(sandbox)
        ended.append("closed")

    sandbox = await template.instantiate(hostcalls=place.handlers)
    await sandbox.start()
    await place.load(sandbox)
    async with anyio.create_task_group() as group:
        group.start_soon(go, sandbox)
        await place.settled()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await sandbox.aclose()
        assert sandbox.closed
        with anyio.fail_after(2):
            await sandbox.aclose()
    assert ended == ["closed"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_aclose_cancelled_twice_natively_closes_all_the_same(template: SandboxTemplate) -> None:
    place = Place(template, "cpu")
    sandbox = await template.instantiate(hostcalls=place.handlers)
    await sandbox.start()
    await place.load(sandbox)
    run = asyncio.create_task(place.go(sandbox))
    await place.settled()
    close = asyncio.create_task(sandbox.aclose())
    await asyncio.sleep(0)
    close.cancel()
    await asyncio.sleep(0)
    close.cancel()
    with pytest.raises(asyncio.CancelledError):
        await close
    with pytest.raises(SandboxClosedError):
        await run
    await asyncio.wait_for(sandbox.aclose(), 2)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_leaving_the_with_natively_cancelled_is_still_a_cancellation(template: SandboxTemplate) -> None:
    async def body() -> str:
        async with template.create() as sandbox:
            await sandbox.load_script("x = 1")
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        return "went on"

    task = asyncio.create_task(body())
    with pytest.raises(asyncio.CancelledError):
        await task
