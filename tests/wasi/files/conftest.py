"""Templates, and both ways to a second guest from one: a fork, and a dump."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from isola_anyio.mounts import MountConfig, bind
from isola_anyio.wasi.files.dump import dump_files, load_files
from isola_anyio.wasi.files.filesystem import FileSystem
from tests.wasi.client import Guest

Fork = Callable[[Guest], Guest]


@pytest.fixture(params=["fork", "disk"])
def fork(
    request: pytest.FixtureRequest, make_guest: Callable[..., Guest], shared: Path, library_file: Path
) -> Callable[[Guest], Guest]:
    """Make a second guest from a template, in the process or by way of its dump."""
    (shared / "host.txt").write_text("host")

    def by_fork(template: Guest) -> Guest:
        return make_guest(files=template.files.fork())

    def by_disk(template: Guest) -> Guest:
        base = base_files(shared, library_file)
        load_files(base, dump_files(template.files))
        return make_guest(files=base)

    return by_fork if request.param == "fork" else by_disk


@pytest.fixture
def library_file(tmp_path: Path) -> Path:
    path = tmp_path / "library.zip"
    path.write_bytes(bytes(range(256)))
    return path


MEMORY = MountConfig.memory("/memory", files={"m": b"memory"})


def base_files(shared: Path, library: Path) -> FileSystem:
    mounts = [
        MountConfig(shared, "/data", "read-write", "read-write"),
        MountConfig(shared, "/over", "read-write", "read-write", mode="overlay"),
        MEMORY,
    ]
    return FileSystem.base(stdlib=library, data_member=None, mounts=[bind(mount) for mount in mounts])


@pytest.fixture
def template(make_guest: Callable[..., Guest], shared: Path, library_file: Path) -> Guest:
    g = make_guest(files=base_files(shared, library_file))
    g.write_file("tmp/f", b"template")
    g.mkdir("tmp/d")
    g.mkdir("tmp/d/e")
    g.write_file("tmp/d/g", b"g")
    g.link("tmp/d/g", "tmp/hard")
    g.symlink("d/g", "tmp/soft")
    return g
