"""Guests that get to one place, say so, and stay there until they are cancelled.

They say so by a file, which the host sees at once: a hostcall would be a place of its own, where a cancellation may
find them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio

from isola_anyio import StreamArg
from tests.waiting import Never, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from isola_anyio import Sandbox, SandboxTemplate

CODE: Final = """
import asyncio, time
from sandbox.asyncio import hostcall, run
log = []
def noted(function):
    def plain(*args):
        try:
            return function(*args)
        except BaseException as error:
            log.append(type(error).__name__)
            raise
        finally:
            log.append("finally")
    return plain
def noted_async(function):
    async def coroutine(*args):
        try:
            return await function(*args)
        except BaseException as error:
            log.append(type(error).__name__)
            raise
        finally:
            await asyncio.sleep(0)
            log.append("finally")
    return coroutine
def arrive():
    open("/tmp/here", "w").close()
@noted
def cpu():
    arrive()
    while True: pass
@noted
def regex():
    import re
    arrive()
    re.match(r"(a*)*$", "a" * 60 + "b")
@noted
def time_sleep():
    arrive()
    time.sleep(60)
@noted
def sync_wait():
    arrive()
    run(hostcall("never"))
@noted
def sync_sleep():
    arrive()
    run(asyncio.sleep(60))
@noted_async
async def await_hostcall():
    arrive()
    await hostcall("never")
@noted_async
async def asyncio_sleep():
    arrive()
    await asyncio.sleep(60)
@noted_async
async def gathered():
    arrive()
    await asyncio.gather(hostcall("never"), asyncio.sleep(60), asyncio.sleep(50))
@noted_async
async def spinning_politely():
    arrive()
    while True: await asyncio.sleep(0)
@noted
def printing():
    arrive()
    while True: print("x" * 200)
def generating():
    try:
        arrive()
        while True: yield "x" * 200
    except BaseException as error:
        log.append(type(error).__name__)
        raise
    finally:
        log.append("finally")
async def generating_async():
    try:
        arrive()
        while True: yield "x" * 200
    except BaseException as error:
        log.append(type(error).__name__)
        raise
    finally:
        log.append("finally")
@noted_async
async def reading(stream):
    arrive()
    async for x in stream: pass
@noted
def reading_plain(stream):
    arrive()
    for x in stream: pass
async def slow_to_unwind(seconds):
    try:
        arrive()
        await hostcall("never")
    finally:
        await asyncio.sleep(seconds)
        log.append("unwound")
async def cleans_up_with_a_hostcall():
    try:
        arrive()
        await hostcall("never")
    finally:
        log.append(await hostcall("clean"))
async def swallows():
    arrive()
    while True:
        try: await hostcall("never")
        except BaseException: pass
def swallows_plain():
    arrive()
    while True:
        try: run(hostcall("never"))
        except BaseException: pass
def swallows_prints():
    arrive()
    while True:
        try: print("x" * 1000)
        except BaseException: pass
async def suppresses_once():
    arrive()
    try: await hostcall("never")
    except asyncio.CancelledError: return "finished all the same"
def look(): return list(log)
"""

CALLING: Final = ("sync_wait", "await_hostcall", "gathered")
STUBBORN: Final = ("slow_to_unwind", "cleans_up_with_a_hostcall", "swallows", "swallows_plain", "suppresses_once")
STREAMED: Final = ("printing", "generating", "generating_async")
READING: Final = ("reading", "reading_plain")
WAITING: Final = (*CALLING, "sync_sleep", "asyncio_sleep", "spinning_politely", *STREAMED, *READING)
COMPUTING: Final = ("cpu", "regex", "time_sleep")


class Place:
    """A sandbox that gets to one place and stays there until it is cancelled."""

    def __init__(self, template: SandboxTemplate, name: str) -> None:
        self.template = template
        self.name = name
        self.never = Never()
        self.cancelled_at = 0.0
        self._sandbox: Sandbox | None = None

    @property
    def handlers(self) -> dict[str, Any]:
        """What ``create`` takes."""
        return {"never": self.never}

    def create(self) -> Sandbox:
        """Make its sandbox."""
        return self.template.create(hostcalls=self.handlers, max_output=1 << 40)

    async def load(self, sandbox: Sandbox) -> None:
        """Load its code."""
        self._sandbox = sandbox
        await sandbox.load_script(CODE)

    async def go(self, sandbox: Sandbox, *args: Any) -> None:
        """Stay there."""
        if self.name in STREAMED:
            async with sandbox.run_stream(self.name) as events:
                await events.receive()
                await anyio.sleep_forever()
        elif self.name in READING:
            await sandbox.run(self.name, StreamArg.from_async_iterable(self._endless()))
        else:
            await sandbox.run(self.name, *args)

    async def settled(self) -> None:
        """Wait until the guest is there: it has written its file, and called what it calls."""
        assert self._sandbox is not None
        await until(self._sandbox.mount("/tmp").list)
        if self.name in (*CALLING, *STUBBORN, *READING):
            await self.never.entered.wait()

    async def _endless(self) -> AsyncIterator[int]:
        with self.never:
            yield 1
            await anyio.sleep_forever()
