"""The ``sock_*`` functions: refusals, as no descriptor is a socket."""

# ruff: noqa: ARG002 - preview 1 decides which arguments there are

from __future__ import annotations

__all__ = ["SocketCalls"]

from typing import TYPE_CHECKING

from isola_anyio.wasi.answering import answers_errno
from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from isola_anyio.wasi.answering import CallContext


class SocketCalls:
    """Calls that would take a socket: ``NOTSOCK``, or ``BADF`` for a number that is not open."""

    __slots__ = ("context",)

    def __init__(self, context: CallContext) -> None:
        self.context = context

    def _refuse(self, fd: int) -> None:
        self.context.table.get(fd)
        raise WasiError(Errno.NOTSOCK)

    @answers_errno
    def sock_accept(self, fd: int, flags: int, out: int) -> None:
        """Refuse."""
        self._refuse(fd)

    @answers_errno
    def sock_recv(self, fd: int, data: int, n: int, flags: int, out: int, out_flags: int) -> None:
        """Refuse."""
        self._refuse(fd)

    @answers_errno
    def sock_send(self, fd: int, data: int, n: int, flags: int, out: int) -> None:
        """Refuse."""
        self._refuse(fd)

    @answers_errno
    def sock_shutdown(self, fd: int, how: int) -> None:
        """Refuse."""
        self._refuse(fd)
