"""The functions of preview 1 that are not about files, and what reaches the guest of a host's failure."""

from __future__ import annotations

import errno
import inspect
import struct
from collections.abc import Callable

import pytest

from isola_anyio.wasi.abi import FileType, Rights
from isola_anyio.wasi.errno import Errno, errno_of
from isola_anyio.wasi.signatures import SIGNATURES
from isola_anyio.wasi.system import GuestExit
from isola_anyio.wasi.volumes.budgets import FileLimits
from tests.wasi.client import BUFFER, MEMORY_BYTES, OUT, PATH, ROOT, RW, Guest, R, WasiFailure
from tests.wasi.test_files import refused

IN = 32768
EVENTS = 65536


def test_every_function_takes_what_its_signature_says(guest: Guest) -> None:
    functions = guest.system.functions()
    assert set(functions) == set(SIGNATURES)
    assert len(SIGNATURES) == 46
    for name, (params, returns) in SIGNATURES.items():
        assert set(params) <= set("iI")
        assert returns == (name != "proc_exit")
        if name == "proc_exit":
            assert len(inspect.signature(functions[name]).parameters) == 1
            continue
        refused_or_not = functions[name](*[0] * len(params))
        assert isinstance(refused_or_not, int), name
        assert guest.system.fault is None, name
        with pytest.raises(TypeError):
            functions[name](*[0] * (len(params) + 1))
            assert guest.system.fault is not None
            raise guest.system.fault
        guest.system.context.fault = None


# Arguments and environment


def test_arguments_and_environment_are_written_with_their_sizes(make_guest: Callable[..., Guest]) -> None:
    g = make_guest(args=[b"python", b"-c", b"\xff"], environ={"A": "1", "NAME": "v\udcffl"})
    for kind, strings in (("args", [b"python", b"-c", b"\xff"]), ("environ", [b"A=1", b"NAME=v\xffl"])):
        g.call(f"{kind}_sizes_get", OUT, OUT + 4)
        assert (g.memory.read_u32(OUT), g.memory.read_u32(OUT + 4)) == (len(strings), sum(len(s) + 1 for s in strings))
        g.call(f"{kind}_get", OUT, BUFFER)
        at = BUFFER
        for i, string in enumerate(strings):
            assert g.memory.read_u32(OUT + 4 * i) == at
            assert g.memory.read(at, len(string) + 1) == string + b"\0"
            at += len(string) + 1
        refused(Errno.FAULT, g.call, f"{kind}_get", -4, BUFFER)
        refused(Errno.FAULT, g.call, f"{kind}_get", OUT, MEMORY_BYTES - 1)


def test_no_arguments_and_no_environment_are_empty(guest: Guest) -> None:
    for kind in ("args", "environ"):
        guest.call(f"{kind}_sizes_get", OUT, OUT + 4)
        assert guest.memory.read(OUT, 8) == bytes(8)
        guest.call(f"{kind}_get", OUT, BUFFER)


# Clocks, chance, sleep


def test_clocks_tell_the_hosts_times(guest: Guest) -> None:
    for clock_id, now in ((0, guest.clock.realtime_ns()), (1, guest.clock.monotonic_ns()), (2, guest.clock.now)):
        guest.call("clock_time_get", clock_id, 0, OUT)
        assert guest.read_u64(OUT) == now
        guest.call("clock_res_get", clock_id, OUT)
        assert guest.read_u64(OUT) == 1
    for name, args in (("clock_time_get", (4, 0, OUT)), ("clock_res_get", (-1, OUT))):
        refused(Errno.INVAL, guest.call, name, *args)
    refused(Errno.FAULT, guest.call, "clock_time_get", 1, 0, MEMORY_BYTES - 7)


def test_randomness_fills_all_and_only_the_buffer(guest: Guest) -> None:
    guest.call("random_get", BUFFER, 0)
    guest.call("random_get", BUFFER, 5)
    assert guest.memory.read(BUFFER, 6) == b"\7" * 5 + b"\0"
    guest.call("random_get", BUFFER, 200_000)
    assert guest.memory.read(BUFFER, 200_001) == b"\7" * 200_000 + b"\0"
    assert max(guest.random_calls) <= 65536
    refused(Errno.FAULT, guest.call, "random_get", BUFFER, MEMORY_BYTES)


def _clock(userdata: int, timeout: int, *, clock: int = 1, absolute: bool = False) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", userdata, 0, clock, timeout, 0, int(absolute))


def _fd(userdata: int, tag: int, fd: int) -> bytes:
    return struct.pack("<QB7xI28x", userdata, tag, fd)


def poll(g: Guest, *subscriptions: bytes) -> list[tuple[int, int, int, int, int]]:
    g.put(IN, b"".join(subscriptions))
    g.call("poll_oneoff", IN, EVENTS, len(subscriptions), OUT)
    n = g.memory.read_u32(OUT)
    return [struct.unpack_from("<QHBxxxxxQHxxxxxx", g.memory.read(EVENTS + 32 * i, 32)) for i in range(n)]


def test_a_relative_timeout_sleeps_that_long(guest: Guest) -> None:
    assert poll(guest, _clock(7, 50_000_000)) == [(7, 0, 0, 0, 0)]
    assert guest.clock.slept == [0.05]


def test_absolute_timeouts_count_from_the_clocks_own_origin(guest: Guest) -> None:
    assert poll(guest, _clock(1, guest.clock.now + 2_000_000_000, absolute=True)) == [(1, 0, 0, 0, 0)]
    assert guest.clock.slept == [2.0]
    due = guest.clock.realtime_ns() + 3_000_000_000
    assert poll(guest, _clock(2, due, clock=0, absolute=True)) == [(2, 0, 0, 0, 0)]
    assert guest.clock.slept == [2.0, 3.0]
    assert poll(guest, _clock(3, 5, absolute=True)) == [(3, 0, 0, 0, 0)], "already past"
    assert guest.clock.slept == [2.0, 3.0]


def test_only_what_is_due_first_is_reported(guest: Guest) -> None:
    events = poll(guest, _clock(1, 9_000_000_000), _clock(2, 1_000_000_000), _clock(3, 1_000_000_000, clock=0))
    assert events == [(2, 0, 0, 0, 0), (3, 0, 0, 0, 0)]
    assert guest.clock.slept == [1.0]


def test_a_zero_timeout_does_not_sleep(guest: Guest) -> None:
    assert poll(guest, _clock(1, 0)) == [(1, 0, 0, 0, 0)]
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
        poll(guest, _clock(1, (1 << 64) - 1))


def test_descriptors_are_ready_at_once(guest: Guest) -> None:
    guest.write_file("tmp/f", b"abc")
    fd = guest.open("tmp/f", RW)
    guest.read(fd, 1)
    events = poll(guest, _clock(1, 1_000_000), _fd(2, 1, 0), _fd(3, 2, 1), _fd(4, 2, 2), _fd(5, 1, fd), _fd(6, 2, fd))
    assert guest.clock.slept == []
    assert [event[0] for event in events] == [2, 3, 4, 5, 6]
    assert all(event[1] == 0 for event in events)
    assert events[0] == (2, 0, 1, 0, 1), "standard input is at its end"
    assert events[3] == (5, 0, 1, 2, 0)
    assert events[4][3] > 0
    assert len(poll(guest, _clock(1, 0), _fd(2, 2, 1))) == 2


def test_each_bad_subscription_gets_its_own_error(guest: Guest) -> None:
    events = poll(guest, _fd(1, 1, 99), _clock(2, 1_000_000), _clock(3, 1, clock=9), _fd(4, 7, 0), _fd(5, 1, ROOT))
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


# Standard input and output


def test_output_reaches_the_host_by_descriptor(guest: Guest) -> None:
    assert guest.write(1, b"he", b"llo") == 5
    assert guest.write(2, b"err") == 3
    assert guest.stdio.written == {1: b"hello", 2: b"err"}
    refused(Errno.BADF, guest.write, 0, b"x")
    refused(Errno.BADF, guest.read, 1)


def test_input_is_the_hosts_and_ends(make_guest: Callable[..., Guest]) -> None:
    g = make_guest(stdin=b"two lines\nhere")
    assert g.read(0, 4, 4) == b"two "
    assert g.read(0) == b"lines\nhere"
    assert g.read(0) == b""


def test_standard_streams_are_neither_terminals_nor_seekable(guest: Guest) -> None:
    for fd in (0, 1, 2):
        assert guest.fdstat(fd).filetype == FileType.UNKNOWN
        assert guest.fstat(fd).filetype == FileType.UNKNOWN
        assert not guest.fdstat(fd).base & (Rights.FD_SEEK | Rights.FD_TELL)
        refused(Errno.SPIPE, guest.seek, fd, 0)
        refused(Errno.SPIPE, guest.tell, fd)
        refused(Errno.SPIPE, guest.pread, fd, 1, 0)
        guest.call("fd_fdstat_set_flags", fd, 4)
        assert guest.fdstat(fd).flags == 4


def test_standard_streams_can_be_moved_and_closed(guest: Guest) -> None:
    guest.write_file("tmp/f")
    for fd in (0, 1, 2):
        to = guest.open("tmp/f", RW)
        assert to >= 3
        guest.call("fd_renumber", fd, to)
        guest.fdstat(to)
        refused(Errno.BADF, guest.fdstat, fd)
    assert guest.open("tmp/f") >= 3


# The preopen


def test_the_only_preopen_is_the_root(guest: Guest) -> None:
    guest.call("fd_prestat_get", ROOT, OUT)
    assert guest.memory.read(OUT, 8) == bytes(4) + struct.pack("<I", 1)
    guest.call("fd_prestat_dir_name", ROOT, OUT, 1)
    assert guest.memory.read(OUT, 1) == b"/"
    guest.call("fd_prestat_dir_name", ROOT, OUT, 9)
    refused(Errno.NAMETOOLONG, guest.call, "fd_prestat_dir_name", ROOT, OUT, 0)
    with guest.opened("tmp", directory=True) as fd:
        for other in (0, 1, 2, fd, 99, -1):
            refused(Errno.BADF, guest.call, "fd_prestat_get", other, OUT)
            refused(Errno.BADF, guest.call, "fd_prestat_dir_name", other, OUT, 1)
    stat = guest.fdstat(ROOT)
    assert stat.filetype == FileType.DIRECTORY
    assert stat.inheriting == Rights.ALL, "a libc asks for no more than this when it opens a file"
    assert not stat.base & (RW | Rights.FD_SEEK)
    guest.close_fd(guest.open(".", 0, base=stat.base, inheriting=stat.inheriting))


def test_the_preopen_can_be_closed_or_covered(guest: Guest) -> None:
    tmp = guest.open("tmp", directory=True)
    ino = guest.fstat(tmp).ino
    guest.call("fd_renumber", tmp, ROOT)
    assert guest.fstat(ROOT).ino == ino
    refused(Errno.BADF, guest.call, "fd_prestat_get", ROOT, OUT)
    guest.close_fd(ROOT)
    refused(Errno.BADF, guest.open, "tmp")


# What there is none of


def test_there_are_no_sockets_and_no_signals(guest: Guest) -> None:
    for name, rest in (("sock_accept", 2), ("sock_recv", 5), ("sock_send", 4), ("sock_shutdown", 1)):
        refused(Errno.NOTSOCK, guest.call, name, 1, *[0] * rest)
        refused(Errno.BADF, guest.call, name, 99, *[0] * rest)
    refused(Errno.NOSYS, guest.call, "proc_raise", 9)


def test_exit_is_an_exception_with_the_code(guest: Guest) -> None:
    for given, code in ((0, 0), (3, 3), (-1, 0xFFFF_FFFF)):
        with pytest.raises(GuestExit) as caught:
            guest.functions["proc_exit"](given)
        assert caught.value.code == code


# Failures of the host


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
        lambda: poll(guest, _clock(1, 10)),
        lambda: guest.call("sched_yield"),
    ):
        with pytest.raises(Interrupted) as caught:
            call()
        assert caught.value is interruption


def test_host_errors_are_translated_by_name() -> None:
    assert errno_of(FileNotFoundError(errno.ENOENT, "")) is Errno.NOENT
    assert errno_of(OSError(errno.EWOULDBLOCK, "")) is Errno.AGAIN
    assert errno_of(OSError(errno.EOPNOTSUPP, "")) is Errno.NOTSUP
    assert errno_of(OSError(errno.E2BIG, "")) is Errno.TOOBIG
    assert errno_of(OSError("no number")) is Errno.IO
    assert errno_of(OSError(99_999, "")) is Errno.IO


def test_a_call_with_bad_pointers_changes_nothing(guest: Guest) -> None:
    opened = len(guest.files.table.open)
    oflags = 1
    refused(
        Errno.FAULT, guest.call, "path_open", ROOT, 0, *guest.put(PATH, "tmp/f"), oflags, Rights.ALL, 0, 0, MEMORY_BYTES
    )
    refused(Errno.FAULT, guest.call, "path_open", ROOT, 0, MEMORY_BYTES, 5, oflags, Rights.ALL, 0, 0, OUT)
    refused(Errno.NAMETOOLONG, guest.call, "path_open", ROOT, 0, PATH, 5000, oflags, Rights.ALL, 0, 0, OUT)
    refused(Errno.FAULT, guest.call, "path_open", ROOT, 0, PATH, -1, oflags, Rights.ALL, 0, 0, OUT)
    assert len(guest.files.table.open) == opened
    assert guest.listdir("tmp") == []
    with pytest.raises(WasiFailure):
        guest.open("tmp/f", R)
