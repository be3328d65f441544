"""Our guests beside peers used by their own APIs, in the same run.

The JavaScript guest stands beside quickjs-rs, which this library depends on. The Python guest stands beside pyeryx
(CPython in WebAssembly) and pydantic-monty (a Python interpreter of its own, in worker processes), each left out where
it is not installed. They belong into an environment of their own; the tests need neither::

    python3.12 -m venv peers && peers/bin/pip install -e '.[test]' pyeryx pydantic-monty
    peers/bin/python -m tests.bench peers

Machines are noisy, so the columns of a table are measured in turn, round after round; a figure is the median of the
rounds' medians.
"""

from __future__ import annotations

import importlib
import statistics
import time
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import anyio
import quickjs_rs

from isola_anyio import SandboxContext
from tests.bench.measure import Samples, Table, human, timed, timed_async

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

SCRIPT = "function add(a, b) { return a + b }\nfunction spin() { for (;;); }"
ADD: Final = "def add(a, b):\n    return a + b\n"
SPIN: Final = "while True:\n    pass\n"
STOP_AFTER_S: Final = 0.05
ROUNDS: Final = 5
CALLS: Final = 100
"""Hostcalls of one run."""

NEW, WARM, HOSTCALL, STOP = ROWS = (
    "new sandbox: create, load two lines, call, close",
    "call a function in a sandbox that is warm",
    "the guest calls a plain function of the host",
    "stop an endless loop: from the deadline to the return",
)


async def run() -> None:
    """Print one table for each kind of guest; Python first, see there."""
    await _python()
    await _javascript()


async def _javascript() -> None:
    table = Table("js beside quickjs-rs")
    async with SandboxContext() as context:
        start = time.perf_counter()
        template = await context.build_template("js", prelude=SCRIPT)
        built = Samples([time.perf_counter() - start])
        start = time.perf_counter()
        runtime = quickjs_rs.Runtime()
        peer = runtime.new_context()
        peer.eval(SCRIPT)
        table.row("build / first context", built, Samples([time.perf_counter() - start]), "quickjs-rs")

        async def ours() -> None:
            async with template.create() as sandbox:
                await sandbox.run("add", 1, 2)

        def theirs() -> None:
            with quickjs_rs.Runtime() as fresh, fresh.new_context() as context:
                context.eval(SCRIPT)
                context.eval("add(1, 2)")

        table.row("create to first answer, close", await timed_async(ours, 100), timed(theirs, 30), "quickjs-rs")
        async with template.create(hostcalls={"answer": lambda payload: payload}) as sandbox:
            await sandbox.load_script(
                "async function ask(n) { for (let i = 0; i < n; i++) await hostcall('answer', i) }"
            )
            warm = await timed_async(partial(sandbox.run, "add", 1, 2), 300, warm=50)
            table.row("warm call", warm, timed(lambda: peer.eval("add(1, 2)"), 300), "quickjs-rs")
            hundred = await timed_async(partial(sandbox.run, "ask", 100), 20)
            peer.register("answer", _echo)
            loop = "for (let i = 0; i < 100; i++) answer(i)"
            floor = timed(lambda: peer.eval(loop), 20)
            table.row(
                "hostcall",
                Samples([value / 100 for value in hundred.values]),
                Samples([value / 100 for value in floor.values]),
                "quickjs-rs, a plain function",
            )
        template.close()


# --- Python ----------------------------------------------------------------------------------------------------


def _echo(value: Any) -> Any:
    return value


async def _python() -> None:
    async with AsyncExitStack() as stack:
        columns: dict[str, _Ours | _Peer] = {}
        # Peers first: pyeryx has a wasmtime of its own, and of two in one process the signal handlers of the one that
        # came last are asked first, as this library wants its own to be.
        for name, module, column in (("pyeryx", "eryx", _Eryx), ("pydantic-monty", "pydantic_monty", _Monty)):
            with suppress(ImportError):
                peer = stack.enter_context(column(importlib.import_module(module)))
                columns[f"{name} {version(name)}"] = peer
        await _print_beside({"isola_anyio": await stack.enter_async_context(_Ours()), **columns})


async def _print_beside(columns: Mapping[str, _Ours | _Peer]) -> None:
    """Measure every row of every column in turn, and print the medians beside one another."""
    rounds: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for row in ROWS:
            for name, column in columns.items():
                samples = await column.measure(row)
                rounds.setdefault((row, name), []).append(samples.median)
    print("\n## python beside peers\n")
    print("| what |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for row in ROWS:
        print(f"| {row} |", " | ".join(human(statistics.median(rounds[row, name])) for name in columns), "|")


class _Ours:
    """This library's column."""

    async def __aenter__(self) -> Self:
        self._stack = await AsyncExitStack().__aenter__()
        context = await self._stack.enter_async_context(SandboxContext())
        self._template = await context.build_template("python")
        self._warm = await self._stack.enter_async_context(self._template.create(hostcalls={"answer": _echo}))
        await self._warm.load_script(
            "from sandbox.asyncio import hostcall\n"
            f"{ADD}async def ask(n):\n    for _ in range(n):\n        await hostcall('answer', 1)\n"
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._template.close()
        await self._stack.aclose()

    async def measure(self, row: str) -> Samples:
        if row == NEW:
            return await timed_async(self._use_new, 30)
        if row == WARM:
            return await timed_async(partial(self._warm.run, "add", 1, 2), 200, warm=20)
        if row == HOSTCALL:
            runs = await timed_async(partial(self._warm.run, "ask", CALLS), 5)
            return Samples([value / CALLS for value in runs.values])
        late = Samples()
        for _ in range(5):
            async with self._template.create() as sandbox:
                await sandbox.load_script("pass")
                start = time.perf_counter()
                with anyio.move_on_after(STOP_AFTER_S):
                    await sandbox.load_script(SPIN)
                late.add(time.perf_counter() - start - STOP_AFTER_S)
        return late

    async def _use_new(self) -> None:
        async with self._template.create() as sandbox:
            await sandbox.load_script(ADD)
            assert await sandbox.run("add", 1, 2) == 3


class _Peer(ABC):
    """A peer's column: everything it does blocks."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer

    @abstractmethod
    def use_new(self) -> None:
        """Make a sandbox, load ``ADD``, call it, close the sandbox."""

    @abstractmethod
    def call(self) -> None:
        """Call ``add`` in a sandbox that is there."""

    @abstractmethod
    def ask(self) -> None:
        """Have the guest call the host ``CALLS`` times."""

    @abstractmethod
    def spin(self) -> None:
        """Run ``SPIN`` until it is stopped."""

    async def measure(self, row: str) -> Samples:
        if row == NEW:
            return timed(self.use_new, 30)
        if row == WARM:
            return timed(self.call, 200, warm=20)
        if row == HOSTCALL:
            return Samples([value / CALLS for value in timed(self.ask, 5).values])
        return Samples([seconds - STOP_AFTER_S for seconds in timed(self.spin, 5, warm=1).values])


class _Eryx(_Peer):
    """A sandbox for each piece of work, and a session for what lasts."""

    def __enter__(self) -> Self:
        answer = {"name": "answer", "fn": _echo, "description": ""}
        self._session = self.peer.Session(callbacks=[answer])
        self._session.execute(f"{ADD}async def ask(n):\n    for _ in range(n):\n        await answer(value=1)\n")
        return self

    def __exit__(self, *exc_info: object) -> None:
        del self._session

    def use_new(self) -> None:
        assert self.peer.Sandbox().execute(f"{ADD}result = add(1, 2)").result == 3

    def call(self) -> None:
        assert self._session.execute("result = add(1, 2)").result == 3

    def ask(self) -> None:
        self._session.execute(f"await ask({CALLS})")

    def spin(self) -> None:
        limits = self.peer.ResourceLimits(execution_timeout_ms=int(STOP_AFTER_S * 1000))
        with suppress(self.peer.TimeoutError):
            self.peer.Sandbox(resource_limits=limits).execute(SPIN)


class _Monty(_Peer):
    """A pool of worker processes, and a session for each piece of work."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._pool = stack.enter_context(self.peer.Monty())
            self._session = stack.enter_context(self._pool.checkout(limits={"max_suspensions": 1 << 30}))
            self._session.feed_run(f"{ADD}def ask(n):\n    for _ in range(n):\n        answer(1)\n")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def use_new(self) -> None:
        with self._pool.checkout() as session:
            assert session.feed_run(f"{ADD}add(1, 2)") == 3

    def call(self) -> None:
        assert self._session.feed_run("add(1, 2)") == 3

    def ask(self) -> None:
        self._session.feed_run(f"ask({CALLS})", external_lookup={"answer": _echo})

    def spin(self) -> None:
        limits = {"max_feed_duration_secs": STOP_AFTER_S}
        with self._pool.checkout(limits=limits) as session, suppress(self.peer.MontyRuntimeError):
            session.feed_run(SPIN)
