"""Starting a guest thread: it is ready, or whoever started it is told, whatever became of it."""

from __future__ import annotations

import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio.engine import guest_thread
from isola_anyio.engine.ffi.signal_stack import SignalStack
from isola_anyio.engine.guest_thread import GuestThread, Start
from isola_anyio.engine.headroom import headroom
from isola_anyio.errors import IsolaError

if TYPE_CHECKING:
    from collections.abc import Callable

STACK_BYTES = 1 << 20
NO_STACK_BYTES = 1 << 46
"""More than a process can map."""


def make(target: Callable[[], object], *, stack_bytes: int = STACK_BYTES) -> GuestThread:
    return GuestThread(target, name="isola-guest-of-a-test", stack_bytes=stack_bytes)


def refuse_signal_stacks(patch: pytest.MonkeyPatch) -> None:
    def refuse() -> SignalStack:
        raise OSError(12, "Cannot allocate memory")

    patch.setattr(SignalStack, "install", refuse)


def kill_threads_at_birth(patch: pytest.MonkeyPatch) -> None:
    def die(_thread: threading.Thread) -> None:
        raise MemoryError

    patch.setattr(threading.Thread, "_bootstrap", die)
    patch.setattr(sys, "unraisablehook", lambda _unraisable: None)


def refuse_threads(patch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    patch.setattr(threading.Thread, "start", refuse)


FAILURES: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (refuse_signal_stacks, "Cannot allocate memory"),
    (kill_threads_at_birth, "it died on its first steps"),
    (refuse_threads, "can't start new thread"),
]


def test_a_started_thread_has_a_signal_stack_and_calls_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    class Noted(SignalStack):
        def __init__(self) -> None:
            super().__init__()
            steps.append("stack")

        def close(self) -> None:
            super().close()
            steps.append("closed")

    monkeypatch.setattr(guest_thread, "SignalStack", Noted)
    thread = make(lambda: steps.append(threading.current_thread().name))
    thread.start()
    thread.join()
    assert steps == ["stack", "isola-guest-of-a-test", "closed"]


def test_the_stack_size_of_other_threads_stays() -> None:
    before = threading.stack_size()
    thread = make(lambda: None)
    thread.start()
    thread.join()
    assert threading.stack_size() == before


def test_a_target_that_raises_is_reported_as_any_threads_is(monkeypatch: pytest.MonkeyPatch) -> None:
    hooked: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", hooked.append)

    def fail() -> None:
        raise ValueError("of the target")

    thread = make(fail)
    thread.start()
    thread.join()
    assert hooked[0].exc_type is ValueError


@pytest.mark.parametrize(("break_it", "words"), FAILURES)
def test_a_thread_that_cannot_be_had_is_an_error_in_words(
    monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], words: str
) -> None:
    called = threading.Event()
    with monkeypatch.context() as patch:
        break_it(patch)
        with pytest.raises(IsolaError, match=words) as caught:
            make(called.set).start()
    assert "vm.max_map_count" in str(caught.value)
    assert not called.is_set()
    assert "isola-guest-of-a-test" not in {thread.name for thread in threading.enumerate()}


def test_near_a_limit_none_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise IsolaError("no room for another guest thread")

    monkeypatch.setattr(headroom, "check_thread", refuse)
    called = threading.Event()
    with pytest.raises(IsolaError, match="no room for another guest thread"):
        make(called.set).start()
    assert not called.is_set()


def test_a_thread_is_counted_for_as_long_as_it_lives() -> None:
    before = len(headroom.guest_threads)
    may_end = threading.Event()
    thread = make(may_end.wait)
    thread.start()
    assert thread.ident in headroom.guest_threads
    may_end.set()
    thread.join()
    assert len(headroom.guest_threads) == before


def test_a_refusal_of_the_system_is_an_error_in_words() -> None:
    with pytest.raises(IsolaError, match="can't start new thread"):
        make(lambda: None, stack_bytes=NO_STACK_BYTES).start()


def test_nobody_has_to_wait_to_hear_that_it_is_ready() -> None:
    starts: SimpleQueue[Start] = SimpleQueue()
    may_end = threading.Event()
    thread = make(may_end.wait)
    thread.start_soon(starts.put)
    start = starts.get(timeout=30)
    assert start.is_ready
    assert start.thread is thread
    start.check()
    may_end.set()
    thread.join()
    assert starts.empty()


@pytest.mark.parametrize(("break_it", "words"), FAILURES)
def test_nobody_has_to_wait_to_hear_that_it_failed(
    monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], words: str
) -> None:
    starts: SimpleQueue[Start] = SimpleQueue()
    thread = make(lambda: None)
    with monkeypatch.context() as patch:
        break_it(patch)
        thread.start_soon(starts.put)
        start = starts.get(timeout=30)
    assert not start.is_ready
    assert start.thread is thread
    with pytest.raises(IsolaError, match=words):
        start.check()
    assert starts.empty()


def test_a_refusal_of_the_system_is_reported_once() -> None:
    starts: SimpleQueue[Start] = SimpleQueue()
    make(lambda: None, stack_bytes=NO_STACK_BYTES).start_soon(starts.put)
    with pytest.raises(IsolaError, match="can't start new thread"):
        starts.get(timeout=30).check()
    assert starts.empty()
