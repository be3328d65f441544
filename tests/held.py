"""What the process holds: memory, threads, descriptors and memory maps, for tests that look for leaks."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Held:
    """What the process holds at one moment."""

    private_bytes: int
    threads: int
    descriptors: int
    maps: int

    @classmethod
    def now(cls) -> Held:
        """Measure, after a full collection, and without what the allocator merely keeps."""
        gc.collect()
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)
        rollup = Path("/proc/self/smaps_rollup").read_text()
        private = next(line for line in rollup.splitlines() if line.startswith("Private_Dirty"))
        return cls(int(private.split()[1]) * 1024, threading.active_count(), count_descriptors(), count_maps())


def count_descriptors() -> int:
    """Count the open descriptors of the process."""
    return len(os.listdir("/proc/self/fd"))


def count_maps() -> int:
    """Count the memory maps of the process."""
    return Path("/proc/self/maps").read_bytes().count(b"\n")
