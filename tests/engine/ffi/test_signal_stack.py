"""Signal stacks of guest threads: wasmtime makes none beside them, and nothing is left of them."""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from isola_anyio.engine import ffi
from isola_anyio.engine.ffi import mapping, signal_stack
from isola_anyio.engine.ffi.signal_stack import STACK_BYTES, SignalStack
from tests.engine.support import call, make_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="wasmtime needs signal stacks on Linux")


THREAD_BYTES = 20 << 20
"""Room for a guest's whole stack."""


def on_a_fresh_thread(function: Callable[[], None]) -> None:
    """Call it on a thread that has no signal stack yet, and raise what it raises."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            function()
        except BaseException as exc:
            raised.append(exc)

    before = threading.stack_size(THREAD_BYTES)
    try:
        thread = threading.Thread(target=work)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    if raised:
        raise raised[0]


def stack_in_force() -> tuple[int, int]:
    """Where the calling thread's signal stack is, and how large; zeros for none."""
    now = signal_stack._StackT()
    assert signal_stack._sigaltstack(None, ctypes.byref(now)) == 0
    return now.sp or 0, now.size


def test_wasmtime_keeps_the_stack_that_a_thread_has(tmp_path: Path) -> None:
    program = make_program(tmp_path)

    def enter() -> None:
        stack = SignalStack.install()
        mine = stack_in_force()
        assert mine[1] == STACK_BYTES
        store = ffi.Store(program, max_memory=1 << 20)
        store.handlers = (lambda number: number,)
        assert call(store, "add", "ii>i", 2, 3) == 5
        with pytest.raises(ffi.GuestTrap, match="stack overflow"):
            call(store, "recurse", "i>i", 1)
        assert stack_in_force() == mine
        store.close()
        stack.close()

    on_a_fresh_thread(enter)


@pytest.mark.parametrize("export", ["unreachable", "divide", "peek"])
def test_traps_are_handled_on_it(tmp_path: Path, export: str) -> None:
    program = make_program(tmp_path)
    signature, arguments = {"unreachable": (">", ()), "divide": ("i>i", (0,)), "peek": ("i>i", (1 << 31,))}[export]

    def enter() -> None:
        stack = SignalStack.install()
        store = ffi.Store(program, max_memory=1 << 20)
        with pytest.raises(ffi.GuestTrap):
            call(store, export, signature, *arguments)
        store.close()
        stack.close()

    on_a_fresh_thread(enter)


def test_a_closed_one_is_gone_before_its_memory() -> None:
    def install_and_close() -> None:
        before = stack_in_force()
        stack = SignalStack.install()
        memory = stack._memory
        assert memory is not None
        stack.close()
        stack.close()
        assert stack_in_force() == before
        assert memory.closed

    on_a_fresh_thread(install_and_close)


def test_one_that_somebody_else_put_there_stays() -> None:
    def replace() -> None:
        stack = SignalStack.install()
        memory = mmap.mmap(-1, 1 << 16)
        other = signal_stack._StackT(ctypes.addressof(ctypes.c_ubyte.from_buffer(memory)), 0, 1 << 16)
        signal_stack._sigaltstack(ctypes.byref(other), None)
        stack.close()
        assert stack_in_force() == (other.sp, 1 << 16)
        signal_stack._sigaltstack(ctypes.byref(signal_stack._StackT(None, 2, 0)), None)

    on_a_fresh_thread(replace)


def test_a_thread_gets_its_own_back() -> None:
    def replace() -> None:
        SignalStack.reinstall()  # it has none: nothing happens
        assert stack_in_force()[1] == 0
        stack = SignalStack.install()
        mine = stack_in_force()
        signal_stack._sigaltstack(ctypes.byref(signal_stack._StackT(None, 2, 0)), None)
        SignalStack.reinstall()
        assert stack_in_force() == mine
        stack.close()

    on_a_fresh_thread(replace)


def test_a_refused_one_is_an_error_and_leaves_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[mmap.mmap] = []
    real = mmap.mmap

    def make(fd: int, size: int, **options: int) -> mmap.mmap:
        made.append(real(fd, size, **options))
        return made[-1]

    def refuse(*_arguments: object) -> int:
        ctypes.set_errno(12)
        return -1

    monkeypatch.setattr(mmap, "mmap", make)
    monkeypatch.setattr(mapping, "_mprotect", refuse)
    with pytest.raises(OSError, match="mprotect"):
        SignalStack.install()
    assert [memory.closed for memory in made] == [True]
