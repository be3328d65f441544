"""Close what a template and its sandboxes share when the last of them is gone.

A sandbox uses its template's volumes without opening anything, so a template that is closed first must leave them open
for it: the number of a host descriptor closed too early may already be another file's.
"""

from __future__ import annotations

__all__ = ["Lease"]

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isola_anyio.wasi.volumes.interfaces import Volume


class Lease:
    """Holds volumes open for a file system and all that were forked from it.

    Attributes:
        volumes: what is closed at the end.
    """

    __slots__ = ("_above", "_holders", "_lock", "volumes")

    def __init__(self, above: Lease | None = None) -> None:
        """Hold ``above``, the lease of the file system this one is forked from, as long as this one lasts."""
        self._above = above
        self._holders = 1
        self._lock = threading.Lock()
        self.volumes: list[Volume] = []
        if above is not None:
            above.retain()

    def retain(self) -> None:
        """Add a holder; ``ValueError`` when everything is closed already."""
        with self._lock:
            if not self._holders:
                raise ValueError("a closed file system cannot be forked")
            self._holders += 1

    def release(self) -> None:
        """Take a holder away; the last one closes the volumes, every one of them whatever another's closing raises."""
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
        with ExitStack() as last_first:
            if self._above is not None:
                last_first.callback(self._above.release)
            for volume in reversed(self.volumes):
                last_first.callback(volume.close)
