"""An installed distribution: used when it is what is pinned, ignored when it is another release."""

from __future__ import annotations

import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from isola_anyio.cache import digests, open_cache
from isola_anyio.cache import entries as cache_entries
from isola_anyio.errors import DigestMismatchError
from isola_anyio.runtimes.resolve import find_runtime

from .conftest import FILES, PACKAGE, PIN, PINS, entries, make_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio.cache import Cache

    from .conftest import QuickTool


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages directory."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    return directory


def install(site: Path, wheel: bytes) -> None:
    (site.parent / "install.whl").write_bytes(wheel)
    with zipfile.ZipFile(site.parent / "install.whl") as archive:
        archive.extractall(site)


async def test_the_pinned_release_is_used_where_it_is_and_never_imported(
    cache: Cache, site: Path, quick_tool: QuickTool
) -> None:
    install(site, make_wheel(FILES))
    bundle = await find_runtime("python", cache, pins=PINS)
    assert bundle.path == site / PIN.main.member
    assert bundle.lib_dir == (site / PIN.library.member).parent
    assert quick_tool.fetched == 0
    assert entries(cache.root) == []
    assert PACKAGE not in sys.modules


async def test_another_release_is_ignored(cache: Cache, site: Path, quick_tool: QuickTool) -> None:
    install(site, make_wheel(FILES, version="0.9"))
    bundle = await find_runtime("python", cache, pins=PINS)
    assert cache.root in bundle.path.parents
    assert quick_tool.fetched == 1


async def test_the_pinned_release_without_its_files_is_ignored(cache: Cache, site: Path, quick_tool: QuickTool) -> None:
    install(site, make_wheel({}))
    bundle = await find_runtime("python", cache, pins=PINS)
    assert cache.root in bundle.path.parents


@pytest.mark.parametrize("size", [0, 1])
async def test_the_pinned_release_with_other_bytes_is_a_mismatch(
    cache: Cache, site: Path, quick_tool: QuickTool, size: int
) -> None:
    content = FILES[PIN.library.member]
    install(site, make_wheel({**FILES, PIN.library.member: content[:-1] + bytes([content[-1] ^ 1]) * size}))
    with pytest.raises(DigestMismatchError, match=r"--force-reinstall --no-deps isola-pretend-runtime==1\.0"):
        await find_runtime("python", cache, pins=PINS)
    assert quick_tool.fetched == 0


async def test_an_installed_file_is_hashed_once_and_again_when_it_changed(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def counting(path: Path, *args: object, **kwargs: object) -> object:
        hashed.append(path)
        return digests.hash_file(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_entries, "hash_file", counting)
    monkeypatch.setattr(digests, "SETTLE_NS", -(10**18))  # the files need not grow old first
    install(site, make_wheel(FILES))
    for _ in range(3):
        with open_cache(tmp_path / "cache") as cache:
            await find_runtime("python", cache, pins=PINS)
        cache_entries._seen_here.clear()  # as in a new process
    assert len(hashed) == 2
    (site / PIN.main.member).write_bytes(b"x" * PIN.main.size)
    with open_cache(tmp_path / "cache") as cache, pytest.raises(DigestMismatchError):
        await find_runtime("python", cache, pins=PINS)
