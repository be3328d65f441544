"""Mappings: a file over linear memory, copy-on-write, and pages that nobody may touch."""

from __future__ import annotations

__all__ = ["IMAGE_MAPPING", "can_map", "forbid", "map_private"]

import ctypes
import mmap
import os
import sys
from ctypes import c_size_t, c_void_p
from typing import Any, Final

from isola_anyio.engine.ffi.raw import libc

# Linux's and macOS's numbers, which are the same for these.
_MAP_FIXED: Final = 0x10
_MAP_PRIVATE: Final = 0x02
_PROT_NONE: Final = 0x0
_PROT_READ_WRITE: Final = 0x3
IMAGE_MAPPING: Final = sys.platform.startswith("linux") or sys.platform == "darwin"
"""Whether a file can be mapped over linear memory here; elsewhere images are copied."""
_mmap: Any = None
_mprotect: Any = None
if IMAGE_MAPPING and libc is not None:
    _mmap = libc["mmap"]
    _mmap.restype = c_void_p
    _mmap.argtypes = (c_void_p, c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    _mprotect = libc["mprotect"]
    _mprotect.restype = ctypes.c_int
    _mprotect.argtypes = (c_void_p, c_size_t, ctypes.c_int)


def map_private(address: int, length: int, fd: int) -> None:
    """Map ``length`` bytes of a file over ``address``, copy-on-write; what was mapped there is gone.

    Raises:
        OSError: the kernel refused.
    """
    # The pages are wasmtime's reservation, and stay that: it unmaps all of it with the instance, whatever is mapped
    # there. Nobody may be inside the guest: for a moment there is neither the old memory nor the new.
    got = _mmap(address, length, _PROT_READ_WRITE, _MAP_FIXED | _MAP_PRIVATE, fd, 0)
    if got != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "mmap of a template image")


def forbid(address: int, length: int) -> None:
    """Make whole pages such that to touch them is a fault.

    Raises:
        OSError: the kernel refused; it needs up to two maps more for it.
    """
    if _mprotect(address, length, _PROT_NONE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "mprotect")


def can_map(count: int) -> bool:
    """Tell whether the kernel gives us ``count`` memory maps more, by having them for a moment."""
    try:
        # As many as pages, when every second page is another kind of memory than its neighbours.
        with mmap.mmap(-1, count * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            base = ctypes.addressof(ctypes.c_ubyte.from_buffer(memory))
            for page in range(1, count, 2):
                forbid(base + page * mmap.PAGESIZE, mmap.PAGESIZE)
    except (OSError, MemoryError):
        return False
    return True
