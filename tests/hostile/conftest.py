"""One template of each kind for the whole suite, a neighbour of each, and a world with secrets in it."""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeAlias

import pytest

from isola_anyio import Sandbox, SandboxContext, SandboxTemplate
from tests.hostile.harness import CANARY, CANARY_NAME, FIGURES, GUEST, World
from tests.templates import built_template

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.leftovers import Leftovers

Templates: TypeAlias = Callable[[str, bool], SandboxTemplate]
Neighbours: TypeAlias = Callable[[SandboxTemplate], Awaitable[Sandbox]]


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Keep one loop for all attacks, so that their neighbours may stay."""
    backend: str = request.param
    return backend


@pytest.fixture(scope="session")
def templates() -> Iterator[Templates]:
    """Give a template by runtime, and whether it is metered; one serves all tests, for it belongs to no event loop."""
    context = SandboxContext()
    made: dict[tuple[str, bool], SandboxTemplate] = {}
    with ExitStack() as stack:

        def get(runtime: str, metered: bool) -> SandboxTemplate:
            template = made.get((runtime, metered))
            if template is None:
                built = built_template(runtime, context=context, metered=metered)
                template = made[runtime, metered] = stack.enter_context(built)
            return template

        yield get
    context.close()


@pytest.fixture(scope="module")
async def neighbours(anyio_backend: str, leftovers: Leftovers) -> AsyncIterator[Neighbours]:
    """Give the sandbox beside which a template's attacks run; attacks come and go, and it stays."""
    made: dict[SandboxTemplate, Sandbox] = {}

    async def get(template: SandboxTemplate) -> Sandbox:
        if template not in made:
            sandbox = made[template] = await template.instantiate()
            await sandbox.start()
            await sandbox.load_script(GUEST[template.runtime])
            if template.runtime == "js":  # what strips types is open from its first use on
                await sandbox.load_script("let typed: number")
            await sandbox.run("ping", 0)
            leftovers.forget()  # it is left on purpose
        return made[template]

    yield get
    for sandbox in made.values():
        await sandbox.aclose()


@pytest.fixture(scope="session", autouse=True)
def _heap() -> Iterator[None]:
    gc.collect()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _small_heap(_heap: None) -> None:
    """What the tests themselves hold is not the attacks': collections need not look at it.

    Before each test, because pytest's reports of thousands of tests are half a million objects: 0.1 to 0.2 s each time.
    """
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the attacks' figures, for whoever asks for them."""
    if path := os.environ.get("ISOLA_HOSTILE_FIGURES"):
        with open(path, "a") as file:
            for row in FIGURES:
                print(*row, sep="\t", file=file)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv(CANARY_NAME, CANARY)
    return World(tmp_path)
