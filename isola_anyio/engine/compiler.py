"""Compile a module in a process of its own, because a compilation cannot be cancelled and a process can be killed.

The child is this module again (:func:`main`), with a module's path, a target and a flag as its arguments.
"""

from __future__ import annotations

__all__ = ["compile_module"]

import subprocess
import sys
from pathlib import Path
from typing import Final

import anyio

from isola_anyio.concurrency import outlast
from isola_anyio.errors import RuntimeUnavailableError, clip

_STDERR_CHARS: Final = 2000


async def compile_module(wasm: Path, target: Path, *, metered: bool) -> None:
    """Compile ``wasm`` to native code in ``target``; a minute of all cores for Python, half a second for JavaScript.

    Cancelling it kills the compiler and returns when it is gone; what it wrote of ``target`` is the caller's to remove.

    Raises:
        RuntimeUnavailableError: the module cannot be compiled; the text has the compiler's reason.
    """
    # The package is found where this process found it, whatever the child's own search path would say.
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); import {__name__} as c; c.main()"
    command = [sys.executable, "-c", start, str(wasm), str(target), str(int(metered))]
    process = await anyio.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        tail = b""
        async for chunk in process.stderr:
            tail = (tail + chunk)[-_STDERR_CHARS:]
        status = await process.wait()
    except BaseException:
        process.kill()
        raise
    finally:
        await outlast(lambda: process.returncode is not None, process.wait)
        await process.aclose()
    if status:
        reason = tail.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeUnavailableError(f"{wasm.name} could not be compiled (status {status}): {clip(reason, 500)}")


def main() -> None:
    """Compile what the command line names."""
    from isola_anyio.engine.ffi import Engine  # noqa: PLC0415 - only this process needs it

    wasm, target, metered = sys.argv[-3:]
    Engine(metered=metered == "1").compile_to(Path(wasm).read_bytes(), Path(target))
