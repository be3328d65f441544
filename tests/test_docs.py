"""What the documentation says is tried: its Python blocks run, and the reference names everything public."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

import isola_anyio
from isola_anyio import build_template
from isola_anyio.cli.commands import main
from tests.test_surface import PUBLIC_NAMES

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
PAGES: Final = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE: Final = re.compile(
    r"^(?P<mark><!-- not run: [^\n]+ -->\n)?```python(?P<info>[^\n]*)\n(?P<code>.*?)^```$"
    r"(?:\n+```text title=\"output\"\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
NAVIGATION: Final = set(
    re.findall(r"([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text("utf-8").partition("nav:")[2].partition("\n\n")[0])
)
LINK: Final = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A Python block of a page."""

    page: Path
    line: int
    code: str
    guest: bool
    skipped: bool
    output: str | None
    """What the page says that it prints; ``None`` where the page does not say."""

    @property
    def awaits(self) -> bool:
        """Whether it has ``await`` at its top level."""
        code = compile(self.code, "", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return bool(code.co_flags & inspect.CO_COROUTINE)

    @property
    def backends(self) -> set[str]:
        """The backends it can run on: what it imports for itself decides, and not what its guests import."""
        names: set[str] = set()
        for node in ast.walk(ast.parse(self.code)):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                names.add(node.module)
        imported = names & {"asyncio", "trio"}
        return imported if len(imported) == 1 else {"asyncio", "trio"}

    def compile(self) -> types.CodeType:
        """Compile it so that a traceback names the page and its line."""
        padded = "\n" * (self.line - 1) + self.code
        name = str(self.page.relative_to(ROOT))
        compiled: types.CodeType = compile(padded, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return compiled


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found["code"],
            'title="guest"' in found["info"],
            found["mark"] is not None,
            found["output"],
        )
        for found in FENCE.finditer(text)
    ]


def runs_of(blocks: list[Block]) -> Iterator[list[Block]]:
    """Put consecutive blocks that await together; the others stand alone."""
    together: list[Block] = []
    for block in blocks:
        if block.awaits:
            together.append(block)
            continue
        if together:
            yield together
            together = []
        yield [block]
    if together:
        yield together


WITH_CODE: Final = [page for page in PAGES if blocks_of(page)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_runs(
    page: Path,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = anyio.run
    namespace: dict[str, Any] = {"__name__": "__docs__"}

    def run_on_backend(func: Any, *args: Any, **_: Any) -> Any:
        return run(func, *args, backend=backend)

    async def run_together(blocks: list[Block]) -> None:
        for block in blocks:
            await eval(block.compile(), namespace)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(anyio, "run", run_on_backend)
    host = [block for block in blocks_of(page) if not block.guest and not block.skipped and backend in block.backends]
    for blocks in runs_of(host):
        if blocks[0].awaits:
            run(partial(run_together, blocks), backend=backend)
        else:
            exec(blocks[0].compile(), namespace)
        printed = capsys.readouterr().out
        if any(block.output is not None for block in blocks):
            assert printed == "".join(block.output or "" for block in blocks)


GUEST_CODE: Final = [block for page in PAGES for block in blocks_of(page) if block.guest and not block.skipped]


async def test_every_guest_block_loads() -> None:
    template = await build_template("python")
    try:
        for block in GUEST_CODE:
            async with template.create(hostcalls={}) as sandbox:
                await sandbox.load_script(block.code, filename=f"{block.page.name}:{block.line}")
    finally:
        template.close()


def test_the_reference_names_everything_public_and_nothing_else() -> None:
    named = {
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: isola_anyio\.(\w+)$", page.read_text("utf-8"), re.MULTILINE)
    }
    assert named == PUBLIC_NAMES | {"testing"}  # a module of its own, for those who have hypothesis


def test_every_page_is_in_the_navigation() -> None:
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} <= NAVIGATION


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    targets = [first or second for first, second in LINK.findall(text)]
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        where = (page.parent / path).resolve() if path else page
        if where.is_relative_to(DOCS) and str(where.relative_to(DOCS)) in NAVIGATION and not where.exists():
            continue  # promised: the strict build of the documentation fails until it is there
        assert where.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", where.read_text("utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{page.name}: {target}"


def slug(heading: str) -> str:
    """Make a heading's anchor as mkdocs and the forges do."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower()))


def test_the_command_line_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "reference" / "cli.md").read_text("utf-8")
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert commands == ["demo", "doctor", "fetch", "run"]
    for command in commands:
        assert f"`{command}" in page
        with pytest.raises(SystemExit):
            main([command, "--help"])
        for option in set(re.findall(r"--[a-z][\w-]+", capsys.readouterr().out)) - {"--help"}:
            assert option in page, f"{command} {option}"


def test_the_readme_has_one_command_for_the_tests_and_ci_finds_it() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = [line for line in readme.splitlines() if line.startswith("python3 ") and line.endswith("-m pytest")]
    assert len(commands) == 1
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    pattern = re.search(r"sed -n '(.+)' README\.md", script)
    assert pattern is not None
    found = subprocess.run(["sed", "-n", pattern[1], "README.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == commands


def test_the_changelog_has_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert version is not None
    assert f"## [{version[1]}]" in changelog
    assert isola_anyio.__version__ in (version[1], "0+unknown")
    assert sys.version_info >= (3, 11)
