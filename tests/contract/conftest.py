"""The contract holds for both kinds of guest: each test runs with either, unless it names one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate


@pytest.fixture(params=["python", "js"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Name the kind of guest."""
    name: str = request.param
    return name


@pytest.fixture
def template(runtime: str, python: SandboxTemplate, javascript: SandboxTemplate) -> SandboxTemplate:
    """Give the template of either kind."""
    return python if runtime == "python" else javascript
