"""The module that strips TypeScript: compiled once a cache, by a process that a cancelled run kills."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import CpuLimitError, GuestError, RuntimeUnavailableError, SandboxContext
from isola_anyio.engine import ffi
from isola_anyio.engine.compiler import compile_module
from isola_anyio.guests.js.typescript import stripper as typescript
from isola_anyio.guests.js.typescript.line_alignment import relayout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from isola_anyio import SandboxTemplate

SCRIPT = "const twice = (n: number): number => 2 * n"


class Compilations:
    """Counts what is compiled, and compiles it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = self.ended = 0
        monkeypatch.setattr(typescript, "compile_module", self)

    def __call__(self, *args: Any, **options: Any) -> None:
        self.begun += 1
        try:
            compile_module(*args, **options)
        finally:
            self.ended += 1


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Compilations:
    return Compilations(monkeypatch)


@pytest.fixture
async def built(tmp_path: Path) -> AsyncIterator[SandboxTemplate]:
    """A template whose cache has no code of the module's yet."""
    async with SandboxContext(cache_dir=tmp_path / "cache") as context:
        template = await context.build_template("js")
        yield template
        template.close()


async def strip(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(SCRIPT)
        assert await sandbox.run("twice", 21) == 42


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
        from isola_anyio.cache import open_cache

        open_cache(tmp_path / "cache").store_file("code", code.stem, ".cwasm", lambda out: out.write(b"\x7fELF" * 99))
    await strip(built)
    async with SandboxContext(cache_dir=tmp_path / "cache") as context:
        template = await context.build_template("js")
        await strip(template)
        template.close()
    assert compilations.begun == 2


async def test_a_run_that_waits_for_it_can_be_cancelled(built: SandboxTemplate, compilations: Compilations) -> None:
    async with built.create() as sandbox, built.create() as second:
        async with anyio.create_task_group() as group:
            for each in (sandbox, second):
                group.start_soon(each.load_script, SCRIPT)
            while not compilations.begun:
                await anyio.sleep(0.001)
            start = time.monotonic()
            group.cancel_scope.cancel()
        assert time.monotonic() - start < 1
    begun = compilations.begun
    assert begun == compilations.ended
    await strip(built)
    assert compilations.begun == begun + 1


async def test_what_only_looks_like_typescript_stays_javascript(built: SandboxTemplate) -> None:
    async with built.create() as sandbox:
        with pytest.raises(GuestError) as caught:
            await sandbox.load_script("let a = = 1")
        assert caught.value.type == "SyntaxError"


async def test_a_machine_that_cannot_compile_it_says_so(
    built: SandboxTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(typescript, "compile_module", fail)
    async with built.create() as sandbox:
        with pytest.raises(RuntimeUnavailableError, match=r"reads TypeScript, cannot be had: .*No space left"):
            await sandbox.load_script(SCRIPT)
        await sandbox.load_script("const still = () => 'usable'")
        assert await sandbox.run("still") == "usable"


TOKENS = "let x: number = 1;\nlet s = [" + "1," * 200_000 + "1];"


async def test_a_run_that_waits_for_its_lines_can_be_cancelled(
    template: SandboxTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()
    stopped: list[BaseException] = []

    def spy(source: str, stripped: str, pause: Callable[[], object]) -> str:
        begun.set()
        try:
            return relayout(source, stripped, pause)
        except BaseException as exc:
            stopped.append(exc)
            raise
        finally:
            ended.set()

    monkeypatch.setattr(typescript, "relayout", spy)
    async with template.create() as sandbox, anyio.create_task_group() as group:
        group.start_soon(sandbox.load_script, TOKENS)
        while not begun.is_set():
            await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    assert ended.is_set()
    assert [type(exc) for exc in stopped] == [ffi.StoreInterrupted]


async def test_the_work_of_it_is_the_guests(template: SandboxTemplate) -> None:
    async with template.create(max_cpu=0.3) as sandbox:
        with pytest.raises(CpuLimitError):
            await sandbox.load_script(TOKENS)


async def test_source_that_is_too_long_is_refused(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        with pytest.raises(
            GuestError, match=r"too long to be read as TypeScript: \d+ bytes; at most 2097152"
        ) as caught:
            await sandbox.load_script("let a: number = 1;" + " " * (2 << 20), filename="long.ts")
        assert caught.value.type == "SyntaxError"
        await sandbox.load_script("let a = 1;" + " " * (2 << 20), filename="long.js")
        with pytest.raises(GuestError, match=r"expecting ';'\n"):
            await sandbox.load_script("let b = 1 2;" + " " * (2 << 20), filename="long.js")
        with pytest.raises(GuestError, match="expecting ';'; and <script> is too long") as caught:
            await sandbox.load_script("let c = 1;\nlet b: number = 1;" + " " * (2 << 20))
        assert caught.value.traceback.startswith("    at <script>:2:")


async def test_long_source_runs_without_its_lines(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("type A =\n  number;\n//" + "a" * (1 << 20) + "\nconst f = (a: A): A => 2 * a;")
        assert await sandbox.run("f", 21) == 42


async def test_it_takes_no_more_memory_than_a_guest_may(template: SandboxTemplate) -> None:
    async with template.create(max_memory=8 << 20) as sandbox:
        with pytest.raises(GuestError, match="more memory than the guest's max_memory of 8388608") as caught:
            await sandbox.load_script(TOKENS, filename="x.ts")
        assert caught.value.type == "SyntaxError"
        await sandbox.load_script(SCRIPT)
        assert await sandbox.run("twice", 21) == 42
