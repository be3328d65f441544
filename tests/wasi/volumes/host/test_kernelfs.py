"""Files of the kernel and devices are out of reach."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import pytest

from isola_anyio.errors import InvalidArgumentError
from isola_anyio.mounts import MountConfig, bind
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.volumes.host.kernelfs import is_kernel_device
from tests.wasi.client import Guest, W, errno_of_failure

pytestmark = pytest.mark.skipif(os.name == "nt", reason="host directories are not mounted on Windows")


def test_devices_are_not_opened(make_guest: Callable[..., Guest], resolver: str) -> None:
    if is_kernel_device(os.stat("/dev").st_dev):
        with pytest.raises(InvalidArgumentError):
            bind(MountConfig("/dev", "/data"))
        return
    g = make_guest(MountConfig("/dev", "/data"))
    assert errno_of_failure(g.open, "data/zero") is Errno.ACCES
    assert errno_of_failure(g.open, "data/null", W) in (Errno.ACCES, Errno.ROFS)


KERNEL_FILES = {
    "proc": ("proc", "proc/self/environ", "proc/self/mem", "proc/self/root", "proc/self/fd/0"),
    "sys": ("sys", "sys/kernel"),
}
needs_mountinfo = pytest.mark.skipif(
    not os.path.exists("/proc/self/mountinfo"), reason="/proc, which lists kernel file systems, is not mounted"
)


@needs_mountinfo
@pytest.mark.parametrize("mode", ["direct", "overlay"])
@pytest.mark.parametrize("top", KERNEL_FILES)
def test_the_kernels_own_files_are_out_of_reach_of_a_mount_of_the_whole_host(
    make_guest: Callable[..., Guest], resolver: str, top: str, mode: Literal["direct", "overlay"]
) -> None:
    if not os.path.ismount(f"/{top}"):
        pytest.skip(f"/{top} is not mounted")
    g = make_guest(MountConfig("/", "/host", mode=mode))
    for path in KERNEL_FILES[top]:
        for call in (g.open, g.stat, g.readlink):
            assert errno_of_failure(call, f"host/{path}") in (Errno.ACCES, Errno.PERM, Errno.INVAL, Errno.LOOP)
    assert errno_of_failure(g.listdir, f"host/{top}") is Errno.ACCES


@needs_mountinfo
def test_a_kernel_file_system_cannot_be_mounted() -> None:
    with pytest.raises(InvalidArgumentError, match="kernel"):
        bind(MountConfig("/proc", "/data"))
    with pytest.raises(InvalidArgumentError, match="regular file"):
        bind(MountConfig("/proc/self/environ", "/data"))
