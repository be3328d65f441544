"""Imports go down the list of rooms in ``isola_anyio/__init__.py``, and the seam to wasmtime is one file."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "isola_anyio"
GUEST_PACKAGE: Final = PACKAGE / "guests" / "python" / "sandbox"
SEAM: Final = "isola_anyio.engine.ffi"
SYSTEM_CALLS: Final = "isola_anyio.wasi.volumes.host.openat2"

ROOMS: Final = [
    room
    for line in re.findall(r"^#   (\w.*)$", (PACKAGE / "__init__.py").read_text("utf-8"), re.MULTILINE)
    for room in re.split(r"  +", line)[0].split(", ")
]
"""What the comment in the front door lists: a line is its rooms, then two spaces or more, then what they are for."""
RANK: Final = {room: rank for rank, room in enumerate(["__main__", *ROOMS])}
PURE: Final = (
    *("errors", "printable", "limits", "options", "codec", "guests.protocol", "runtimes.choice", "runtimes.pins"),
    *("run.state", "wasi.abi", "wasi.volumes.paths"),
)
"""Rooms and modules that can be tested without an event loop and without an engine."""


@dataclass(frozen=True)
class Arrow:
    """One import: who, what, where, and whether only type checkers see it."""

    source: str
    target: str
    line: int
    only_types: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


HOST_FILES: Final = {name_of(path): path for path in PACKAGE.rglob("*.py") if GUEST_PACKAGE not in path.parents}


def arrows_of(path: Path) -> Iterator[Arrow]:
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {id(node) for guard in ast.walk(tree) if is_type_guard(guard) for node in ast.walk(guard)}
    source = name_of(path)
    package = source.split(".") if path.name == "__init__.py" else source.split(".")[:-1]
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import module` is an arrow to the module, `from module import name` one to the module.
            targets = [
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in HOST_FILES else module for alias in node.names
            ]
        for target in targets:
            yield Arrow(source, target, node.lineno, id(node) in for_types)  # type: ignore[attr-defined]  # an import


def is_type_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


ARROWS: Final = [arrow for path in HOST_FILES.values() for arrow in arrows_of(path)]
REAL_ARROWS: Final = [arrow for arrow in ARROWS if not arrow.only_types]


def room_of(module: str) -> str | None:
    """Return the room of one of our modules; None for others' and for the front door itself."""
    own, _, rest = module.partition(".")
    return rest.partition(".")[0] or None if own == "isola_anyio" else None


def test_the_list_of_rooms_is_complete() -> None:
    rooms = {room for name in HOST_FILES if (room := room_of(name))}
    assert len(ROOMS) == len(set(ROOMS))
    assert rooms == set(RANK), "the comment in isola_anyio/__init__.py lists other rooms than there are"


def test_imports_go_down_only() -> None:
    wrong: list[str] = []
    for arrow in ARROWS:  # what only type checkers see is an arrow, too
        source, target = room_of(arrow.source), room_of(arrow.target)
        if source is not None and target is not None and source != target and RANK[source] >= RANK[target]:
            wrong.append(str(arrow))
    assert not wrong


def test_no_room_goes_out_of_the_front_door_and_in_again() -> None:
    allowed = {"isola_anyio"}
    assert not [str(arrow) for arrow in REAL_ARROWS if arrow.target == "isola_anyio" and arrow.source not in allowed]


def test_no_module_is_part_of_a_cycle() -> None:
    below: dict[str, set[str]] = {name: set() for name in HOST_FILES}
    for arrow in ARROWS:
        if arrow.target in HOST_FILES and arrow.target != arrow.source:
            below[arrow.source].add(arrow.target)
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for target in sorted(below[name]):
                walk(target, (*path, name))
            done.add(name)

    for name in HOST_FILES:
        walk(name, ())


@pytest.mark.parametrize("pure", PURE)
def test_pure_rooms_know_neither_a_loop_nor_an_engine(pure: str) -> None:
    inside = f"isola_anyio.{pure}"
    files = [name for name in HOST_FILES if name == inside or name.startswith(f"{inside}.")]
    foreign = {"anyio", "trio", "asyncio", "sniffio", "wasmtime", "httpx", "ctypes"}
    for arrow in REAL_ARROWS:
        if arrow.source in files:
            assert arrow.target.partition(".")[0] not in foreign, str(arrow)


def test_which_loop_runs_is_asked_in_two_places_only_and_while_it_runs() -> None:
    # A thread that wakes a loop, and a task's own cancellation, have no common word in anyio.
    arrows = [arrow for arrow in ARROWS if arrow.target.partition(".")[0] in {"asyncio", "trio"}]
    assert {arrow.source for arrow in arrows} <= {"isola_anyio.concurrency", "isola_anyio.engine.wakeup"}
    for arrow in arrows:
        top = ast.parse(HOST_FILES[arrow.source].read_text("utf-8")).body
        assert arrow.line not in {node.lineno for node in top if isinstance(node, (ast.Import, ast.ImportFrom))}


def test_what_is_imported_is_declared() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    declared = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    optional = {re.split(r"[^\w-]", requirement)[0] for requirement in extras}
    for arrow in REAL_ARROWS:
        top = arrow.target.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "isola_anyio":
            assert top in declared | optional, f"{arrow}, which pyproject.toml does not declare"
    imported = {arrow.target.partition(".")[0] for arrow in REAL_ARROWS}
    carried = {"quickjs-rs"}  # for its files; its code is not imported
    assert declared - carried <= imported


def test_ctypes_stays_in_the_seam() -> None:
    users = {arrow.source for arrow in ARROWS if arrow.target.partition(".")[0] == "ctypes"}
    assert {user for user in users if not in_seam(user)} <= {SYSTEM_CALLS}


@pytest.mark.slow
def test_private_names_of_wasmtime_stay_in_the_seam() -> None:
    leaks: list[str] = []
    for name, path in HOST_FILES.items():
        if in_seam(name):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "wasmtime":
                private = any(part.startswith("_") for part in (node.module or "").split("."))
                if private or any(alias.name.startswith("_") for alias in node.names):
                    leaks.append(f"{name}:{node.lineno}")
            elif isinstance(node, ast.Import):
                leaks += [f"{name}:{node.lineno}" for alias in node.names if alias.name.startswith("wasmtime._")]
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and rooted_in_wasmtime(node):
                leaks.append(f"{name}:{node.lineno}")
    assert not leaks


def in_seam(module: str) -> bool:
    return module == SEAM or module.startswith(f"{SEAM}.")


def rooted_in_wasmtime(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id == "wasmtime"


@pytest.mark.parametrize("path", sorted(GUEST_PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_guest_files_import_no_host_files(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.partition(".")[0] == "isola_anyio"]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(path.relative_to(GUEST_PACKAGE).parts), f"line {node.lineno} leaves the package"
            assert (node.module or "").partition(".")[0] != "isola_anyio"


def test_the_host_imports_no_guest_files() -> None:
    guest = "isola_anyio.guests.python.sandbox"
    assert not [str(arrow) for arrow in ARROWS if arrow.target == guest or arrow.target.startswith(f"{guest}.")]
