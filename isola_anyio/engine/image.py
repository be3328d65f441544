"""Images: a warm interpreter's linear memory in a file, and forks of it, copy-on-write.

An image is a file as long as the memory was when it was taken. A fork maps it *private* over the memory of a fresh
instance: untouched pages are shared by every sandbox of the template through the page cache, a written page is copied
by the kernel. Where a private file mapping cannot be had the bytes are copied instead (``ISOLA_ANYIO_COPY_IMAGES=1``
forces that, so that tests can compare the two).

    0                 image.size            max_memory                     4 GiB
    |  file, private  |  zero pages, grown  |  not accessible (reserved)   |

Invariant: the file is never written once there is an image; it lives in a directory only we may write, or has no name
at all. Compare wasmtime's own ``cow.rs``, which does the same for a module's initial data.
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
_ZEROS: Final = bytes(_CHUNK_BYTES)


class Image:
    """One memory image: a file and a size in bytes, a multiple of wasm's page. Close it when done."""

    def __init__(self, backing: ffi.Backing) -> None:
        self._backing = backing
        self.size: Final = backing.size

    @classmethod
    def open(cls, path: Path) -> Image:
        """Open an image file; a small one is read, see ``ffi/backing.py``.

        Raises:
            OSError: it is not there.
            ValueError: its size cannot be an image's.
        """
        backing = ffi.Backing.open(path)
        try:
            size = backing.size
            if size == 0 or size % ffi.PAGE_BYTES or size > 1 << 32:
                raise ValueError(f"{size} bytes is not the size of a memory image")
            if size <= ffi.READ_BYTES:
                with open(backing.fd, "rb", closefd=False) as file:
                    content = file.read(size)
                if len(content) != size:
                    raise ValueError(f"{len(content)} bytes are left of an image of {size}")
                backing.close()
                backing = _unnamed(memoryview(content))
            return cls(backing)
        except BaseException:
            backing.close()
            raise

    @classmethod
    def take(cls, store: ffi.Store) -> Image:
        """Copy a store's memory into a file without a name."""
        return cls(_unnamed(store.buffer[: store.memory_size()]))

    def fork_into(self, store: ffi.Store) -> None:
        """Make a fresh store's memory this image.

        Raises:
            MemoryError: the store's limit is below the image's size.
            OSError: the kernel has no room for another mapping (``vm.max_map_count``).
            RuntimeUnavailableError: the image's file was written to.
        """
        self._backing.check("image")
        store.grow_to(self.size)
        if ffi.IMAGE_MAPPING and not os.environ.get(COPY_SWITCH):
            ffi.map_private(store.memory_base, self.size, self._backing.fd)
            return
        with mmap.mmap(self._backing.fd, self.size, access=mmap.ACCESS_READ) as source:
            store.buffer[: self.size] = source

    def save(self, out: BinaryIO) -> None:
        """Copy the image into a file."""
        self._backing.check("image")
        with mmap.mmap(self._backing.fd, self.size, access=mmap.ACCESS_READ) as source:
            _write_sparse(source, out)

    def close(self) -> None:
        """Give the file back; mappings of it live on. A second call does nothing."""
        self._backing.close()


def _unnamed(memory: memoryview | mmap.mmap) -> ffi.Backing:
    """Copy memory into a file without a name, which nobody else can write to."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("isola-image", os.MFD_CLOEXEC)
        try:
            with open(fd, "wb", closefd=False) as out:
                _write_sparse(memory, out)
        except BaseException:
            os.close(fd)
            raise
        return ffi.Backing(fd)
    with tempfile.TemporaryFile() as temporary:
        _write_sparse(memory, temporary)
        return ffi.Backing(os.dup(temporary.fileno()))


def _write_sparse(memory: memoryview | mmap.mmap, out: BinaryIO) -> None:
    """Write memory to an empty file, leaving holes where it is zero."""
    size = len(memory)
    for start in range(0, size, _CHUNK_BYTES):
        chunk = bytes(memory[start : start + _CHUNK_BYTES])
        if chunk != _ZEROS:
            out.seek(start)
            out.write(chunk)
    out.truncate(size)
    out.flush()
