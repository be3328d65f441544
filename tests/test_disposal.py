"""What nobody wants any more is let go on a thread of its own, whichever thread drops it, and only if nobody has it."""

from __future__ import annotations

import _thread
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio import codec
from isola_anyio import disposal as disposal_module
from isola_anyio.disposal import _Disposal, dispose

if TYPE_CHECKING:
    from collections.abc import Callable

WITHIN_S = 30.0


class Watched:
    """Let-gos: on which threads, and whether the value was nobody else's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        self.threads: list[int] = []
        self.alone: list[bool] = []
        self.over = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        let_go = codec.let_go

        def watched(held: list[Any], pause: Callable[[], object]) -> None:
            self.go_on.wait(WITHIN_S)
            self.threads.append(threading.get_ident())
            self.alone.append(codec.is_alone(held))
            let_go(held, pause)
            self.over.set()

        monkeypatch.setattr(codec, "let_go", watched)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def large() -> list[Any]:
    return [[] for _ in range(10_000)]


def wait_until_idle(disposal: _Disposal) -> None:
    deadline = threading.Event()
    for _ in range(3000):
        if not disposal.busy:
            return
        deadline.wait(0.01)
    raise AssertionError("it is still busy")


def test_a_large_value_is_let_go_on_another_thread(watched: Watched) -> None:
    dispose([large()])
    assert watched.over.wait(WITHIN_S)
    assert watched.alone == [True]
    assert watched.threads != [threading.get_ident()]


def test_a_small_value_needs_no_thread(watched: Watched) -> None:
    dispose([[1, 2, 3], "text", None])
    dispose([])
    assert watched.threads == []


def test_a_value_that_somebody_is_about_to_drop_is_waited_for(watched: Watched) -> None:
    value = large()
    held = [value]
    disposal = _Disposal()
    disposal.put(held)
    del value
    assert watched.over.wait(WITHIN_S)
    assert watched.alone == [True]


def test_a_value_that_the_program_keeps_stays_whole(watched: Watched) -> None:
    value = large()
    dispose([value])
    assert watched.over.wait(WITHIN_S)
    assert watched.alone == [False]
    assert len(value) == 10_000


def test_one_thread_does_all_and_ends(watched: Watched) -> None:
    watched.go_on.clear()
    disposal = _Disposal()
    for _ in range(20):
        disposal.put([large()])
    assert disposal.busy
    watched.go_on.set()
    wait_until_idle(disposal)
    assert watched.alone == [True] * 20
    assert len(set(watched.threads)) == 1


def test_without_a_thread_to_be_had_it_is_done_at_once(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: object, arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    monkeypatch.setattr(disposal_module, "sleep", lambda _seconds: pytest.fail("it may be an event loop"))
    kept = large()
    disposal = _Disposal()
    disposal.put([large(), kept])
    assert watched.threads == [threading.get_ident()] * 2
    assert not disposal.busy
    assert len(kept) == 10_000


def test_a_put_from_within_a_put_waits_for_nothing(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a collector may: its `__del__` calls come on any thread in the middle of anything.
    disposal = _Disposal()
    start = _thread.start_new_thread

    def start_and_put(function: Any, arguments: Any) -> int:
        disposal.put([large()])
        return start(function, arguments)

    monkeypatch.setattr(_thread, "start_new_thread", start_and_put)
    disposal.put([large()])
    for _ in range(3000):
        if len(watched.alone) == 2:
            break
        watched.over.wait(0.01)
    assert watched.alone == [True, True]


def test_values_that_the_program_keeps_hold_up_no_others(watched: Watched) -> None:
    # Waited for one after the other, they would take a minute.
    kept = [large() for _ in range(1000)]
    disposal = _Disposal()
    watched.go_on.clear()
    for value in kept:
        disposal.put([value])
    del value
    disposal.put([large()])
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        time.sleep(seconds)

    watched.patch.setattr(disposal_module, "sleep", nap)
    watched.go_on.set()
    wait_until_idle(disposal)
    assert watched.alone == [False] * 1000 + [True]
    assert len(naps) <= 100


def test_after_a_failure_the_next_value_is_let_go(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def fail(_held: list[Any], _pause: Callable[[], object]) -> None:
        raise MemoryError

    monkeypatch.setattr(sys, "unraisablehook", lambda _unraisable: failed.set())
    disposal = _Disposal()
    with monkeypatch.context() as patch:
        patch.setattr(codec, "let_go", fail)
        disposal.put([large()])
        assert failed.wait(WITHIN_S)
    wait_until_idle(disposal)
    disposal.put([large()])
    assert watched.over.wait(WITHIN_S)
    assert watched.alone == [True]
