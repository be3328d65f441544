"""Mappings: a file over linear memory, copy-on-write."""

from __future__ import annotations

__all__ = ["IMAGE_MAPPING", "map_private"]

import ctypes
import os
import sys
from ctypes import c_size_t, c_void_p
from typing import Any, Final

from isola_anyio.engine.ffi.raw import libc

# Linux's and macOS's numbers, which are the same for these.
_MAP_FIXED: Final = 0x10
_MAP_PRIVATE: Final = 0x02
_PROT_READ_WRITE: Final = 0x3
IMAGE_MAPPING: Final = sys.platform.startswith("linux") or sys.platform == "darwin"
"""Whether a file can be mapped over linear memory here; elsewhere images are copied."""
_mmap: Any = None
if IMAGE_MAPPING and libc is not None:
    _mmap = libc["mmap"]
    _mmap.restype = c_void_p
    _mmap.argtypes = (c_void_p, c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)


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
