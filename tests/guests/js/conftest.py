"""One JavaScript template for all these tests, and sandboxes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio import SandboxContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio import SandboxTemplate


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxContext]:
    """A context with a cache of its own."""
    context = SandboxContext(cache_dir=tmp_path_factory.mktemp("cache"))
    yield context
    context.close()


@pytest.fixture(scope="session")
def template(context: SandboxContext) -> Iterator[SandboxTemplate]:
    """A template without a prelude; templates belong to no event loop."""
    template = anyio.run(context.build_template, "js")
    yield template
    template.close()
