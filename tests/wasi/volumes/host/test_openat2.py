"""Where the kernel's way to confine a path is missing or forbidden, the walk takes its place."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from isola_anyio.wasi.volumes.host import openat2
from isola_anyio.wasi.volumes.host import volume as hostfs
from isola_anyio.wasi.volumes.host.resolver import OpenAt2Resolver
from isola_anyio.wasi.volumes.host.walk import WalkResolver

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="openat2 is Linux's")


@linux_only
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_kernel_or_filter_that_refuses_it_is_noticed_once(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*args: object) -> int:
        asked.append(args)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(openat2, "openat2", refuse)
    openat2.available.cache_clear()
    try:
        assert isinstance(hostfs.choose_resolver(), WalkResolver)
        assert isinstance(hostfs.choose_resolver(), WalkResolver)
        assert len(asked) == 1
    finally:
        openat2.available.cache_clear()


@linux_only
def test_it_is_used_where_it_works() -> None:
    assert isinstance(hostfs.choose_resolver(), OpenAt2Resolver if openat2.available() else WalkResolver)


@linux_only
def test_a_path_is_confined_to_the_directory(tmp_path: Path) -> None:
    if not openat2.available():
        pytest.skip("openat2 is not available")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/out").symlink_to("..")
    dir_fd = os.open(tmp_path / "d", os.O_PATH)
    try:
        for path in (b"..", b"out", b"/", b"../d"):
            with pytest.raises(OSError, match=rf"^\[Errno {errno.EXDEV}\]"):
                openat2.openat2(dir_fd, path, os.O_PATH, 0, openat2.RESOLVE_BENEATH)
    finally:
        os.close(dir_fd)


def test_other_systems_say_that_they_lack_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    openat2.available.cache_clear()
    try:
        assert not openat2.available()
    finally:
        openat2.available.cache_clear()
