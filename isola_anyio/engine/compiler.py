"""Compiler: one module, in a process of its own, because a compilation cannot be cancelled and a process can be killed.

The child is this module again (:func:`main`), with a module's path, a target and a flag as its arguments.
"""

from __future__ import annotations

__all__ = ["compile_module"]

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from isola_anyio.errors import RuntimeUnavailableError, clip

if TYPE_CHECKING:
    from collections.abc import Callable

_STDERR_BYTES: Final = 2000


def compile_module(wasm: Path, target: Path, *, metered: bool, pause: Callable[[], object]) -> None:
    """Compile ``wasm`` to native code in ``target``; a minute of all cores for Python, half a second for JavaScript.

    ``pause`` is called again and again until the compiler is done: it waits a moment, and raises to stop the compiler,
    which is killed and gone before that exception is passed on. What it wrote of ``target`` is the caller's to remove.

    Raises:
        RuntimeUnavailableError: the module cannot be compiled; the text has the compiler's reason.
        OSError: there can be no other process.
    """
    # The package is found where this process found it, whatever the child's own search path would say.
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); import {__name__} as c; c.main()"
    command = [sys.executable, "-c", start, str(wasm), str(target), str(int(metered))]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(  # noqa: S603 - ours
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints
        )
        with process:
            try:
                while process.poll() is None:
                    pause()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            complaints.seek(max(0, complaints.seek(0, 2) - _STDERR_BYTES))
            reason = complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeUnavailableError(
                f"{wasm.name} could not be compiled (status {process.returncode}): {clip(reason, 500)}"
            )


def main() -> None:
    """Compile what the command line names."""
    from isola_anyio.engine.ffi import Engine  # noqa: PLC0415 - only this process needs it

    wasm, target, metered = sys.argv[-3:]
    Engine(metered=metered == "1").compile_to(Path(wasm).read_bytes(), Path(target))
