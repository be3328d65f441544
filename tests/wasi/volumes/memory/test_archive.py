"""The library archive and the data inside it, shown as files."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from isola_anyio.wasi.abi import FileType
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.files.filesystem import FileSystem
from isola_anyio.wasi.volumes.memory.archive import ArchiveVolume
from tests.wasi.client import RW, Guest, W, refused

LIB = "usr/local/lib/python315.zip"


DATA = f"{LIB}/matplotlib/mpl-data"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    inner = BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("matplotlibrc", "backend: agg\n")
        archive.writestr("fonts/ttf/a.ttf", b"font" * 100)
        archive.writestr("../escape", b"no")
        archive.writestr("empty/", b"")
    path = tmp_path / "library.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("os.pyc", b"\0" * 5000)
        archive.writestr("matplotlib/mpl-data.zip", inner.getvalue())
    return path


@pytest.fixture
def python(library: Path, make_guest: Callable[..., Guest]) -> Guest:
    return make_guest(files=FileSystem.base(stdlib=library))


def test_the_library_archive_is_read_through_any_number_of_descriptors(python: Guest, library: Path) -> None:
    whole = library.read_bytes()
    assert python.read_file(LIB) == whole
    one, two = python.open(LIB), python.open(LIB)
    assert python.read(one, 10) == python.read(two, 10) == whole[:10]
    assert python.seek(one, -4, 2) == len(whole) - 4
    assert python.read(one, 100) == whole[-4:]
    assert python.tell(two) == 10
    assert python.pread(two, 5, 3) == whole[3:8]
    st = python.stat(LIB)
    assert (st.filetype, st.size) == (FileType.REGULAR_FILE, len(whole))
    assert python.fstat(one) == st
    refused(Errno.ROFS, python.open, LIB, RW)
    refused(Errno.ROFS, python.open, LIB, W, truncate=True)
    refused(Errno.EXIST, python.open, LIB, 0, create=True, exclusive=True)
    refused(Errno.BUSY, python.unlink, LIB)
    refused(Errno.BUSY, python.rename, LIB, "tmp/x")
    refused(Errno.NOTDIR, python.open, LIB, directory=True)
    refused(Errno.NOTDIR, python.stat, LIB + "/")
    refused(Errno.INVAL, python.readlink, LIB)
    refused(Errno.ROFS, python.utime, LIB, 1, 2)


def test_archive_data_shows_below_the_archive_file(python: Guest) -> None:
    assert python.listdir(DATA) == ["empty", "fonts", "matplotlibrc"]
    assert python.read_file(f"{DATA}/matplotlibrc") == b"backend: agg\n"
    with python.opened(f"{DATA}/fonts/ttf/a.ttf") as fd:
        assert python.read(fd, 6, 2) == b"fontfont"
        assert python.pread(fd, 10, 398) == b"nt"
        assert python.seek(fd, 0, 2) == 400
    assert python.listdir(f"{DATA}/empty") == []
    assert python.read_file(f"{DATA}/fonts/../matplotlibrc") == b"backend: agg\n"
    assert python.stat(f"{DATA}/../../../python315.zip").filetype == FileType.REGULAR_FILE
    for call in (python.unlink, python.rmdir):
        refused(Errno.ROFS, call, f"{DATA}/matplotlibrc")
    refused(Errno.ROFS, python.mkdir, f"{DATA}/x")
    refused(Errno.ROFS, python.open, f"{DATA}/matplotlibrc", RW)
    refused(Errno.BUSY, python.rmdir, DATA)


def test_between_the_archive_and_its_data_there_is_nothing(python: Guest) -> None:
    # An importer takes a directory there for a package on disk and stops looking into the archive.
    refused(Errno.NOTDIR, python.stat, f"{LIB}/matplotlib")
    refused(Errno.NOTDIR, python.open, f"{LIB}/matplotlib/__init__.py")
    refused(Errno.NOTDIR, python.open, f"{LIB}/os.py")


def test_an_archive_without_the_data_shows_an_empty_directory(tmp_path: Path, make_guest: Callable[..., Guest]) -> None:
    path = tmp_path / "plain.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("os.pyc", b"")
    g = make_guest(files=FileSystem.base(stdlib=path))
    assert g.listdir(DATA) == []


def test_a_missing_or_unfit_archive_is_the_hosts_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileSystem.base(stdlib=tmp_path / "no.zip")
    with pytest.raises(OSError, match="regular file"):
        FileSystem.base(stdlib=tmp_path)


def test_descriptors_are_closed_and_forked_while_another_guest_unpacks(python: Guest) -> None:
    fd = python.open(f"{DATA}/matplotlibrc")
    volume = python.files.namespace.table.by_point[tuple(DATA.encode().split(b"/"))].volume
    assert isinstance(volume, ArchiveVolume)
    ready, done = threading.Event(), threading.Event()

    def unpack() -> None:
        with volume.lock:
            ready.set()
            done.wait(30)

    thread = threading.Thread(target=unpack)
    thread.start()
    assert ready.wait(30)
    try:
        fork = Guest(python.files.fork())
        python.call("fd_close", fd)
    finally:
        done.set()
        thread.join()
    assert fork.read(fd, 100) == b"backend: agg\n"
    fork.close()
