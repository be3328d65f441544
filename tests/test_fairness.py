"""The interpreter's lock reaches others in time, although guests' long host calls take it again at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from isola_anyio import fairness
from isola_anyio.engine import ffi
from tests.engine.support import call, make_program

CALLS = """(module
  (import "host" "give" (func $give (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "ask") (loop $again (drop (call $give (i32.const 0))) (br $again))))"""


@pytest.mark.slow
def test_who_waits_for_the_lock_gets_it_between_long_host_calls(tmp_path: Path) -> None:
    """Without the sleeps the other thread came round some ten times in a second."""
    store = ffi.Store(make_program(tmp_path, CALLS), max_memory=1 << 20)
    text = b"\xff" * 60_000
    store.handlers = [lambda _: len(text.decode("utf-8", "replace")) and 0]

    def guest() -> None:
        with pytest.raises(ffi.StoreInterrupted):
            call(store, "ask", ">")

    thread = threading.Thread(target=guest)
    thread.start()
    rounds, end = 0, time.monotonic() + 1
    while time.monotonic() < end:
        time.sleep(0.001)
        rounds += 1
    store.interrupted = True
    store.program.engine.increment_epoch()
    thread.join()
    store.close()
    assert rounds > 60


def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    sleeps: list[float] = []
    monkeypatch.setattr(fairness, "sleep", sleeps.append)
    fairness.note_gil_released()
    return sleeps


def test_long_host_calls_add_up_and_waiting_makes_good(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = slept(monkeypatch)
    now = time.perf_counter()
    for _ in range(10):
        fairness.host_call_took(now, now + 0.00025)
    assert len(sleeps) == 1
    fairness.note_gil_released()
    fairness.host_call_took(now - 10, time.perf_counter())  # it waited in between: only what came after counts
    assert len(sleeps) == 1


def test_long_work_gives_way_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = slept(monkeypatch)
    with fairness.in_pieces():
        for _ in range(1000):
            fairness.yield_gil()
        few = len(sleeps)
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            fairness.yield_gil()
    assert few < 5
    assert len(sleeps) > few
