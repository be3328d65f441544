"""Is every wrong option refused, by name, with its value and what would be right?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio import InvalidArgumentError, MountConfig, SandboxContext, build_template

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

MIB = 1 << 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "ruby"}, "'python'.*'js'.*'ruby'"),
        ({"runtime": None}, "None"),
        ({"runtime": ["python"]}, "python"),
        ({"max_memory": "1"}, "max_memory.*'1'"),
        ({"max_memory": True}, "max_memory.*True"),
        ({"max_memory": -1}, "max_memory=-1"),
        ({"max_memory": 1 << 40}, "max_memory"),
        ({"max_memory": 1.5}, "max_memory.*1.5"),
        ({"prelude": b"x"}, "prelude.*b'x'"),
        ({"prelude": 3}, "prelude.*3"),
        ({"env": ["a"]}, "env"),
        ({"env": {"a": 1}}, "env.*'a'"),
        ({"env": {1: "a"}}, "env"),
        ({"env": {"a=b": "c"}}, "env"),
        ({"env": {"a": "b\0"}}, "env"),
        ({"mounts": 1}, "mounts"),
        ({"mounts": ["/x"]}, "mounts"),
        ({"metered": 1}, "metered.*1"),
        ({"on_progress": 1}, "on_progress"),
        ({"version": "0.0"}, "0.0"),
        ({"version": 3}, "version"),
        ({"cache_dir": 3}, "cache_dir"),
        ({"runtime_digest": "xyz"}, "runtime_digest|runtime_path"),
        ({"runtime_lib_dir": "/x"}, "runtime_path"),
    ],
)
async def test_wrong_build_options_are_refused(options: dict[str, Any], words: str) -> None:
    options = {"runtime": "python", **options}
    runtime = options.pop("runtime")
    with pytest.raises(InvalidArgumentError, match=f"(?s){words}"):
        await build_template(runtime, **options)


@pytest.mark.parametrize("value", [0, -1, True, "2", 1.0, 1 << 40])
def test_wrong_max_parallel_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="max_parallel"):
        SandboxContext(max_parallel=value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_memory": 1}, "max_memory=1 must be between"),
        ({"max_memory": 1 << 31}, "max_memory=2147483648 must be between"),
        ({"max_memory": "x"}, "max_memory.*'x'"),
        ({"max_fuel": 10}, "max_fuel=10.*metered=True"),
        ({"max_fuel": -1}, "max_fuel"),
        ({"max_cpu": 0}, "max_cpu=0"),
        ({"max_cpu": -1.0}, "max_cpu=-1"),
        ({"max_cpu": float("nan")}, "max_cpu=nan"),
        ({"max_cpu": float("inf")}, "max_cpu=inf"),
        ({"max_cpu": "1"}, "max_cpu.*'1'"),
        ({"max_cpu": True}, "max_cpu.*True"),
        ({"max_output": -1}, "max_output=-1"),
        ({"max_output": 1.5}, "max_output.*1.5"),
        ({"max_payload": 0}, "max_payload=0"),
        ({"max_payload": None, "max_hostcalls": 0}, "max_hostcalls=0"),
        ({"max_hostcalls": "many"}, "max_hostcalls.*'many'"),
        ({"hostcalls": ["a"]}, "hostcalls.*'a'"),
        ({"hostcalls": {"a": 1}}, r"hostcalls\['a'\].*callable.*1"),
        ({"hostcalls": {1: print}}, "hostcalls.*1"),
        ({"hostcalls": {"": print}}, "hostcalls"),
        ({"seed": 1.5}, "seed.*1.5"),
        ({"seed": True}, "seed.*True"),
        ({"env": {"a": None}}, "env.*'a'.*None"),
        ({"env": "a=b"}, "env"),
        ({"mounts": [1]}, "mounts.*1"),
        ({"http": False}, "http"),
        ({"http": "yes"}, "http"),
    ],
)
async def test_wrong_sandbox_options_are_refused(
    template: SandboxTemplate, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"(?s){words}"):
        await template.instantiate(**options)
    with pytest.raises(InvalidArgumentError):
        async with template.create(**options):
            pass


async def test_two_mounts_at_one_path_are_refused(template: SandboxTemplate, tmp_path: Any) -> None:
    mounts = [MountConfig(str(tmp_path), "/a"), MountConfig(str(tmp_path), "/a")]
    with pytest.raises(InvalidArgumentError, match="/a"):
        await template.instantiate(mounts=mounts)


async def test_unknown_options_are_type_errors(template: SandboxTemplate) -> None:
    with pytest.raises(TypeError, match="max_speed"):
        await template.instantiate(max_speed=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="max_speed"):
        async with template.create(max_speed=1):  # type: ignore[call-arg]
            pass
    with pytest.raises(TypeError, match="speed"):
        await build_template("python", speed=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", [None, "", 3, b"f", ["f"]])
async def test_a_function_is_named_by_a_non_empty_string(template: SandboxTemplate, name: Any) -> None:
    async with template.create() as sandbox:
        with pytest.raises(InvalidArgumentError, match="name of a guest function"):
            await sandbox.run(name)
        with pytest.raises(InvalidArgumentError, match="name of a guest function"):
            sandbox.run_stream(name)


async def test_scripts_and_paths_are_text(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        for code in (None, b"x", 3):
            with pytest.raises(InvalidArgumentError, match="code is a str"):
                await sandbox.load_script(code)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="filename is a str"):
            await sandbox.load_script("x = 1", filename=3)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="code is a str"):
            sandbox.load_stream(3)  # type: ignore[arg-type]
        for path in (None, "", 3):
            with pytest.raises(InvalidArgumentError, match="path inside the guest"):
                await sandbox.load_file(path)  # type: ignore[arg-type]


async def test_odd_but_legal_scripts_are_the_guests_business(template: SandboxTemplate) -> None:
    from isola_anyio import GuestError

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
