"""What an import names, and which source may be a module."""

from __future__ import annotations

import pytest

from isola_anyio.guests.js.loader import is_module, may_be_module, resolve


@pytest.mark.parametrize(
    ("base", "specifier", "path"),
    [
        ("/a/b.js", "./c.js", "/a/c.js"),
        ("/a/b.js", "../c.js", "/c.js"),
        ("/a/b.js", "../../../c.js", "/c.js"),
        ("/a/b.js", "/x//y/./z.js", "/x/y/z.js"),
        ("//x", "//y", "/y"),
        ("<script>", "./c.js", "/c.js"),
        ("/a/b.js", "lodash", None),
        ("/a/b.js", "https://x/y", None),
        ("/a/b.js", "", None),
    ],
)
def test_specifiers_are_paths(base: str, specifier: str, path: str | None) -> None:
    assert resolve(base, specifier) == path


@pytest.mark.parametrize(
    ("filename", "code", "module", "may_be"),
    [
        ("a.mjs", "", True, False),
        ("a.mts", "export {}", True, True),
        ("a.js", "export {}", False, True),
        ("<script>", "import './x'", False, True),
        ("a.js", "var q = 7", False, False),
        ("a.cjs", "export {}", False, False),
        ("a.cts", "import './x'", False, False),
    ],
)
def test_a_name_and_two_words_tell_what_may_be_a_module(filename: str, code: str, module: bool, may_be: bool) -> None:
    assert is_module(filename) is module
    assert may_be_module(filename, code) is may_be
