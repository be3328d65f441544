"""Source: TypeScript, files, ES modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from isola_anyio import GuestError, MountConfig, SandboxContext, SandboxTemplate
from isola_anyio.guests.js.loader import Loader

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


async def test_what_is_neither_is_a_syntax_error_with_its_line(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        with pytest.raises(GuestError) as caught:
            await sandbox.load_script("let a = 1;\nlet b = = 2;", filename="bad.js")
        assert caught.value.type == "SyntaxError"
        assert caught.value.traceback.startswith("    at bad.js:2:")
        with pytest.raises(GuestError) as caught:
            await sandbox.load_script("let a = = 1")
        assert caught.value.type == "SyntaxError"
        with pytest.raises(GuestError, match="contains a NUL character") as caught:
            await sandbox.load_script("let a = '\0'")
        assert caught.value.type == "SyntaxError"


@pytest.mark.parametrize("filename", ["bad.ts", "bad.js", "<script>"])
@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("const a: number = 1;\nconst b: = 2;", 2),
        ("const a: number = 1;\n\nlet b = ;\nlet c: string", 3),
        ("const a: number = 1;\nlet b = 'abc", 2),
        ("interface A {\n  x: number;\n  y: ;\n}\nlet a: A", 3),
        ("function f(a: number) {\n  return `\n${1 2}`\n}", 3),
        ("export const a: number = 1;\nlet b = {\n  c: ,\n}", 3),
        ("let a: number = 1;\nlet a = 2", 2),
        ("let a: number = 1;\nlet b = (1\n", 2),
        ("let a: number = 1;\nlet b =\n\n", 2),
    ],
)
async def test_a_fault_in_typescript_is_told_with_its_line(
    template: SandboxTemplate, filename: str, code: str, line: int
) -> None:
    async with template.create() as sandbox:
        with pytest.raises(GuestError) as caught:
            await sandbox.load_script(code, filename=filename)
        assert caught.value.type == "SyntaxError"
        assert caught.value.traceback.startswith(f"    at {filename}:{line}:")


async def test_a_fault_in_javascript_is_told_as_the_engine_tells_it(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        for code in ("let a = 1;\nlet b = 2 3", "export const a = 1;\nlet b = 2 3"):
            with pytest.raises(GuestError, match="expecting ';'") as caught:
                await sandbox.load_script(code, filename="bad.js")
            assert caught.value.traceback.startswith("    at bad.js:2:")


MODULES = [
    "export type U = {a:number};\nfunction f(x: U){return x.a}",
    "import type {X} from './x';\nfunction f(x: X){return x.a}",
    "import {X} from './x';\nfunction f(x: X){return x.a}",
    "export function f(x: {a: number}){return x.a}",
    "function f(x: any){return x.a}\nexport {}",
    "export function f(x){return x.a}",
    "export const f = (x) => x.a",
    "function g(x){return x.a}\nexport { g as f }",
    "export const f = (x) => x.a;\nexport const meta = typeof import.meta",
]


@pytest.mark.parametrize("filename", ["<script>", "x.ts", "/x.ts"])
@pytest.mark.parametrize("code", MODULES)
async def test_a_script_may_be_written_as_a_module(template: SandboxTemplate, code: str, filename: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(code, filename=filename)
        assert await sandbox.run("f", {"a": 5}) == 5
        await sandbox.load_script("const again = () => f({ a: 6 })", filename=filename)
        assert await sandbox.run("again") == 6


async def test_a_prelude_may_be_a_module(context: SandboxContext) -> None:
    template = await context.build_template("js", prelude="export const base: number = 40; export default base")
    async with template.create() as sandbox:
        await sandbox.load_script("const f = (n) => base + n")
        assert await sandbox.run("f", 2) == 42
    template.close()


async def test_a_script_that_is_a_module_imports_from_beside_its_name(
    template: SandboxTemplate, tmp_path: Path
) -> None:
    tmp_path.joinpath("m.js").write_text("export const value = 8;", "utf-8")
    async with template.create(mounts=mounted(tmp_path)) as sandbox:
        for filename, specifier in (("/app/s.js", "./m"), ("<script>", "./app/m.js"), ("s.ts", "/app/m.js")):
            await sandbox.load_script(
                f"import {{ value }} from '{specifier}'\nexport const f = () => value", filename=filename
            )
            assert await sandbox.run("f") == 8


async def test_a_script_that_is_a_module_keeps_its_default_function(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("export default function g() { return 7 }")
        assert await sandbox.run("g") == 7


async def test_a_module_that_fails_says_where(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        for code in ("export const a = 1;\n\nnull.x", "export const a: number = 1;\n\n(null as any).x"):
            with pytest.raises(GuestError) as caught:
                await sandbox.load_script(code, filename="app.ts" if ":" in code else "app.js")
            assert caught.value.type == "TypeError"
            assert "app." in caught.value.traceback.splitlines()[0]
            assert "s:3:" in caught.value.traceback.splitlines()[0]


async def test_a_script_that_was_begun_is_never_begun_as_something_else(template: SandboxTemplate) -> None:
    """A second ``let`` is found when the script begins, and is a syntax error all the same."""
    async with template.create() as sandbox:
        await sandbox.load_script("let taken = 0; const told = () => taken")
        for code in ("let taken = 5; // import", "taken = 1; throw new SyntaxError('export')"):
            with pytest.raises(GuestError) as caught:
                await sandbox.load_script(code)
            assert caught.value.type == "SyntaxError"
        assert await sandbox.run("told") == 1


async def test_an_import_that_fails_is_no_reason_to_strip_it(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        with pytest.raises(GuestError) as caught:
            await sandbox.load_script("import x from './none'")
        assert caught.value.type == "ReferenceError"


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
    [
        ("/app/none.js", "FileNotFoundError"),
        ("/app", "IsADirectoryError"),
        ("/", "IsADirectoryError"),
        ("/etc/passwd", "FileNotFoundError"),
    ],
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
    ("name", "code"),
    [
        ("a.js", "/*\nexport default 5\n*/ var q = 7"),
        ("a.js", "var q = 7, t = `\nimport x from 'y'\n`"),
        ("a.ts", "/*\nexport default 5\n*/ var q: number = 7"),
        ("a.js", "var q = 7; // import x"),
        ("a.cjs", "var q = 7; const exports = {}; exports.a = 1"),
        ("a.ts", "import type { X } from './x'; var q: number = 7"),
    ],
)
async def test_a_file_that_compiles_as_a_script_is_one(
    template: SandboxTemplate, tmp_path: Path, name: str, code: str
) -> None:
    tmp_path.joinpath(name).write_text(code, "utf-8")
    async with template.create(mounts=mounted(tmp_path)) as sandbox:
        await sandbox.load_file(f"/app/{name}")
        await sandbox.load_script("const f = () => q")
        assert await sandbox.run("f") == 7


@pytest.mark.parametrize("name", ["a.mjs", "a.mts"])
async def test_a_file_whose_name_says_module_is_one(template: SandboxTemplate, tmp_path: Path, name: str) -> None:
    tmp_path.joinpath(name).write_text("var q = 7; const f = () => [q, typeof import.meta]", "utf-8")
    async with template.create(mounts=mounted(tmp_path)) as sandbox:
        await sandbox.load_file(f"/app/{name}")
        assert await sandbox.run("f") == [7, "object"]
        await sandbox.load_script("const g = () => typeof q")
        assert await sandbox.run("g") == "undefined"


async def test_a_file_whose_name_says_script_is_no_module(template: SandboxTemplate, tmp_path: Path) -> None:
    tmp_path.joinpath("a.cjs").write_text("export const a = 1", "utf-8")
    async with template.create(mounts=mounted(tmp_path)) as sandbox:
        with pytest.raises(GuestError) as caught:
            await sandbox.load_file("/app/a.cjs")
        assert caught.value.type == "SyntaxError"


async def test_a_file_that_was_imported_before_is_loaded_anew(template: SandboxTemplate, tmp_path: Path) -> None:
    tmp_path.joinpath("a.mjs").write_text("export const value = 1", "utf-8")
    async with template.create(mounts=mounted(tmp_path)) as sandbox:
        await sandbox.load_script("await import('/app/a.mjs')")
        tmp_path.joinpath("a.mjs").write_text("export const value = 2", "utf-8")
        await sandbox.load_file("/app/a.mjs")
        await sandbox.load_script("const f = () => value")
        assert await sandbox.run("f") == 2


async def test_a_fault_in_typescript_is_told_with_its_line_whatever_the_guest_makes_of_stacks(
    template: SandboxTemplate,
) -> None:
    """The engine asks the guest what a stack is (``Error.prepareStackTrace``), and may be told that it is a number."""
    for made in ("1e9", "'at <x> (y:900000000:1)'", "{}", "Object.freeze(error)"):
        async with template.create() as sandbox:
            await sandbox.load_script(f"Error.prepareStackTrace = (error, frames) => {made}")
            with pytest.raises(GuestError) as caught:
                await sandbox.load_script("let a: number = 1;\n\nlet b: = 2;", filename="a.ts")
            assert caught.value.type == "SyntaxError"
            if made != "Object.freeze(error)":  # it keeps what the engine wrote into it
                assert caught.value.traceback == "    at a.ts:3:1"


async def test_a_specifier_longer_than_any_path_is_not_looked_at(
    template: SandboxTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(loader: Loader, base: str, specifier: str) -> str | None:
        seen.append(specifier)
        return normalize(loader, base, specifier)

    normalize = Loader.normalize
    monkeypatch.setattr(Loader, "normalize", spy)
    async with template.create() as sandbox:
        await sandbox.load_script("const f = (n) => import('./' + 'a/'.repeat(n)).catch((e) => e.name)")
        assert await sandbox.run("f", 10) == "ReferenceError"
        assert await sandbox.run("f", 1_000_000) == "ReferenceError"
    assert seen == ["./" + "a/" * 10]


@pytest.mark.parametrize("pattern", ["/[/*]/", "/[//]/"])
async def test_a_pattern_that_looks_like_a_comment_stays_in_typescript(template: SandboxTemplate, pattern: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(
            f"let s: string = '/'\nlet n: number = 0\nif (s) {{ n = 1 }}\n{pattern}.test(s) ? n += 1 : n\n"
            "function f(): number {\n  return n\n}",
            filename="pattern.ts",
        )
        assert await sandbox.run("f") == 2
