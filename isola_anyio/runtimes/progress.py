"""Progress: what a caller is told while a slow step goes on."""

from __future__ import annotations

__all__ = ["OnProgress", "Progress", "Stage", "check_on_progress"]

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, final

from isola_anyio.errors import InvalidArgumentError, clip

Stage = Literal["download", "verify", "compile", "warm"]
"""What is being done: fetching a runtime, checking and unpacking it, compiling it, running the prelude."""


@final
@dataclass(frozen=True)
class Progress:
    """How far a stage has come.

    Attributes:
        stage: ``"download"``: the runtime is fetched; ``"verify"``: its files are checked and unpacked; ``"compile"``;
            ``"warm"``: the interpreter starts and the prelude runs.
        done: how much is done: bytes for ``"download"`` and ``"verify"``, 0 or 1 for the others.
        total: how much there is to do in all, in the same unit; ``None`` when unknown.
    """

    stage: Stage
    done: int
    total: int | None = None


OnProgress = Callable[[Progress], object]
"""A plain function, called on the caller's event loop; what it raises ends the build."""


def check_on_progress(value: object) -> OnProgress | None:
    """Return ``value`` if it can be called with a ``Progress``.

    Raises:
        InvalidArgumentError: it is not callable, or is an async function, which nobody would await.
    """
    if value is None:
        return None
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise InvalidArgumentError(f"on_progress must be a plain function of one argument or None, not {clip(value)}")
    return cast("OnProgress", value)
