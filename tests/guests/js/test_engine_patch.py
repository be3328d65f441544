"""The changed module: what it gives, what it is pinned to, and what other builds go without."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import pytest

from isola_anyio import GuestError, LogEvent, RuntimeUnavailableError, SandboxContext
from isola_anyio.engine import ffi
from isola_anyio.guests.js.driver import JsDriver
from isola_anyio.guests.js.engine_patch import LAYOUTS, TRACKER_EXPORT, patch

DIGEST = next(iter(LAYOUTS))


@pytest.fixture(scope="module")
def module() -> bytes:
    """The distribution's module."""
    return Path(str(distribution("quickjs-rs").locate_file("quickjs_rs/_guest.wasm"))).read_bytes()


@pytest.mark.slow
def test_the_pinned_build_is_changed_and_still_a_module(module: bytes, tmp_path: Path) -> None:
    changed = JsDriver().patch_module(module, DIGEST)
    assert changed != module
    assert 0 < len(changed) - len(module) < 200
    engine = ffi.Engine(metered=False)
    engine.compile_to(changed, tmp_path / "code")
    program = ffi.Linker(engine, JsDriver.functions).prepare(engine.load(tmp_path / "code"))
    assert program.exports()[TRACKER_EXPORT] == "iIIii>"


def test_another_build_is_left_alone(module: bytes) -> None:
    assert JsDriver().patch_module(module, "0" * 64) is module


def test_a_module_that_is_not_the_build_is_refused(module: bytes) -> None:
    layout = LAYOUTS[DIGEST]
    for other in (
        b"",
        b"\0asm\x01\0\0\0",
        module.replace(b"\x41\xd2\x9a\xc0\x80\x00", b"\x41\xd3\x9a\xc0\x80\x00"),
        patch(module, layout),
    ):
        with pytest.raises((ValueError, IndexError)):
            patch(other, layout)


async def test_a_build_of_the_callers_own_runs_without_names(
    context: SandboxContext, module: bytes, tmp_path: Path
) -> None:
    own = tmp_path / "own.wasm"
    own.write_bytes(module + b"\0\x04\x03own")  # one more custom section: the same program, another digest
    template = await context.build_template("js", runtime_path=own)
    async with template.create() as sandbox:
        await sandbox.load_script(
            "const f = () => { Promise.reject(1); null.x }; const deep = () => deep() + 1; const ok = () => 1",
            filename="app.js",
        )
        async with sandbox.run_stream("f") as events:
            seen = [event async for event in events]
        assert not any(isinstance(event, LogEvent) for event in seen)
        with pytest.raises(GuestError) as caught:
            await sandbox.run("f")
        assert caught.value.type == "TypeError"
        assert "(eval_script:1:" in caught.value.traceback
        with pytest.raises(GuestError) as caught:
            await sandbox.run("deep")
        assert caught.value.type == "RangeError"
        assert await sandbox.run("ok") == 1
    template.close()


async def test_a_build_without_the_exports_is_refused(context: SandboxContext, tmp_path: Path) -> None:
    own = tmp_path / "own.wasm"
    own.write_bytes(b"\0asm\x01\0\0\0")
    with pytest.raises(RuntimeUnavailableError):
        await context.build_template("js", runtime_path=own)
