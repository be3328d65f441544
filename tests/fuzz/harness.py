"""Harness: how a target takes its input's bytes, and what is a finding.

A target is a function of bytes that raises ``AssertionError`` on a finding: an exception that is not an answer, an
answer that cannot be right, more than `MAX_CPU_S` of computing, or memory out of proportion. The same bytes always mean
the same calls: `Bytes` deals them out, and nothing is random.
"""

from __future__ import annotations

import atexit
import importlib
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any

from isola_anyio.codec import buffers

MAX_CPU_S = 2.0
MEMORY_TIMES = 64
MEMORY_BYTES = 256 << 10

Target = Callable[[bytes], None]


class Blocked(BaseException):
    """The guest would stand still now: nothing is wrong, and nothing more comes of these bytes."""


class Bytes:
    """Deals bytes out; when they are used up, there are only zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, n: int) -> bytes:
        found = self._data[self._at : self._at + n]
        self._at += n
        return found

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")

    def u8(self) -> int:
        return self.number(1)

    def chunk(self) -> bytes:
        """Up to 239 bytes, or (a length above that) thousands of one byte."""
        n = self.u8()
        return self.take(n) if n < 240 else self.take(1) * ((n - 239) * 997)


def target(function: Target) -> Target:
    """Make every way to fail the same, and look at the CPU that was used."""

    @wraps(function)
    def run(data: bytes) -> None:
        began = time.thread_time()
        try:
            function(data)
        except (AssertionError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            raise AssertionError(f"{type(exc).__name__}: {exc}") from exc
        used = time.thread_time() - began
        assert used < MAX_CPU_S, f"{used:.1f} s of computing for {len(data)} bytes"

    return run


with suppress(ImportError):
    importlib.import_module("numpy")  # the codec asks for it late, and its import is not the input's memory


buffers._zeros()  # made once, too


@contextmanager
def measured(size: int) -> Generator[None]:
    """Fail if what is in here takes memory out of proportion to its input."""
    tracemalloc.start()
    try:
        yield
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak <= MEMORY_TIMES * size + MEMORY_BYTES, f"{peak} bytes of memory for {size}"


@contextmanager
def constants(values: dict[str, int], *modules: Any) -> Generator[None]:
    """Make limits small, so that short inputs come to them."""
    before = [(module, name, getattr(module, name)) for module in modules for name in values if hasattr(module, name)]
    assert {name for _, name, _ in before} == set(values)
    try:
        for module, name, _ in before:
            setattr(module, name, values[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@cache
def scratch() -> Path:
    """A directory of this process's own, gone with it."""
    path = Path(tempfile.mkdtemp(prefix="isola-fuzz-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
