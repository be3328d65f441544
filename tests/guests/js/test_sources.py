"""Source: TypeScript, files, ES modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from isola_anyio import GuestError, MountConfig, SandboxContext, SandboxTemplate
from isola_anyio.guests.js.loader import is_module, resolve
from isola_anyio.guests.js.relayout import relayout

if TYPE_CHECKING:
    from pathlib import Path

TYPESCRIPT = """
interface Point {
  x: number;
  y?: number;
}

type Pair<T> = [T, T];

enum Color { Red, Green = 5 }

function add(a: number, b: number = 2): number {
  return a + b;
}

class Shape<T> {
  constructor(private readonly name: string, public size?: T) {}
  fail(): never { throw new TypeError(this.name as string) }
}

const colors = (): number[] => [Color.Red, Color.Green];
const boom = (): void => new Shape<number>("line 17").fail();
"""


@pytest.mark.parametrize("filename", ["<script>", "shapes.ts", "shapes.js"])
async def test_typescript_runs_wherever_javascript_does(template: SandboxTemplate, filename: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(TYPESCRIPT, filename=filename)
        assert await sandbox.run("add", 1) == 3
        assert await sandbox.run("colors") == [0, 5]
        with pytest.raises(GuestError) as caught:
            await sandbox.run("boom")
        assert caught.value.traceback.splitlines()[0].startswith(f"    at fail ({filename}:17:")


async def test_generic_calls_are_read_as_typescript(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("function id<T>(x: T): T { return x }")
        await sandbox.load_script("globalThis.out = id<string>('x')")
        await sandbox.load_script("const f = () => globalThis.out")
        assert await sandbox.run("f") == "x"
        await sandbox.load_script("var a = 1, b = 2, c = 3; const g = () => a<b>(c)", filename="compare.js")


async def test_what_is_neither_is_a_syntax_error_with_its_line(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        with pytest.raises(GuestError) as caught:
            await sandbox.load_script("let a = 1;\nlet b = = 2;", filename="bad.js")
        assert caught.value.type == "SyntaxError"
        assert caught.value.traceback.startswith("    at bad.js:2:")
        with pytest.raises(GuestError) as caught:
            await sandbox.load_script("let a: = 1", filename="bad.ts")
        assert caught.value.type == "SyntaxError"
        with pytest.raises(GuestError) as caught:
            await sandbox.load_script("let a = '\0'")
        assert caught.value.type == "SyntaxError"


async def test_a_prelude_may_be_typescript(context: SandboxContext) -> None:
    template = await context.build_template(
        "js", prelude="const base: number = 40; function f(n: number) { return base + n }"
    )
    async with template.create() as sandbox:
        assert await sandbox.run("f", 2) == 42
    template.close()


def mounted(path: Path) -> list[MountConfig]:
    return [MountConfig(path, "/app")]


async def test_a_plain_file_is_a_script(template: SandboxTemplate, tmp_path: Path) -> None:
    tmp_path.joinpath("lib.js").write_text("\ufeffconst version = 3;\nfunction f() { null.x }\nawait null;", "utf-8")
    async with template.create(mounts=mounted(tmp_path)) as sandbox:
        await sandbox.load_file("/app/lib.js")
        await sandbox.load_script("const told = () => version")
        assert await sandbox.run("told") == 3
        with pytest.raises(GuestError) as caught:
            await sandbox.run("f")
        assert "(/app/lib.js:2:" in caught.value.traceback


@pytest.mark.parametrize(
    ("path", "type_name"),
    [("/app/none.js", "FileNotFoundError"), ("/app", "IsADirectoryError"), ("/etc/passwd", "FileNotFoundError")],
)
async def test_a_missing_file_is_told_so(template: SandboxTemplate, tmp_path: Path, path: str, type_name: str) -> None:
    async with template.create(mounts=mounted(tmp_path)) as sandbox:
        with pytest.raises(GuestError) as caught:
            await sandbox.load_file(path)
        assert caught.value.type == type_name
        assert repr(path) in caught.value.message


async def test_modules_import_from_beside_themselves(template: SandboxTemplate, tmp_path: Path) -> None:
    tmp_path.joinpath("sub").mkdir()
    tmp_path.joinpath("main.mjs").write_text(
        "import { twice } from './sub/math.js';\nimport def, { Mode } from './sub/typed';\n"
        "const hidden = (n) => twice(n) + 1;\n"
        "export async function run(n) { const late = await import('./sub/late.js'); return [hidden(n), late.value, Mode.On, def] }\n"
        "export let exported = await Promise.resolve(5);\n"
        "export function fail() {\n  throw new Error('here')\n}\n// the end",
        "utf-8",
    )
    tmp_path.joinpath("sub", "math.js").write_text(
        "import { factor } from '../factor.js';\nexport const twice = n => n * factor;", "utf-8"
    )
    tmp_path.joinpath("factor.js").write_text("export const factor = 2;", "utf-8")
    tmp_path.joinpath("sub", "typed.ts").write_text(
        "export enum Mode { Off, On }\nexport default 'd' as string;", "utf-8"
    )
    tmp_path.joinpath("sub", "late.js").write_text("export const value = 'late';", "utf-8")
    async with template.create(mounts=mounted(tmp_path)) as sandbox:
        await sandbox.load_file("/app/main.mjs")
        assert await sandbox.run("run", 3) == [7, "late", 1, "d"]
        assert await sandbox.run("hidden", 1) == 3
        await sandbox.load_script("const told = () => exported")
        assert await sandbox.run("told") == 5
        with pytest.raises(GuestError) as caught:
            await sandbox.run("fail")
        assert caught.value.traceback.startswith("    at fail (/app/main.mjs:7:")
        tmp_path.joinpath("main.mjs").write_text("export const run = () => 'second'", "utf-8")
        await sandbox.load_file("/app/main.mjs")
        assert await sandbox.run("run") == "second"


@pytest.mark.parametrize(
    "source",
    [
        "import 'lodash'",
        "import './none.js'",
        "import 'isola:dispatcher'",
        "import '/etc/passwd'",
        "import '../../../../etc/passwd'",
        "import 'file:///etc/passwd'",
        "import 'https://example.org/x.js'",
        "export const x = await import('isola:dispatcher')",
    ],
)
async def test_imports_reach_the_guests_own_files_only(template: SandboxTemplate, tmp_path: Path, source: str) -> None:
    tmp_path.joinpath("m.js").write_text(source, "utf-8")
    async with template.create(mounts=mounted(tmp_path)) as sandbox:
        with pytest.raises(GuestError) as caught:
            await sandbox.load_file("/app/m.js")
        assert caught.value.type in ("ReferenceError", "SyntaxError")
        await sandbox.load_script("const fine = () => 1")
        assert await sandbox.run("fine") == 1


async def test_a_circle_of_modules_is_fine(template: SandboxTemplate, tmp_path: Path) -> None:
    tmp_path.joinpath("a.js").write_text(
        "import { b } from './b.js'; export const a = () => 'a'; export const f = () => b()", "utf-8"
    )
    tmp_path.joinpath("b.js").write_text("import { a } from './a.js'; export const b = () => 'b' + a()", "utf-8")
    async with template.create(mounts=mounted(tmp_path)) as sandbox:
        await sandbox.load_file("/app/a.js")
        assert await sandbox.run("f") == "ba"


async def test_a_script_may_import_too(template: SandboxTemplate, tmp_path: Path) -> None:
    tmp_path.joinpath("m.js").write_text("export const value = 8;", "utf-8")
    async with template.create(mounts=mounted(tmp_path)) as sandbox:
        await sandbox.load_script("const { value } = await import('/app/m.js'); const f = () => value")
        assert await sandbox.run("f") == 8
        await sandbox.load_script("const f2 = async () => (await import('./m.js')).value", filename="/app/script.js")
        assert await sandbox.run("f2") == 8


async def test_a_name_of_the_sdks_gives_no_way_into_it(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("const f = () => import('isola:dispatcher')", filename="isola:globals")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("f")
        assert caught.value.type == "ReferenceError"


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
    ("path", "code", "module"),
    [
        ("/a.js", "import x from './y'", True),
        ("/a.js", "\n  export const a = 1", True),
        ("/a.js", "export{ a }", True),
        ("/a.js", "export default 1", True),
        ("/a.js", "const a = 1; // import x", False),
        ("/a.js", "await import('./y')", False),
        ("/a.js", "import('./y')", False),
        ("/a.js", "import.meta", False),
        ("/a.js", "exports.a = 1", False),
        ("/a.mjs", "const a = 1", True),
        ("/a.cjs", "export const a = 1", False),
    ],
)
def test_a_module_is_known_by_its_looks(path: str, code: str, module: bool) -> None:
    assert is_module(path, code) is module


@pytest.mark.parametrize(
    ("source", "stripped"),
    [
        ("let a: number\n\n= 1\nlet b = 2", "let a = 1;\nlet b = 2;\n"),
        ("interface A {\n x: 1\n}\nf(\n`a\n${ `b\n` }`,\n1)\ng()", "f(`a\n${`b\n`}`, 1);\ng();\n"),
        (
            "// c\nconst r = /[/'\"`]\\//g; const q = 4 / 2 / 1\nx()",
            "const r = /[/'\"`]\\//g;\nconst q = 4 / 2 / 1;\nx();\n",
        ),
        (
            "type A = 1\nreturnish\nfunction f(): A {\n  return <A>\n   g() }",
            "returnish;\nfunction f() {\n\treturn g();\n}\n",
        ),
    ],
)
def test_tokens_return_to_their_lines(source: str, stripped: str) -> None:
    out = relayout(source, stripped)
    assert "".join(out.split()) == "".join(stripped.split())
    for word in ("x()", "let b", "returnish", "g("):
        if word in stripped and "return g(" not in stripped:
            assert line_of(word, out) == line_of(word, source)


def line_of(word: str, text: str) -> int:
    return next(number for number, line in enumerate(text.splitlines()) if word in line)


def test_nothing_is_put_between_return_and_its_value() -> None:
    out = relayout("function f(): A {\n  return <A>\n   g() }", "function f() {\n\treturn g();\n}\n")
    assert "return g(" in out


def test_a_long_source_is_put_back_in_no_time() -> None:
    source = "\n".join(
        f"interface I{i} {{\n  a: number\n}}\nfunction f{i}(a: I{i}): void {{\n  throw a\n}}" for i in range(2000)
    )
    stripped = "\n".join(f"function f{i}(a) {{\n\tthrow a;\n}}" for i in range(2000)) + "\n"
    out = relayout(source, stripped).splitlines()
    assert [line for line in range(len(out)) if "throw" in out[line]] == [6 * i + 4 for i in range(2000)]
