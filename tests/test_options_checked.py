"""Checked options: one function for every way to ask for a sandbox, with neither a guest nor a loop."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Final

import pytest

from isola_anyio import DEFAULT_CACHE_DIR, InvalidArgumentError, MountConfig, SandboxOptions, TemplateOptions
from isola_anyio.limits import Limits
from isola_anyio.options import CheckedOptions, TemplateBounds, check_options, check_template_options

MIB: Final = 1 << 20
BOUNDS: Final = TemplateBounds(max_memory=64 * MIB, image_size=8 * MIB, metered=False)
METERED: Final = dataclasses.replace(BOUNDS, metered=True)
DEFAULTS: Final = {"python": 512 * MIB, "js": 64 * MIB}
EVERYTHING: Final[dict[str, Any]] = {
    "max_memory": 16 * MIB,
    "mounts": [MountConfig("/tmp", "/data")],
    "env": {"A": "1"},
    "hostcalls": {"f": print},
    "http": None,
    "max_fuel": 1000,
    "max_cpu": 2,
    "max_output": 0,
    "max_payload": 1,
    "max_hostcalls": 3,
    "max_total_hostcalls": 0,
    "seed": 7,
}


def test_nothing_asked_is_the_template_and_the_defaults() -> None:
    assert check_options({}, BOUNDS) == CheckedOptions(Limits(max_memory=64 * MIB))


def test_none_is_the_same_as_nothing() -> None:
    assert check_options(dict.fromkeys(set(EVERYTHING) - {"mounts"}), BOUNDS) == check_options({}, BOUNDS)


def test_everything_that_is_asked_is_kept() -> None:
    assert set(EVERYTHING) == set(SandboxOptions.__annotations__)
    checked = check_options(EVERYTHING, METERED)
    for name in Limits.__slots__:
        assert getattr(checked.limits, name) == EVERYTHING[name], name
    assert checked.mounts == tuple(EVERYTHING["mounts"])
    assert (checked.env, checked.handlers) == (EVERYTHING["env"], EVERYTHING["hostcalls"])
    assert len(checked.seed or b"") == 32
    assert checked.seed == check_options({"seed": 7}, BOUNDS).seed != check_options({"seed": 8}, BOUNDS).seed


def test_what_the_caller_changes_afterwards_changes_nothing() -> None:
    mounts, env, hostcalls = [MountConfig("/tmp", "/data")], {"A": "1"}, {"f": print}
    checked = check_options({"mounts": mounts, "env": env, "hostcalls": hostcalls}, BOUNDS)
    mounts.clear()
    env.clear()
    hostcalls.clear()
    assert (len(checked.mounts), len(checked.env), len(checked.handlers)) == (1, 1, 1)


@pytest.mark.parametrize("name", ["nonsense", "max_memoy", "self", ""])
def test_an_unknown_option_is_named_with_the_known_ones(name: str) -> None:
    for check, known in ((check_sandbox, SandboxOptions), (check_template, TemplateOptions)):
        with pytest.raises(TypeError) as caught:
            check({name: 1})
        assert repr(name) in str(caught.value)
        assert all(each in str(caught.value) for each in known.__annotations__)


def check_sandbox(options: dict[str, Any]) -> Any:
    return check_options(options, BOUNDS)


def check_template(options: dict[str, Any]) -> Any:
    return check_template_options("js", options, default_max_memory=DEFAULTS)


@pytest.mark.parametrize("size", [8 * MIB, 64 * MIB])
def test_memory_may_be_what_the_image_takes_to_what_the_template_has(size: int) -> None:
    assert check_options({"max_memory": size}, BOUNDS).limits.max_memory == size
    for wrong in (8 * MIB - 1, 64 * MIB + 1):
        with pytest.raises(InvalidArgumentError, match=f"max_memory={wrong} must be between {8 * MIB}, .*{64 * MIB}"):
            check_options({"max_memory": wrong}, BOUNDS)


def test_fuel_needs_a_template_that_counts_it() -> None:
    with pytest.raises(InvalidArgumentError, match="max_fuel=5 needs a template built with metered=True"):
        check_options({"max_fuel": 5}, BOUNDS)
    assert check_options({"max_fuel": 5}, METERED).limits.max_fuel == 5


def test_options_laid_over_anothers_take_its_limits_and_add_to_the_rest() -> None:
    base = check_options(EVERYTHING, METERED)
    same = check_options({}, METERED, base=base)
    assert same == dataclasses.replace(base, seed=None)
    given = {
        "max_cpu": 9,
        "mounts": [MountConfig("/tmp", "/more")],
        "env": {"B": "2"},
        "hostcalls": {"f": repr, "g": id},
    }
    over = check_options(given, METERED, base=base)
    assert over.limits == dataclasses.replace(base.limits, max_cpu=9.0)
    assert [mount.guest for mount in over.mounts] == ["/data", "/more"]
    assert (over.env, over.handlers) == ({"A": "1", "B": "2"}, {"f": repr, "g": id})
    assert base == check_options(EVERYTHING, METERED)


def test_a_seed_is_never_taken_over() -> None:
    base = check_options({"seed": 1}, BOUNDS)
    assert check_options({}, BOUNDS, base=base).seed is None
    assert check_options({"seed": 1}, BOUNDS, base=base).seed == base.seed


def test_two_mounts_at_one_path_are_refused_over_anothers_too() -> None:
    base = check_options({"mounts": [MountConfig("/tmp", "/data")]}, BOUNDS)
    with pytest.raises(InvalidArgumentError, match="two mounts are at '/data'"):
        check_options({"mounts": [MountConfig("/var", "/data")]}, BOUNDS, base=base)


def test_a_templates_defaults_are_its_runtimes() -> None:
    for runtime, memory in DEFAULTS.items():
        checked = check_template_options(runtime, {}, default_max_memory=DEFAULTS)
        assert (checked.runtime.pin.runtime, checked.max_memory) == (runtime, memory)
        assert checked.cache_dir is DEFAULT_CACHE_DIR
        assert (checked.mounts, checked.env, checked.prelude, checked.metered) == ((), {}, None, False)


def test_a_templates_runtime_is_checked_before_anything_is_looked_at() -> None:
    given = {"runtime_path": "nowhere", "runtime_lib_dir": "/lib", "runtime_digest": "AB" * 32, "cache_dir": None}
    checked = check_template(given)
    assert checked.runtime.path.is_absolute()
    assert checked.runtime.path.name == "nowhere"
    assert (str(checked.runtime.lib_dir), checked.runtime.sha256) == ("/lib", "ab" * 32)
    assert checked.cache_dir is None
    with pytest.raises(InvalidArgumentError, match="runtime_lib_dir '/lib' goes with a runtime_path"):
        check_template({"runtime_lib_dir": "/lib"})


def test_the_reference_has_every_option_with_its_default() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reference" / "options.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", page, re.MULTILINE))
    assert list(rows) == list(SandboxOptions.__annotations__)
    limits = Limits(max_memory=0)
    for name in set(Limits.__slots__) - {"max_memory"}:
        default = getattr(limits, name)
        assert rows[name] == ("none" if default is None else f"{default:,}"), name
