"""Stripping in a guest: what it costs, what it may take, and that a cancelled run ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio import CpuLimitError, GuestError
from isola_anyio.engine import ffi
from isola_anyio.guests.js.typescript import stripper
from isola_anyio.guests.js.typescript.line_alignment import align_lines
from isola_anyio.guests.js.typescript.transform import transform
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio import SandboxTemplate
    from tests.guests.js.support import Ready

SCRIPT = "const twice = (n: number): number => 2 * n"


TOKENS = "let x: number = 1;\nlet s = [" + "1," * 200_000 + "1];"


async def test_a_run_whose_source_is_being_stripped_can_be_cancelled(
    template: SandboxTemplate, monkeypatch: pytest.MonkeyPatch, ready: Ready
) -> None:
    stopped: list[type[BaseException]] = []

    def spy(*arguments: Any) -> str | None:
        ready(None)
        try:
            return transform(*arguments)
        except BaseException as exc:
            stopped.append(type(exc))
            raise

    async with template.create() as sandbox:
        await sandbox.load_script(SCRIPT)  # the module is loaded, and perhaps compiled, on first use
        monkeypatch.setattr(stripper, "transform", spy)
        source = "type T = " + " | ".join(f"'{i}'" for i in range(150_000))
        assert await ready.cancel(sandbox.load_script, source) < SLACK
    assert stopped == [ffi.StoreInterrupted]


async def test_a_run_whose_lines_are_being_aligned_can_be_cancelled(
    template: SandboxTemplate, monkeypatch: pytest.MonkeyPatch, ready: Ready
) -> None:
    stopped: list[type[BaseException]] = []

    def spy(source: str, stripped: str, pause: Callable[[], object]) -> str:
        ready(None)
        try:
            return align_lines(source, stripped, pause)
        except BaseException as exc:
            stopped.append(type(exc))
            raise

    monkeypatch.setattr(stripper, "align_lines", spy)
    async with template.create() as sandbox:
        assert await ready.cancel(sandbox.load_script, TOKENS) < SLACK
    assert stopped == [ffi.StoreInterrupted]


@pytest.mark.slow
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
