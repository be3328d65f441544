"""The host reads and changes files in memory while guests use them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from isola_anyio.mounts import MountConfig
from tests.wasi.client import Guest


def test_a_memory_mount_is_one_store_for_host_and_sandboxes(make_guest: Callable[..., Guest]) -> None:
    store = MountConfig.memory("/shared", files={"in/a.txt": b"seed", "/b": b""})
    one, two = make_guest(store), make_guest(store)
    assert one.read_file("shared/in/a.txt") == b"seed"
    one.write_file("shared/out", b"from one")
    assert two.read_file("shared/out") == b"from one"
    assert store.read("out") == store.read("/out") == b"from one"
    assert store.list() == ["/b", "/in/a.txt", "/out"]
    assert store.list("/in") == ["/in/a.txt"]
    store.write("in/deeper/c", b"host")
    assert two.read_file("shared/in/deeper/c") == b"host"
    store.remove("in/deeper/c")
    store.remove("in/deeper")
    with pytest.raises(FileNotFoundError):
        store.read("in/deeper/c")
    with pytest.raises(IsADirectoryError):
        store.read("in")
    with pytest.raises(OSError, match="empty"):
        store.remove("in")
    with pytest.raises(FileNotFoundError):
        store.list("nowhere")
    with pytest.raises(ValueError, match="guest path"):
        store.read("../x")


def test_a_memory_mount_is_safe_from_many_threads(make_guest: Callable[..., Guest]) -> None:
    store = MountConfig.memory("/shared")
    guests = [make_guest(store) for _ in range(3)]
    failures: list[BaseException] = []

    def work(g: Guest, me: int) -> None:
        try:
            for i in range(60):
                g.write_file(f"shared/{me}.{i}", b"x" * 100)
                g.rename(f"shared/{me}.{i}", "shared/common")
                store.list()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(g, me)) for me, g in enumerate(guests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.list() == ["/common"]
