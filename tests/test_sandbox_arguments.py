"""What a run is asked with is checked before anything crosses: names, sources, values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio import GuestError, InvalidArgumentError
from tests.loops import ONE_LOOP

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

pytestmark = ONE_LOOP


@pytest.mark.parametrize("name", [None, "", 3, b"f", ["f"]])
async def test_a_function_is_named_by_a_non_empty_string(template: SandboxTemplate, name: Any) -> None:
    async with template.create() as sandbox:
        with pytest.raises(InvalidArgumentError, match="name of a guest function"):
            await sandbox.run(name)
        with pytest.raises(InvalidArgumentError, match="name of a guest function"):
            sandbox.run_stream(name)


@pytest.mark.parametrize("wrong", [3, None, b"x"])
async def test_scripts_and_paths_are_text(template: SandboxTemplate, wrong: Any) -> None:
    async with template.create() as sandbox:
        with pytest.raises(InvalidArgumentError, match="code is a str"):
            await sandbox.load_script(wrong)
        with pytest.raises(InvalidArgumentError, match="filename is a str"):
            await sandbox.load_script("x = 1", filename=wrong)
        with pytest.raises(InvalidArgumentError, match="code is a str"):
            sandbox.load_stream(wrong)
        for path in (wrong, ""):
            with pytest.raises(InvalidArgumentError, match="path inside the guest"):
                await sandbox.load_file(path)
        await sandbox.load_script("1")


async def test_odd_but_legal_scripts_are_the_guests_business(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("")
        await sandbox.load_script("# nothing\n\n")
        await sandbox.load_script("x = 'ä😀'\n", filename="")
        for code in ("x = '\0'", "x = '\ud800'", "\ud800"):
            with pytest.raises((GuestError, InvalidArgumentError)):
                await sandbox.load_script(code)
                raise GuestError("Accepted", "some Pythons take it")
        await sandbox.load_script("def f(**kw): return kw")
        assert await sandbox.run("f", name=1, self=2, args=3) == {"name": 1, "self": 2, "args": 3}


async def test_arguments_that_cannot_cross_are_named_before_anything_runs(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        with pytest.raises(InvalidArgumentError, match="argument 1"):
            await sandbox.run("f", 1, {1, 2})
        with pytest.raises(InvalidArgumentError, match="argument 'key'"):
            await sandbox.run("f", 1, key=object())
        with pytest.raises(InvalidArgumentError, match=r"rows\[1\]"):
            await sandbox.run("f", {"rows": [1, print]})
