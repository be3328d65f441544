"""Is every wrong option refused, by name, with its value and what would be right?

Options are checked before anything is started: no guest runs here, and no event loop for those of a sandbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio import (
    InvalidArgumentError,
    IsolaError,
    MountConfig,
    SandboxContext,
    build_template,
    resolve_runtime,
)
from tests.loops import ONE_LOOP

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio import SandboxTemplate

BAD_ENV: list[Any] = [
    *(3, "A=b", ["A=b"], {"A": 1}, {"A": None}, {1: "x"}, {"A=B": "c"}, {"": "c"}),
    *({"A": "x\0y"}, {"A\0": "x"}, {"A": b"x"}),
]
BAD_MOUNTS: list[Any] = [3, None, "/tmp", [3], ["/tmp"], {"a": 1}, MountConfig("/tmp", "/x")]
BAD_SIZES: list[Any] = [-1, "64M", 1.5, True, float("nan"), 1 << 60]
BAD_BUILD: list[tuple[str, Any]] = [
    *[("runtime", value) for value in ("ruby", "Python", 3, None, b"js", ["python"])],
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
BAD_CREATE: list[tuple[str, Any]] = [
    *[("max_memory", value) for value in [*BAD_SIZES, 0, 65536, 1 << 31, 1 << 40]],
    *[("mounts", value) for value in BAD_MOUNTS],
    ("mounts", [MountConfig("/tmp", "/x"), MountConfig("/var", "/x")]),
    *[("env", value) for value in BAD_ENV],
    *[("hostcalls", value) for value in (3, "abc", ["a"], print, [print], {"a": 3}, {"a": None}, {1: print})],
    ("hostcalls", {"": print}),
    *[("http", value) for value in (False, 3, "yes")],
    *[("max_fuel", value) for value in (100, 0, -1, "1", 1.5, True, 1 << 64)],
    *[("max_cpu", value) for value in (0, -1, -1.0, "1", True, [1], float("nan"), float("inf"))],
    *[("max_output", value) for value in BAD_SIZES],
    *[("max_payload", value) for value in [*BAD_SIZES, 0]],
    *[("max_hostcalls", value) for value in (0, -1, "many", 1.5, True)],
    *[("max_total_hostcalls", value) for value in (-1, "1", 1.5, True, 1 << 64)],
    *[("seed", value) for value in (1.5, True, [1])],
]
BAD_CONTEXT: list[tuple[str, Any]] = [
    *[("cache_dir", value) for value in (3, "")],
    *[("max_parallel", value) for value in (0, -1, "2", 1.0, 1.5, True, 1 << 40)],
]
BAD_MOUNT: list[dict[str, Any]] = [
    *[{"host": value, "guest": "/x"} for value in (3, None, b"/tmp", "", "/t\0mp")],
    *[{"host": "/tmp", "guest": value} for value in (3, "x", "", "/a/../b", "/x\0")],
    *[{"host": "/tmp", "guest": "/x", "dir_perms": value} for value in ("rw", 3, None)],
    *[{"host": "/tmp", "guest": "/x", "file_perms": value} for value in ("execute", 3, None)],
]


def says_what(error: IsolaError, option: str) -> None:
    """A refusal names its option and is a sentence."""
    assert option in str(error) or option.removesuffix("s") in str(error)
    assert len(str(error).split()) > 4


def shows(error: IsolaError, value: Any) -> None:
    """A refusal shows what it was given: the value, or the item or key of it that is wrong."""
    text = str(error)
    items: list[Any] = [value]
    if isinstance(value, dict):
        items += [*value.keys(), *value.values()]
    elif isinstance(value, list):
        items += value
    shown = [item for item in items if repr(item) in text or (isinstance(item, MountConfig) and item.guest in text)]
    assert shown or any(f"={item}" in text for item in items if isinstance(item, (int, float))), text


@ONE_LOOP
@pytest.mark.parametrize(("option", "value"), BAD_BUILD)
async def test_build_template_refuses_a_wrong_option_by_name(option: str, value: Any) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(InvalidArgumentError) as caught:
        await build_template(options.pop("runtime", "python"), **options)
    says_what(caught.value, option)


@pytest.mark.parametrize(("option", "value"), BAD_CREATE)
def test_a_template_refuses_a_wrong_option_by_name(template: SandboxTemplate, option: str, value: Any) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(InvalidArgumentError) as caught:
        template.create(**options)
    says_what(caught.value, option)
    shows(caught.value, value)


@ONE_LOOP
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "ruby"}, "'python'.*'js'.*'ruby'"),
        ({"max_memory": 1 << 40}, "max_memory"),
        ({"env": {"a": 1}}, "env.*'a'"),
        ({"runtime_digest": "xyz"}, "runtime_digest|runtime_path"),
        ({"runtime_lib_dir": "/x"}, "runtime_path"),
        ({"version": "0.0"}, "0.0"),
        ({"prelude": b"x"}, "prelude.*b'x'"),
        ({"metered": 1}, "metered.*1"),
    ],
    ids=repr,
)
async def test_what_a_build_refuses_is_shown_with_what_would_be_right(options: dict[str, Any], words: str) -> None:
    options = {"runtime": "python", **options}
    runtime = options.pop("runtime")
    with pytest.raises(InvalidArgumentError, match=f"(?s){words}"):
        await build_template(runtime, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_memory": 1}, "max_memory=1 must be between"),
        ({"max_memory": 1 << 31}, "max_memory=2147483648 must be between"),
        ({"max_fuel": 10}, "max_fuel=10.*metered=True"),
        ({"max_payload": None, "max_hostcalls": 0}, "max_hostcalls=0"),
        ({"hostcalls": {"a": 1}}, r"hostcalls\['a'\].*callable.*1"),
        ({"env": {"a": None}}, "env.*'a'.*None"),
        ({"mounts": [MountConfig("/tmp", "/a"), MountConfig("/tmp", "/a")]}, "/a"),
    ],
    ids=repr,
)
def test_what_a_template_refuses_is_shown_with_what_would_be_right(
    template: SandboxTemplate, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"(?s){words}"):
        template.create(**options)


async def test_instantiate_and_an_entered_create_refuse_as_create_does(template: SandboxTemplate) -> None:
    with pytest.raises(InvalidArgumentError, match="max_cpu=0"):
        await template.instantiate(max_cpu=0)
    with pytest.raises(InvalidArgumentError, match="max_cpu=0"):
        async with template.create(max_cpu=0):
            pass


async def test_unknown_options_are_type_errors(template: SandboxTemplate) -> None:
    nonsense: Any = {"max_speed": 1}
    with pytest.raises(TypeError, match="max_speed"):
        template.create(**nonsense)
    with pytest.raises(TypeError, match="max_speed"):
        await template.instantiate(**nonsense)
    with pytest.raises(TypeError, match="max_speed"):
        await build_template("js", **nonsense)
    with pytest.raises(TypeError, match="max_speed"):
        SandboxContext(**nonsense)


@pytest.mark.parametrize("options", BAD_MOUNT, ids=repr)
def test_a_mount_refuses_wrong_fields(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        MountConfig(**options)
    says_what(caught.value, list(options)[-1] if len(options) > 2 else "=")


async def test_a_mount_of_nothing_is_refused_at_the_start(template: SandboxTemplate, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="nowhere"):
        async with template.create(mounts=[MountConfig(str(tmp_path / "nowhere"), "/x")]):
            pass


@pytest.mark.parametrize(("option", "value"), BAD_CONTEXT)
def test_a_context_refuses_wrong_options_when_it_is_made(option: str, value: Any) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(InvalidArgumentError) as caught:
        SandboxContext(**options)
    says_what(caught.value, option)


@ONE_LOOP
@pytest.mark.parametrize("runtime", ["python", "js"])
@pytest.mark.parametrize(
    "options", [{"version": "1.2.3"}, {"version": 3}, {"cache_dir": 3}, {"on_progress": 3}], ids=repr
)
async def test_resolve_runtime_refuses_wrong_options(runtime: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await resolve_runtime(runtime, **options)
    says_what(caught.value, next(iter(options)))
