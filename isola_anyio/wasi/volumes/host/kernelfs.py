"""Kernel file systems: which devices are interfaces of the kernel instead of disks, and refused to guests.

Files of ``/proc`` and its like look regular and are not: one is this process's environment, another its memory, a
third blocks its reader. A mount of ``/`` would give them to guests, so whatever lies on such a device is refused.
"""

from __future__ import annotations

__all__ = ["is_kernel_device"]

import os
from typing import Final

_TYPES: Final = frozenset(
    b"autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl mqueue nsfs proc pstore"
    b" rpc_pipefs securityfs selinuxfs sysfs tracefs".split()
)

_known: dict[int, bool] = {}


def _kernel_devices() -> set[int]:
    try:
        with open("/proc/self/mountinfo", "rb") as lines:  # noqa: PTH123 - a kernel file, read as bytes
            found: set[int] = set()
            for line in lines:
                mounted, _, source = line.partition(b" - ")
                if source.split(b" ", 1)[0] in _TYPES:
                    major, minor = mounted.split()[2].split(b":")
                    found.add(os.makedev(int(major), int(minor)))
            return found
    except OSError:
        return set()


def is_kernel_device(device: int) -> bool:
    """Return whether a ``st_dev`` is that of a kernel file system; ``False`` where there is no ``/proc`` to ask.

    Remembered for good: a device number of a disk is not given to a kernel file system while it is in use. Two threads
    that ask at once both look it up, and store the same answer.
    """
    answer = _known.get(device)
    if answer is None:
        answer = _known[device] = device in _kernel_devices()
    return answer
