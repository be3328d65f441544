"""The seam to wasmtime: calls, traps, limits, and the faults that shaped it."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isola_anyio.engine import ffi
from tests.engine.support import call, make_program

PACKAGE = Path(ffi.__file__).parents[2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> ffi.Program:
    return make_program(tmp_path_factory.mktemp("code"))


@pytest.fixture
def store(program: ffi.Program) -> Iterator[ffi.Store]:
    store = ffi.Store(program, max_memory=1 << 20)
    store.handlers = [lambda number: number + 1]
    yield store
    store.close()


def test_exports_take_and_give_unsigned_numbers(store: ffi.Store) -> None:
    assert call(store, "add", "ii>i", 2, 3) == 5
    assert call(store, "add", "ii>i", 0xFFFFFFFF, 0) == 0xFFFFFFFF


def test_host_functions_are_answered_by_the_running_store(program: ffi.Program) -> None:
    first, second = (ffi.Store(program, max_memory=1 << 20) for _ in range(2))
    first.handlers, second.handlers = [lambda n: n + 1], [lambda n: n * 2]
    try:
        assert call(first, "ask", "i>i", 10) == 11
        assert call(second, "ask", "i>i", 10) == 20
    finally:
        first.close()
        second.close()


def test_program_names_its_exports_with_signatures(program: ffi.Program) -> None:
    exports = program.exports()
    assert exports["memory"] == "memory"
    assert exports["add"] == "ii>i"
    assert exports["poke"] == "ii>"


def test_missing_import_is_a_lookup_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="nowhere"):
        make_program(tmp_path, '(module (import "nowhere" "f" (func)) (memory (export "memory") 1))')


@pytest.mark.parametrize(
    ("name", "signature", "args", "text"),
    [
        ("unreachable", ">", (), "unreachable"),
        ("divide", "i>i", (0,), "division by zero"),
        ("peek", "i>i", (0xFFFFFFF0,), "out of bounds"),
        ("recurse", "i>i", (1,), "stack overflow"),
    ],
)
def test_traps_are_named_and_kill_only_their_store(
    program: ffi.Program, name: str, signature: str, args: tuple[int, ...], text: str
) -> None:
    broken, neighbour = (ffi.Store(program, max_memory=1 << 20) for _ in range(2))
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            call(broken, name, signature, *args)
        except BaseException as exc:
            outcome.append(exc)

    threading.stack_size(20 << 20)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(0)
    thread.join()
    assert isinstance(outcome[0], ffi.GuestTrap)
    assert text in str(outcome[0])
    assert broken.dead
    assert call(neighbour, "add", "ii>i", 1, 1) == 2
    broken.close()
    neighbour.close()


def test_interrupt_stops_a_spinning_guest_and_no_other(program: ffi.Program) -> None:
    spinning, neighbour = (ffi.Store(program, max_memory=1 << 20) for _ in range(2))
    stopped = threading.Event()

    def spin() -> None:
        with pytest.raises(ffi.StoreInterrupted):
            call(spinning, "spin", ">")
        stopped.set()

    thread = threading.Thread(target=spin)
    thread.start()
    program.engine.increment_epoch()
    assert not stopped.wait(0.05)
    spinning.interrupted = True
    program.engine.increment_epoch()
    assert stopped.wait(5)
    thread.join()
    assert call(neighbour, "add", "ii>i", 1, 1) == 2
    spinning.close()
    neighbour.close()


def test_memory_limit_makes_growing_fail_and_nothing_else(store: ffi.Store) -> None:
    assert call(store, "grow", "i>i", 14) == 2
    assert call(store, "grow", "i>i", 1) == 0xFFFFFFFF
    assert store.memory_size() == 1 << 20
    with pytest.raises(MemoryError):
        store.grow_to(2 << 20)


def test_fuel_runs_out_and_what_is_left_can_be_read(tmp_path: Path) -> None:
    program = make_program(tmp_path, metered=True)
    store = ffi.Store(program, max_memory=1 << 20)
    store.set_fuel(1000)
    assert call(store, "add", "ii>i", 1, 1) == 2
    assert 0 < store.fuel() < 1000
    with pytest.raises(ffi.FuelExhausted):
        call(store, "spin", ">")
    store.close()


def test_a_host_functions_exception_is_raised_where_the_guest_was_entered(store: ffi.Store) -> None:
    def fail(number: int) -> int:
        raise KeyError(number)

    store.handlers = [fail]
    with pytest.raises(KeyError, match="7"):
        call(store, "ask", "i>i", 7)
    assert store.dead
    assert store.fault is None


def test_each_thread_gets_its_own_stores_exception(program: ffi.Program) -> None:
    """Four threads that raise at once: none sees another's exception.

    wasmtime-py's own trampolines keep the exception in one process-wide slot, and a third came out wrong.
    """
    wrong: list[object] = []

    def hammer(identity: int) -> None:
        class Mine(Exception):
            pass

        def fail(number: int) -> int:
            raise Mine(identity, number)

        for number in range(300):
            store = ffi.Store(program, max_memory=1 << 20)
            store.handlers = [fail]
            try:
                call(store, "ask", "i>i", number)
                wrong.append("no exception")
            except Mine as exc:
                if exc.args != (identity, number):
                    wrong.append(exc)
            except BaseException as exc:
                wrong.append(exc)
            store.close()

    threads = [threading.Thread(target=hammer, args=(identity,)) for identity in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_linkers_made_in_many_threads_at_once_keep_their_callbacks_apart(program: ffi.Program) -> None:
    """wasmtime-py's callback table was not thread-safe once; ours has no table to share."""
    wrong: list[object] = []
    code, engine = program.code, program.engine

    def build(identity: int) -> None:
        for _ in range(30):
            linker = ffi.Linker(engine, [("host", "give", "i", True)])
            mine = linker.prepare(code)
            store = ffi.Store(mine, max_memory=1 << 20)
            store.handlers = [lambda number: number + identity]
            if call(store, "ask", "i>i", 1000) != 1000 + identity:
                wrong.append(identity)
            store.close()

    threads = [threading.Thread(target=build, args=(identity,)) for identity in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_closing_twice_does_nothing_and_a_closed_store_has_no_memory(program: ffi.Program) -> None:
    store = ffi.Store(program, max_memory=1 << 20)
    store.close()
    store.close()
    assert store.memory_size() == 0
    assert len(store.buffer) == 0


def test_a_store_that_cannot_be_made_leaves_nothing(program: ffi.Program) -> None:
    before = len(ffi.stores)
    with pytest.raises(ffi.GuestTrap):
        ffi.Store(program, max_memory=0)
    assert len(ffi.stores) == before


def run_child(code: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, on the tests' own search path."""
    script = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n{textwrap.dedent(code)}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)


PROVOKE = """
    import faulthandler, pathlib, signal, tempfile, threading, warnings
    from isola_anyio.engine import ffi
    from tests.engine.support import call, make_program
    tmp = tempfile.TemporaryDirectory()
    program = make_program(pathlib.Path(tmp.name))
    ffi.Store(program, max_memory=1 << 20).close()
    {install}
    store = ffi.Store(program, max_memory=1 << 20)
    caught = []
    def run() -> None:
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                ffi.trap_handlers.guard()
            caught.append(str(said[0].message) if said else "silent")
            call(store, {name!r}, {signature!r}, *{args!r})
        except BaseException as exc:
            caught.append(type(exc).__name__)
    threading.stack_size(20 << 20)
    thread = threading.Thread(target=run); thread.start(); thread.join()
    print(caught)
    """


@pytest.mark.slow
@pytest.mark.parametrize(
    "install",
    [
        "faulthandler.enable()",
        "[signal.signal(s, lambda *a: None) for s in (signal.SIGSEGV, signal.SIGILL, signal.SIGFPE)]",
    ],
    ids=["faulthandler", "signal.signal"],
)
@pytest.mark.parametrize(
    ("name", "signature", "args"),
    [("unreachable", ">", ()), ("divide", "i>i", (0,)), ("peek", "i>i", (0xFFFFFFF0,)), ("recurse", "i>i", (1,))],
    ids=["unreachable", "divide", "out-of-bounds", "stack"],
)
def test_traps_stay_traps_when_somebody_replaced_the_signal_handlers(
    install: str, name: str, signature: str, args: tuple[int, ...]
) -> None:
    done = run_child(PROVOKE.format(install=install, name=name, signature=signature, args=args))
    assert done.returncode == 0, done.stderr
    assert "'GuestTrap'" in done.stdout
    assert "put back" in done.stdout


@pytest.mark.slow
def test_signal_guard_is_silent_when_nobody_replaced_anything() -> None:
    done = run_child(PROVOKE.format(install="", name="unreachable", signature=">", args=()))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['silent', 'GuestTrap']"


def test_a_missing_private_name_fails_at_import_with_the_list() -> None:
    done = run_child("""
        import wasmtime._bindings as bindings
        del bindings.wasmtime_func
        import isola_anyio.engine.ffi
    """)
    assert done.returncode == 1
    assert "wasmtime_func" in done.stderr.rpartition("ImportError")[2]


@pytest.mark.slow
def test_fork_in_the_parent_makes_engines_of_the_child_another_generation() -> None:
    done = run_child("""
        import os
        from isola_anyio.engine import ffi
        before = ffi.generation()
        pid = os.fork()
        if pid == 0:
            os._exit(ffi.generation() - before)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), ffi.generation() - before)
    """)
    assert done.stdout.split() == ["1", "0"], done.stderr


def test_interrupting_takes_well_under_the_promised_five_milliseconds(program: ffi.Program) -> None:
    latencies = []
    for _ in range(40):
        store = ffi.Store(program, max_memory=1 << 20)
        began = threading.Event()

        def spin(store: ffi.Store = store, began: threading.Event = began) -> None:
            began.set()
            with pytest.raises(ffi.StoreInterrupted):
                call(store, "spin", ">")

        thread = threading.Thread(target=spin)
        thread.start()
        began.wait()
        time.sleep(0.002)
        start = time.perf_counter()
        store.interrupted = True
        program.engine.increment_epoch()
        thread.join()
        latencies.append(time.perf_counter() - start)
        store.close()
    assert sorted(latencies)[len(latencies) // 2] < 0.05  # an order above what it takes; the bench has the figure


def test_only_the_seam_touches_ctypes_and_private_names() -> None:
    offenders = []
    for path in PACKAGE.rglob("*.py"):
        if "engine/ffi" in path.as_posix() or path.name == "openat2.py" or "guests/python/sandbox" in path.as_posix():
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            offenders += [f"{path.name}: {name}" for name in names if name.startswith(("ctypes", "wasmtime._"))]
    assert offenders == []
