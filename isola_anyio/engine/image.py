"""Keep a warm interpreter's linear memory, and fork it copy-on-write.

An image is a file as long as the memory was when it was taken. A fork maps it *private* over the memory of a fresh
instance: untouched pages are shared by every sandbox of the template through the page cache, a written page is copied
by the kernel. Where a private file mapping cannot be had the bytes are copied instead (``ISOLA_ANYIO_COPY_IMAGES=1``
forces that, so that tests can compare the two).

    0                 image.size            max_memory                     4 GiB
    |  file, private  |  zero pages, grown  |  not accessible (reserved)   |

Invariant: the file is never written after :meth:`Image.open`; it lives in a directory only we may write, or has no
name at all. Compare wasmtime's own ``cow.rs``, which does the same for a module's initial data.
"""

from __future__ import annotations

__all__ = ["Image"]

import mmap
import os
import tempfile
from typing import TYPE_CHECKING, Final

from isola_anyio.engine import ffi

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

COPY_SWITCH: Final = "ISOLA_ANYIO_COPY_IMAGES"
_CHUNK_BYTES: Final = 1 << 16


class Image:
    """One memory image: a file descriptor and a size in bytes, a multiple of wasm's page. Close it when done."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size: Final = size

    @classmethod
    def open(cls, path: Path) -> Image:
        """Open an image file.

        Raises:
            OSError: it is not there.
            ValueError: its size cannot be an image's.
        """
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        try:
            size = os.fstat(fd).st_size
            if size == 0 or size % ffi.PAGE_BYTES or size > 1 << 32:
                raise ValueError(f"{size} bytes is not the size of a memory image")
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, size)

    @classmethod
    def take(cls, store: ffi.Store) -> Image:
        """Copy a store's memory into a file without a name."""
        size = store.memory_size()
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("isola-image", os.MFD_CLOEXEC)
            with open(fd, "wb", closefd=False) as out:
                cls.write(store, out)
        else:
            with tempfile.TemporaryFile() as out:
                cls.write(store, out)
                fd = os.dup(out.fileno())
        return cls(fd, size)

    @staticmethod
    def write(store: ffi.Store, out: BinaryIO) -> None:
        """Write a store's memory to a file, leaving holes where it is zero."""
        size = store.memory_size()
        view = store.buffer[:size]
        zeros = bytes(_CHUNK_BYTES)
        for start in range(0, size, _CHUNK_BYTES):
            chunk = view[start : start + _CHUNK_BYTES]
            if bytes(chunk) != zeros:
                out.seek(start)
                out.write(chunk)
        out.truncate(size)
        out.flush()

    def fork_into(self, store: ffi.Store) -> None:
        """Make a fresh store's memory this image.

        Raises:
            MemoryError: the store's limit is below the image's size.
            OSError: the kernel has no room for another mapping (``vm.max_map_count``).
        """
        store.grow_to(self.size)
        if ffi.IMAGE_MAPPING and not os.environ.get(COPY_SWITCH):
            ffi.map_private(store.memory_base, self.size, self._fd)
            return
        with mmap.mmap(self._fd, self.size, access=mmap.ACCESS_READ) as source:
            store.buffer[: self.size] = source

    def save(self, out: BinaryIO) -> None:
        """Copy the image into a file."""
        with mmap.mmap(self._fd, self.size, access=mmap.ACCESS_READ) as source:
            zeros = bytes(_CHUNK_BYTES)
            for start in range(0, self.size, _CHUNK_BYTES):
                chunk = source[start : start + _CHUNK_BYTES]
                if chunk != zeros:
                    out.seek(start)
                    out.write(chunk)
        out.truncate(self.size)
        out.flush()

    def close(self) -> None:
        """Give the file back; mappings of it live on. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
