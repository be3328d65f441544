"""Snapshot: the memory image of a started interpreter and its file system at that moment, counted by its holders."""

from __future__ import annotations

__all__ = ["Snapshot"]

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.engine.image import Image
    from isola_anyio.wasi.files.filesystem import FileSystem


class Snapshot:
    """An interpreter's memory image, and its file system at that moment.

    Shared by a template and its sandboxes. Each is a holder; the last one to let go closes the image and the files and
    calls ``on_close``. Whoever makes a snapshot is its first holder. :meth:`hold` and :meth:`release` may be called
    from any thread; everything else about it never changes.

    Attributes:
        image: linear memory, mapped by every fork.
        files: forked for every sandbox, never used itself.
        on_close: called once, by the thread of the last holder; set before there is a second one.
    """

    def __init__(self, image: Image, files: FileSystem, base: FileSystem | None = None) -> None:
        self.image = image
        self.files = files
        self._base = base  # what `files` was forked from, which holds what both have open
        self.on_close: Callable[[], None] | None = None
        self._holders = 1
        self._lock = threading.Lock()  # for `_holders`

    def hold(self) -> None:
        """Count another holder; only while there is one."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """Count one holder less; the last one closes everything."""
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:  # outside the lock: nobody else can reach it any more
            self.image.close()
            self.files.close()
            if self._base is not None:
                self._base.close()
            if self.on_close is not None:
                self.on_close()
