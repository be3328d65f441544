"""One guest's operating system: every function of WASI preview 1, gathered from the groups of calls.

The functions take the guest's integers as they come and answer with an errno. They raise nothing but ``GuestExit`` and
what a callback (``stdio``, ``sleep``) raised to interrupt the run.
"""

from __future__ import annotations

__all__ = ["GuestExit", "System"]

from operator import attrgetter
from typing import TYPE_CHECKING, Final

from isola_anyio.wasi.answering import CallContext
from isola_anyio.wasi.calls_fd import FdCalls
from isola_anyio.wasi.calls_path import PathCalls
from isola_anyio.wasi.calls_process import GuestExit, ProcessCalls
from isola_anyio.wasi.calls_sock import SocketCalls
from isola_anyio.wasi.calls_time import TimeCalls
from isola_anyio.wasi.signatures import SIGNATURES
from isola_anyio.wasi.stdio import StdioDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from isola_anyio.wasi.clock import Clock
    from isola_anyio.wasi.files.filesystem import FileSystem
    from isola_anyio.wasi.linear_memory import GuestMemory
    from isola_anyio.wasi.stdio import Stdio
    from isola_anyio.wasi.volumes.budgets import FileLimits


_GROUPS: Final = {
    "fds": FdCalls,
    "paths": PathCalls,
    "process": ProcessCalls,
    "sockets": SocketCalls,
    "time": TimeCalls,
}
_all_handlers: Final[Callable[[System], tuple[Callable[..., int], ...]]] = attrgetter(
    *(next(f"{group}.{name}" for group, calls in _GROUPS.items() if hasattr(calls, name)) for name in SIGNATURES)
)


class System:
    """One guest's operating system.

    Attributes:
        files: the guest's files; closing them is their owner's.
        context: what the groups of calls work on.
        fds, paths, process, sockets, time: the groups.
    """

    __slots__ = ("context", "fds", "files", "paths", "process", "sockets", "time")

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
        """Take ``files`` as they are, and open descriptors 0 to 2 in their table.

        Args:
            memory: the guest's linear memory.
            files: the guest's files and descriptors.
            stdio: source of standard input, and sink of standard output and error.
            clock: the clocks the guest sees.
            random: returns that many random bytes.
            sleep: blocks the guest's thread for seconds (``None``: until interrupted); may raise to interrupt the run.
            limits: budgets of a single call.
            args: the guest's ``argv``.
            environ: the guest's environment.
        """
        self.files = files
        self.context = context = CallContext(memory, files.operations, files.table, limits)
        self.fds = FdCalls(context)
        self.paths = PathCalls(context)
        self.process = ProcessCalls(context, args=args, environ=environ, random=random, sleep=sleep)
        self.sockets = SocketCalls(context)
        self.time = TimeCalls(context, clock=clock, sleep=sleep)
        for fd in (0, 1, 2):
            files.table.open[fd] = StdioDescriptor(stdio, fd)

    @property
    def fault(self) -> Exception | None:
        """The last exception that was no answer to the guest, which got ``IO`` for it: a bug of the host's."""
        return self.context.fault

    def functions(self) -> dict[str, Callable[..., int]]:
        """Return every function by name, each taking the guest's integers and returning an errno."""
        return dict(zip(SIGNATURES, self.handlers(), strict=True))

    def handlers(self) -> tuple[Callable[..., int], ...]:
        """Return every function, in the order of ``SIGNATURES``; one call into C, because each fork wants it."""
        return _all_handlers(self)

    # The guests' drivers call these themselves, as the guest would.

    def random_get(self, ptr: int, n: int) -> int:
        """See ``ProcessCalls.random_get``."""
        return self.process.random_get(ptr, n)

    def environ_get(self, pointers: int, buffer: int) -> int:
        """See ``ProcessCalls.environ_get``."""
        return self.process.environ_get(pointers, buffer)

    def environ_sizes_get(self, count: int, size: int) -> int:
        """See ``ProcessCalls.environ_sizes_get``."""
        return self.process.environ_sizes_get(count, size)
