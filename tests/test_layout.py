"""A test stands at the path of what it tests, so that either is found from the other."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
TESTS: Final = ROOT / "tests"
PACKAGE: Final = ROOT / "isola_anyio"

SUITES: Final = {
    "bench": "measures, and asserts nothing",
    "contract": "holds both kinds of guest to the contract, as a user would meet it",
    "fuzz": "one harness over everything that parses what a guest wrote",
    "hostile": "attacks, each of which goes through many modules to reach what it must not get",
    "siege": "attacks without end, all of them at once",
    "soak": "looks for what accumulates when everything runs for long",
}
"""Directories whose tests are about no one module, and why."""

ALONE: Final = {
    "test_docs.py": "the pages and the README",
    "test_layering.py": "imports of the whole package",
    "test_layout.py": "this convention",
    "test_security_page.py": "a page against the code",
    "test_surface.py": "what is public of the whole package",
    "test_walk.py": "the way of a call through the whole package",
    "codec/test_copies.py": "how often a value's bytes are copied on their whole way",
    "codec/test_hostile.py": "damaged frames to every decoder",
    "codec/test_js_codec.py": "the JavaScript guest's codec against the host's",
    "codec/test_round_trips.py": "three codecs (the host's and the two guests') against one model",
    "codec/test_uncrossable.py": "three codecs against one model",
    "guests/js/sdk/core/test_cancellation.py": "cancellations go through all files of a guest",
    "guests/js/test_limits.py": "limits go through all files of a guest",
    "wasi/files/test_permissions.py": "permissions of every kind of mount",
    "wasi/test_conformance.py": "the official suite",
    "wasi/test_fuzz.py": "random calls to the whole system",
}
"""Files whose tests are about no one module, and what they are about."""


def placed() -> list[str]:
    found = (path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))
    return sorted(path.as_posix() for path in found if path.parts[0] not in SUITES)


def sources_of(test: str) -> list[Path]:
    """Return the modules that a test may be about.

    They are ``x.py`` or ``x/`` for ``test_x.py`` and for ``test_x_aspect.py``, at the same path in the package; a
    guest's own files may start with an underscore, or be JavaScript.
    """
    path = PACKAGE / test
    words = path.stem.removeprefix("test_").split("_")
    stems = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    names = [name for stem in stems for name in (f"{stem}.py", f"_{stem}.py", f"{stem}.js", stem)]
    return [path.parent / name for name in names if (path.parent / name).exists()]


@pytest.mark.parametrize("test", placed())
def test_a_test_stands_at_the_path_of_its_source(test: str) -> None:
    assert sources_of(test) or test in ALONE, f"there is no module of that name at isola_anyio/{Path(test).parent}"


def test_exceptions_are_tests_that_need_one() -> None:
    assert [test for test in ALONE if not (TESTS / test).exists() or sources_of(test)] == []
    assert [suite for suite in SUITES if not (TESTS / suite).is_dir() or (PACKAGE / suite).exists()] == []
