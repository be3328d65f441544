"""Budgets: what a guest's files may cost the host, and what they cost now."""

from __future__ import annotations

__all__ = ["NEW_ENTRY_BYTES", "FileLimits", "FileUsage", "free_entries"]

from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from isola_anyio.fairness import yield_gil
from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

NEW_ENTRY_BYTES: Final = 4096
"""Charged for each file, directory or link made on the host, before it holds a byte: one block of most file systems.
An empty directory and a small file take that much; an inode and a name take less."""


def _always(_delta_bytes: int) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Budgets of one sandbox's files. The defaults are guesses: ample for data work, small for a server.

    Attributes:
        max_open_files: descriptors besides the four a guest starts with (``MFILE`` past it).
        max_host_files: those of them that are host descriptors: files and directories open in mounts (``MFILE``). All
            sandboxes together hold at most half of what the process may have open (``NFILE``).
        max_entries: files, directories and links in each in-memory tree (``NOSPC``); few enough that a garbage
            collection which visits them all stays short.
        max_memory_bytes: bytes held by in-memory files, with a small fixed cost for each (``NOSPC``).
        max_written_bytes: bytes written to host files, counting growth by truncation and ``NEW_ENTRY_BYTES`` for each
            file, directory and link that is made (``DQUOT``); ``None``: no limit.
        max_listing: entries of one host directory that are listed (``OVERFLOW``).
        max_iovecs: entries of one scatter or gather list (``INVAL``); the value Linux has.
        max_transfer_bytes: bytes one call reads or writes; a longer call returns a short count.
        max_path_bytes: length of a path (``NAMETOOLONG``).
        max_name_bytes: length of one component (``NAMETOOLONG``).
        max_depth: components of a path from its mount's root, also when it starts at an open directory
            (``NAMETOOLONG``); what a path of ``max_path_bytes`` can have.
        max_tree_depth: directories nested in an in-memory tree, by ``mkdir`` or ``rename`` (``NAMETOOLONG``); few
            enough that walking a tree costs little more than its size, and more than real trees have.
        max_symlinks: links followed while one path is resolved (``LOOP``).
        max_subscriptions: entries of one ``poll_oneoff`` (``INVAL``).
        charge: called with a number of bytes before in-memory files grow (``False`` refuses) and, with a negative
            number, when they shrink; ties the files to a budget that counts more than files.
    """

    max_open_files: int = 256
    max_host_files: int = 128
    max_entries: int = 32_768
    max_memory_bytes: int = 256 << 20
    max_written_bytes: int | None = 4 << 30
    max_listing: int = 262_144
    max_iovecs: int = 1024
    max_transfer_bytes: int = 256 << 20
    max_path_bytes: int = 4096
    max_name_bytes: int = 255
    max_depth: int = 2048
    max_tree_depth: int = 256
    max_symlinks: int = 40
    max_subscriptions: int = 1024
    charge: Callable[[int], bool] = field(default=_always, repr=False, compare=False)


def free_entries(entries: dict[Any, Any]) -> None:
    """Empty a dict of which nobody else knows; freed in one go, its values would hold the interpreter's lock."""
    while entries:
        entries.popitem()
        yield_gil()


class FileUsage:
    """What one sandbox's files cost at this moment.

    No lock: changed under the lock of the volume that is charged, or by the guest's thread; a memory mount, which
    several guests' threads change, has a usage of its own.

    Attributes:
        limits: the budgets.
        memory_bytes: bytes charged for in-memory files.
        written_bytes: bytes written to host files so far.
        host_fds: host descriptors open.
        dropped: large parts of in-memory files that nothing leads to any more, put here under the lock of their tree;
            whoever has dropped them calls ``free`` when the lock is given up. Any thread may take one out.
    """

    __slots__ = ("dropped", "host_fds", "limits", "memory_bytes", "written_bytes")

    def __init__(self, limits: FileLimits) -> None:
        self.limits = limits
        self.memory_bytes = 0
        self.written_bytes = 0
        self.host_fds = 0
        self.dropped: list[dict[Any, Any]] = []

    def free(self) -> None:
        """Free what was dropped, in pieces; no lock may be held that an event loop wants."""
        with suppress(IndexError):
            while True:
                free_entries(self.dropped.pop())

    def hold(self, delta_bytes: int) -> None:
        """Charge in-memory bytes (or, negative, give them back); raise ``NOSPC`` past the budget."""
        limits = self.limits
        if delta_bytes > 0 and self.memory_bytes + delta_bytes > limits.max_memory_bytes:
            raise WasiError(Errno.NOSPC)
        if not limits.charge(delta_bytes) and delta_bytes > 0:
            raise WasiError(Errno.NOSPC)
        self.memory_bytes += delta_bytes

    def write(self, n: int) -> None:
        """Charge ``n`` bytes that are about to be written to a host file; raise ``DQUOT`` past the budget."""
        limit = self.limits.max_written_bytes
        if limit is not None and self.written_bytes + n > limit:
            raise WasiError(Errno.DQUOT)
        self.written_bytes += n

    @contextmanager
    def making_entry(self) -> Generator[None]:
        """Charge a new entry of a host directory, unless making it fails; raise ``DQUOT`` past the budget."""
        self.write(NEW_ENTRY_BYTES)
        try:
            yield
        except BaseException:
            self.written_bytes -= NEW_ENTRY_BYTES
            raise
