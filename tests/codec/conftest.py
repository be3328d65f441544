"""Hypothesis profiles, and the guests' codecs, loaded as they are shipped."""

from __future__ import annotations

import sys
from importlib import resources, util
from typing import TYPE_CHECKING, Any

import pytest

from tests.codec.js_harness import JsCodec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@pytest.fixture(scope="session")
def guest() -> ModuleType:
    """Return the Python guest's codec, which is no module of a package on the host."""
    path = resources.files("isola_anyio.guests.python").joinpath("sandbox", "_codec.py")
    spec = util.spec_from_file_location("isola_guest_codec", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
