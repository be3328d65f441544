"""One template of each kind for the whole suite, built as a user would build them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio import build_template

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio import SandboxTemplate


def _built(runtime: str) -> Iterator[SandboxTemplate]:
    templates: list[SandboxTemplate] = []

    async def build() -> None:
        templates.append(await build_template(runtime))

    thread = threading.Thread(target=anyio.run, args=(build,))  # a template belongs to no event loop
    thread.start()
    thread.join()
    yield templates[0]
    templates[0].close()


@pytest.fixture(scope="session")
def python() -> Iterator[SandboxTemplate]:
    yield from _built("python")


@pytest.fixture(scope="session")
def javascript() -> Iterator[SandboxTemplate]:
    yield from _built("js")


@pytest.fixture(params=["python", "js"])
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def template(runtime: str, python: SandboxTemplate, javascript: SandboxTemplate) -> SandboxTemplate:
    return python if runtime == "python" else javascript
