"""Headroom: sandboxes and threads are refused in time, in words, and without counting too often."""

from __future__ import annotations

import os
import resource
import sys
import time
import warnings
from typing import TYPE_CHECKING

import pytest

from isola_anyio.engine import ffi
from isola_anyio.engine import headroom as module
from isola_anyio.engine.headroom import FRESH_S, MAX_COUNTED_MAPS, RESERVED_THREADS, Headroom
from isola_anyio.errors import IsolaError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are Linux's")

LIMIT = 1000
UNLIMITED = 1 << 30


class System:
    """A ``/proc`` and a ``/sys`` of a test's own, a clock, and the headroom of a process there."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.now_s = 100.0
        self.counted = 0
        self.headroom = Headroom(root)
        count = module._count_lines

        def counting(path: Path) -> int | None:
            self.counted += 1
            self.now_s += self.takes_s
            return count(path)

        self.takes_s = 0.0
        patch.setattr(module, "_count_lines", counting)
        patch.setattr(time, "monotonic", lambda: self.now_s)
        patch.setattr(resource, "getrlimit", lambda _number: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.write("proc/sys/vm/max_map_count", f"{LIMIT}\n")
        self.maps(10)
        self.write("proc/sys/kernel/threads-max", f"{UNLIMITED}\n")
        self.write("proc/sys/kernel/pid_max", f"{UNLIMITED}\n")
        self.tasks(10)
        self.status(threads=10)
        self.write("proc/self/cgroup", "0::/\n")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def maps(self, count: int) -> None:
        self.write("proc/self/maps", "7f0000000000-7f0000001000 rw-p 00000000 00:00 0\n" * count)

    def tasks(self, count: int) -> None:
        self.write("proc/loadavg", f"0.11 1.22 3.33 2/{count} 4711\n")

    def status(self, *, threads: int, rights: int = 0) -> None:
        self.write("proc/self/status", f"Name:\tpython\nThreads:\t{threads}\nCapEff:\t{rights:016x}\nSeccomp:\t0\n")

    def group(self, path: str, limit: int | str, used: int) -> None:
        self.write(f"sys/fs/cgroup/{path}/pids.max", f"{limit}\n")
        self.write(f"sys/fs/cgroup/{path}/pids.current", f"{used}\n")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    return System(tmp_path, monkeypatch)


def test_the_machine_that_tests_run_on_has_room() -> None:
    here = Headroom()
    here.check_sandbox()
    here.check_thread()
    assert here._gauges
    assert all(gauge.limits for gauge in here._gauges)


def test_where_there_is_room_nothing_is_refused(system: System) -> None:
    system.maps(700)
    system.headroom.check_sandbox()
    system.headroom.check_thread()


def test_sandboxes_are_refused_at_a_share_of_the_memory_maps_and_threads_later(system: System) -> None:
    system.maps(760)
    with pytest.raises(IsolaError, match=r"no room for another sandbox: 760 of 1000 memory maps") as caught:
        system.headroom.check_sandbox()
    assert "vm.max_map_count" in str(caught.value)
    assert "from 750 on" in str(caught.value)
    assert "sysctl vm.max_map_count=2000" in str(caught.value)
    system.headroom.check_thread()
    system.maps(910)
    system.now_s += FRESH_S
    with pytest.raises(IsolaError, match="no room for another guest thread: 910 of 1000 memory maps"):
        system.headroom.check_thread()


def limit_tasks(name: str) -> Callable[[System, pytest.MonkeyPatch], None]:
    def limit(system: System, _patch: pytest.MonkeyPatch) -> None:
        system.write(f"proc/sys/kernel/{name}", "100\n")
        system.tasks(80)

    return limit


def limit_user(system: System, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(resource, "getrlimit", lambda _number: (100, 200))
    patch.setattr(os, "getuid", lambda: 1000)
    system.status(threads=80)


def limit_group(membership: str, group: str) -> Callable[[System, pytest.MonkeyPatch], None]:
    def limit(system: System, _patch: pytest.MonkeyPatch) -> None:
        system.write("proc/self/cgroup", membership)
        system.group(group, 100, 80)

    return limit


THREAD_LIMITS = {
    "kernel.threads-max": (limit_tasks("threads-max"), "sysctl kernel.threads-max=200"),
    "kernel.pid_max": (limit_tasks("pid_max"), "sysctl kernel.pid_max=200"),
    "RLIMIT_NPROC": (limit_user, "ulimit -u 200"),
    "pids.max": (limit_group("0::/a/b\n", "a/b"), "TasksMax=200"),
    "pids.max around": (limit_group("0::/a/b\n", "a"), "TasksMax=200"),
    "pids.max of a container": (limit_group("0::/of/the/host/only\n", "."), "TasksMax=200"),
    "pids.max of version 1": (limit_group("4:memory:/m\n8:cpu,pids:/a\n0::/\n", "pids/a"), "TasksMax=200"),
}


@pytest.mark.parametrize("name", THREAD_LIMITS)
def test_sandboxes_are_refused_at_a_share_of_the_threads(
    system: System, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    limit, remedy = THREAD_LIMITS[name]
    limit(system, monkeypatch)
    with pytest.raises(IsolaError, match=r"no room for another sandbox: 80 of 100 threads are in use") as caught:
        system.headroom.check_sandbox()
    assert name.split(" ", maxsplit=1)[0] in str(caught.value)
    assert remedy in str(caught.value)
    system.headroom.check_thread()


@pytest.mark.parametrize("rights", [1 << 21, 1 << 24])
def test_who_may_exceed_the_limit_on_a_users_threads_is_not_held_to_it(
    system: System, monkeypatch: pytest.MonkeyPatch, rights: int
) -> None:
    limit_user(system, monkeypatch)
    system.status(threads=99, rights=rights)
    system.headroom.check_thread()
    system.status(threads=99)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    system.now_s += FRESH_S
    system.headroom.check_thread()


def test_groups_without_a_limit_are_none(system: System) -> None:
    system.write("proc/self/cgroup", "0::/a\n7:blkio:/x\nnonsense\n")
    system.group("a", "max", 1 << 20)
    system.headroom.check_thread()


def test_of_a_large_limit_no_share_is_kept_that_nobody_needs(system: System) -> None:
    system.write("proc/sys/kernel/threads-max", "100000\n")
    system.tasks(99_999 - RESERVED_THREADS)
    system.headroom.check_sandbox()
    system.tasks(100_000 - RESERVED_THREADS)
    system.now_s += FRESH_S
    with pytest.raises(IsolaError, match=r"kernel\.threads-max"):
        system.headroom.check_sandbox()


def test_what_is_ours_is_counted_without_a_reading(system: System) -> None:
    system.headroom.check_sandbox()
    system.headroom.guest_threads.update(range(94))  # eight maps each: 762 of a thousand
    assert system.counted == 1
    system.maps(762)
    with pytest.raises(IsolaError, match="762 of 1000 memory maps"):
        system.headroom.check_sandbox()
    system.headroom.guest_threads.clear()
    system.headroom.check_sandbox()


def test_nothing_is_refused_for_an_estimate_that_was_wrong(system: System) -> None:
    system.headroom.check_sandbox()
    system.headroom.guest_threads.update(range(200))  # had they eight maps each, there would be none left
    system.maps(500)
    system.headroom.check_sandbox()
    assert system.counted == 2
    system.headroom.guest_threads.update(range(200, 231))  # from there on it is right
    system.maps(748)
    system.headroom.check_sandbox()
    assert system.counted == 2


def test_what_others_take_is_seen_in_a_while(system: System) -> None:
    system.headroom.check_sandbox()
    system.maps(800)
    system.headroom.check_sandbox()
    system.now_s += FRESH_S
    with pytest.raises(IsolaError):
        system.headroom.check_sandbox()


def test_counting_takes_a_small_part_of_the_time(system: System) -> None:
    system.takes_s, began_s = 0.02, system.now_s
    for _ in range(1000):
        system.headroom.check_sandbox()
        system.now_s += 0.01
    assert 0.005 < system.counted * system.takes_s / (system.now_s - began_s) < 0.012


def test_to_be_refused_again_and_again_takes_a_small_part_of_the_time(system: System) -> None:
    system.takes_s, began_s = 0.02, system.now_s
    system.maps(800)
    for _ in range(1000):
        with pytest.raises(IsolaError):
            system.headroom.check_sandbox()
        system.now_s += 0.01
    assert 0.05 < system.counted * system.takes_s / (system.now_s - began_s) < 0.12


def test_more_maps_than_can_be_counted_are_not(system: System) -> None:
    system.write("proc/sys/vm/max_map_count", f"{MAX_COUNTED_MAPS}\n")
    system.headroom.check_sandbox()
    system.maps(MAX_COUNTED_MAPS + 1)
    system.now_s += FRESH_S
    system.headroom.check_sandbox()  # others have the ten that they had
    system.headroom.guest_threads.update(range(MAX_COUNTED_MAPS // 8))
    with pytest.raises(IsolaError):
        system.headroom.check_sandbox()


def test_a_thread_is_not_started_where_maps_are_short_that_were_plenty_when_they_were_counted(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.headroom.check_thread()
    monkeypatch.setattr(ffi, "can_map", lambda _count: False)
    with pytest.raises(IsolaError, match=r"memory maps are to be had.*vm\.max_map_count"):
        system.headroom.check_thread()


def test_where_nothing_can_be_read_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = Headroom(tmp_path)
    nowhere.check_sandbox()
    nowhere.check_thread()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not Headroom()._gauges


def test_a_limit_without_a_count_is_none(system: System) -> None:
    (system.root / "proc/self/maps").unlink()
    (system.root / "proc/self/status").unlink()
    (system.root / "proc/loadavg").write_text("nonsense")
    system.headroom.check_thread()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_fork_has_no_guest_threads() -> None:
    module.headroom.guest_threads.add(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # this process may have threads, which the child will not use
            child = os.fork()
        if child == 0:
            os._exit(len(module.headroom.guest_threads))
        assert os.waitpid(child, 0)[1] == 0
        assert 0 in module.headroom.guest_threads
    finally:
        module.headroom.guest_threads.discard(0)
