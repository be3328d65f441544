"""The functions about the guest's process: arguments, environment, randomness, exit and signals."""

# ruff: noqa: ARG002 - preview 1 decides which arguments there are

from __future__ import annotations

__all__ = ["GuestExit", "ProcessCalls"]

from typing import TYPE_CHECKING, Final

from isola_anyio.fairness import pause
from isola_anyio.wasi.answering import answers_errno
from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from isola_anyio.wasi.answering import CallContext

_RANDOM_CHUNK_BYTES: Final = 64 << 10
"""Bytes of randomness between two yield points."""


class GuestExit(Exception):  # noqa: N818 - the guest ends, which is no error
    """The guest called ``proc_exit``.

    Attributes:
        code: the exit code, 0 to 2**32 - 1.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class ProcessCalls:
    """Calls about the process. Arguments and environment are packed once: they do not change."""

    __slots__ = ("_args", "_environ", "_random", "_sleep", "context", "memory")

    def __init__(
        self,
        context: CallContext,
        *,
        args: Sequence[bytes],
        environ: Mapping[str, str],
        random: Callable[[int], bytes],
        sleep: Callable[[float | None], None],
    ) -> None:
        self.context = context
        self.memory = context.memory
        self._args = [arg + b"\0" for arg in args]
        self._environ = [f"{name}={value}\0".encode("utf-8", "surrogateescape") for name, value in environ.items()]
        self._random = random
        self._sleep = sleep

    def _write_strings(self, strings: list[bytes], pointers: int, buffer: int) -> None:
        for string in strings:
            self.memory.write(buffer, string)
            self.memory.write_u32(pointers, buffer)
            pointers += 4
            buffer += len(string)

    def _write_sizes(self, strings: list[bytes], count: int, size: int) -> None:
        self.memory.write_u32_pair(count, len(strings), size, sum(map(len, strings)))

    @answers_errno
    def args_get(self, pointers: int, buffer: int) -> None:
        """Write the arguments."""
        self._write_strings(self._args, pointers, buffer)

    @answers_errno
    def args_sizes_get(self, count: int, size: int) -> None:
        """Write how many arguments there are, and their bytes."""
        self._write_sizes(self._args, count, size)

    @answers_errno
    def environ_get(self, pointers: int, buffer: int) -> None:
        """Write the environment."""
        self._write_strings(self._environ, pointers, buffer)

    @answers_errno
    def environ_sizes_get(self, count: int, size: int) -> None:
        """Write how many variables there are, and their bytes."""
        self._write_sizes(self._environ, count, size)

    @answers_errno
    def random_get(self, ptr: int, n: int) -> None:
        """Fill with randomness."""
        view = self.memory.slice(ptr, n)
        if len(view) <= _RANDOM_CHUNK_BYTES:
            view[:] = self._random(len(view))
            return
        for start in range(0, len(view), _RANDOM_CHUNK_BYTES):
            pause()  # may interrupt: a guest may ask for 4 GiB, which take seconds
            part = view[start : start + _RANDOM_CHUNK_BYTES]
            part[:] = self._random(len(part))

    def proc_exit(self, code: int) -> int:
        """Raise ``GuestExit``."""
        raise GuestExit(code & 0xFFFF_FFFF)

    @answers_errno
    def proc_raise(self, signal: int) -> None:
        """Refuse: there are no signals."""
        raise WasiError(Errno.NOSYS)
