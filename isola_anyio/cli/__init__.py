"""Command line: ``isola-anyio``, and ``python -m isola_anyio``."""

from __future__ import annotations

__all__ = ["main"]

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    The commands are imported when one is run: a program that only embeds sandboxes imports ``cli.doctor`` alone.
    """
    from isola_anyio.cli.commands import main as run_command  # noqa: PLC0415 - see above

    return run_command(arguments)
