"""The guest's memory as the host reads and writes it: exact bounds, and the current length asked before a refusal."""

from __future__ import annotations

import struct
import sys

import pytest

from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.linear_memory import GuestMemory


def test_memory_is_checked_to_its_current_end() -> None:
    size = 100
    buffer = bytearray(1000)
    memory = GuestMemory(buffer, 50, lambda: size)
    memory.write_u32(96, 0xDEADBEEF)
    assert memory.length == 100, "the size is asked for before an access is refused"
    assert memory.read_u32(96) == 0xDEADBEEF
    for ptr in (97, 100, 0xFFFF_FFFF, -1, -4):
        for access in (
            memory.read_u32,
            lambda ptr: memory.write_u32(ptr, 1),
            lambda ptr: memory.write_u64(ptr, 1),
            lambda ptr: memory.write_u32_pair(0, 1, ptr, 1),
            lambda ptr: memory.write_u32_pair(ptr, 1, 0, 1),
            lambda ptr: memory.read(ptr, 4),
            lambda ptr: memory.write(ptr, bytes(4)),
            lambda ptr: memory.slice(ptr, 4),
            lambda ptr: memory.iovecs(ptr, 1, 1, 1),
        ):
            with pytest.raises(WasiError) as caught:
                access(ptr)
            assert caught.value.errno is Errno.FAULT
    assert memory.read(0, 4) == bytes(4), "what is refused has changed nothing"
    assert len(memory.slice(100, 0)) == 0
    with pytest.raises(WasiError):
        memory.slice(101, 0)
    with pytest.raises(WasiError):
        memory.slice(1, -1)
    size = 1000
    assert len(memory.slice(0, 1000)) == 1000
    memory.write_u32(0, 0x1_0000_00FF)
    memory.write_u64(8, -1)
    assert memory.read(0, 16) == b"\xff" + bytes(7) + b"\xff" * 8
    memory.write_u32_pair(12, -1, 4, 7)
    assert (memory.read_u32(4), memory.read_u32(12)) == (7, 0xFFFF_FFFF)


def test_an_access_within_the_memory_asks_nothing_and_calls_nothing() -> None:
    def asked() -> int:
        raise AssertionError("the length is known")

    memory = GuestMemory(bytearray(100), 100, asked)
    calls: list[str] = []
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        memory.write(90, b"0123456789")
        memory.write_u32(0, 1)
        memory.write_u32_pair(4, 1, 8, 1)
        assert memory.read(90, 10) == b"0123456789"
    finally:
        sys.setprofile(None)
    assert calls == ["write", "write_u32", "write_u32_pair", "read"]


def test_scatter_lists_are_cut_after_the_most_one_call_moves() -> None:
    memory = GuestMemory(bytearray(1000), 1000, lambda: 1000)
    memory.write(0, struct.pack("<IIIIII", 100, 50, 0, 0, 200, 50))
    assert [len(view) for view in memory.iovecs(0, 3, 10, 1000)] == [50, 50]
    assert [len(view) for view in memory.iovecs(0, 3, 10, 60)] == [50, 10]
    assert [len(view) for view in memory.iovecs(0, 1, 10, 20)] == [20]
    assert memory.iovecs(0, 1, 10, 0) == []
    memory.write(0, struct.pack("<IIII", 100, 50, 990, 11))
    with pytest.raises(WasiError) as caught:
        memory.iovecs(0, 2, 10, 10)
    assert caught.value.errno is Errno.FAULT
