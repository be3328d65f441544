"""Wheels that lie, and what may come out of them: the pinned bytes or nothing."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from isola_anyio.errors import DigestMismatchError
from isola_anyio.runtimes.fetch import Fetched
from isola_anyio.runtimes.unpack import check_wheel, unpack
from isola_anyio.runtimes.worker import Meter

from .conftest import FILES, LIBRARY, MAIN, PIN, WHEEL, entries, has_runtime, make_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio.cache import Cache
    from isola_anyio.runtimes.pins import Pin


def archive_of(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            archive.writestr(name, content, method)
    return buffer.getvalue()


def take(cache: Cache, tmp_path: Path, wheel: bytes) -> None:
    """Unpack an archive as if its digest were the pinned one, so that what it holds is looked at."""
    path = tmp_path / "some.whl"
    path.write_bytes(wheel)
    pin = pin_for(wheel)
    assert pin.key == PIN.key
    unpack(Fetched(path, unpacked=False), pin, cache, Meter(None))


def pin_for(wheel: bytes) -> Pin:
    import hashlib

    return replace(PIN, wheel_sha256=hashlib.sha256(wheel).hexdigest(), wheel_bytes=len(wheel))


def refused(cache: Cache, tmp_path: Path, wheel: bytes, message: str) -> None:
    with pytest.raises(DigestMismatchError, match=message):
        take(cache, tmp_path, wheel)
    assert entries(cache.root) == []


def both() -> list[tuple[str | zipfile.ZipInfo, bytes]]:
    return [(name, content) for name, content in FILES.items()]


def test_only_the_pinned_files_are_taken(cache: Cache, tmp_path: Path) -> None:
    take(cache, tmp_path, WHEEL)
    assert has_runtime(cache.root)


def test_names_that_climb_out_are_never_joined_to_a_path(cache: Cache, tmp_path: Path) -> None:
    hostile: list[tuple[str | zipfile.ZipInfo, bytes]] = [
        ("../../escape", b"x"),
        (f"{tmp_path}/escape", b"x"),
        ("..\\escape", b"x"),
    ]
    before = set(tmp_path.rglob("*"))
    take(cache, tmp_path, archive_of(*hostile, *both()))
    assert has_runtime(cache.root)
    assert not [path for path in set(tmp_path.rglob("*")) - before if "escape" in path.name]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_given_twice_is_refused(cache: Cache, tmp_path: Path) -> None:
    refused(cache, tmp_path, archive_of(*both(), (PIN.main.member, MAIN)), "holds 2 files named")


def test_a_missing_file_is_refused_and_the_other_one_not_kept(cache: Cache, tmp_path: Path) -> None:
    refused(cache, tmp_path, archive_of((PIN.library.member, LIBRARY)), "holds 0 files named")


@pytest.mark.parametrize("alias", ["./{}", "/{}", "x/../{}", "{}/"])
def test_a_name_that_only_leads_to_the_file_is_not_the_file(cache: Cache, tmp_path: Path, alias: str) -> None:
    wheel = archive_of((PIN.library.member, LIBRARY), (alias.format(PIN.main.member), MAIN))
    refused(cache, tmp_path, wheel, "holds 0 files named")


def test_a_declared_size_that_is_not_the_pinned_one_is_refused(cache: Cache, tmp_path: Path) -> None:
    wheel = archive_of((PIN.library.member, LIBRARY), (PIN.main.member, bytes(50_000_000)))
    refused(cache, tmp_path, wheel, "50000000 bytes")


def test_a_bomb_that_declares_the_right_size_is_stopped(cache: Cache, tmp_path: Path) -> None:
    bomb = archive_of((PIN.library.member, LIBRARY), (PIN.main.member, bytes(50_000_000)))
    # In the local header and in the central directory.
    wheel = bomb.replace(struct.pack("<I", 50_000_000), struct.pack("<I", PIN.main.size))
    refused(cache, tmp_path, wheel, "cannot be read|larger than|SHA-256")


def test_content_with_another_digest_is_refused(cache: Cache, tmp_path: Path) -> None:
    wheel = archive_of((PIN.library.member, LIBRARY), (PIN.main.member, bytes(len(MAIN))))
    refused(cache, tmp_path, wheel, PIN.main.sha256)


def test_a_stored_file_with_a_flipped_bit_is_refused(cache: Cache, tmp_path: Path) -> None:
    wheel = bytearray(archive_of(*both(), method=zipfile.ZIP_STORED))
    wheel[wheel.index(MAIN) + 20] ^= 1
    refused(cache, tmp_path, bytes(wheel), "cannot be read|SHA-256")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_no_wheel_uses_are_refused(cache: Cache, tmp_path: Path, method: int) -> None:
    refused(cache, tmp_path, archive_of(*both(), method=method), "stored or deflated")


def test_an_encrypted_file_is_refused(cache: Cache, tmp_path: Path) -> None:
    wheel = bytearray(archive_of(*both()))
    start = wheel.rindex(b"PK\x01\x02")
    wheel[start + 8] |= 1
    refused(cache, tmp_path, bytes(wheel), "not encrypted")


def test_garbage_and_cut_archives_are_refused(cache: Cache, tmp_path: Path) -> None:
    whole = archive_of(*both())
    for wheel in (b"", b"PK", os.urandom(1000), whole[:-1], whole[: len(whole) // 2], whole[100:], b"PK\x05\x06" * 9):
        refused(cache, tmp_path, wheel, "cannot be read|holds 0 files|SHA-256")


@pytest.mark.slow
def test_no_damage_to_an_archive_gives_anything_but_the_pinned_bytes_or_a_refusal(cache: Cache, tmp_path: Path) -> None:
    whole = archive_of(*both())
    directory = whole.rindex(LIBRARY[-8:]) if LIBRARY[-8:] in whole else len(whole) - 400
    for position in range(directory, len(whole), 3):
        wheel = bytearray(whole)
        wheel[position] ^= 0xFF
        try:
            take(cache, tmp_path, bytes(wheel))
        except DigestMismatchError:
            assert entries(cache.root) == []
        else:
            assert cache.path("runtimes", f"{PIN.key}/{PIN.main.name}").read_bytes() == MAIN
            assert cache.path("runtimes", f"{PIN.key}/{PIN.library.name}").read_bytes() == LIBRARY


def test_a_wheel_is_not_opened_unless_it_is_the_pinned_one(tmp_path: Path) -> None:
    path = tmp_path / "some.whl"
    path.write_bytes(WHEEL)
    check_wheel(path, PIN, Meter(None))
    path.write_bytes(WHEEL + b"x")
    with pytest.raises(DigestMismatchError, match=f"has {len(WHEEL) + 1} bytes"):
        check_wheel(path, PIN, Meter(None))
    path.write_bytes(WHEEL[:-1] + bytes([WHEEL[-1] ^ 1]))
    with pytest.raises(DigestMismatchError, match=PIN.wheel_sha256):
        check_wheel(path, PIN, Meter(None))


@pytest.mark.parametrize("kind", ["link", "directory", "missing", "other", "longer"])
def test_unpacked_files_are_checked_as_those_of_a_wheel(cache: Cache, tmp_path: Path, kind: str) -> None:
    top = tmp_path / "asset"
    with zipfile.ZipFile(io.BytesIO(make_wheel(FILES))) as archive:
        archive.extractall(top)
    victim = top / PIN.main.member
    victim.unlink()
    match kind:
        case "link":
            victim.symlink_to(top / PIN.library.member)
        case "directory":
            victim.mkdir()
        case "other":
            victim.write_bytes(zlib.compress(MAIN))
        case "longer":
            victim.write_bytes(MAIN + b"x")
        case _:
            pass
    with pytest.raises(DigestMismatchError):
        unpack(Fetched(top, unpacked=True), PIN, cache, Meter(None))
    assert entries(cache.root) == []
