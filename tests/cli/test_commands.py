"""The command line, run in this process against the real guests."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest

from isola_anyio.cli.commands import ProgressLines, main
from isola_anyio.runtimes.progress import Progress

ROOT: Final = Path(__file__).parents[2]
BACKENDS: Final = ("asyncio", "trio")

SQUARES: Final = """
import sys
print("loaded")
def squares(n, offset=0):
    print("working", file=sys.stderr)
    for i in range(n):
        yield i * i + offset
    return {"count": n}
"""


@pytest.fixture
def guest_file(tmp_path: Path) -> Any:
    def write(name: str, code: str) -> str:
        path = tmp_path / name
        path.write_text(code, "utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_streams_output_results_and_the_final_value(
    guest_file: Any, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    file = guest_file("squares.py", SQUARES)
    assert main(["run", file, "--function", "squares", "--args", "[3]", "--backend", backend]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["loaded", "0", "1", "4", '{"count": 3}']
    assert "working\n" in shown.err


def test_run_takes_named_arguments(guest_file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = guest_file("squares.py", SQUARES)
    assert main(["run", file, "--function", "squares", "--args", '{"n": 1, "offset": 5}']) == 0
    assert capsys.readouterr().out.splitlines() == ["loaded", "5", '{"count": 1}']


def test_run_without_a_function_runs_the_top_level(guest_file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", guest_file("hello.py", "import asyncio\nawait asyncio.sleep(0)\nprint('hello')")]) == 0
    assert capsys.readouterr().out == "hello\n"


def test_run_knows_typescript_by_its_suffix(guest_file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = guest_file("add.ts", "function add(a: number, b: number): number { console.warn('adding'); return a + b }")
    assert main(["run", file, "--function", "add", "--args", "[1, 2]"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "3\n"
    assert "warning: adding\n" in shown.err


def test_run_shows_what_json_cannot_say(guest_file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import array\ndef made(): return [b'\\x01\\xff', array.array('d', [1, 2]), 'ü']"
    assert main(["run", guest_file("made.py", code), "--function", "made"]) == 0
    assert capsys.readouterr().out == '["01ff", [1.0, 2.0], "ü"]\n'


def test_run_shows_an_int_that_python_does_not_convert_in_hex(
    guest_file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "def made(): return [1, {'a': 1 << 40000, 'b': -(1 << 40000)}]"
    assert main(["run", guest_file("made.py", code), "--function", "made"]) == 0
    digits = "0x1" + "0" * 10000
    assert json.loads(capsys.readouterr().out) == [1, {"a": digits, "b": "-" + digits}]


CONTROLS: Final = r"""
import sys
def f():
    print("title \x1b]0;owned\x07 C1 \x9b2J override \u202e", end="\r\n")
    print("\x1b[31mred", file=sys.stderr)
    return "\x1b \x9b \ud800"
"""


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_terminal_does_not_obey_a_guest_and_a_file_gets_what_it_wrote(
    guest_file: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    assert main(["run", guest_file("controls.py", CONTROLS), "--function", "f"]) == 0
    shown = capsys.readouterr()
    result = '"\\u001b \\u009b \\ud800"\n'
    if is_terminal:
        assert shown.out == f"title \\x1b]0;owned\\x07 C1 \\x9b2J override \\u202e\r\n{result}"
        assert "\\x1b[31mred\n" in shown.err
    else:
        assert shown.out == f"title \x1b]0;owned\x07 C1 \x9b2J override \u202e\r\n{result}"
        assert "\x1b[31mred\n" in shown.err


def test_a_failing_guest_is_status_1_with_its_traceback(guest_file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = guest_file("fail.py", "def fail():\n    raise ValueError('no such luck')")
    assert main(["run", file, "--function", "fail"]) == 1
    shown = capsys.readouterr().err
    assert 'File "fail.py", line 2, in fail' in shown
    assert shown.endswith("ValueError: no such luck\n")


def test_a_file_that_fails_does_not_call_the_function(guest_file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = guest_file("bad.py", "def f(): print('called')\n1 / 0")
    assert main(["run", file, "--function", "f"]) == 1
    assert "called" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_timeout_stops_the_guest_with_its_own_status(
    guest_file: Any, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    began = time.monotonic()
    assert main(["run", guest_file("spin.py", "while True: pass"), "--timeout", "0.2", "--backend", backend]) == 124
    assert time.monotonic() - began < 60
    assert "stopped after 0.2 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "missing.py"], "cannot be read"),
        (["run", "{file}", "--args", "[1"], "not JSON"),
        (["run", "{file}", "--args", "1"], "array or object"),
        (["run", "{nameless}"], "--runtime"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_right(
    guest_file: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    names = {"file": guest_file("x.py", ""), "nameless": guest_file("x", "")}
    assert main([each.format(**names) for each in arguments]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["dance"], ["run"], ["run", "x.py", "--timeout", "soon"]])
def test_arguments_that_do_not_parse_are_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: isola-anyio" in capsys.readouterr().err


def test_a_library_error_is_status_1_and_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert main(["fetch", "js", "--cache-dir", str(file)]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("isola-anyio: cache_dir ")
    assert shown.count("\n") == 1


def test_a_backend_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["demo", "--backend", "trio"]) == 2
    assert "isola-anyio[trio]" in capsys.readouterr().err


@pytest.mark.slow
def test_fetch_makes_the_next_start_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    assert main(["fetch", "js", "--cache-dir", str(cache)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("js ")
    assert "js: compiling it" in shown.err
    assert list((cache / "code").glob("*.cwasm"))
    assert main(["fetch", "js", "--cache-dir", str(cache)]) == 0
    assert "compiling" not in capsys.readouterr().err


def test_fetch_names_the_runtimes_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "perl"]) == 1
    assert "'python' or 'js', not 'perl'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_demo_shows_every_part_with_both_guests(capsys: pytest.CaptureFixture[str], backend: str) -> None:
    assert main(["demo", "--backend", backend]) == 0
    shown = capsys.readouterr().out
    for runtime in ("python", "js"):
        assert f"{runtime} " in shown
    assert shown.count("order's total is 39") == 2
    assert shown.count("-> 11, end 5") == 2
    assert shown.count("cancelled=True") == 2


def test_doctor_prints_a_report_and_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor"]) == 0
    assert "runtime python" in capsys.readouterr().out
    assert main(["doctor", "--json", "--cache-dir", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {"name", "ok", "detail", "remedy", "essential"} == set(report["checks"][0])


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_a_changing_line_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in (
        (Terminal(), "\r\x1b[Kjs: fetching the runtime ... 50 %\r\x1b[Kjs: fetching the runtime ... 100 %\n"),
        (io.StringIO(), "js: fetching the runtime ...\n"),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        show = ProgressLines("js: ")
        show(Progress("download", 1, 2))
        show(Progress("download", 2, 2))
        assert stream.getvalue() == expected


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_quietly(guest_file: Any) -> None:
    file = guest_file("much.py", "def much():\n    while True: yield 'x' * 1000")
    command = [sys.executable, "-m", "isola_anyio", "run", file, "--function", "much"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        noise = process.stderr.read().decode()
    assert process.returncode == 1
    assert "Traceback" not in noise


@pytest.mark.slow
def test_a_guest_may_write_what_the_terminal_cannot_show(guest_file: Any) -> None:
    file = guest_file("odd.py", "print('\\u2603 \\ud800')")
    command = [sys.executable, "-m", "isola_anyio", "run", file]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode in (0, 1), done.stderr.decode()  # a lone surrogate may be refused by the guest's own stdout
    assert b"UnicodeEncodeError: 'ascii'" not in done.stderr
