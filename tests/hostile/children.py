"""Attacks that end the process when they succeed: run in a process of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def run_child(code: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """Run a script that ends by printing ``end``; return what it printed before.

    The script finds ``anyio`` and ``isola_anyio as ia`` imported.
    """
    head = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport anyio, isola_anyio as ia\n"
    command = [sys.executable, *options, "-c", head + textwrap.dedent(code), *arguments]
    child = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert child.returncode == 0, f"status {child.returncode}\n{child.stdout}\n{child.stderr}"
    assert child.stdout.endswith("end\n"), child.stdout + child.stderr
    return child.stdout.removesuffix("end\n")
