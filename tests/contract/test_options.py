"""Sections 2 to 4: what does a wrong option meet?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio import (
    Arg,
    InvalidArgumentError,
    IsolaError,
    MountConfig,
    SandboxContext,
    StreamArg,
    build_template,
    resolve_runtime,
)

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

BAD_ENV = [3, "A=b", ["A=b"], {"A": 1}, {1: "x"}, {"A=B": "c"}, {"": "c"}, {"A": "x\0y"}, {"A\0": "x"}, {"A": b"x"}]
BAD_MOUNTS = [3, None, "/tmp", [3], ["/tmp"], {"a": 1}, MountConfig("/tmp", "/x")]
BAD_SIZES = [-1, "64M", 1.5, True, float("nan"), 1 << 60]
BAD_BUILD = [
    *[("runtime", value) for value in ("ruby", "Python", 3, None, b"js")],
    *[("version", value) for value in ("0.0.1", "", 3, b"3")],
    *[("cache_dir", value) for value in (3, "", object())],
    *[("max_memory", value) for value in [*BAD_SIZES, 0, 1000, 1 << 20]],
    *[("prelude", value) for value in (3, b"x=1", ["x=1"])],
    *[("mounts", value) for value in BAD_MOUNTS],
    *[("env", value) for value in BAD_ENV],
    *[("metered", value) for value in ("yes", 1, None)],
    *[("on_progress", value) for value in (3, "print")],
    *[("runtime_path", value) for value in (3, "")],
    *[("runtime_digest", value) for value in (3, "xyz")],
    *[("runtime_lib_dir", value) for value in (3, "/tmp")],
]
BAD_CREATE = [
    *[("max_memory", value) for value in [*BAD_SIZES, 0, 65536]],
    *[("mounts", value) for value in BAD_MOUNTS],
    ("mounts", [MountConfig("/tmp", "/x"), MountConfig("/var", "/x")]),
    *[("env", value) for value in BAD_ENV],
    *[("hostcalls", value) for value in (3, "abc", print, [print], {"a": 3}, {"a": None}, {1: print}, {"": print})],
    *[("http", value) for value in (False, 3, "yes")],
    *[("max_fuel", value) for value in (100, 0, -1, "1", 1.5, True, 1 << 64)],
    *[("max_cpu", value) for value in (0, -1, "1", True, [1], float("nan"), float("inf"))],
    *[("max_output", value) for value in BAD_SIZES],
    *[("max_payload", value) for value in [*BAD_SIZES, 0]],
    *[("max_hostcalls", value) for value in (0, -1, "1", 1.5, True)],
    *[("max_total_hostcalls", value) for value in (-1, "1", 1.5, True, 1 << 64)],
    *[("seed", value) for value in (1.5, True, [1])],
]
BAD_MOUNT = [
    *[{"host": value, "guest": "/x"} for value in (3, None, b"/tmp", "", "/t\0mp")],
    *[{"host": "/tmp", "guest": value} for value in (3, "x", "", "/a/../b", "/x\0")],
    *[{"host": "/tmp", "guest": "/x", "dir_perms": value} for value in ("rw", 3, None)],
    *[{"host": "/tmp", "guest": "/x", "file_perms": value} for value in ("execute", 3, None)],
]


def says_what(error: IsolaError, option: str) -> None:
    assert option in str(error) or option.removesuffix("s") in str(error)
    assert len(str(error).split()) > 4


@pytest.mark.parametrize(("option", "value"), BAD_BUILD)
async def test_build_template_refuses_a_wrong_option_by_name(runtime: str, option: str, value: Any) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(InvalidArgumentError) as caught:
        await build_template(options.pop("runtime", runtime), **options)
    says_what(caught.value, option)


@pytest.mark.parametrize(("option", "value"), BAD_CREATE)
async def test_a_template_refuses_a_wrong_option_by_name(template: SandboxTemplate, option: str, value: Any) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(InvalidArgumentError) as caught:
        template.create(**options)
    says_what(caught.value, option)
    with pytest.raises(InvalidArgumentError):
        await template.instantiate(**options)


async def test_unknown_options_are_type_errors(template: SandboxTemplate) -> None:
    nonsense: Any = {"nonsense": 1}
    with pytest.raises(TypeError):
        template.create(**nonsense)
    with pytest.raises(TypeError):
        await template.instantiate(**nonsense)
    with pytest.raises(TypeError):
        await build_template("js", **nonsense)
    with pytest.raises(TypeError):
        SandboxContext(**nonsense)


@pytest.mark.parametrize("options", BAD_MOUNT, ids=repr)
def test_a_mount_refuses_wrong_fields(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        MountConfig(**options)
    says_what(caught.value, list(options)[-1] if len(options) > 2 else "=")


async def test_a_mount_of_nothing_is_refused_at_the_start(template: SandboxTemplate) -> None:
    with pytest.raises(InvalidArgumentError, match="nowhere"):
        async with template.create(mounts=[MountConfig("/nowhere/at/all", "/x")]):
            pass


@pytest.mark.parametrize(
    "options",
    [{"cache_dir": 3}, {"cache_dir": ""}, *({"max_parallel": value} for value in (0, -1, "2", 1.5, True))],
    ids=repr,
)
def test_a_context_refuses_wrong_options_when_it_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        SandboxContext(**options)
    says_what(caught.value, next(iter(options)))


@pytest.mark.parametrize(
    "options", [{"version": "1.2.3"}, {"version": 3}, {"cache_dir": 3}, {"on_progress": 3}], ids=repr
)
async def test_resolve_runtime_refuses_wrong_options(runtime: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await resolve_runtime(runtime, **options)
    says_what(caught.value, next(iter(options)))


@pytest.mark.parametrize("name", [3, "", b"x"])
def test_arguments_refuse_wrong_names(name: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        Arg(1, name)
    with pytest.raises(InvalidArgumentError):
        StreamArg.from_iterable([1], name=name)


@pytest.mark.parametrize("capacity", [0, -1, "1", 1.5, True, None])
def test_a_stream_argument_refuses_wrong_capacities(capacity: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="capacity"):
        StreamArg.from_iterable([1], capacity=capacity)


def test_a_stream_argument_refuses_what_does_not_iterate() -> None:
    wrong: Any = 3
    with pytest.raises(InvalidArgumentError):
        StreamArg.from_iterable(wrong)
    wrong = [1]
    with pytest.raises(InvalidArgumentError):
        StreamArg.from_async_iterable(wrong)


@pytest.mark.parametrize("wrong", [3, None, b"x"])
async def test_a_sandbox_refuses_wrong_names_and_sources(template: SandboxTemplate, wrong: Any) -> None:
    async with template.create() as sandbox:
        with pytest.raises(InvalidArgumentError):
            await sandbox.run(wrong)
        with pytest.raises(InvalidArgumentError):
            await sandbox.load_script(wrong)
        with pytest.raises(InvalidArgumentError):
            await sandbox.load_script("1", filename=wrong)
        with pytest.raises(InvalidArgumentError):
            await sandbox.load_file(wrong)
        with pytest.raises(InvalidArgumentError):
            async with sandbox.run_stream(wrong) as events:
                await events.receive()
        await sandbox.load_script("1")
