"""How far a request walks: host-side calls, moves between files, and files, counted by a profile hook.

``python -m tests.bench.walk add`` prints one trip's way, call by call.

Counts do not depend on how busy the machine is, so they can be compared between commits; they are what a reader has to
follow, too.
"""

from __future__ import annotations

__all__ = ["Walk", "run"]

import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import anyio

import isola_anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType

ROOT: Final = str(Path(isola_anyio.__file__).parent)
GUEST: Final = """
from sandbox.asyncio import hostcall, run
def add(a, b): return a + b
async def plain(): return await hostcall("plain", 1)
async def waits(): return await hostcall("waits", 1)
"""


class Walk:
    """Counts the calls of the package's functions while it is entered; on every thread."""

    def __init__(self) -> None:
        self.path: list[tuple[str, str]] = []

    def _on_event(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            self.path.append((frame.f_code.co_filename[len(ROOT) + 1 :], frame.f_code.co_qualname))

    def __enter__(self) -> Self:
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    @property
    def calls(self) -> int:
        """Calls of functions of the package."""
        return len(self.path)

    @property
    def moves(self) -> int:
        """Calls that go to another file than the one before."""
        return sum(a[0] != b[0] for a, b in zip(self.path, self.path[1:], strict=False))

    @property
    def files(self) -> int:
        """Files walked through."""
        return len({file for file, _ in self.path})


async def trip(walk: Walk, work: Callable[[], Awaitable[object]]) -> None:
    """Walk a warm trip: what is counted is the third."""
    for _ in range(3):
        walk.path.clear()
        await work()


async def run(show: str | None = None) -> None:
    """Print the table; ``show`` names a trip whose way is printed as well."""

    async def waits(payload: int) -> int:
        return payload

    handlers = {"plain": lambda payload: payload, "waits": waits}
    async with isola_anyio.SandboxContext() as context:
        template = await context.build_template("python")
        with Walk() as walk:
            async with template.create(hostcalls=handlers) as sandbox:
                await sandbox.load_script(GUEST)
                for name, arguments in (("add", (1, 2)), ("plain", ()), ("waits", ())):
                    await trip(walk, partial(sandbox.run, name, *arguments))
                    print(f"{name:8} {walk.calls:4} calls {walk.moves:4} moves {walk.files:3} files")
                    if show == name:
                        for file, function in list(walk.path):
                            print("   ", file, function)


if __name__ == "__main__":
    anyio.run(run, sys.argv[1] if len(sys.argv) > 1 else None)
