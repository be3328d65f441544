"""The official test programs, where they are at hand; and that their runner would notice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from tests.wasi import conformance
from tests.wasi.conformance import VOLUMES, Program, Runner, find_programs, main, table

SUITE = "ISOLA_WASI_TESTSUITE"


@pytest.mark.slow
@pytest.mark.skipif(SUITE not in os.environ, reason=f"{SUITE} does not say where the compiled programs are")
@pytest.mark.parametrize("errno_mode", ["permissive", "unix"])
def test_official_programs_pass_in_every_kind_of_volume(errno_mode: str) -> None:
    programs = find_programs(Path(os.environ[SUITE]))
    assert programs, f"no programs in {os.environ[SUITE]}"
    runner = Runner(errno_mode)
    try:
        outcomes = [outcome for program in programs for outcome in runner.run(program)]
    finally:
        runner.close()
    assert not any(outcome.is_unexpected for outcome in outcomes), table(outcomes)


# --- the runner, with programs of our own --------------------------------------------------------------------------

READS_A_FILE = """(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "dir/file")
  (data (i32.const 16) "\\40\\00\\00\\00\\05\\00\\00\\00")
  (func (export "_start")
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 0)
                    (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32))
      (then (call $exit (i32.const 70))))
    (drop (call $read (i32.load (i32.const 32)) (i32.const 16) (i32.const 1) (i32.const 36)))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 36)))))"""
TRAPS = '(module (memory (export "memory") 1) (func (export "_start") unreachable))'
SPINS = '(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))'
ASKS_FOR_MORE = """(module (import "elsewhere" "f" (func)) (memory (export "memory") 1) (func (export "_start")))"""


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


def write_program(directory: Path, text: str, **spec: Any) -> Program:
    (directory / "root" / "dir").mkdir(parents=True)
    (directory / "root" / "dir" / "file").write_text("hello")
    (directory / "program.wasm").write_bytes(bytes(wasmtime.wat2wasm(text)))
    (directory / "program.json").write_text(json.dumps(spec))
    (program,) = find_programs(directory)
    return program


def whys(runner: Runner, program: Program) -> set[str]:
    return {outcome.why for outcome in runner.run(program)}


def test_program_finds_its_root_in_every_kind_of_volume(runner: Runner, tmp_path: Path) -> None:
    program = write_program(tmp_path, READS_A_FILE, root="root", stdout="hello")
    outcomes = runner.run(program)
    assert [(outcome.volume, outcome.verdict) for outcome in outcomes] == [(volume, "pass") for volume in VOLUMES]


def test_program_without_a_root_has_nothing_preopened(runner: Runner, tmp_path: Path) -> None:
    assert not any(whys(runner, write_program(tmp_path, READS_A_FILE, exit_code=70)))


def test_wrong_exit_code_output_and_trap_are_told(runner: Runner, tmp_path: Path) -> None:
    for text, spec, why in (
        (READS_A_FILE, {}, "exit code 70; nothing on stderr"),
        (READS_A_FILE, {"root": "root", "stdout": "hullo"}, "stdout is b'hello', not b'hullo'"),
        (READS_A_FILE, {"root": "root", "exit_code": 1}, "exit code 0; nothing on stderr"),
        (TRAPS, {}, "GuestTrap: unreachable instruction executed; nothing on stderr"),
    ):
        directory = tmp_path / f"{hash(why)}"
        directory.mkdir()
        assert whys(runner, write_program(directory, text, **spec)) == {why}


def test_program_that_does_not_end_is_stopped(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "TIMEOUT_S", 0.1)
    (why,) = whys(runner, write_program(tmp_path, SPINS))
    assert why.startswith("not done after 0.1 s")


def test_program_that_cannot_be_loaded_fails(runner: Runner, tmp_path: Path) -> None:
    (why,) = whys(runner, write_program(tmp_path, ASKS_FOR_MORE))
    assert why.startswith("cannot be loaded")
    assert "elsewhere" in why


def test_unknown_part_of_a_specification_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dirs"):
        write_program(tmp_path, TRAPS, dirs=["root"])


def test_suites_of_other_versions_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "program.wasm").touch()
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "Other", "version": "wasm32-wasip3"}))
    assert not find_programs(tmp_path)


def test_exit_status_tells_failures_and_stale_exceptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_program(tmp_path, READS_A_FILE, root="root", stdout="hello")
    assert main([str(tmp_path), "--volume", "memory"]) == 0
    assert "1 of 1 programs pass" in capsys.readouterr().out
    monkeypatch.setattr(conformance, "EXPECTED_EXCEPTIONS", {"program": "a reason"})
    assert main([str(tmp_path), "--volume", "memory"]) == 1
    (tmp_path / "program.json").write_text("{}")
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "0 of 1 programs pass" in out
    assert "program: exception: a reason" in out
