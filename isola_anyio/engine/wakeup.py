"""Wakeup: the way back from any thread into an event loop.

A :class:`Wakeup` is a level, not a queue. Data is put somewhere first, then :meth:`Wakeup.set` is called; any number of
sets before the task looks is one wake-up, and costs one crossing.
"""

from __future__ import annotations

__all__ = ["Wakeup", "current_loop", "loop_caller", "loop_finder"]

from typing import TYPE_CHECKING, Any

import anyio
import sniffio

if TYPE_CHECKING:
    from collections.abc import Callable


def current_loop() -> object:
    """Return what stands for the running event loop and no other; ``None`` where none runs."""
    try:
        if sniffio.current_async_library() == "trio":
            import trio  # noqa: PLC0415 - only where it is running

            return trio.lowlevel.current_trio_token()
        import asyncio  # noqa: PLC0415 - only where it is running

        return asyncio.get_running_loop()
    except RuntimeError:  # a thread, which may have a loop's context all the same
        return None


def loop_finder() -> Callable[[], object]:
    """Return a function that gives what :func:`current_loop` does as long as a loop of this kind runs.

    Cheaper, for who asks at every call: asyncio's is one call into C. It raises ``RuntimeError`` where no loop of this
    kind is running.
    """
    if sniffio.current_async_library() == "trio":
        import trio  # noqa: PLC0415 - only where it is running

        return trio.lowlevel.current_trio_token
    import asyncio  # noqa: PLC0415 - only where it is running

    return asyncio.get_running_loop


def loop_caller() -> Callable[[Callable[[], Any]], None]:
    """Return a function that any thread may use to call something soon in the running event loop.

    Once that loop has ended the call is dropped: nobody is left to be woken.
    """
    if sniffio.current_async_library() == "trio":
        import trio  # noqa: PLC0415 - only where it is running

        token = trio.lowlevel.current_trio_token()

        def call_trio(function: Callable[[], Any]) -> None:
            try:
                token.run_sync_soon(function)
            except trio.RunFinishedError:
                return

        return call_trio

    import asyncio  # noqa: PLC0415 - only where it is running

    loop = asyncio.get_running_loop()

    def call_asyncio(function: Callable[[], Any]) -> None:
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed
            return

    return call_asyncio


class Wakeup:
    """A flag that any thread raises and one task waits for; made inside the task's event loop."""

    __slots__ = ("_call", "_event", "_raised", "_scheduled")

    def __init__(self) -> None:
        self._call = loop_caller()
        self._scheduled = False
        self._raised = False
        self._event: anyio.Event | None = None

    def set(self) -> None:
        """Wake the task; from any thread."""
        # `_scheduled` is cleared before the flag is raised, so a set that finds it still up belongs to a wake-up that
        # has yet to happen, and what was put before that set is seen. So it is when the flag is up and not yet lowered.
        if not self._scheduled and not self._raised:
            self._scheduled = True
            self._call(self._raise)

    def _raise(self) -> None:
        self._scheduled = False
        self._raised = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Wait for the flag and lower it. Cancelling leaves it as it was."""
        if not self._raised:
            self._event = anyio.Event()
            try:
                await self._event.wait()
            finally:
                self._event = None
        self._raised = False
