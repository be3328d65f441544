"""One template of each kind for the whole suite, and a world with secrets in it."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from isola_anyio import SandboxContext, SandboxTemplate
from tests.hostile.harness import CANARY, CANARY_NAME, World

Templates = Callable[..., Awaitable[SandboxTemplate]]


@pytest.fixture(scope="session")
def templates() -> Iterator[Templates]:
    """Give a template by runtime; a template belongs to no event loop, so one does for all tests."""
    context = SandboxContext()
    made: dict[tuple[str, bool], SandboxTemplate] = {}

    async def get(runtime: str, *, metered: bool = False) -> SandboxTemplate:
        template = made.get((runtime, metered))
        if template is None:
            template = made[runtime, metered] = await context.build_template(runtime, metered=metered)
            if runtime == "js":
                async with template.create() as sandbox:  # what strips types is open from its first use on
                    await sandbox.load_script("let typed: number")
        return template

    yield get
    for template in made.values():
        template.close()
    context.close()


@pytest.fixture(scope="session", autouse=True)
def _small_heap() -> Iterator[None]:
    """What the tests themselves hold, half a million objects, is not the attacks': collections need not look at it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv(CANARY_NAME, CANARY)
    return World(tmp_path)
