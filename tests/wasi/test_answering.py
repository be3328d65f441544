"""What a guest is told of the host's failures: a number, and nothing else of them."""

from __future__ import annotations

import errno

import pytest

from isola_anyio.wasi.errno import Errno
from tests.wasi.client import OUT, Guest, refused
from tests.wasi.test_calls_time import clock_subscription, poll


def test_a_host_error_reaches_the_guest_as_its_number_only(guest: Guest) -> None:
    def full(fd: int, chunks: object) -> int:
        raise OSError(errno.ENOSPC, "host secret", "/host/path")

    guest.stdio.write = full  # type: ignore[method-assign]
    refused(Errno.NOSPC, guest.write, 1, b"x")


def test_a_bug_becomes_an_io_error_and_is_remembered(guest: Guest) -> None:
    def broken(fd: int, chunks: object) -> int:
        raise RuntimeError("bug")

    guest.stdio.write = broken  # type: ignore[method-assign]
    assert guest.functions["fd_write"](1, *guest.iovecs([1]), OUT) == Errno.IO
    assert isinstance(guest.system.fault, RuntimeError)
    guest.stdio.write = lambda fd, chunks: (_ for _ in ()).throw(MemoryError())  # type: ignore[method-assign]
    guest.system.context.fault = None
    refused(Errno.NOMEM, guest.write, 1, b"x")


def test_an_interruption_passes_through_untouched(guest: Guest) -> None:
    class Interrupted(BaseException):
        pass

    interruption = Interrupted()

    def interrupted(*_: object) -> int:
        raise interruption

    guest.stdio.write = interrupted  # type: ignore[method-assign, assignment]
    guest.stdio.read = interrupted  # type: ignore[method-assign, assignment]
    guest.clock.sleep = interrupted  # type: ignore[method-assign, assignment]
    for call in (
        lambda: guest.write(1, b"x"),
        lambda: guest.read(0),
        lambda: poll(guest, clock_subscription(1, 10)),
        lambda: guest.call("sched_yield"),
    ):
        with pytest.raises(Interrupted) as caught:
            call()
        assert caught.value is interruption
