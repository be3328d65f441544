"""Know the file systems that are doors into the kernel, and keep guests out of them.

Files of ``/proc`` and its like look regular and are not: one is this process's environment, another its memory, a
third blocks whoever reads it. A mount of ``/`` would hand them out, so whatever lies on such a device is refused.
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
    """Tell whether a ``st_dev`` is that of a kernel file system; never, where there is no ``/proc`` to ask."""
    answer = _known.get(device)
    if answer is None:
        answer = _known[device] = device in _kernel_devices()
    return answer
