"""Signal handlers: wasmtime's are put back, without an exception, and nobody else's is touched."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from isola_anyio.engine import ffi
from tests.engine.support import make_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from isola_anyio.engine.ffi.signals import TrapHandler

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="wasmtime handles signals on Linux")


@pytest.fixture
def trap_handler(tmp_path: Path) -> Iterator[TrapHandler]:
    """Give wasmtime's handler of a signal that is the program's now; it is wasmtime's again afterwards."""
    ffi.Store(make_program(tmp_path), max_memory=1 << 20).close()
    handler = next(handler for handler in ffi.trap_handlers.installed if handler.number == signal.SIGILL)
    before = signal.signal(signal.SIGILL, lambda *_: None)
    yield handler
    signal.signal(signal.SIGILL, before or signal.SIG_DFL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ffi.trap_handlers.guard()


def is_in_force(handler: TrapHandler) -> bool:
    handler.query()
    return handler.seen.value == handler.address


def test_a_replaced_handler_is_put_back_with_a_warning(trap_handler: TrapHandler) -> None:
    assert not is_in_force(trap_handler)
    with pytest.warns(RuntimeWarning, match="the handler of SIGILL was replaced"):
        ffi.trap_handlers.guard()
    assert is_in_force(trap_handler)


def test_who_takes_the_first_handler_is_noticed_at_a_glance(trap_handler: TrapHandler) -> None:
    ffi.trap_handlers.glance()
    assert not is_in_force(trap_handler)  # SIGILL alone: the next turn's look finds it
    before = signal.signal(signal.SIGSEGV, lambda *_: None)
    with pytest.warns(RuntimeWarning, match="was replaced") as said:
        ffi.trap_handlers.glance()
    signal.signal(signal.SIGSEGV, before or signal.SIG_DFL)
    assert is_in_force(trap_handler)
    assert len(said) == 2


def test_where_warnings_are_errors_it_is_logged(trap_handler: TrapHandler, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "isola_anyio"):
        warnings.simplefilter("error")
        ffi.trap_handlers.guard()
    assert is_in_force(trap_handler)
    assert "the handler of SIGILL was replaced" in caplog.text


def test_a_hook_for_warnings_that_fails_fails_nothing_else(
    trap_handler: TrapHandler, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> NoReturn:
        raise OSError("the program's own")

    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "isola_anyio"):
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", fail)
        ffi.trap_handlers.guard()
    assert is_in_force(trap_handler)
    assert "the handler of SIGILL was replaced" in caplog.text


def test_a_signal_that_wasmtime_does_not_handle_is_the_programs() -> None:
    assert signal.SIGBUS not in {handler.number for handler in ffi.trap_handlers.installed}


def test_handlers_are_put_back_from_any_thread(trap_handler: TrapHandler) -> None:
    said: list[str] = []

    def guard() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ffi.trap_handlers.guard()
        said.extend(str(warning.message) for warning in caught)

    thread = threading.Thread(target=guard)
    thread.start()
    thread.join()
    assert is_in_force(trap_handler)
    assert len(said) == 1
