"""Standard input and output: what the host provides, and the descriptors over it."""

# ruff: noqa: ARG002, D102 - overrides do what the base class documents

from __future__ import annotations

__all__ = ["Stdio", "StdioDescriptor"]

from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from isola_anyio.wasi.abi import FileType, Rights, Stat
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.volumes.interfaces import Descriptor, Grant

if TYPE_CHECKING:
    from collections.abc import Sequence

_RIGHTS: Final = (
    Rights.FD_READ | Rights.POLL_FD_READWRITE | Rights.FD_FILESTAT_GET | Rights.FD_FDSTAT_SET_FLAGS,
    Rights.FD_WRITE | Rights.POLL_FD_READWRITE | Rights.FD_FILESTAT_GET | Rights.FD_FDSTAT_SET_FLAGS,
    Rights.FD_WRITE | Rights.POLL_FD_READWRITE | Rights.FD_FILESTAT_GET | Rights.FD_FDSTAT_SET_FLAGS,
)


class Stdio(Protocol):
    """Where standard input comes from and standard output goes.

    Both methods run on the guest's thread and may block. A ``BaseException`` that is no ``Exception`` passes through
    the guest's call untouched, which interrupts the run.
    """

    def read(self, n: int) -> bytes:
        """Return up to ``n`` bytes of standard input; ``b""`` is its end."""
        ...

    def write(self, fd: int, chunks: Sequence[memoryview]) -> int:
        """Take bytes written to ``fd`` 1 or 2; return how many.

        The views are guest memory, which changes when this returns: copy what is kept.
        """
        ...


class StdioDescriptor(Descriptor):
    """Descriptor 0, 1 or 2.

    Its type is unknown rather than a character device, so that a guest's ``isatty`` is false: with a terminal a guest
    would colour its tracebacks.
    """

    __slots__ = ("_fd", "_stdio")

    filetype: ClassVar[FileType] = FileType.UNKNOWN

    def __init__(self, stdio: Stdio, fd: int) -> None:
        super().__init__(Grant(_RIGHTS[fd]))
        self._stdio = stdio
        self._fd = fd

    def stat(self) -> Stat:
        return Stat(0, self._fd + 1, FileType.UNKNOWN, 1, 0, 0, 0, 0)

    def read(self, views: Sequence[memoryview]) -> int:
        if not self.base & Rights.FD_READ:
            raise WasiError(Errno.BADF)
        if not views:
            return 0
        view = views[0]
        data = self._stdio.read(len(view))
        view[: len(data)] = data
        return len(data)

    def write(self, views: Sequence[memoryview]) -> int:
        if not self.base & Rights.FD_WRITE:
            raise WasiError(Errno.BADF)
        return self._stdio.write(self._fd, views)

    def pread(self, views: Sequence[memoryview], offset: int) -> int:
        raise WasiError(Errno.SPIPE)

    def pwrite(self, views: Sequence[memoryview], offset: int) -> int:
        raise WasiError(Errno.SPIPE)

    def seek(self, delta: int, whence: int) -> int:
        raise WasiError(Errno.SPIPE)

    def allocate(self, offset: int, n: int) -> None:
        raise WasiError(Errno.SPIPE)

    def set_times(self, atim: int | None, mtim: int | None) -> None:
        raise WasiError(Errno.PERM)
