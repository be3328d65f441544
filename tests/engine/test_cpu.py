"""What counts as a guest's CPU, and what is the host's own."""

from __future__ import annotations

import gc
import threading
import time

from isola_anyio.engine.cpu import CpuMeter


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_turns_cpu_counts_and_what_is_between_turns_does_not() -> None:
    meter = CpuMeter()
    for _ in range(2):
        meter.begin()
        burn(0.02)
        meter.end()
        burn(0.05)
    assert 0.04 <= meter.now() < 0.06


def test_turns_on_other_threads_add_up_and_any_thread_may_ask() -> None:
    meter = CpuMeter()
    burnt, seen = threading.Event(), threading.Event()

    def turn() -> None:
        meter.begin()
        burn(0.02)
        burnt.set()
        seen.wait(10)
        meter.end()

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
    meter.begin()
    meter.pause()
    burn(0.05)
    assert meter.now() < 0.01
    meter.resume()
    meter.end()
    assert meter.now() < 0.01


def test_a_collection_of_the_hosts_objects_is_not_the_guests() -> None:
    heap: list[list[int]] = [[] for _ in range(2_000_000)]
    meter = CpuMeter()
    began = time.thread_time()
    meter.begin()
    gc.collect()
    meter.pause()
    gc.collect()
    meter.resume()
    meter.end()
    took = time.thread_time() - began
    assert meter.now() < took / 10
    del heap


def test_other_threads_collections_change_nothing() -> None:
    meter = CpuMeter()
    meter.begin()
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()
    burn(0.02)
    meter.end()
    assert meter.now() >= 0.02
