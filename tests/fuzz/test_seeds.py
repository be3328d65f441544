"""Every fuzz target over its seeds, and over a few hundred mutations of them that are the same each time."""

from __future__ import annotations

import random

import pytest

from isola_anyio.codec.frame import pack
from tests.fuzz.targets import TARGETS
from tests.fuzz.targets.frames import NAMES
from tests.fuzz.targets.wasi import CALLS

MUTATIONS = 200


def call(name: str, *rest: int) -> bytes:
    """One WASI call: which, then its arguments' bytes."""
    return bytes((CALLS.index(name), *rest))


def hostcall(name: bytes, payload: bytes, number: int = 0) -> bytes:
    return b"\x80\x00" + bytes((number, len(payload))) + payload + bytes((NAMES.index(name),))


PARK = b"\x80\x05\x00\x00\x00\x00"

SEEDS: dict[str, list[bytes]] = {
    "frames": [
        b"",
        b"\x00\x80\x03\x00\x02[]",  # DONE
        b"\x04\x80\x01\x00\x01[",  # EMIT
        b"\x04\x80\x01\x00\x03[1]\x80\x01\x00\x03[2]\x80\x03\x00\x04null",
        b"\x04\x80\x02\x00\x06\x01hello\x80\x02\x00\x06\x09hello",  # LOG
        b'\x00\x80\x04\x00\x2a{"type":"E","message":"m","traceback":"t"} ',  # FAIL
        b'\x01\x80\x04\x00\x1e{"type":"E","message":["m",1]}',
        b"\x00\x80\x05\x00\x00\x11\x00\x0f\x80\x06\x00\x00\x03\x80\x06\x00\x00\x06",  # PARK, WAIT
        b"\x02\x80\x08\x05\x04\0\0\0\0" + PARK + b"\x0f\x80\x08\x85\x04\x01\0\0\0" + PARK + b"\x0f\x80\x09\x81\x00",
        b"\x00" + hostcall(b"plain", b"[1,2]") + hostcall(b"later", b"{}") + PARK + b"\x0f" + hostcall(b"fails", b"1"),
        b"\x00"
        + hostcall(b"never", b"0", 130)
        + PARK
        + b"\x0f\x80\x07\x82\x00"
        + PARK
        + b"\x0f"
        + hostcall(b"odd", b'"x"'),
        b"\x08" + hostcall(b"gives", b"9007199254740993") + hostcall(b"later", b'"\xff"') + PARK + b"\x0f" + PARK,
        b"\x01" + hostcall(b"__rehearse_now__", b"") + hostcall(b"plain", b"[]"),
        b"\x04\x08\x05\xc3\x28\xc3\xa4\xe2\x09\xff\x00\x18\x08\x02ab\x80\x06\x00\x00\x00",  # output, cancelled
        b"\x04" + b"\x08\xf1z" * 5,
        b"\x04" + b"\x80\x01\x00\x01[" + b"\x80\x01\x00\x011" * 5 + PARK + b"\x1f" + b"\x80\x01\x00\x011" * 2,
        b"\x04" + b"\x08\x01a" * 4 + b"\x18" + b"\x08\x01a" + PARK,
        b"\x04\x18\x80\x02\x00\x03\x01ab\x80\x02\x00\xf1b\x80\x06\x00\x00\x02",
        b"\x02\x80\x08\x05\x04\x02\0\0\0" + PARK + b"\x0f\x80\x08\x06\x04\x02\0\0\0\x80\x08\x06\x04\x02\0\0\0",
        b"\x00"
        + hostcall(b"later", b"0", 130)
        + hostcall(b"never", b"0", 131)
        + hostcall(b"gives", b"0", 132)
        + hostcall(b"never", b"0", 133)
        + PARK
        + b"\x0f",
        b"\x00\xff\x00\x00\x00\xfa\x01\x00\x00\xfc\x01\x00\x00",
        b"\xc0" + hostcall(b"plain", b"0"),
        b'\x00\x80\x03\x00\x1d\xfe\x01\x01\x00\x0a\0\0\0\x01\0\0\0\x01\0\0\0${"$":"b0"}\0\0',
    ],
    "wasi": [
        b"",
        call("path_open", 3, 0, 4, 1, 0, 0, 0, 0) + call("fd_write", 4, 1, 20, 0) + call("fd_seek", 4, 0, 0, 0),
        call("path_open", 3, 0, 8, 1, 0, 0, 0, 0)
        + call("fd_write", 4, 2, 99, 199, 0)
        + call("fd_pread", 4, 1, 50, 1, 0),
        call("path_open", 3, 1, 12, 2, 0, 0, 0, 0) + call("fd_readdir", 4, 9, 0, 0) + call("fd_readdir", 4, 7, 1, 0),
        call("path_open", 3, 1, 15, 2, 0, 0, 0, 0) + call("path_open", 3, 1, 16, 0, 0, 0, 0, 0),
        call("path_create_directory", 3, 5) + call("path_rename", 3, 5, 3, 9) + call("path_remove_directory", 3, 5),
        call("path_symlink", 27, 3, 9) + call("path_readlink", 3, 25, 9, 0) + call("path_filestat_get", 3, 1, 26, 0),
        call("path_open", 3, 0, 11, 8, 2, 0, 4, 0)
        + call("fd_filestat_set_size", 4, 10)
        + call("path_link", 3, 0, 11, 3, 4),
        call("path_unlink_file", 3, 13) + call("path_unlink_file", 3, 11) + call("path_rename", 3, 12, 3, 4),
        call("fd_allocate", 4, 0, 20) + call("fd_fdstat_set_rights", 3, 4, 4) + call("fd_renumber", 3, 5),
        call("poll_oneoff", 96, *bytes(96), 0, 2, 0) + call("clock_time_get", 1, 0, 0) + call("random_get", 9),
        call("poll_oneoff", 48, *bytes(16), 1, *bytes(7), 0, 0, 0, 0, *b"\xff" * 8, *bytes(18), 0, 1, 0),
        call("args_get", 0, 0)
        + call("environ_get", 0, 255, 11)
        + call("environ_sizes_get", 0, 0)
        + call("args_sizes_get", 0, 0),
        call("fd_read", 0, 1, 5, 0)
        + call("fd_write", 1, 1, 5, 0)
        + call("fd_prestat_dir_name", 3, 1)
        + call("proc_exit", 7),
        call("path_filestat_set_times", 3, 1, 8, 18, 19, 5) + call("fd_advise", 4, 18, 18, 1) + call("fd_tell", 4, 0),
        b"\xf0" + b"\x13" * 20 + b"\xf4" + b"\x0f" * 20,
    ],
    "decode": [
        b"",
        b"null",
        b'{"a":[1,-2.5e3,true,"\\ud83d\\ude00\xc3\xa9"],"":{}}',
        b"[" * 501 + b"]" * 501,
        b'["' + b"long \\u0041 \\\\ string" * 30 + b'",' + b"[1,[2,{}]]," * 60 + b'{"k":"' + b"v" * 90 + b'"}]',
        b'{"' + b"k" * 70 + b'":{"a":[' + b"0," * 150 + b"0]}," + b'"x":"\\"]",' * 30 + b'"z":[]}',
        b"[" + b"1" * 4301 + b"]",
        b'\xfe\x01\x01\x00\x0a\0\0\0\x01\0\0\0\x02\0\0\0${"$":"b0"}\0\0\0\0\0ab',
        b'\xfd\x00\x01\x02ab{"$":"b0"}',
        b'\xfd\x00\x02\x081234567\x01\x08abcdefgh[{"$":"t0:f4:2"},{"$":"t1:u1:2,2,2"},{"a":1}]',
        b'\xfd\x00\x01\x00{"$":"t0:f8:0,3"}',
        b'\xfd\x00\x01\x00{"$":"t0:i2:3,0,4"}',
        b'\xfd\x00\x02\x10abcdefghijklmnop\x02pq[{"$":"t0:c16:1"},{"$":"t1:f2:1"}]',
        b'\xfd\x00\x01\x00{"$":"t0:f8:0,999999999999999,999999999999999"}',
        b'\xfd\x00\x00[{"$":"i-ff"},{"$":"fnan"},{"$":"f-inf"},{"$":"x"},{"$":1}]',
        b'\xfd\x00\x02\x02\xff\xff\x01\x05[{"$":"I0"},{"$":"J1"}]',
        b'\xfd\x00\x01\x03\xed\xa0\x80{"$":"s0"}',
        b'\xfd\x01\x03\x01a\x02\xc3\xa4\x01b{"$0":1,"$1":{"$":"s2"},"$":[]}',
        b"\xfd\x01\x01"
        b"\x28" + "äöüß€".encode() * 3 + b"\xc3\xa4" * 2 + b'{"$0":[' + b'"plain and long text",{"x":0},' * 15 + b"0]}",
        b"\xfd\x00\x01\x02ab[" + b'{"a":"b"},' * 40 + b'{"$":"b0"},"' + b"z" * 80 + b'"]',
        b"\xff\xfe[\x001\x00]\x00",
    ],
    "wasm": [
        b"",
        b"\x02\0asm\x0d\0\1\0",
        b"\x00\x07\x0d\x02\x01a\x00\x00\x03mem\x02\x80\x01",
        b"\x00\x00\x03abc\x01\x00\x07\x05\x01\x01f\x00\x00",
        b"\x00\x07\x05\x01\x01\xff\x00\x00",
        b"\x00\x07\x06\xff\xff\xff\xff\x0f\x00",
        b"\x00\x0a\xff\xff\xff\xff\x7f",
        b'\x01{"sha256":"ab","device":1,"inode":2,"size":3,"mtime_ns":4,"ctime_ns":5,"checked_ns":6}',
        b'\x01{"sha256":1,"device":true,"inode":2,"size":3,"mtime_ns":4,"ctime_ns":5,"checked_ns":1e9}',
        b"\x01" + b"[" * 3000,
        b"\x01" + b"9" * 5000,
    ],
}


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(5)
        if how == 0:
            data[at : at + 1] = rng.randbytes(1)
        elif how == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 8))
        elif how == 2:
            del data[at : at + rng.randint(1, 8)]
        elif how == 3:
            other = rng.choice(seeds)
            data[at:at] = other[rng.randrange(len(other) + 1) :]
        else:
            data[at : at + 1] = rng.choice([b"\0", b"\x7f", b"\x80", b"\xfe", b"\xff", b'"', b"\\", b","])
    return bytes(data[:4096])


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_find_nothing(name: str) -> None:
    for data in SEEDS[name]:
        TARGETS[name](data)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_seeds_find_nothing(name: str) -> None:
    rng = random.Random(20_261_123)
    for _ in range(MUTATIONS):
        data = mutate(rng, SEEDS[name])
        try:
            TARGETS[name](data)
        except AssertionError:
            print(f"{name}({data!r})")
            raise


def exports(count: int) -> bytes:
    """An export section with a name of its own for each of ``count`` functions."""
    body = b"".join(b"\3%c%c%c\0\0" % (i & 63, i >> 6 & 63, i >> 12) for i in range(count))
    return b"\7" + leb(len(body) + 4) + leb(count) + body


def leb(number: int) -> bytes:
    return bytes((0x80 | number & 127, 0x80 | number >> 7 & 127, 0x80 | number >> 14 & 127, number >> 21))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("wasm", b"\x00" + b"\0\0" * 4_000_000),
        ("wasm", b"\x00" + exports(100_000)),
        ("wasm", b"\x00" + exports(250_000)),
        ("wasm", b"\x01[" + b"0," * 100_000 + b"0]"),
        ("decode", b"[" + b'{"a":[]},' * 20_000 + b"0]"),
        ("decode", b'["' + b"\\u00e9" * 50_000 + b'"]'),
        (
            "decode",
            b"\xfe\x01\x01\0" + (2).to_bytes(4, "little") + (50_000).to_bytes(4, "little") + bytes(200_000) + b"$[]",
        ),
        (
            "decode",
            pack("$", 0, b"[" + b",".join(b'{"$":"t%d:u1:0,1000000"}' % i for i in range(100)) + b"]", [b""] * 100),
        ),
        ("wasi", call("fd_write", 1, 1, 250, 0) * 2000),
        ("wasi", b"".join(call("path_create_directory", 3, 201, 6) + b"tmp/%02d" % i for i in range(99))),
        ("frames", b"\x00" + hostcall(b"later", b"[]") * 500),
        ("frames", b"\x04" + b"\x80\x01\x00\x01[" * 500),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_large_inputs_find_nothing(name: str, data: bytes) -> None:
    """What fuzzing, with its short inputs, does not come to."""
    TARGETS[name](data)
