"""Which tool is run, how, and what of its words is passed on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from isola_anyio.runtimes import fetch as fetch_module
from isola_anyio.runtimes.fetch import find_tool, redact

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of what this machine has; tests take away from it."""
    has = {"pip", "uv", "ensurepip", "uv on PATH"}
    find_spec = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        if name not in has:
            return None
        return find_spec(name, package) if name == "ensurepip" else find_spec("sys")

    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setattr("shutil.which", lambda name: "/somewhere/uv" if f"{name} on PATH" in has else None)
    return has


def test_tools_are_tried_in_order(machine: set[str]) -> None:
    tool = find_tool()
    assert tool is not None
    assert tool.command == (sys.executable, "-P", "-m", "pip")
    assert not tool.unpacks
    machine.remove("pip")
    tool = find_tool()
    assert tool is not None
    assert (tool.command, tool.unpacks) == (("/somewhere/uv",), True)
    machine.remove("uv on PATH")
    tool = find_tool()
    assert tool is not None
    assert (tool.command, tool.unpacks) == ((sys.executable, "-P", "-m", "uv"), True)
    machine.remove("uv")
    if importlib.util.find_spec("ensurepip"):
        tool = find_tool()
        if tool is not None:  # distributions may strip the wheel
            assert Path(tool.command[-1]).parent.suffix == ".whl"
            assert not tool.unpacks
    machine.remove("ensurepip")
    assert find_tool() is None


def test_a_frozen_program_is_never_run_as_if_it_were_python(machine: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    tool = find_tool()
    assert tool is not None
    assert tool.command == ("/somewhere/uv",)
    machine.remove("uv on PATH")
    assert find_tool() is None


def test_one_wheel_is_asked_for_without_what_it_depends_on() -> None:
    for unpacks in (False, True):
        arguments = fetch_module.Tool("t", ("t",), unpacks).arguments("name==1", Path("there"))
        assert arguments[0] == "t"
        assert arguments[-1] == "name==1"
        assert {"--no-deps", "--only-binary", ":all:", "there"} <= set(arguments)


def test_no_index_is_named_in_the_code_and_the_users_environment_is_kept(tmp_path: Path) -> None:
    given = {"PIP_INDEX_URL": "u", "UV_INDEX_URL": "v", "HTTPS_PROXY": "p", "PIP_REQUIRE_HASHES": "1", "TMPDIR": "/t"}
    environment = fetch_module._environment(given, tmp_path)
    assert [environment[name] for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "HTTPS_PROXY")] == ["u", "v", "p"]
    assert environment["PIP_REQUIRE_HASHES"] == "0"
    assert environment["TMPDIR"] == str(tmp_path)
    for path in Path(fetch_module.__file__).parent.glob("*.py"):
        assert "://" not in path.read_text(encoding="utf-8").replace("*://", "").replace("]*://", "")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("from https://user:pass@host/simple/ now", "from https://****@host/simple/ now"),
        ("https://token@host:1/a https://u:p@h", "https://****@host:1/a https://****@h"),
        ("'https://u:p@ss@host/'", "'https://****@host/'"),
        ("git+ssh://u:p@host/", "git+ssh://****@host/"),
        ("https://host/file.whl?sig=secret#x, more", "https://host/file.whl?**** more"),
        ("mail a@b.example", "mail a@b.example"),
        ("\x1b[31mred\x1b[0m\a\r\n", "red\n"),
    ],
)
def test_what_may_be_secret_is_not_passed_on(said: str, told: str) -> None:
    assert redact(said) == told


def test_only_the_end_of_a_long_message_is_told() -> None:
    tail = fetch_module._tail(b"a" * 10_000 + b"why\xff")
    assert tail.startswith("...a")
    assert tail.endswith(("why", "why\ufffd"))
    assert len(tail) < 2000
    assert fetch_module._tail(b"") == "it said nothing"
