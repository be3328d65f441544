"""Clocks, timeouts and what is ready: every subscription gets its event."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.volumes.budgets import FileLimits
from tests.wasi.client import MEMORY_BYTES, OUT, ROOT, RW, Guest, refused

IN = 32768


EVENTS = 65536


def test_clocks_tell_the_hosts_times(guest: Guest) -> None:
    for clock_id, now in ((0, guest.clock.realtime_ns()), (1, guest.clock.monotonic_ns()), (2, guest.clock.now)):
        guest.call("clock_time_get", clock_id, 0, OUT)
        assert guest.read_u64(OUT) == now
        guest.call("clock_res_get", clock_id, OUT)
        assert guest.read_u64(OUT) == 1
    for name, args in (("clock_time_get", (4, 0, OUT)), ("clock_res_get", (-1, OUT))):
        refused(Errno.INVAL, guest.call, name, *args)
    refused(Errno.FAULT, guest.call, "clock_time_get", 1, 0, MEMORY_BYTES - 7)


def clock_subscription(userdata: int, timeout: int, *, clock: int = 1, absolute: bool = False) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", userdata, 0, clock, timeout, 0, int(absolute))


def fd_subscription(userdata: int, tag: int, fd: int) -> bytes:
    return struct.pack("<QB7xI28x", userdata, tag, fd)


def poll(g: Guest, *subscriptions: bytes) -> list[tuple[int, int, int, int, int]]:
    g.put(IN, b"".join(subscriptions))
    g.call("poll_oneoff", IN, EVENTS, len(subscriptions), OUT)
    n = g.memory.read_u32(OUT)
    return [struct.unpack_from("<QHBxxxxxQHxxxxxx", g.memory.read(EVENTS + 32 * i, 32)) for i in range(n)]


def test_a_relative_timeout_sleeps_that_long(guest: Guest) -> None:
    assert poll(guest, clock_subscription(7, 50_000_000)) == [(7, 0, 0, 0, 0)]
    assert guest.clock.slept == [0.05]


def test_absolute_timeouts_count_from_the_clocks_own_origin(guest: Guest) -> None:
    assert poll(guest, clock_subscription(1, guest.clock.now + 2_000_000_000, absolute=True)) == [(1, 0, 0, 0, 0)]
    assert guest.clock.slept == [2.0]
    due = guest.clock.realtime_ns() + 3_000_000_000
    assert poll(guest, clock_subscription(2, due, clock=0, absolute=True)) == [(2, 0, 0, 0, 0)]
    assert guest.clock.slept == [2.0, 3.0]
    assert poll(guest, clock_subscription(3, 5, absolute=True)) == [(3, 0, 0, 0, 0)], "already past"
    assert guest.clock.slept == [2.0, 3.0]


def test_only_what_is_due_first_is_reported(guest: Guest) -> None:
    events = poll(
        guest,
        clock_subscription(1, 9_000_000_000),
        clock_subscription(2, 1_000_000_000),
        clock_subscription(3, 1_000_000_000, clock=0),
    )
    assert events == [(2, 0, 0, 0, 0), (3, 0, 0, 0, 0)]
    assert guest.clock.slept == [1.0]


def test_a_zero_timeout_does_not_sleep(guest: Guest) -> None:
    assert poll(guest, clock_subscription(1, 0)) == [(1, 0, 0, 0, 0)]
    assert guest.clock.slept == []


def test_centuries_are_slept_in_days(guest: Guest) -> None:
    slept = 0

    def impatient(seconds: float | None) -> None:
        nonlocal slept
        assert seconds == 86_400
        slept += 1
        if slept == 3:
            raise KeyboardInterrupt

    guest.clock.sleep = impatient  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        poll(guest, clock_subscription(1, (1 << 64) - 1))


def test_descriptors_are_ready_at_once(guest: Guest) -> None:
    guest.write_file("tmp/f", b"abc")
    fd = guest.open("tmp/f", RW)
    guest.read(fd, 1)
    events = poll(
        guest,
        clock_subscription(1, 1_000_000),
        fd_subscription(2, 1, 0),
        fd_subscription(3, 2, 1),
        fd_subscription(4, 2, 2),
        fd_subscription(5, 1, fd),
        fd_subscription(6, 2, fd),
    )
    assert guest.clock.slept == []
    assert [event[0] for event in events] == [2, 3, 4, 5, 6]
    assert all(event[1] == 0 for event in events)
    assert events[0] == (2, 0, 1, 0, 1), "standard input is at its end"
    assert events[3] == (5, 0, 1, 2, 0)
    assert events[4][3] > 0
    assert len(poll(guest, clock_subscription(1, 0), fd_subscription(2, 2, 1))) == 2


def test_each_bad_subscription_gets_its_own_error(guest: Guest) -> None:
    events = poll(
        guest,
        fd_subscription(1, 1, 99),
        clock_subscription(2, 1_000_000),
        clock_subscription(3, 1, clock=9),
        fd_subscription(4, 7, 0),
        fd_subscription(5, 1, ROOT),
    )
    assert [event[:3] for event in events] == [
        (1, Errno.BADF, 1),
        (3, Errno.INVAL, 0),
        (4, Errno.INVAL, 7),
        (5, Errno.BADF, 1),
    ]
    assert guest.clock.slept == []


def test_the_number_of_subscriptions_is_bounded(make_guest: Callable[..., Guest]) -> None:
    g = make_guest(limits=FileLimits(max_subscriptions=2))
    refused(Errno.INVAL, g.call, "poll_oneoff", IN, EVENTS, 0, OUT)
    refused(Errno.INVAL, g.call, "poll_oneoff", IN, EVENTS, 3, OUT)
    refused(Errno.INVAL, g.call, "poll_oneoff", IN, EVENTS, -1, OUT)
    refused(Errno.FAULT, g.call, "poll_oneoff", IN, MEMORY_BYTES - 32, 2, OUT)
    refused(Errno.FAULT, g.call, "poll_oneoff", MEMORY_BYTES - 48, EVENTS, 2, OUT)


def test_yielding_gives_the_host_a_chance_to_interrupt(guest: Guest) -> None:
    guest.call("sched_yield")
    assert guest.clock.slept == [0]
