"""Fixtures of the whole suite: both event loops, one template of each kind, and nothing left behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.leftovers import Leftovers
from tests.templates import built_template

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio import SandboxTemplate

_HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", derandomize=True, max_examples=80, deadline=None, suppress_health_check=_HEALTH)
settings.register_profile("deep", max_examples=5_000, deadline=None, suppress_health_check=_HEALTH)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each async test once on each backend; ``tests/loops.py`` says which tests need only one."""
    backend: str = request.param
    return backend


@pytest.fixture(scope="session")
def python() -> Iterator[SandboxTemplate]:
    """Give the Python template that the whole suite shares."""
    with built_template("python") as template:
        yield template


@pytest.fixture(scope="session")
def javascript() -> Iterator[SandboxTemplate]:
    """Give the JavaScript template that the whole suite shares."""
    with built_template("js") as template:
        yield template


@pytest.fixture(scope="session")
def template(python: SandboxTemplate) -> SandboxTemplate:
    """Give the template that a directory's tests fork from; one with guests of its own overrides this."""
    return python


@pytest.fixture(scope="session", autouse=True)
def leftovers() -> Iterator[Leftovers]:
    """Watch what tests leave behind."""
    watch = Leftovers()
    with watch.watching():
        yield watch


@pytest.fixture(autouse=True)
def _nothing_is_left(leftovers: Leftovers) -> Iterator[None]:
    """Check after every test that no guest is left open and no guest thread is busy."""
    leftovers.forget()
    yield
    if left := leftovers.settle():
        pytest.fail(left)
