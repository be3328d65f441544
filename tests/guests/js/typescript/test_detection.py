"""Which source is read as TypeScript."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from isola_anyio.guests.js.typescript.detection import reads_as_typescript
from tests.timing import SLACK

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate


@pytest.mark.parametrize(
    ("filename", "code", "is_read_so"),
    [
        *((f"a{ending}", "f(x)", True) for ending in (".ts", ".mts", ".cts", ".tsx")),
        *((f"a{ending}", "f<string>(x)", False) for ending in (".js", ".mjs", ".cjs", ".jsx")),
        ("<script>", "f<string>(x)", True),
        ("<script>", "f<number[], any>(x)", True),
        ("<script>", "f<T>(x)", False),
        ("<script>", "a < string > (x)", False),
        ("<script>", "f<string>(x)" + " " * (256 << 10), False),
    ],
)
def test_the_name_decides_and_then_calls_with_types_of_the_language(filename: str, code: str, is_read_so: bool) -> None:
    assert reads_as_typescript(filename, code) is is_read_so


@pytest.mark.parametrize(
    "code",
    [
        "const f = () => id<string>('x')",
        "const f = () => id<number[]>(['x'])[0]",
        "const f = () => pair<string, unknown>('x')",
    ],
)
async def test_a_call_with_types_of_the_language_is_read_as_typescript(template: SandboxTemplate, code: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("function id<T>(x: T): T { return x }\nfunction pair<A, B>(a: A): A { return a }")
        await sandbox.load_script(code)
        assert await sandbox.run("f") == "x"


COMPARISONS = "const a = 1, b = 2, c = 3, string = 2; const f = () => [a<b, b>(c), a<string>(c)];"


@pytest.mark.parametrize("filename", ["a.js", "a.mjs", "a.cjs", "a.jsx"])
async def test_a_comparison_compares_where_the_name_says_javascript(template: SandboxTemplate, filename: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(COMPARISONS, filename=filename)
        assert await sandbox.run("f") == [True, False, False]


async def test_a_comparison_compares_if_it_names_no_type_of_the_language(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("const a = 1, b = 2, c = 3; const f = () => [a<b, b>(c)]")
        assert await sandbox.run("f") == [True, False]


async def test_a_long_source_without_types_is_looked_through_once(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        start = time.monotonic()
        await sandbox.load_script("// " + "a<" * 120_000 + "\nconst f = () => 1")
        assert await sandbox.run("f") == 1
        assert time.monotonic() - start < SLACK  # looked through once for each `<`, it takes a quarter of a minute
