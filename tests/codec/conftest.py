"""Hypothesis profiles, and the guests' codecs, loaded as they are shipped."""

from __future__ import annotations

import importlib
import sys
from importlib import resources
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tests.codec.js_harness import JsCodec

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def guest() -> ModuleType:
    """Return the Python guest's codec, whose package is a name of the tests' own on the host."""
    package = ModuleType("isola_guest")
    package.__path__ = [str(resources.files("isola_anyio.guests.python").joinpath("sandbox"))]
    sys.modules["isola_guest"] = package
    return importlib.import_module("isola_guest._codec")


@pytest.fixture(scope="session")
def js() -> Iterator[JsCodec]:
    """Return the JavaScript guest's codec in its engine."""
    codec = JsCodec()
    yield codec
    codec.close()


@pytest.fixture
def no_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make numpy neither imported nor importable."""
    names = [name for name in sys.modules if name.split(".")[0] == "numpy"]
    modules_by_name: dict[str, Any] = sys.modules  # None in it is what stops an import
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(modules_by_name, "numpy", None)
