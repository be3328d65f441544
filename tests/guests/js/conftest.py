"""One JavaScript template for all these tests, and sandboxes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio import SandboxContext
from tests.guests.js.support import Ready

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio import SandboxTemplate


@pytest.fixture(scope="session")
def context() -> Iterator[SandboxContext]:
    """A context with the ordinary cache: what is compiled in it is compiled once a machine."""
    context = SandboxContext()
    yield context
    context.close()


@pytest.fixture(scope="session")
def template(context: SandboxContext) -> Iterator[SandboxTemplate]:
    """A template without a prelude; templates belong to no event loop."""
    template = anyio.run(context.build_template, "js")
    yield template
    template.close()


@pytest.fixture
def ready() -> Ready:
    """A hostcall by which a guest says that it has come to a certain place."""
    return Ready()
