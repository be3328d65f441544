"""Arguments, environment, randomness and exit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.system import GuestExit
from tests.wasi.client import BUFFER, MEMORY_BYTES, OUT, Guest, refused


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


def test_randomness_fills_all_and_only_the_buffer(guest: Guest) -> None:
    guest.call("random_get", BUFFER, 0)
    guest.call("random_get", BUFFER, 5)
    assert guest.memory.read(BUFFER, 6) == b"\7" * 5 + b"\0"
    guest.call("random_get", BUFFER, 200_000)
    assert guest.memory.read(BUFFER, 200_001) == b"\7" * 200_000 + b"\0"
    assert max(guest.random_calls) <= 65536
    refused(Errno.FAULT, guest.call, "random_get", BUFFER, MEMORY_BYTES)


def test_exit_is_an_exception_with_the_code(guest: Guest) -> None:
    for given, code in ((0, 0), (3, 3), (-1, 0xFFFF_FFFF)):
        with pytest.raises(GuestExit) as caught:
            guest.functions["proc_exit"](given)
        assert caught.value.code == code
