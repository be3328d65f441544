"""Be one sandbox's operating system: every function of preview 1, over files, clocks, randomness and output.

The functions take the guest's integers as they come and answer with an error number. They raise nothing but
``GuestExit`` and what a callback raised to interrupt the run.
"""

# ruff: noqa: ARG002 - preview 1 decides which arguments there are

from __future__ import annotations

__all__ = ["GuestExit", "System"]

from typing import TYPE_CHECKING, Final

from isola_anyio.wasi.abi import SUBSCRIPTION_BYTES
from isola_anyio.wasi.answering import hostcall
from isola_anyio.wasi.calls_fd import DescriptorCalls
from isola_anyio.wasi.calls_path import PathCalls
from isola_anyio.wasi.clock import read_clock
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.poll import poll
from isola_anyio.wasi.signatures import SIGNATURES
from isola_anyio.wasi.stdio import StdioDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from isola_anyio.wasi.clock import Clock
    from isola_anyio.wasi.files.filesystem import FileSystem
    from isola_anyio.wasi.linear_memory import GuestMemory
    from isola_anyio.wasi.stdio import Stdio
    from isola_anyio.wasi.volumes.budgets import FileLimits

_RANDOM_CHUNK_BYTES: Final = 64 << 10
_RANDOM_PAUSE_BYTES: Final = 16 << 20


class GuestExit(Exception):  # noqa: N818 - the guest ends, which is no error
    """The guest called ``proc_exit``.

    Attributes:
        code: the exit code, 0 to 2**32 - 1.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class System(DescriptorCalls, PathCalls):
    """One sandbox's operating system.

    Attributes:
        fault: the last host exception that is not an answer to the guest, which got ``IO`` for it; a bug to report.
    """

    def __init__(
        self,
        *,
        memory: GuestMemory,
        files: FileSystem,
        stdio: Stdio,
        clock: Clock,
        random: Callable[[int], bytes],
        sleep: Callable[[float | None], None],
        limits: FileLimits,
        args: Sequence[bytes] = (),
        environ: Mapping[str, str] = {},
    ) -> None:
        """Take ``files`` as they are; descriptors 0 to 2 are put into their table."""
        self.memory = memory
        self.files = files
        self.limits = limits
        self.table = files.table
        self.fault: Exception | None = None
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._args = args
        self._environ = environ
        opened = self.table.open
        for fd in (0, 1, 2):
            opened[fd] = StdioDescriptor(stdio, fd)

    def functions(self) -> dict[str, Callable[..., int]]:
        """Return every function by name, each taking the guest's integers and returning an error number."""
        return {name: getattr(self, name) for name in SIGNATURES}

    # Arguments and environment

    def _write_strings(self, strings: list[bytes], pointers: int, buffer: int) -> None:
        for string in strings:
            self.memory.write(buffer, string)
            self.memory.write_u32(pointers, buffer)
            pointers += 4
            buffer += len(string)

    def _write_sizes(self, strings: list[bytes], count: int, size: int) -> None:
        self.memory.write_u32(count, len(strings))
        self.memory.write_u32(size, sum(map(len, strings)))

    def _arg_strings(self) -> list[bytes]:
        return [arg + b"\0" for arg in self._args]

    def _environ_strings(self) -> list[bytes]:
        return [f"{name}={value}\0".encode("utf-8", "surrogateescape") for name, value in self._environ.items()]

    @hostcall
    def args_get(self, pointers: int, buffer: int) -> None:
        """Write the arguments."""
        self._write_strings(self._arg_strings(), pointers, buffer)

    @hostcall
    def args_sizes_get(self, count: int, size: int) -> None:
        """Write how many arguments there are, and their bytes."""
        self._write_sizes(self._arg_strings(), count, size)

    @hostcall
    def environ_get(self, pointers: int, buffer: int) -> None:
        """Write the environment."""
        self._write_strings(self._environ_strings(), pointers, buffer)

    @hostcall
    def environ_sizes_get(self, count: int, size: int) -> None:
        """Write how many variables there are, and their bytes."""
        self._write_sizes(self._environ_strings(), count, size)

    # Time and chance

    @hostcall
    def clock_res_get(self, clock_id: int, out: int) -> None:
        """Write a clock's resolution."""
        read_clock(self._clock, clock_id)
        self.memory.write_u64(out, self._clock.resolution_ns)

    @hostcall
    def clock_time_get(self, clock_id: int, precision: int, out: int) -> None:
        """Write a clock's time."""
        self.memory.write_u64(out, read_clock(self._clock, clock_id))

    @hostcall
    def random_get(self, ptr: int, n: int) -> None:
        """Fill with randomness."""
        view = self.memory.slice(ptr, n)
        if len(view) <= _RANDOM_CHUNK_BYTES:
            view[:] = self._random(len(view))
            return
        for at in range(0, len(view), _RANDOM_CHUNK_BYTES):
            if at and not at % _RANDOM_PAUSE_BYTES:
                self._sleep(0)  # a chance to be interrupted: this may be gigabytes
            part = view[at : at + _RANDOM_CHUNK_BYTES]
            part[:] = self._random(len(part))

    @hostcall
    def sched_yield(self) -> None:
        """Let others run."""
        self._sleep(0)

    @hostcall
    def poll_oneoff(self, subscriptions: int, events: int, count: int, out: int) -> None:
        """Wait until at least one of the subscriptions has something to say."""
        count &= 0xFFFF_FFFF
        if not 0 < count <= self.limits.max_subscriptions:
            raise WasiError(Errno.INVAL)
        memory = self.memory
        memory.check(events, count * 32)
        memory.check(out, 4)
        happened = poll(memory.read(subscriptions, count * SUBSCRIPTION_BYTES), self.table, self._clock, self._sleep)
        memory.write(events, b"".join(happened))
        memory.write_u32(out, len(happened))

    # The process, and sockets there are none of

    def proc_exit(self, code: int) -> int:
        """Raise ``GuestExit``."""
        raise GuestExit(code & 0xFFFF_FFFF)

    @hostcall
    def proc_raise(self, signal: int) -> None:
        """Refuse: there are no signals."""
        raise WasiError(Errno.NOSYS)

    def _not_a_socket(self, fd: int) -> None:
        self.table.get(fd)
        raise WasiError(Errno.NOTSOCK)

    @hostcall
    def sock_accept(self, fd: int, flags: int, out: int) -> None:
        """Refuse: no descriptor is a socket."""
        self._not_a_socket(fd)

    @hostcall
    def sock_recv(self, fd: int, data: int, n: int, flags: int, out: int, out_flags: int) -> None:
        """Refuse: no descriptor is a socket."""
        self._not_a_socket(fd)

    @hostcall
    def sock_send(self, fd: int, data: int, n: int, flags: int, out: int) -> None:
        """Refuse: no descriptor is a socket."""
        self._not_a_socket(fd)

    @hostcall
    def sock_shutdown(self, fd: int, how: int) -> None:
        """Refuse: no descriptor is a socket."""
        self._not_a_socket(fd)
