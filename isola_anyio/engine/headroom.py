"""Headroom: whether the process has room for one more sandbox, or one more guest thread, before it is made.

When memory maps or threads are used up, whoever asks for the next one fails, and much of what asks cannot take that:
an allocation inside wasmtime ends the process, and so may one of any other library. So sandboxes are refused at
``SANDBOX_SHARE`` of a limit, and guest threads at ``THREAD_SHARE``; with what lies between the two, the sandboxes that
are there go on and unwind.

To count is not free (a third of a microsecond for each map), and a sandbox is made in a fifth of a millisecond. So what
is ours is counted as it comes and goes, what is others' is what a reading found beside it, and there is a reading once
in a while only, and before anything is refused.

Linux alone has these limits where they can be read; elsewhere nothing is refused.
"""

from __future__ import annotations

__all__ = ["Headroom", "headroom"]

import math
import os
import re
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from isola_anyio.engine import ffi
from isola_anyio.errors import IsolaError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

SANDBOX_SHARE: Final = 0.75
"""Of a limit, from where on no sandboxes are made; twenty-four thousand fit under Linux's own 65,530 maps."""
THREAD_SHARE: Final = 0.9
"""Of a limit, from where on no guest threads are started: they are what lets cancelled guests unwind."""
RESERVED_THREADS: Final = 256
"""At most so many threads are kept free: a share of a large limit would be more than anybody needs."""
MAPS_PER_STORE: Final = 2
"""Memory maps of a sandbox: its image, and the rest of its memory (2.05 measured, over twenty)."""
MAPS_PER_THREAD: Final = 8
"""Memory maps of a guest thread, at most: two each for its stack, its signal stack, its heap; Python's frames."""
SPARE_MAPS: Final = 32
"""What must be there when a guest thread starts: what it takes, and as much again several times for all others."""
MAX_COUNTED_MAPS: Final = 1 << 16
"""To read more would hold the event loop for more than 20 ms; from there on what others have is not looked at."""
FRESH_S: Final = 1.0
"""How long a reading holds for what others take, which our margins allow for; a guess."""
_SELDOM: Final = 100
"""Readings come so many times their own duration apart, so that they take a hundredth of the time at most."""
_SELDOM_IN_DOUBT: Final = 10
"""The same where something would be refused."""
_CHUNK_BYTES: Final = 1 << 16
_MAY_EXCEED_NPROC: Final = 1 << 21 | 1 << 24
"""``CAP_SYS_ADMIN`` and ``CAP_SYS_RESOURCE``: either lifts ``RLIMIT_NPROC``."""
_NUMBER: Final = re.compile(rb"(\d+)\s*\Z")
_TASKS: Final = re.compile(rb"(?:\S+ ){3}\d+/(\d+) ")
"""Of all that there are, in ``/proc/loadavg``."""
_THREADS: Final = re.compile(rb"(?s:.*\n)?Threads:\s*(\d+)\n")
_RIGHTS: Final = re.compile(rb"(?s:.*\n)?CapEff:\s*([0-9a-f]+)\n")


class Limit(NamedTuple):
    """A limit of the system's, how much of it others than us had at the last reading, and how to raise it.

    ``others`` may be negative: what is ours is an estimate, and corrected by this.
    """

    name: str
    value: int
    others: int
    remedy: str


class Gauge(ABC):
    """Estimates how much of some limits is used, from readings and from what is ours.

    Races between threads make a reading too many, or use one that is a moment older: no lock.

    Attributes:
        what: what is limited, in the plural.
        most_reserved: how much is kept free at most, of a large limit.
    """

    what: str
    most_reserved: float = math.inf

    def __init__(self) -> None:
        self.limits: Sequence[Limit] = ()
        self._stale_at_s = 0.0
        self._doubted_at_s = 0.0
        # By share: what is ours when that much of a limit is used, if others have what they had at the last reading.
        self._full_at = {SANDBOX_SHARE: math.inf, THREAD_SHARE: math.inf}

    @abstractmethod
    def own(self) -> int:
        """How much is ours now."""

    @abstractmethod
    def read(self, own: int) -> Sequence[Limit]:
        """Read the limits that there are, and what others than us, who have ``own``, have of each."""

    def check(self, share: float, wanted: str) -> None:
        """Do nothing if less than ``share`` of each limit is used.

        Raises:
            IsolaError: of one it is not.
        """
        now_s = time.monotonic()
        if now_s < self._stale_at_s and self.own() < self._full_at[share]:
            return
        if now_s >= self._doubted_at_s:
            self._look(now_s)
        own = self.own()
        for limit in self.limits:
            threshold = self._threshold(limit, share)
            if limit.others + own >= threshold:
                raise IsolaError(
                    f"no room for another {wanted}: {limit.others + own} of {limit.value} {self.what} are in use "
                    f"({limit.name}), and none is made from {threshold} on, so that what is there can go on; close "
                    f"some sandboxes, or raise the limit ({limit.remedy})"
                )

    def _look(self, now_s: float) -> None:
        self.limits = self.read(self.own())
        took_s = time.monotonic() - now_s
        self._stale_at_s = now_s + max(FRESH_S, _SELDOM * took_s)
        self._doubted_at_s = now_s + _SELDOM_IN_DOUBT * took_s
        for share in self._full_at:
            left = (self._threshold(limit, share) - limit.others for limit in self.limits)
            self._full_at[share] = min(left, default=math.inf)

    def _threshold(self, limit: Limit, share: float) -> int:
        return int(max(limit.value * share, limit.value - self.most_reserved))


class MapGauge(Gauge):
    """Memory maps, of which ``vm.max_map_count`` is the limit.

    Args:
        proc: where ``/proc`` is.
        guest_threads: those that live.
    """

    what = "memory maps"

    def __init__(self, proc: Path, guest_threads: Collection[int]) -> None:
        super().__init__()
        self._limit = proc / "sys" / "vm" / "max_map_count"
        self._maps = proc / "self" / "maps"
        self._guest_threads = guest_threads

    def own(self) -> int:
        """Count those of sandboxes and of guest threads, by what one takes."""
        return MAPS_PER_STORE * len(ffi.stores) + MAPS_PER_THREAD * len(self._guest_threads)

    def read(self, own: int) -> Sequence[Limit]:
        """Count the lines of ``/proc/self/maps``."""
        limit = _read_number(self._limit)
        if limit is None:
            return ()
        count = _count_lines(self._maps)
        if count is None:  # too many, so that the limit was raised: others have what they had when they were counted
            count = own + (self.limits[0].others if self.limits else 0)
        return (Limit("vm.max_map_count", limit, count - own, f"sysctl vm.max_map_count={2 * limit}"),)


class ThreadGauge(Gauge):
    """Threads, of which the kernel, the user and the control groups of the process have limits.

    Args:
        proc: where ``/proc`` is.
        cgroups: where the control groups are mounted.
        guest_threads: those that live.
    """

    what = "threads"
    most_reserved = RESERVED_THREADS

    def __init__(self, proc: Path, cgroups: Path, guest_threads: Collection[int]) -> None:
        super().__init__()
        self._proc = proc
        self._cgroups = cgroups
        self._guest_threads = guest_threads
        self._groups: Sequence[Path] | None = None  # found at the first reading: a process seldom moves

    def own(self) -> int:
        """Count guest threads."""
        return len(self._guest_threads)

    def read(self, own: int) -> Sequence[Limit]:
        """Read what there is of ``pids.max``, ``RLIMIT_NPROC``, ``kernel.threads-max`` and ``kernel.pid_max``."""
        if self._groups is None:
            self._groups = [*_pids_groups(self._proc / "self" / "cgroup", self._cgroups)]
        found: list[Limit] = []

        def note(name: str, value: int | None, used: int | None, remedy: str) -> None:
            if value is not None and used is not None:
                found.append(Limit(name, value, used - own, remedy.format(2 * value)))

        for group in self._groups:
            value, used = _read_number(group / "pids.max"), _read_number(group / "pids.current")
            note(f"pids.max of the control group {group.name}", value, used, "a container's pids limit, TasksMax={}")
        soft, used = _user_limit(self._proc / "self" / "status")
        # The limit is of all processes of the user; of others' threads nothing is known.
        note("RLIMIT_NPROC", soft, used, "ulimit -u {}")
        tasks = _read_number(self._proc / "loadavg", _TASKS)
        for name in ("threads-max", "pid_max"):
            value = _read_number(self._proc / "sys" / "kernel" / name)
            note(f"kernel.{name}", value, tasks, f"sysctl kernel.{name}={{}}")
        return found


class Headroom:
    """What is left of the process's memory maps and threads.

    Attributes:
        guest_threads: idents of guest threads that live; each adds and removes its own.

    Args:
        root: where ``proc`` and ``sys`` are; tests have others.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.guest_threads: set[int] = set()
        proc = root / "proc"
        maps = MapGauge(proc, self.guest_threads)
        threads = ThreadGauge(proc, root / "sys" / "fs" / "cgroup", self.guest_threads)
        self._gauges: Sequence[Gauge] = (maps, threads) if sys.platform.startswith("linux") else ()

    def check_sandbox(self) -> None:
        """Do nothing if there is room for another sandbox.

        Raises:
            IsolaError: there is none; it names the limit, its value, and what raises it.
        """
        for gauge in self._gauges:
            gauge.check(SANDBOX_SHARE, "sandbox")

    def check_thread(self) -> None:
        """Do nothing if there is room for another guest thread.

        Raises:
            IsolaError: as for a sandbox.
        """
        for gauge in self._gauges:
            gauge.check(THREAD_SHARE, "guest thread")
        # A reading is old when others take maps fast. On its first steps a thread has the C library allocate memory for
        # it, which ends the process where it cannot.
        if self._gauges and not ffi.can_map(SPARE_MAPS):
            raise IsolaError(
                f"no room for another guest thread: not even {SPARE_MAPS} memory maps are to be had; raise the limit "
                "(sysctl vm.max_map_count, ulimit -v), or have less in memory"
            )


def _read_number(path: Path, pattern: re.Pattern[bytes] = _NUMBER) -> int | None:
    """Return the number in a small file; ``None`` where there is no such file, or no number in it (``max``)."""
    try:
        found = pattern.match(path.read_bytes())
    except OSError:
        return None
    return None if found is None else int(found[1])


def _count_lines(path: Path) -> int | None:
    """Count a file's lines; ``None`` where it cannot be read, or has more than ``MAX_COUNTED_MAPS``."""
    count = 0
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                count += chunk.count(b"\n")
                if count > MAX_COUNTED_MAPS:
                    return None
    except OSError:
        return None
    return count


def _user_limit(status: Path) -> tuple[int | None, int | None]:
    """Return ``RLIMIT_NPROC`` and the process's threads, or ``None`` for a user whom the kernel does not limit."""
    import resource  # noqa: PLC0415 - not on every platform

    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    threads = _read_number(status, _THREADS)
    if soft == resource.RLIM_INFINITY or os.getuid() == 0:
        return None, threads
    try:
        rights = _RIGHTS.match(status.read_bytes())
    except OSError:
        rights = None
    lifted = rights is not None and int(rights[1], 16) & _MAY_EXCEED_NPROC
    return None if lifted else soft, threads


def _pids_groups(membership: Path, mounted: Path) -> Iterator[Path]:
    """Find the process's control groups that count threads, in either version, and those around them."""
    try:
        lines = membership.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number != "0" and "pids" not in controllers.split(","):
            continue
        top = mounted if number == "0" else mounted / "pids"
        group = top / path.lstrip("/")
        # In a container the path may be one that only the host has: then what is mounted at the top is its own group.
        for directory in (group, *group.parents):
            if (directory / "pids.max").exists():
                yield directory
            if directory == top:
                break


headroom: Final = Headroom()


def _after_fork_in_child() -> None:
    # In the child, where no guest thread is left.
    headroom.guest_threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
