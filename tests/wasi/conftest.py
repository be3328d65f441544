"""Guests, and a check that no test leaves a host descriptor behind."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isola_anyio.mounts import MountConfig, bind
from isola_anyio.wasi.volumes.budgets import FileLimits
from isola_anyio.wasi.volumes.host import resolver as resolve
from isola_anyio.wasi.volumes.host import volume as hostfs
from isola_anyio.wasi.volumes.host.openat2 import available
from isola_anyio.wasi.volumes.host.resolver import OpenAt2Resolver
from isola_anyio.wasi.volumes.host.walk import WalkResolver
from tests.wasi.client import Guest


def _open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def no_descriptor_left_behind() -> Iterator[None]:
    if not os.path.isdir("/proc/self/fd"):
        yield
        return
    before = _open_fds()
    yield
    if _open_fds() > before:
        gc.collect()
    assert _open_fds() <= before


@pytest.fixture
def make_guest() -> Iterator[Callable[..., Guest]]:
    made: list[Guest] = []

    def make(*mounts: MountConfig, limits: FileLimits | None = None, **options: object) -> Guest:
        guest = Guest(mounts=[bind(mount) for mount in mounts], limits=limits, **options)  # type: ignore[arg-type]
        made.append(guest)
        return guest

    yield make
    for guest in made:
        guest.close()


@pytest.fixture
def guest(make_guest: Callable[..., Guest]) -> Guest:
    return make_guest()


def use_resolver(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "openat2":
        if not available():
            pytest.skip("openat2 is not available")
        monkeypatch.setattr(hostfs, "choose_resolver", OpenAt2Resolver)
    elif kind == "walk":
        monkeypatch.setattr(hostfs, "choose_resolver", WalkResolver)
    else:
        flags = resolve.DIR_FLAGS & ~resolve.O_PATH
        for module in ("resolver", "walk", "volume"):
            monkeypatch.setattr(f"isola_anyio.wasi.volumes.host.{module}.DIR_FLAGS", flags)
        monkeypatch.setattr(hostfs, "choose_resolver", lambda: WalkResolver(pins=False))


@pytest.fixture(params=["openat2", "walk", "walk without pins"])
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with each way to confine a path."""
    kind: str = request.param
    use_resolver(kind, monkeypatch)
    return kind


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A host directory to mount, beside one that is not."""
    secret = tmp_path / "outside"
    secret.mkdir()
    (secret / "secret.txt").write_text("host only")
    root = tmp_path / "shared"
    root.mkdir()
    return root


class Place:
    """A guest and a writable directory of it, in one kind of volume."""

    def __init__(self, kind: str, guest: Guest, path: str) -> None:
        self.kind = kind
        self.guest = guest
        self.path = path

    def __str__(self) -> str:
        return self.path

    def __truediv__(self, name: str) -> str:
        return f"{self.path}/{name}"


@pytest.fixture(params=["tmp", "memory", "openat2", "walk", "walk without pins", "overlay"])
def place(
    request: pytest.FixtureRequest, make_guest: Callable[..., Guest], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """Run a test in every kind of writable volume: what a guest sees must not depend on it."""
    kind: str = request.param
    if kind == "tmp":
        return Place(kind, make_guest(), "tmp")
    if kind == "memory":
        return Place(kind, make_guest(MountConfig.memory("/data")), "data")
    if kind == "overlay":
        return Place(kind, make_guest(MountConfig(shared, "/data", "read-write", "read-write", mode="overlay")), "data")
    use_resolver(kind, monkeypatch)
    return Place(kind, make_guest(MountConfig(shared, "/data", "read-write", "read-write")), "data")
