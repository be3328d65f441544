"""The stripping module's code: compiled once a cache, by a process that a cancelled run kills."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import RuntimeUnavailableError, SandboxContext
from isola_anyio.cache import open_cache
from isola_anyio.engine.compiler import compile_module
from isola_anyio.guests.js.typescript import program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from isola_anyio import SandboxTemplate
    from tests.guests.js.support import Ready

SCRIPT = "const twice = (n: number): number => 2 * n"


class Compilations:
    """Counts the compilations, and says when one begins; after the first of the session it copies that one's code."""

    def __init__(self, known: Path, ready: Ready) -> None:
        self.begun = self.ended = 0
        self.copies = True
        self._known = known
        self._ready = ready

    def __call__(self, source: Path, target: Path, **options: Any) -> None:
        self.begun += 1
        self._ready(None)
        try:
            if self.copies and self._known.exists():
                shutil.copyfile(self._known, target)
                return
            compile_module(source, target, **options)
            shutil.copyfile(target, self._known)
        finally:
            self.ended += 1


@pytest.fixture
def compilations(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, ready: Ready
) -> Compilations:
    compilations = Compilations(tmp_path_factory.getbasetemp() / "stripping-module.cwasm", ready)
    monkeypatch.setattr(program, "compile_module", compilations)
    return compilations


@pytest.fixture(scope="session")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the engine's code and image, and without the stripping module's code."""
    path = tmp_path_factory.mktemp("seed") / "cache"

    async def build() -> None:
        async with SandboxContext(cache_dir=path) as context:
            (await context.build_template("js")).close()

    anyio.run(build)
    return path


@pytest.fixture
async def built(tmp_path: Path, seed: Path) -> AsyncIterator[SandboxTemplate]:
    """A template whose cache has no code of the stripping module yet."""
    shutil.copytree(seed, tmp_path / "cache")
    async with SandboxContext(cache_dir=tmp_path / "cache") as context:
        template = await context.build_template("js")
        yield template
        template.close()


async def strip(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(SCRIPT)
        assert await sandbox.run("twice", 21) == 42


@pytest.mark.slow
async def test_it_is_compiled_once_for_templates_contexts_and_processes(
    built: SandboxTemplate, tmp_path: Path, compilations: Compilations
) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(strip, built)
    for _ in range(2):
        async with SandboxContext(cache_dir=tmp_path / "cache") as context:
            template = await context.build_template("js")
            await strip(template)
            template.close()
    assert compilations.begun == 1


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "foreign"])
async def test_damaged_code_of_it_is_compiled_again(
    built: SandboxTemplate, tmp_path: Path, compilations: Compilations, damage: str
) -> None:
    known = set((tmp_path / "cache").rglob("*.cwasm"))
    await strip(built)
    (code,) = set((tmp_path / "cache").rglob("*.cwasm")) - known
    if damage == "cut":
        os.truncate(code, 1000)
    else:
        open_cache(tmp_path / "cache").store_file("code", code.stem, ".cwasm", lambda out: out.write(b"\x7fELF" * 99))
    await strip(built)
    async with SandboxContext(cache_dir=tmp_path / "cache") as context:
        template = await context.build_template("js")
        await strip(template)
        template.close()
    assert compilations.begun == 2


@pytest.mark.slow
async def test_a_run_that_waits_for_it_can_be_cancelled(
    built: SandboxTemplate, compilations: Compilations, ready: Ready
) -> None:
    compilations.copies = False
    start = 0.0
    async with built.create() as sandbox, built.create() as second:
        async with anyio.create_task_group() as group:
            for each in (sandbox, second):
                group.start_soon(each.load_script, SCRIPT)
            await ready.wait()
            start = time.monotonic()
            group.cancel_scope.cancel()
        assert time.monotonic() - start < 1
    begun = compilations.begun
    assert begun == compilations.ended
    compilations.copies = True
    await strip(built)
    assert compilations.begun == begun + 1


async def test_a_machine_that_cannot_compile_it_says_so(
    built: SandboxTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program, "compile_module", fail)
    async with built.create() as sandbox:
        with pytest.raises(RuntimeUnavailableError, match=r"reads TypeScript, cannot be had: .*No space left"):
            await sandbox.load_script(SCRIPT)
        await sandbox.load_script("const still = () => 'usable'")
        assert await sandbox.run("still") == "usable"
