"""Runs of a real guest: what a fake machine cannot show, because WebAssembly or the operating system has a part in it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import CpuLimitError, IsolaError, SandboxClosedError, SandboxContext
from isola_anyio.engine.ffi import store as seam
from isola_anyio.engine.wakeup import loop_caller
from isola_anyio.guests.protocol import ToGuest
from isola_anyio.machine import GuestMachine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio import SandboxTemplate

SPIN = "function spin() { console.log('spins'); for (;;); }"
LONG_TYPESCRIPT = "const value: number = 1;\n" * 40_000
"""Takes a second to be stripped."""


@pytest.fixture(scope="module")
def context() -> Iterator[SandboxContext]:
    context = SandboxContext()
    yield context
    context.close()


@pytest.fixture(scope="module")
def template(context: SandboxContext) -> Iterator[SandboxTemplate]:
    template = anyio.run(context.build_template, "js")
    yield template
    template.close()


class Blind(dict[int, Any]):
    """The seam's stores, with an epoch callback that overlooks each store's first interrupt.

    As one does that has just looked when the flag goes up: wasmtime sets the next deadline from an epoch that has been
    incremented already.
    """

    def __init__(self, stores: dict[int, Any]) -> None:
        super().__init__(stores)
        self.missed: set[int] = set()

    def get(self, number: int, default: Any = None) -> Any:
        store = super().get(number, default)
        if store is not None and store.interrupted and number not in self.missed:
            self.missed.add(number)
            return SimpleNamespace(interrupted=False, on_epoch=None)
        return store


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blind]:
    """Overlook every first interrupt; each test of this has to have had one."""
    stores = Blind(seam.stores)
    monkeypatch.setattr(seam, "stores", stores)
    yield stores
    assert stores.missed


async def seconds_to_cancel(work: Any, started: anyio.Event) -> float:
    """Start work, cancel it when it has begun, and give the seconds until nothing of it is left."""
    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await started.wait()
        await anyio.sleep(0.05)
        began = time.perf_counter()
        group.cancel_scope.cancel()
    return time.perf_counter() - began


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_a_guest_that_misses_its_interrupt_is_stopped_all_the_same(
    template: SandboxTemplate, blind: Blind, how: str
) -> None:
    started = anyio.Event()

    async def spin() -> None:
        async with sandbox.run_stream("spin") as events:
            async for _ in events:
                started.set()

    async with template.create() as sandbox:
        await sandbox.load_script(SPIN)
        if how == "cancelled":
            assert await seconds_to_cancel(spin, started) < 0.5
            assert sandbox.broken
            return
        async with anyio.create_task_group() as group:
            group.start_soon(spin_until_closed, spin)
            await started.wait()
            began = time.perf_counter()
            await sandbox.aclose()
            assert time.perf_counter() - began < 0.5


async def spin_until_closed(spin: Any) -> None:
    with pytest.raises(SandboxClosedError):
        await spin()


async def test_a_guest_that_misses_the_interrupt_of_its_budget_is_stopped_all_the_same(
    template: SandboxTemplate, blind: Blind
) -> None:
    async with template.create(max_cpu=0.05) as sandbox:
        await sandbox.load_script(SPIN)
        with anyio.fail_after(5), pytest.raises(CpuLimitError):
            await sandbox.run("spin")


async def test_a_prelude_that_misses_its_interrupt_is_stopped_all_the_same(
    context: SandboxContext, blind: Blind, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = anyio.Event()
    called = loop_caller()
    deliver = GuestMachine.deliver

    def tell(self: GuestMachine, frame: bytes, conversation: Any) -> None:
        if frame[0] == ToGuest.PRELUDE:
            called(started.set)
        deliver(self, frame, conversation)

    async def build() -> None:
        await context.build_template("js", prelude=f"for (;;); // {id(blind)}")

    monkeypatch.setattr(GuestMachine, "deliver", tell)
    assert await seconds_to_cancel(build, started) < 0.5


async def test_typescript_that_misses_the_interrupt_of_its_guest_is_stopped_all_the_same(
    template: SandboxTemplate, blind: Blind
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("const warm: number = 1", filename="warm.ts")
        started = anyio.Event()

        async def load() -> None:
            started.set()
            await sandbox.load_script(LONG_TYPESCRIPT, filename="long.ts")

        assert await seconds_to_cancel(load, started) < 0.5
        assert sandbox.broken
        assert len(blind.missed) == 1  # the stripper's own: its guest computed nothing


async def test_a_large_guest_is_freed_where_no_thread_can_be_had_for_it(
    template: SandboxTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isola_anyio.machine._LARGE_MEMORY_BYTES", 0)
    async with template.create() as sandbox:
        await sandbox.load_script(SPIN)

        def refuse(*_: Any, **__: Any) -> None:
            raise IsolaError("no thread can be started")

        assert sandbox._runs is not None
        machine = sandbox._runs.machine
        put = machine.pool.put
        machine.pool.put = refuse  # type: ignore[method-assign]
        try:
            await sandbox.aclose()
        finally:
            machine.pool.put = put  # type: ignore[method-assign]
        assert machine.store.memory_size() == 0
