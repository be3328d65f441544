"""Conductor: carries out one assault, and ends it as it says; what is raised must be of the contract."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import sniffio

from isola_anyio import IsolaError, Sandbox, SandboxTemplate
from tests.hostile.attack import Outcome, is_of_the_contract
from tests.hostile.harness import GUEST, HANDLERS, World, texts
from tests.siege.assaults import Assault, misbehaving
from tests.siege.checks import Ledger

PIECE = 2000
"""Items of a value that are freed in one step, as a program must that does not want to block its own loop."""
AGAIN_S = 0.02
"""Between two cancellations by an impatient program."""

Templates = Callable[[str, bool], SandboxTemplate]


class LeftError(Exception):
    """Raised in the body of a sandbox's ``async with``."""


class Conductor:
    """Carries out assaults.

    Args:
        templates: gives the template by runtime and whether it is metered.
        ledger: told of what runs, and of what is wrong.
        world: what must not get out.
    """

    def __init__(self, templates: Templates, ledger: Ledger, world: World) -> None:
        self._templates = templates
        self._ledger = ledger
        self._world = world

    async def conduct(self, actor: int, assault: Assault) -> None:
        """Carry out an assault; returns when nothing of it is left."""
        async with self._mounted(assault) as world:
            with self._ledger.noting(actor, assault):
                if assault.ending == "scope":
                    with anyio.move_on_after(assault.after_s):
                        await self._crowd(assault, world)
                elif assault.ending == "native":
                    await _cancel_natively(assault, lambda: self._crowd(assault, world))
                elif assault.ending == "impatient":
                    await _cancel_impatiently(assault, lambda: self._crowd(assault, world))
                else:
                    await self._crowd(assault, world)

    @asynccontextmanager
    async def _mounted(self, assault: Assault) -> AsyncGenerator[World]:
        """Make directories for one assault; files by the thousand are removed on a thread."""
        if not assault.attack.mounts:
            yield self._world
            return
        world = World(Path(tempfile.mkdtemp(dir=self._world.root)))
        try:
            yield world
            world.check_untouched()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(shutil.rmtree, world.root)

    async def _crowd(self, assault: Assault, world: World) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(assault.sandboxes):
                group.start_soon(self._sandbox, assault, world)

    async def _sandbox(self, assault: Assault, world: World) -> None:
        template = self._templates(assault.attack.runtime, assault.metered)
        handlers = misbehaving(Random(assault.seed), lambda: sandbox) if assault.misbehaving else HANDLERS
        end = anyio.current_time() + assault.after_s
        try:
            async with template.create(
                hostcalls=handlers, mounts=world.mounts(assault.attack.mounts), **assault.options
            ) as sandbox:
                if assault.ending == "close":
                    await self._closed(assault, sandbox, end)
                elif assault.ending == "leave":
                    await self._left(assault, sandbox, end)
                else:
                    await self._all_runs(assault, sandbox)
        except LeftError:
            pass
        except IsolaError as exc:
            self._check(exc)

    async def _closed(self, assault: Assault, sandbox: Sandbox, end: float) -> None:
        """Close the sandbox while it runs."""
        async with anyio.create_task_group() as group:

            async def strike() -> None:
                await self._all_runs(assault, sandbox)
                group.cancel_scope.cancel()

            group.start_soon(strike)
            await anyio.sleep_until(end)
            await sandbox.aclose()

    async def _left(self, assault: Assault, sandbox: Sandbox, end: float) -> None:
        """Leave the sandbox's body by an exception while a stream of it is open."""
        with anyio.move_on_after(end - anyio.current_time()), suppress(IsolaError):
            await sandbox.load_script(GUEST[assault.attack.runtime] + assault.attack.script)
            stream = sandbox.run_stream("attack", *assault.attack.args)
            async for _ in stream:
                pass
        raise LeftError

    async def _all_runs(self, assault: Assault, sandbox: Sandbox) -> None:
        attack = assault.attack
        if not await self._guarded(lambda: sandbox.load_script(GUEST[attack.runtime] + attack.script)):
            return
        async with anyio.create_task_group() as group:
            for _ in range(assault.runs):
                group.start_soon(self._guarded, lambda: self._run(assault, sandbox))

    async def _guarded(self, call: Callable[[], Awaitable[object]]) -> bool:
        """Make a call; what it raises must be of the contract, and tell nothing."""
        try:
            value = await call()
        except IsolaError as exc:
            self._check(exc)
            return False
        if isinstance(value, str | bytes):
            self._check_text(texts(Outcome(value=value)))
        await _let_go(value)
        return True

    async def _run(self, assault: Assault, sandbox: Sandbox) -> Any:
        name, args = "attack", assault.attack.args
        if not assault.stream:
            return await sandbox.run(name, *args)
        async with sandbox.run_stream(name, *args) as events:
            if assault.stream == "slowly":
                await anyio.sleep(0.2)
            async for event in events:
                if event.type == "error":
                    raise event.exception
                if event.type == "end":
                    return event.data
                if assault.stream == "dropped":
                    return None
        return None

    def _check(self, error: IsolaError) -> None:
        if not is_of_the_contract(error):
            self._ledger.violate("contract", repr(error)[:2000])
        self._check_text(texts(Outcome(error=error)))

    def _check_text(self, found: list[str]) -> None:
        try:
            self._world.check_says_nothing(" ".join(found))
        except AssertionError as exc:
            self._ledger.violate("secret", str(exc))


async def _cancel_natively(assault: Assault, crowd: Callable[[], Awaitable[None]]) -> None:
    if sniffio.current_async_library() == "trio":
        import trio

        with trio.move_on_after(assault.after_s):
            await crowd()
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(assault.after_s):
            await crowd()


async def _cancel_impatiently(assault: Assault, crowd: Callable[[], Awaitable[None]]) -> None:
    """Cancel again and again until it is over: a trio scope does that by itself, asyncio's tasks are asked to."""
    if sniffio.current_async_library() == "trio":
        await _cancel_natively(assault, crowd)
        return
    task = asyncio.ensure_future(crowd())
    timeout = assault.after_s
    try:
        while not (await asyncio.wait([task], timeout=timeout))[0]:
            task.cancel()
            timeout = AGAIN_S
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def _let_go(value: Any) -> None:
    """Free a large value in pieces: the program's own part, which must not be blamed on the library."""
    while isinstance(value, list) and len(value) > PIECE:
        del value[-PIECE:]
        await anyio.lowlevel.checkpoint()
