"""Commands: what each command of ``isola-anyio`` does, and its exit status.

A guest's output goes to stdout and stderr as it comes, with its control characters escaped where that is a terminal;
progress and errors of this program go to stderr.
Exit status: 0 fine, 1 it failed, 2 wrong usage, 124 ``--timeout`` passed, 130 interrupted.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import importlib.util
import io
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from isola_anyio.cache import DEFAULT_CACHE_DIR
from isola_anyio.cli.demo import demo
from isola_anyio.cli.doctor import doctor
from isola_anyio.errors import IsolaError
from isola_anyio.events import EndEvent, ErrorEvent, LogEvent, ResultEvent, StderrEvent, StdoutEvent
from isola_anyio.guests.kinds import drivers
from isola_anyio.printable import printable_json, printable_on_terminal
from isola_anyio.template import SandboxContext, build_template

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from isola_anyio.events import EventStream
    from isola_anyio.runtimes.progress import Progress
    from isola_anyio.values import JsonValue

RUNTIME_BY_SUFFIX: Final = {".py": "python", ".js": "js", ".mjs": "js", ".ts": "js", ".mts": "js"}
FAILED: Final = 1
TIMED_OUT: Final = 124  # as timeout(1)
INTERRUPTED: Final = 130  # as a shell reports SIGINT
_SHOWN_INT_BITS: Final = 2048
"""A longer int is shown in hex where one was too long: Python's lowest limit, 640 digits, is higher than this."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A guest's text may have characters that the terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(argv)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except IsolaError as exc:
        print(f"isola-anyio: {exc}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; the interpreter flushes once more at exit and would report that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="isola-anyio", description="Run untrusted Python and JavaScript in sandboxes."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--backend",
        choices=("asyncio", "trio"),
        default="trio" if importlib.util.find_spec("trio") else "asyncio",
        help="event loop to use (default: %(default)s)",
    )
    shared.add_argument(
        "--cache-dir",
        metavar="DIR",
        default=DEFAULT_CACHE_DIR,
        help="where runtimes, compiled code and images are kept (default: this user's cache directory)",
    )

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[shared], help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.set_defaults(command=command)
        return added

    add("demo", _demo, "run a guest of each kind: a hostcall, a stream, a timeout")

    doctor_parser = add("doctor", _doctor, "say whether sandboxes run on this machine, and what is missing")
    doctor_parser.add_argument("--json", action="store_true", help="print the report as JSON")

    fetch = add("fetch", _fetch, "fetch and compile runtimes, so that later starts are quick")
    fetch.add_argument("runtimes", nargs="*", metavar="python|js", help="which ones (default: both)")
    fetch.add_argument("--metered", action="store_true", help="compile for templates with metered=True")

    run = add("run", _run, "run a file in a sandbox; its output goes to stdout and stderr, results as lines of JSON")
    run.add_argument("file", metavar="FILE", type=Path, help="guest code: .py, .js or .ts")
    run.add_argument("--runtime", choices=tuple(drivers()), help="the kind of guest, if the name does not tell it")
    run.add_argument("--function", metavar="NAME", help="call this function after running the file's top level")
    run.add_argument("--args", metavar="JSON", help="its arguments: an array, or an object of named ones", default="[]")
    run.add_argument("--timeout", metavar="SECONDS", type=float, help="stop the guest after this time")
    return parser


# --- commands --------------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    async def show() -> int:
        await demo(cache_dir=options.cache_dir, on_progress=ProgressLines())
        return 0

    return _in_loop(options, show)


def _doctor(options: argparse.Namespace) -> int:
    report = doctor(cache_dir=options.cache_dir)
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    return 0 if report.ok else FAILED


def _fetch(options: argparse.Namespace) -> int:
    async def fetch() -> int:
        async with SandboxContext(cache_dir=options.cache_dir) as context:
            for runtime in options.runtimes or drivers():
                progress = ProgressLines(f"{runtime}: ")
                template = await context.build_template(runtime, metered=options.metered, on_progress=progress)
                template.close()
                print(f"{runtime} {template.version}: ready")
        return 0

    return _in_loop(options, fetch)


def _run(options: argparse.Namespace) -> int:
    runtime = options.runtime or RUNTIME_BY_SUFFIX.get(options.file.suffix)
    if runtime is None:
        return _usage(f"{options.file}: the name does not tell the kind of guest; add --runtime")
    try:
        code = options.file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        return _usage(f"{options.file} cannot be read: {exc}")
    try:
        arguments = json.loads(options.args)
    except ValueError as exc:
        return _usage(f"--args is not JSON: {exc}")
    if not isinstance(arguments, (list, dict)):
        return _usage(f"--args is a JSON array or object, not {options.args}")
    return _in_loop(options, partial(_run_guest, options, runtime, code, arguments))


async def _run_guest(
    options: argparse.Namespace, runtime: str, code: str, arguments: list[Any] | dict[str, Any]
) -> int:
    template = await build_template(runtime, cache_dir=options.cache_dir, on_progress=ProgressLines())
    try:
        async with template.create() as sandbox:
            seconds = float("inf") if options.timeout is None else options.timeout
            with anyio.move_on_after(seconds) as scope:
                status = await _show(sandbox.load_stream(code, filename=options.file.name))
                if options.function is None or status:
                    return status
                named = arguments if isinstance(arguments, dict) else {}
                positional = arguments if isinstance(arguments, list) else []
                return await _show(sandbox.run_stream(options.function, *positional, **named), final=True)
            if scope.cancelled_caught:
                print(f"isola-anyio: stopped after {seconds:g} s", file=sys.stderr)
    finally:
        template.close()
    return TIMED_OUT


async def _show(stream: EventStream, *, final: bool = False) -> int:
    """Print a run's events as they come; the end's value too when ``final``."""
    async with stream as events:
        async for event in events:
            match event:
                case StdoutEvent(data=text):
                    _write(sys.stdout, text)
                case StderrEvent(data=text):
                    _write(sys.stderr, text)
                case LogEvent(data=text, level=level):
                    _write(sys.stderr, f"{level}: {text}\n")
                case ResultEvent(data=value):
                    _write(sys.stdout, _as_json(value) + "\n")
                case EndEvent(data=value) if final:
                    _write(sys.stdout, _as_json(value) + "\n")
                case ErrorEvent(data=text, exception=exc):
                    _write(sys.stderr, f"{(exc.traceback or text).rstrip()}\n")
                    return FAILED
                case _:
                    pass
    return 0


# --- helpers ---------------------------------------------------------------------------------------------------------


def _in_loop(options: argparse.Namespace, work: Callable[[], Awaitable[int]]) -> int:
    if importlib.util.find_spec(options.backend) is None:
        return _usage(f"--backend {options.backend}: it is not installed; pip install 'isola-anyio[trio]'")
    return anyio.run(work, backend=options.backend)


def _usage(message: str) -> int:
    print(f"isola-anyio: {message}", file=sys.stderr)
    return 2


def _write(stream: Any, untrusted_text: str) -> None:
    """Write what a guest says: to a file or a pipe as it is; a terminal would obey its control characters."""
    stream.write(printable_on_terminal(untrusted_text) if stream.isatty() else untrusted_text)
    stream.flush()


def _as_json(value: JsonValue) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=_plain)
    except ValueError:  # an int of more digits than Python converts, because that takes quadratic time
        text = json.dumps(_without_huge_ints(value), ensure_ascii=False, default=_plain)
    return printable_json(text)


def _without_huge_ints(value: JsonValue) -> JsonValue:
    """Return the value with such ints as what can be written in linear time: text in hex."""
    if isinstance(value, dict):
        return {key: _without_huge_ints(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_huge_ints(item) for item in value]
    return hex(value) if type(value) is int and value.bit_length() > _SHOWN_INT_BITS else value


def _plain(value: object) -> object:
    """Return what JSON cannot hold as what it can: bytes in hex, a typed buffer as its numbers."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, memoryview):
        return value.tolist()
    return repr(value)


class ProgressLines:
    """Show progress on stderr: one line that changes on a terminal, elsewhere one line a stage."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        terminal = sys.stderr.isatty()
        if not terminal and progress.stage == self._stage:
            return
        self._stage = progress.stage
        if not terminal:
            print(f"{self._prefix}{_WHAT[progress.stage]} ...", file=sys.stderr, flush=True)
            return
        done = progress.total is not None and progress.done >= progress.total
        share = f" {100 * progress.done // progress.total} %" if progress.total else ""
        end = "\n" if done else ""
        print(f"\r\x1b[K{self._prefix}{_WHAT[progress.stage]} ...{share}", end=end, file=sys.stderr, flush=True)


_WHAT: Final = {
    "download": "fetching the runtime",
    "verify": "checking the runtime",
    "compile": "compiling it, once (a minute or more for Python)",
    "warm": "starting the interpreter",
}
