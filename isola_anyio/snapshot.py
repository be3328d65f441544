"""A snapshot: the memory image of a warm interpreter and its file system at that moment, counted by its holders."""

from __future__ import annotations

__all__ = ["Snapshot"]

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.engine.image import Image
    from isola_anyio.wasi.files.filesystem import FileSystem


class Snapshot:
    """A warm interpreter's image, and its file system at that moment.

    Shared by a template and its sandboxes: each holds it, and what it has open goes with the last of them, which calls
    ``on_close`` as well.
    """

    def __init__(self, image: Image, files: FileSystem, base: FileSystem | None = None) -> None:
        self.image = image
        self.files = files
        self._base = base
        self.on_close: Callable[[], None] | None = None
        self._holders = 1
        self._lock = threading.Lock()

    def hold(self) -> None:
        """Count another holder."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """Count one holder less; the last one closes everything."""
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self.image.close()
            self.files.close()
            if self._base is not None:
                self._base.close()
            if self.on_close is not None:
                self.on_close()
