"""Whatever a guest passes, it gets a number back: no exception, and nothing read or written where it must not."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from isola_anyio.mounts import MountConfig
from isola_anyio.wasi.abi import Rights
from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.signatures import SIGNATURES
from isola_anyio.wasi.volumes.budgets import FileLimits
from tests.wasi.client import MEMORY_BYTES, Guest

CALLS = 30_000
NUMBERS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 31, 64, 255, 1024, 4096, 65536, MEMORY_BYTES - 1, MEMORY_BYTES]
WILD = [
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    -1,
    -8,
    -(1 << 31),
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    -(1 << 63),
]
PATHS = [
    b"", b".", b"..", b"/", b"tmp", b"tmp/a", b"tmp/b/c", b"data", b"data/f", b"data/d/x", b"data/../tmp/a", b"over/f",
    b"over/d", b"data/l", b"over/l/x", b"data/out/secret.txt", b"../../etc/passwd", b"tmp/\xff", b"a\0b", b"x" * 300,
    b"data/d/", b"tmp/b/", b"data/d/../../over/n", b"mem/a", b"mem/b",
]  # fmt: skip


def test_random_calls_never_raise_and_never_leave(make_guest: Callable[..., Guest], shared: Path) -> None:
    seed = 20_261_123
    rng = random.Random(seed)
    (shared / "f").write_text("f")
    (shared / "d").mkdir()
    (shared / "l").symlink_to("d")
    (shared / "out").symlink_to("../outside")
    os.mkfifo(shared / "fifo")
    g = make_guest(
        MountConfig(shared, "/data", "read-write", "read-write"),
        MountConfig(shared, "/over", "read-write", "read-write", mode="overlay"),
        MountConfig.memory("/mem", max_bytes=1 << 20),
        limits=FileLimits(max_memory_bytes=4 << 20, max_open_files=24, max_written_bytes=1 << 20, max_entries=200),
    )
    functions = g.system.functions()
    names = [name for name in SIGNATURES if name not in ("proc_exit", "poll_oneoff")]
    names += [name for name in names if name.startswith("path_")] + ["path_open"] * 8 + ["fd_read", "fd_write"] * 3
    paths = 40_000
    spans = []
    for i, path in enumerate(PATHS):
        g.put(paths + i * 512, path)
        spans.append((paths + i * 512, len(path)))
    lists = b"".join((at).to_bytes(4, "little") + (n).to_bytes(4, "little") for at, n in [(0, 10), (100, 50)])
    answers: dict[int, int] = {}
    for turn in range(CALLS):
        if turn % 50 == 0:  # calls overwrite each other's paths, and close or cripple descriptor 3
            for (at, _), path in zip(spans, PATHS, strict=True):
                g.put(at, path)
            g.put(30_000, lists)
        root = g.files.table.open.get(3)
        if root is None or root.base != Rights.DIRECTORY or root.inheriting != Rights.ALL:
            if root is not None:
                g.files.table.remove(3).close()
            g.files.open_root()
        name = rng.choice(names)
        params = SIGNATURES[name][0]
        args = [rng.choice(NUMBERS) if rng.random() < 0.9 else rng.choice(WILD) for _ in params]
        if rng.random() < 0.85:
            _make_sense(rng, name, params, args, spans)
        answer = functions[name](*args)
        assert g.system.fault is None, (name, args, g.system.fault)
        answers[Errno(answer)] = answers.get(Errno(answer), 0) + 1
    assert len(answers) > 15, answers
    assert answers[Errno.SUCCESS] > CALLS / 50, answers
    assert g.files.usage.memory_bytes <= 4 << 20
    assert os.listdir(shared.parent / "outside") == ["secret.txt"]
    assert (shared.parent / "outside/secret.txt").read_text() == "host only"
    assert sorted(os.listdir(shared.parent)) == ["outside", "shared"]


def _make_sense(rng: random.Random, name: str, params: str, args: list[int], spans: list[tuple[int, int]]) -> None:
    if params and name.startswith(("fd_", "path_", "sock_")):
        args[0] = rng.choice([3, 3, 3, rng.randrange(30)])
    if name == "path_symlink":
        args[0:2] = rng.choice(spans)
        args[2:5] = [3, *rng.choice(spans)]
    elif name in ("path_link", "path_rename"):
        at = 2 if name == "path_link" else 1
        args[at : at + 2] = rng.choice(spans)
        args[at + 2 : at + 5] = [3, *rng.choice(spans)]
    elif name.startswith("path_"):
        at = 2 if name in ("path_open", "path_filestat_get", "path_filestat_set_times") else 1
        args[at : at + 2] = rng.choice(spans)
    if name == "path_open":
        args[1], args[4] = rng.randrange(2), rng.choice([0, 0, 1, 2, 8, 9, 15])
        args[5:9] = [rng.choice([Rights.ALL, Rights.ALL & ~Rights.FD_WRITE, 0]), Rights.ALL, rng.choice([0, 1, 4]), 64]
    elif name in ("fd_read", "fd_write", "fd_pread", "fd_pwrite"):
        args[1:3] = [30_000, rng.randrange(3)]
