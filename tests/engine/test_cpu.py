"""What counts as a guest's CPU, and what is the host's own."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from isola_anyio.engine.cpu import CpuMeter, Running, guest_thread, read_clock


def begin(meter: CpuMeter) -> None:
    """Have the turn, as ``Turns.run`` does."""
    guest_thread.meter = meter
    meter.running = Running(guest_thread.clock, read_clock(guest_thread.clock) - meter.used_s)


def end(meter: CpuMeter) -> None:
    meter.pause()
    guest_thread.meter = None


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_a_turns_cpu_counts_and_what_is_between_turns_does_not() -> None:
    meter = CpuMeter()
    for _ in range(2):
        begin(meter)
        burn(0.02)
        end(meter)
        burn(0.05)
    assert 0.04 <= meter.now() < 0.06


def test_turns_on_other_threads_add_up_and_any_thread_may_ask() -> None:
    meter = CpuMeter()
    burnt, seen = threading.Event(), threading.Event()

    def turn() -> None:
        begin(meter)
        burn(0.02)
        burnt.set()
        seen.wait(10)
        end(meter)

    for turns in (1, 2):
        burnt.clear()
        seen.clear()
        thread = threading.Thread(target=turn)
        thread.start()
        assert burnt.wait(10)
        assert 0.02 * turns <= meter.now() < 0.02 * turns + 0.01
        seen.set()
        thread.join()


def test_what_a_handler_computes_is_not_the_guests_even_while_it_computes() -> None:
    meter = CpuMeter()
    begin(meter)
    meter.pause()
    burn(0.05)
    assert meter.now() < 0.01
    meter.resume()
    end(meter)
    assert meter.now() < 0.01


@pytest.mark.slow
def test_a_collection_of_the_hosts_objects_is_not_the_guests() -> None:
    heap: list[list[int]] = [[] for _ in range(2_000_000)]
    meter = CpuMeter()
    began = time.thread_time()
    begin(meter)
    gc.collect()
    meter.pause()
    gc.collect()
    meter.resume()
    end(meter)
    took = time.thread_time() - began
    assert meter.now() < took / 10
    del heap


def test_other_threads_collections_change_nothing() -> None:
    meter = CpuMeter()
    begin(meter)
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()
    burn(0.02)
    end(meter)
    assert meter.now() >= 0.02
