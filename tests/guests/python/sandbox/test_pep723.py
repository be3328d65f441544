"""What does a script's own metadata ask for, and is it there?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from isola_anyio import GuestError
from tests.loops import ONE_LOOP

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

pytestmark = ONE_LOOP


def metadata(*lines: str) -> str:
    return "\n".join(["# /// script", *(f"# {line}" if line else "#" for line in lines), "# ///", "loaded = True"])


@pytest.mark.parametrize(
    ("script", "type_name", "said"),
    [
        (
            metadata('dependencies = ["numpy", "foo @ https://host.test/foo.zip"]'),
            "ImportError",
            "'foo @ https.*no HTTP",
        ),
        (metadata("dependencies = [", '  "nowhere<3",', '  "other",', "]"), "ImportError", "'nowhere<3'.*no HTTP"),
        (metadata('dependencies = ["numpy<1"]'), "ImportError", "'numpy<1'.*version [0-9]"),
        (metadata("dependencies = ["), "ValueError", "not TOML"),
        (metadata("dependencies = 5"), "ValueError", "list of str, not 5"),
        (metadata("dependencies = [5]"), "ValueError", "no requirement: 5"),
        (metadata('dependencies = ["a b"]'), "ValueError", "no requirement: 'a b'"),
        (metadata("requires-python = '<3'"), "RuntimeError", "requires Python <3; this sandbox has 3"),
        (metadata("requires-python = 3"), "ValueError", "no version specifier: 3"),
        (metadata("requires-python = 'new'"), "ValueError", "no version specifier: 'new'"),
        (metadata("") + "\n" + metadata(""), "ValueError", "one block"),
    ],
)
async def test_a_script_whose_metadata_asks_for_what_is_not_there_is_refused(
    template: SandboxTemplate, script: str, type_name: str, said: str
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("loaded = False\ndef look(): return loaded")
        for code in (script, script.replace("\n", "\r\n")):
            with pytest.raises(GuestError, match=said) as caught:
                await sandbox.load_script(code)
            assert caught.value.type == type_name
        assert await sandbox.run("look") is False


@pytest.mark.parametrize(
    "script",
    [
        metadata("requires-python = '>=3.11'"),
        metadata('dependencies = ["numpy>=1.0", "Pillow"]', "", "[tool.x]", "y = 1"),
        metadata("dependencies = [\"gone; sys_platform == 'win32'\"]"),
        "# /// script\n# dependencies = ['gone']\nloaded = True",
        metadata('dependencies = ["gone"]').replace("/// script", "/// other"),
        "text = '''\n  # /// script\n  # dependencies = ['gone']\n  # ///\n'''\nloaded = True",
    ],
)
async def test_a_script_whose_metadata_is_satisfied_loads(template: SandboxTemplate, script: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(script + "\ndef look(): return loaded")
        assert await sandbox.run("look") is True
