"""Templates for tests: built as a user builds them, and shared by as many tests as possible."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

import anyio

from isola_anyio import SandboxContext, build_template

if TYPE_CHECKING:
    from collections.abc import Generator

    from isola_anyio import SandboxTemplate
    from isola_anyio.options import TemplateOptions


@contextmanager
def built_template(
    runtime: str = "python", *, context: SandboxContext | None = None, **options: Unpack[TemplateOptions]
) -> Generator[SandboxTemplate]:
    """Build a template and close it at the end.

    A template belongs to no event loop: it is built in one of its own, on a thread of its own, so that fixtures of
    every scope may use this, whichever loop runs around them.
    """
    templates: list[SandboxTemplate] = []
    failures: list[BaseException] = []

    async def build() -> None:
        try:
            make = build_template if context is None else context.build_template
            templates.append(await make(runtime, **options))
        except BaseException as exc:  # raised below, where it is seen
            failures.append(exc)

    thread = threading.Thread(target=anyio.run, args=(build,))
    thread.start()
    thread.join()
    for failure in failures:
        raise failure
    try:
        yield templates[0]
    finally:
        templates[0].close()


@contextmanager
def short_grace(template: SandboxTemplate, grace_s: float = 0.1) -> Generator[None]:
    """Give the guests of sandboxes that are created meanwhile less than the second that they have to unwind.

    For tests of what happens when the grace is over; a test of the promised second waits for the second.
    """
    context = template._context
    patience = context._patience
    context._patience = replace(patience, grace_s=grace_s)
    try:
        yield
    finally:
        context._patience = patience
