"""The doctor looks at everything, says what to do, and changes nothing."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from isola_anyio import InvalidArgumentError, SandboxContext, doctor
from isola_anyio.cache import DEFAULT_CACHE_DIR, open_cache
from isola_anyio.cli.doctor import DoctorCheck, DoctorReport
from isola_anyio.engine import ffi
from isola_anyio.engine.image import COPY_SWITCH
from isola_anyio.guests.kinds import drivers
from isola_anyio.wasi.volumes.host import openat2

#: The module, which the function of the same name hides behind the front door.
MODULE: Final = sys.modules["isola_anyio.cli.doctor"]


def find(report: DoctorReport, name: str) -> DoctorCheck:
    [check] = [check for check in report.checks if check.name == name]
    return check


def test_it_looks_at_everything_the_library_depends_on(tmp_path: Path) -> None:
    names = [check.name for check in doctor(cache_dir=tmp_path).checks]
    assert len(names) == len(set(names))
    assert {"isola-anyio", "python", "wasmtime", "anyio", "trio", "platform"} <= set(names)
    assert {"image mapping", "openat2", "thread CPU clocks", "cache directory", "free space"} <= set(names)
    assert {f"runtime {name}" for name in drivers()} <= set(names)
    if sys.platform == "linux":
        assert "vm.max_map_count" in names


def test_a_machine_that_runs_the_tests_is_well(tmp_path: Path) -> None:
    report = doctor(cache_dir=tmp_path)
    assert report.ok
    assert all(check.ok for check in report.checks if check.essential)


def test_what_is_not_ok_has_a_remedy_and_what_is_ok_has_none(tmp_path: Path) -> None:
    for check in doctor(cache_dir=tmp_path).checks:
        assert bool(check.remedy) is not check.ok, check
        assert check.detail, check


def test_the_report_is_frozen_and_prints_each_check(tmp_path: Path) -> None:
    report = doctor(cache_dir=tmp_path)
    text = str(report)
    for check in report.checks:
        assert check.name in text
        assert check.detail in text
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.checks = ()  # type: ignore[misc]  # that is the point


def test_marks_tell_what_is_needed_from_what_is_nice() -> None:
    report = DoctorReport(
        (
            DoctorCheck("a", ok=True, detail="fine", essential=True),
            DoctorCheck("b", ok=False, detail="slow", remedy="expedite"),
        )
    )
    assert report.ok
    assert [line[:4] for line in str(report).splitlines()] == ["ok  ", "note", "    "]
    broken = DoctorReport((*report.checks, DoctorCheck("c", ok=False, detail="gone", remedy="find it", essential=True)))
    assert not broken.ok
    assert "FAIL  c" in str(broken)
    assert "hint: find it" in str(broken)


def test_it_makes_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "not" / "there"
    report = doctor(cache_dir=cache)
    assert not cache.exists()
    check = find(report, "cache directory")
    assert check.ok
    assert "does not exist yet" in check.detail
    assert find(report, "runtime python").remedy == "isola-anyio fetch python"


def test_it_is_quick(tmp_path: Path) -> None:
    doctor(cache_dir=tmp_path)
    began = time.perf_counter()
    doctor(cache_dir=tmp_path)
    assert time.perf_counter() - began < 5  # not hashing or compiling; generous for a busy machine


def test_it_looks_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = open_cache(DEFAULT_CACHE_DIR)
    assert find(doctor(), "cache directory").detail.startswith(f"{cache.root}: mode ")


def test_a_cache_that_others_may_write_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    report = doctor(cache_dir=tmp_path)
    check = find(report, "cache directory")
    assert not check.ok
    assert not report.ok
    assert check.remedy == f"chmod 700 {tmp_path}"
    assert tmp_path.stat().st_mode & 0o777 == 0o777


def test_a_cache_that_is_a_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert not find(doctor(cache_dir=file), "cache directory").ok


def test_no_cache_means_no_checks_of_it() -> None:
    names = [check.name for check in doctor(cache_dir=None).checks]
    assert "cache directory" not in names
    assert not find(doctor(cache_dir=None), "runtime python").ok


def test_a_cache_directory_is_a_path() -> None:
    with pytest.raises(InvalidArgumentError, match="cache_dir"):
        doctor(cache_dir=7)  # type: ignore[arg-type]  # that is the point


@pytest.mark.slow
async def test_a_runtime_is_compiled_once_a_template_was_built(tmp_path: Path) -> None:
    assert "not compiled yet" in find(doctor(cache_dir=tmp_path), "runtime js").detail
    async with SandboxContext(cache_dir=tmp_path) as context:
        template = await context.build_template("js")
        template.close()
    check = find(doctor(cache_dir=tmp_path), "runtime js")
    assert check.ok
    assert check.detail.endswith(", compiled")


def test_what_the_platform_lacks_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ffi, "IMAGE_MAPPING", False)
    monkeypatch.setattr(openat2, "available", lambda: False)
    monkeypatch.delattr(time, "pthread_getcpuclockid", raising=False)
    report = doctor(cache_dir=tmp_path)
    assert report.ok
    for name in ("image mapping", "openat2", "thread CPU clocks"):
        assert not find(report, name).ok


def test_copying_images_by_request_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(COPY_SWITCH, "1")
    check = find(doctor(cache_dir=tmp_path), "image mapping")
    assert not check.ok
    assert COPY_SWITCH in check.remedy


def test_too_few_mappings_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "max_map_count"
    limit.write_text("1024\n")
    monkeypatch.setattr(MODULE, "MAX_MAP_COUNT", limit)
    check = find(doctor(cache_dir=tmp_path), "vm.max_map_count")
    assert not check.ok
    assert check.remedy.startswith("sysctl vm.max_map_count=")
    limit.unlink()
    assert "vm.max_map_count" not in [check.name for check in doctor(cache_dir=tmp_path).checks]


def test_a_wasmtime_that_was_not_checked_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ffi, "CHECKED_ON", ("1.0.0",))
    check = find(doctor(cache_dir=tmp_path), "wasmtime")
    assert not check.ok
    assert "1.0.0" in check.remedy
