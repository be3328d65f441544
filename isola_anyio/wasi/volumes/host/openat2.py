"""``openat2``: Linux's call that confines a path to a directory, in the kernel and so without races.

Python has no function for it, so this module calls it through ctypes; it is the only one in ``wasi`` that does. Kernels
since 5.6 have it; containers with an older system call filter refuse it with ``EPERM``.
"""

from __future__ import annotations

__all__ = ["RESOLVE_BENEATH", "RESOLVE_NO_MAGICLINKS", "RESOLVE_NO_SYMLINKS", "available", "openat2"]

import ctypes
import errno
import os
import sys
from functools import cache
from typing import Final

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08

_SYS_OPENAT2: Final = 437  # the same on every architecture but alpha
_ATTEMPTS: Final = 32
"""Tries when the kernel cannot tell because of a concurrent rename (``EAGAIN``), or a signal comes; a guess."""

_OpenHow = ctypes.c_uint64 * 3  # struct open_how: flags, mode, resolve

if sys.platform == "linux":
    _syscall = ctypes.CDLL(None, use_errno=True).syscall
    _syscall.restype = ctypes.c_long
    _syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]

    def openat2(dir_fd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
        """Return a new descriptor for ``path`` below ``dir_fd``; ``OSError`` as the kernel says."""
        how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
        number = errno.EAGAIN
        for _ in range(_ATTEMPTS):
            fd: int = _syscall(_SYS_OPENAT2, dir_fd, path, ctypes.addressof(how), ctypes.sizeof(how))
            if fd >= 0:
                return fd
            number = ctypes.get_errno()
            if number not in (errno.EAGAIN, errno.EINTR):
                break
        raise OSError(number, os.strerror(number))

else:

    def openat2(dir_fd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:  # noqa: ARG001
        """Fail: only Linux has it."""
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@cache
def available() -> bool:
    """Return whether the kernel has it and lets this process use it; tried once."""
    if sys.platform != "linux":
        return False
    flags = os.O_PATH | os.O_DIRECTORY
    root = os.open("/", flags)
    try:
        os.close(openat2(root, b".", flags, 0, RESOLVE_BENEATH))
    except OSError:
        return False
    finally:
        os.close(root)
    return True
