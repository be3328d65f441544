"""A runtime of the caller's own: any file that has what is called in it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from isola_anyio.errors import DigestMismatchError, RuntimeUnavailableError
from isola_anyio.runtimes.resolve import find_runtime

from .conftest import FILES, LIBRARY, MAIN, PIN, PINS, entries, wasm_module

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio.cache import Cache


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    top = tmp_path / "unpacked"
    for name, content in FILES.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content)
    return top


async def test_a_file_a_directory_and_an_unpacked_wheel_are_the_same_runtime(cache: Cache, unpacked: Path) -> None:
    file = unpacked / PIN.main.member
    bundles = [
        await find_runtime("python", cache, runtime_path=path, pins=PINS)
        for path in (file, str(file), file.parent, unpacked)
    ]
    assert len(set(bundles)) == 1
    bundle = bundles[0]
    assert (bundle.path, bundle.lib_dir, bundle.version) == (file, file.parent, "9.9")
    assert (bundle.sha256, bundle.lib_sha256) == (PIN.main.sha256, PIN.library.sha256)
    assert entries(cache.root) == []


async def test_any_module_with_the_exports_will_do_and_its_version_is_custom(cache: Cache, tmp_path: Path) -> None:
    module = wasm_module(("memory", "turn", "host_alloc", "more"))
    (tmp_path / "mine.wasm").write_bytes(module)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "python-stdlib.zip").write_bytes(b"any")
    path, lib_dir = tmp_path / "mine.wasm", tmp_path / "lib"
    bundle = await find_runtime("python", cache, runtime_path=path, runtime_lib_dir=lib_dir, pins=PINS)
    assert (bundle.version, bundle.lib_dir) == ("custom", lib_dir)
    assert bundle.sha256 == hashlib.sha256(module).hexdigest()
    assert bundle.lib_sha256 == hashlib.sha256(b"any").hexdigest()


async def test_a_module_that_starts_itself_is_refused(cache: Cache, unpacked: Path) -> None:
    path = unpacked / PIN.main.member
    path.write_bytes(wasm_module(("memory", "turn", "host_alloc")) + b"\x08\x01\0")
    with pytest.raises(RuntimeUnavailableError, match="has a start function"):
        await find_runtime("python", cache, runtime_path=path, pins=PINS)


async def test_only_the_digest_that_is_given_is_checked(cache: Cache, unpacked: Path) -> None:
    path = unpacked / PIN.main.member
    module = wasm_module(("memory", "turn", "host_alloc"), padding=7)
    path.write_bytes(module)
    digest = hashlib.sha256(module).hexdigest()
    bundle = await find_runtime("python", cache, runtime_path=path, runtime_digest=digest.upper(), pins=PINS)
    assert bundle.sha256 == digest
    with pytest.raises(DigestMismatchError, match=f"SHA-256 {digest}"):
        await find_runtime("python", cache, runtime_path=path, runtime_digest=PIN.main.sha256, pins=PINS)


async def test_a_file_that_changed_is_hashed_again(cache: Cache, unpacked: Path) -> None:
    path = unpacked / PIN.main.member
    first = await find_runtime("python", cache, runtime_path=path, pins=PINS)
    path.write_bytes(wasm_module(padding=1))
    second = await find_runtime("python", cache, runtime_path=path, pins=PINS)
    path.write_bytes(MAIN)
    assert second.sha256 == hashlib.sha256(wasm_module(padding=1)).hexdigest()
    assert (await find_runtime("python", cache, runtime_path=path, pins=PINS)) == first


async def test_what_is_missing_is_said(cache: Cache, tmp_path: Path, unpacked: Path) -> None:
    main, library = unpacked / PIN.main.member, unpacked / PIN.library.member
    with pytest.raises(RuntimeUnavailableError, match="nowhere' is not a file"):
        await find_runtime("python", cache, runtime_path=tmp_path / "nowhere", pins=PINS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeUnavailableError, match=r"holds neither python-snapshot\.wasm nor"):
        await find_runtime("python", cache, runtime_path=tmp_path / "empty", pins=PINS)
    with pytest.raises(RuntimeUnavailableError, match=r"python-stdlib\.zip is not in .*empty.*runtime_lib_dir"):
        await find_runtime("python", cache, runtime_path=main, runtime_lib_dir=tmp_path / "empty", pins=PINS)
    library.unlink()
    with pytest.raises(RuntimeUnavailableError, match=r"python-stdlib\.zip is not in"):
        await find_runtime("python", cache, runtime_path=main, pins=PINS)


async def test_a_module_without_the_exports_is_no_runtime(cache: Cache, unpacked: Path) -> None:
    path = unpacked / PIN.main.member
    path.write_bytes(wasm_module(("memory", "run")))
    with pytest.raises(RuntimeUnavailableError, match="does not export turn, host_alloc"):
        await find_runtime("python", cache, runtime_path=path, pins=PINS)
    path.write_bytes(LIBRARY)
    with pytest.raises(RuntimeUnavailableError, match="is no WebAssembly module"):
        await find_runtime("python", cache, runtime_path=path, pins=PINS)


async def test_javascript_does_without_its_library(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "_guest.wasm").write_bytes(MAIN)
    bundle = await find_runtime("js", cache, runtime_path=tmp_path / "_guest.wasm", pins=PINS)
    assert (bundle.lib_dir, bundle.lib_sha256) == (tmp_path, None)
