"""``SharedVolumes``: volumes that a template and its forks use, closed with the last of them.

A fork uses its template's volumes without opening anything, so a template that is closed first must leave them open:
the number of a host descriptor that is closed too early may be another file's by the time the fork uses it.
"""

from __future__ import annotations

__all__ = ["SharedVolumes"]

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isola_anyio.wasi.volumes.interfaces import Volume


class SharedVolumes:
    """The volumes of one file system, with a reference count: its own reference, and one of each fork.

    A fork has a ``SharedVolumes`` of its own for what it adds, which holds a reference to its template's. Counting is
    safe from any thread, as sandboxes of one template are closed by different threads. ``volumes`` is changed by the
    owner only, while it is set up.

    Attributes:
        volumes: closed, last first, with the last reference.
    """

    __slots__ = ("_lock", "_parent", "_references", "volumes")

    def __init__(self, parent: SharedVolumes | None = None) -> None:
        """Hold one reference for the caller, and one to ``parent``; ``ValueError`` if that is closed already."""
        self._parent = parent
        self._references = 1
        self._lock = threading.Lock()
        self.volumes: list[Volume] = []
        if parent is not None:
            parent.retain()

    def retain(self) -> None:
        """Add a reference; ``ValueError`` when the volumes are closed already."""
        with self._lock:
            if not self._references:  # the template was closed while it was being forked
                raise ValueError("a closed file system cannot be forked")
            self._references += 1

    def release(self) -> None:
        """Drop a reference; the last one closes every volume, whatever closing another one raises."""
        with self._lock:
            self._references -= 1
            if self._references:
                return
        # Outside the lock: nobody has a reference any more, and closing may block.
        with ExitStack() as last_first:
            if self._parent is not None:
                last_first.callback(self._parent.release)
            for volume in reversed(self.volumes):
                last_first.callback(volume.close)
