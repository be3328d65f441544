"""Run the official test programs of WASI preview 1 against this library's engine and operating system.

    python -m tests.wasi.conformance DIRECTORY [PROGRAM ...] [--volume NAME ...] [--errno-mode MODE]

The programs are those of the repository ``WebAssembly/wasi-testsuite``, none of which is kept here. DIRECTORY holds
compiled ones (``*.wasm``), at any depth, each beside its specification (``*.json``, left out when everything is as by
default) and its suite's ``manifest.json``. A specification has ``args``, ``env``, ``root`` (a directory to show as the
guest's ``/``), ``stdin``, ``stdout``, ``stderr`` and ``exit_code``.

Everything but the command line is the product's own: module and linker from the seam, an ``Instance`` on a guest
thread, ``System`` and ``FileSystem``. ``root`` becomes the mount of ``/``, which is the one preopened directory real
guests have too. A program that asks for one runs once in every kind of volume, each time on a fresh copy; a guest must
not be able to tell them apart. What differs from real guests: they cannot have a mount of ``/``, always have ``/tmp``
(here only one kind of volume has it), and have ``/`` preopened even when nothing is mounted.
"""

from __future__ import annotations

__all__ = ["EXPECTED_EXCEPTIONS", "Outcome", "Program", "Runner", "find_programs", "main", "table"]

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isola_anyio.engine import ffi
from isola_anyio.engine.instance import Instance
from isola_anyio.engine.threads import ThreadPool
from isola_anyio.wasi.clock import SystemClock
from isola_anyio.wasi.files.filesystem import ROOT_FD, FileSystem
from isola_anyio.wasi.files.mount_table import BoundMount, MountTable, device_of
from isola_anyio.wasi.signatures import SIGNATURES
from isola_anyio.wasi.system import GuestExit, System
from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage
from isola_anyio.wasi.volumes.host.openat2 import available
from isola_anyio.wasi.volumes.host.resolver import OpenAt2Resolver
from isola_anyio.wasi.volumes.host.volume import HostVolume
from isola_anyio.wasi.volumes.host.walk import WalkResolver
from isola_anyio.wasi.volumes.interfaces import READ_WRITE, VolumePath
from isola_anyio.wasi.volumes.memory.overlay import OverlayVolume
from isola_anyio.wasi.volumes.memory.view import TreeAccess
from isola_anyio.wasi.volumes.memory.volume import MemoryVolume
from tests.wasi.client import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from isola_anyio.wasi.volumes.interfaces import Volume

VERSION: Final = "wasm32-wasip1"
TIMEOUT_S: Final = 60.0
MAX_MEMORY_BYTES: Final = 256 << 20
_KEYS: Final = frozenset({"args", "env", "exit_code", "root", "stderr", "stdin", "stdout"})

EXPECTED_EXCEPTIONS: Final[Mapping[str, str]] = {}
"""Programs that do not pass, and why that is right; one that passes after all is reported."""


@dataclass(frozen=True)
class Program:
    """One test program and what is expected of it."""

    suite: str
    wasm: Path
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    root: Path | None = None
    stdin: bytes = b""
    stdout: bytes | None = None
    stderr: bytes | None = None
    exit_code: int = 0

    @property
    def name(self) -> str:
        """The program's name, unique in its suite."""
        return self.wasm.stem


@dataclass(frozen=True)
class Outcome:
    """How a program ended in one kind of volume; ``why`` is empty when it passed."""

    program: Program
    volume: str
    why: str = ""

    @property
    def verdict(self) -> str:
        """``pass``, ``fail``, ``exception`` (a failure with a reason) or ``surprise`` (a pass where none was due)."""
        if self.program.name in EXPECTED_EXCEPTIONS:
            return "exception" if self.why else "surprise"
        return "fail" if self.why else "pass"

    @property
    def is_unexpected(self) -> bool:
        """Whether somebody has to look at it."""
        return self.verdict in ("fail", "surprise")


def find_programs(directory: Path) -> list[Program]:
    """Return the preview 1 programs below a directory, by suite and name.

    Raises:
        ValueError: for a specification with something in it that this runner does not know.
    """
    found: list[Program] = []
    for wasm in sorted(directory.rglob("*.wasm")):
        manifest = wasm.with_name("manifest.json")
        suite: dict[str, Any] = json.loads(manifest.read_text()) if manifest.exists() else {}
        if suite.get("version", VERSION) == VERSION:
            name = str(suite.get("name", wasm.parent.name)).removesuffix(f"[{VERSION}]").strip()
            found.append(_read_program(name, wasm))
    return found


def _read_program(suite: str, wasm: Path) -> Program:
    specification = wasm.with_suffix(".json")
    spec: dict[str, Any] = json.loads(specification.read_text()) if specification.exists() else {}
    if not spec.keys() <= _KEYS:
        raise ValueError(f"{specification}: {sorted(spec.keys() - _KEYS)} not known, of {sorted(_KEYS)}")
    streams = {key: str(spec[key]).encode() for key in ("stdin", "stdout", "stderr") if spec.get(key) is not None}
    return Program(
        suite=suite,
        wasm=wasm,
        args=tuple(spec.get("args", ())),
        env=tuple(spec.get("env", {}).items()),
        root=wasm.parent / spec["root"] if spec.get("root") is not None else None,
        exit_code=spec.get("exit_code", 0),
        **streams,
    )


# --- the kinds of volume -------------------------------------------------------------------------------------------


def _only(volume: Volume, *, private: bool = False) -> FileSystem:
    """Return files that are this volume and nothing else."""
    files = FileSystem(MountTable(), FileLimits())
    files.adopt(volume)
    files.add_mounts([BoundMount((), volume, READ_WRITE, private)])
    files.open_root()
    return files


def _memory(root: Path) -> MemoryVolume:
    volume = MemoryVolume(FileUsage(FileLimits()), device_of(()))
    access = TreeAccess(volume)
    for path in sorted(root.rglob("*")):
        inner = path.relative_to(root)
        if path.is_dir():
            volume.mkdir(VolumePath(None, tuple(os.fsencode(part) for part in inner.parts), False, 0))
        else:
            access.write(f"/{inner.as_posix()}", path.read_bytes())
    return volume


VOLUMES: Final[Mapping[str, Callable[[Path], FileSystem]]] = {
    **({"openat2": lambda root: _only(HostVolume(root, OpenAt2Resolver()))} if available() else {}),
    "walk": lambda root: _only(HostVolume(root, WalkResolver())),
    "walk without pins": lambda root: _only(HostVolume(root, WalkResolver(pins=False))),
    "memory": lambda root: _only(_memory(root)),
    "overlay": lambda root: _only(OverlayVolume(HostVolume(root), device_of(())), private=True),
    # A mount below the root has the namespace, not the volume, resolve the paths.
    "beside /tmp": lambda root: FileSystem.base(mounts=[BoundMount((), HostVolume(root), READ_WRITE)]),
}
"""How to make a template's files with a directory as their root, in each kind of volume."""

NO_VOLUME: Final = "no root"
"""For programs that ask for no directory."""


# --- running -------------------------------------------------------------------------------------------------------


class Runner:
    """Compiles and runs programs, each on a guest thread.

    ``errno_mode`` is ``"permissive"``: programs accept every host's error numbers; or ``"unix"``: only those of a Unix,
    where they know a difference.
    """

    def __init__(self, errno_mode: str = "permissive") -> None:
        self._env = {"ERRNO_MODE_UNIX": "1"} if errno_mode == "unix" else {}
        self._pool = ThreadPool()
        self._engine = ffi.Engine(metered=False)
        imports = [("wasi_snapshot_preview1", name, params, result) for name, (params, result) in SIGNATURES.items()]
        self._linker = ffi.Linker(self._engine, imports)

    def run(self, program: Program, volumes: Iterable[str] | None = None) -> list[Outcome]:
        """Run a program in each kind of volume, or once when it wants no files."""
        names = [NO_VOLUME] if program.root is None else list(VOLUMES if volumes is None else volumes)
        with tempfile.TemporaryDirectory() as scratch:
            code = Path(scratch, "code")
            try:
                self._engine.compile_to(program.wasm.read_bytes(), code)
                prepared = self._linker.prepare(self._engine.load(code))
            except Exception as exc:
                return [Outcome(program, name, f"cannot be loaded: {exc}") for name in names]
            return [Outcome(program, name, self._run_once(program, prepared, name)) for name in names]

    def _run_once(self, program: Program, prepared: ffi.Program, volume: str) -> str:
        with _files_of(program, volume) as files:
            stdio = Recorder(program.stdin)
            instance = Instance(prepared, pool=self._pool, max_memory=MAX_MEMORY_BYTES)
            try:
                system = System(
                    memory=instance.memory,
                    files=files,
                    stdio=stdio,
                    clock=SystemClock(),
                    random=os.urandom,
                    sleep=instance.sleep,
                    limits=FileLimits(),
                    args=[os.fsencode(arg) for arg in (program.wasm.name, *program.args)],
                    environ=dict(program.env) if program.root is None else {**dict(program.env), **self._env},
                )
                functions = system.functions()
                instance.set_handlers([functions[name] for name in SIGNATURES])
                ended = self._call_start(instance)
            finally:
                instance.close()
        if system.fault is not None:
            return f"fault of the host: {system.fault!r}"
        return _judge(program, ended, stdio)

    def _call_start(self, instance: Instance) -> int | str:
        """Return the exit code, or what kept the program from having one."""
        done = threading.Event()
        ended: list[int | str] = []

        def start() -> None:
            instance.store.export("_start", ">")()

        def work() -> None:
            try:
                instance.enter(start)
                ended.append(0)
            except GuestExit as exc:
                ended.append(exc.code)
            except ffi.StoreInterrupted:
                ended.append(f"not done after {TIMEOUT_S:g} s")
            except BaseException as exc:
                ended.append(f"{type(exc).__name__}: {exc}")
            finally:
                done.set()

        self._pool.submit(work)
        if not done.wait(TIMEOUT_S):
            instance.interrupt()
            done.wait()
        return ended[0]

    def close(self) -> None:
        """Let the guest threads end."""
        self._pool.retire()


@contextmanager
def _files_of(program: Program, volume: str) -> Generator[FileSystem]:
    """Give the files for one run: those of a fork, as a sandbox's are, over a copy of what the program is to find."""
    with tempfile.TemporaryDirectory() as scratch:
        if program.root is None:
            template = FileSystem.base()
            template.table.remove(ROOT_FD).close()  # the specification says: then nothing is preopened
        else:
            template = VOLUMES[volume](Path(shutil.copytree(program.root, Path(scratch, "root"))))
        with closing(template), closing(template.fork()) as files:
            yield files


def _judge(program: Program, ended: int | str, stdio: Recorder) -> str:
    """Say what is wrong with how a program ended; nothing, if nothing is."""
    if ended != program.exit_code:
        said = stdio.written[2].decode(errors="replace").strip() or "nothing on stderr"
        return f"{f'exit code {ended}' if isinstance(ended, int) else ended}; {said}"
    for fd, name, expected in ((1, "stdout", program.stdout), (2, "stderr", program.stderr)):
        if expected is not None and stdio.written[fd] != expected:
            return f"{name} is {stdio.written[fd]!r}, not {expected!r}"
    return ""


# --- the report ----------------------------------------------------------------------------------------------------


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the results as lines of text: one for each program, then the counts, then what is wrong."""
    width = max((len(outcome.program.name) for outcome in outcomes), default=0)
    lines: list[str] = []
    notes: list[str] = []
    for suite, of_suite in itertools.groupby(outcomes, key=lambda outcome: outcome.program.suite):
        lines.append(suite)
        passed = programs = 0
        for name, group in itertools.groupby(of_suite, key=lambda outcome: outcome.program.name):
            of_program = list(group)
            verdicts = {outcome.volume: outcome.verdict for outcome in of_program}
            programs += 1
            if len(set(verdicts.values())) == 1:
                verdict = of_program[0].verdict
                told = f"{verdict:10} {', '.join(verdicts)}"
            else:
                verdict = "mixed"
                told = f"{verdict:10} " + ", ".join(f"{volume}: {verdict}" for volume, verdict in verdicts.items())
            passed += verdict == "pass"
            lines.append(f"  {name:{width}}  {told}")
            notes.extend(
                f"{name} ({outcome.volume}): {outcome.verdict}: {outcome.why or 'passes, against EXPECTED_EXCEPTIONS'}"
                for outcome in of_program
                if outcome.is_unexpected
            )
        lines.append(f"  {passed} of {programs} programs pass")
    met = {outcome.program.name for outcome in outcomes}
    notes.extend(f"{name}: exception: {why}" for name, why in EXPECTED_EXCEPTIONS.items() if name in met)
    return "\n".join([*lines, "", *notes]).rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line says; return 0 if everything is as expected."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.wasi.conformance", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("directory", type=Path, help="where the compiled programs are")
    parser.add_argument("programs", nargs="*", help="names of the ones to run; all, unless told")
    parser.add_argument("--volume", action="append", choices=[*VOLUMES], help="a kind of volume; all, unless told")
    parser.add_argument(
        "--errno-mode",
        choices=["permissive", "unix"],
        default="permissive",
        help="have the programs accept every host's error numbers, or just those of a Unix",
    )
    given = parser.parse_args(argv)
    programs = [p for p in find_programs(given.directory) if not given.programs or p.name in given.programs]
    if not programs:
        parser.error(f"no {VERSION} programs in {given.directory}")
    runner = Runner(given.errno_mode)
    try:
        outcomes = list(itertools.chain.from_iterable(map(partial(runner.run, volumes=given.volume), programs)))
    finally:
        runner.close()
    print(table(outcomes))
    return int(any(outcome.is_unexpected for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
