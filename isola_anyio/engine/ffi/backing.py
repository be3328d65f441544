"""Backing: a file that memory is mapped from, and whether it is still what was mapped.

Large code and images are mapped from the cache and not read: every process then shares the same pages. But a mapped
file is not frozen. One that is cut kills whoever touches what was cut off (``SIGBUS``), one that is written over
changes under the guest that runs it. This library replaces files and never writes into them; a restored backup, a
careless script or a test may. So what is small is read (:data:`READ_BYTES`), and what is large is looked at before
more is made of it, a few hundred nanoseconds each time. What was changed is refused, and stays mapped until the
process ends: giving it back would touch it. What runs at that very moment cannot be saved, as with any program whose
shared library is written over.
"""

from __future__ import annotations

__all__ = ["READ_BYTES", "Backing"]

import os
from typing import TYPE_CHECKING, Final

from isola_anyio.errors import RuntimeUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

READ_BYTES: Final = 8 << 20
"""Files up to this size are read: some milliseconds and some memory, once a template. JavaScript's are below it."""


class Backing:
    """An open file that memory is mapped from, or will be. Owns the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # Of the open file and not of its path: one that was replaced is still what is mapped.
        self._state = self._look()

    @classmethod
    def open(cls, path: Path) -> Backing:
        """Open a file.

        Raises:
            OSError: it cannot be read.
        """
        return cls(os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)))

    def __del__(self) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """The descriptor, -1 when closed."""
        return self._fd

    @property
    def size(self) -> int:
        """Bytes of the file when it was opened."""
        return self._state[0]

    @property
    def changed(self) -> bool:
        """Whether somebody wrote into the file since, or cut it."""
        return self._fd >= 0 and self._look() != self._state

    def check(self, what: str) -> None:
        """Refuse to go on with a file that was changed.

        Raises:
            RuntimeUnavailableError: it was; ``what`` says what it held.
        """
        if self.changed:
            raise RuntimeUnavailableError(
                f"the file with this template's {what} was written to while it was in use; build the template again"
            )

    def _look(self) -> tuple[int, int]:
        # A writer that keeps size and time is not noticed; this is against accidents. Hostile writers are kept out by
        # the directory, which is ours alone.
        found = os.fstat(self._fd)
        return found.st_size, found.st_mtime_ns

    def close(self) -> None:
        """Give the descriptor back; mappings live on. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
