"""The guest's linear memory: bounds-checked reads and writes from the host.

Past the end of the valid part lies a reservation whose pages fault: one byte read or written there ends the host
process. So every access is checked here, exactly, before a byte is touched; nothing behind this module checks again.

A memory only grows, so a cached length never promises too much. An access inside it needs no question to the engine;
one beyond it asks for the current length first and is refused only then. The check stands in every method instead of
in a helper: these run several times in each call of a guest, and a Python call costs more than the access itself.
"""

from __future__ import annotations

__all__ = ["GuestMemory"]

from struct import Struct
from typing import TYPE_CHECKING, Final

from isola_anyio.fairness import PIECE_BYTES, copy_in_pieces, pause
from isola_anyio.wasi.abi import IOVEC
from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from collections.abc import Callable

_U32_MASK: Final = 0xFFFF_FFFF
_U64_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")


class GuestMemory:
    """Access to one guest's linear memory.

    Pointers and lengths are taken as the guest gave them, signed or unsigned, and masked to 32 bits.
    Every method raises ``WasiError`` (``FAULT``) for bytes outside the memory, and has then changed
    nothing.

    Attributes:
        buffer: writable bytes over the whole reservation, of which only the first ``length`` may be touched.
        length: size of the memory when it was last asked for, in bytes; the memory may have grown since.
    """

    __slots__ = ("_current_length", "buffer", "length")

    def __init__(self, buffer: memoryview | bytearray, length: int, current_length: Callable[[], int]) -> None:
        """Wrap ``buffer``; ``current_length`` is asked only before an access is refused."""
        view = memoryview(buffer)
        self.buffer = view if view.format == "B" else view.cast("B")
        self.length = length
        self._current_length = current_length

    def _recheck(self, end: int) -> None:
        """Refresh the cached length, and raise ``FAULT`` if ``end`` is beyond it still."""
        self.length = self._current_length()
        if end > self.length:
            raise WasiError(Errno.FAULT)

    def check(self, ptr: int, n: int) -> int:
        """Return ``ptr`` as an unsigned offset, from which ``n`` bytes (not negative) are valid."""
        ptr &= _U32_MASK
        if ptr + n > self.length:
            self._recheck(ptr + n)
        return ptr

    def slice(self, ptr: int, n: int) -> memoryview:
        """Return a writable view of ``n`` bytes at ``ptr``."""
        ptr &= _U32_MASK
        end = ptr + (n & _U32_MASK)
        if end > self.length:
            self._recheck(end)
        return self.buffer[ptr:end]

    def read(self, ptr: int, n: int) -> bytes:
        """Return a copy of ``n`` bytes at ``ptr``."""
        ptr &= _U32_MASK
        end = ptr + (n & _U32_MASK)
        if end > self.length:
            self._recheck(end)
        view = self.buffer[ptr:end]
        return view.tobytes() if end - ptr <= PIECE_BYTES else copy_in_pieces(view)

    def write(self, ptr: int, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` (a ``memoryview`` of bytes, if it is one) to ``ptr``."""
        ptr &= _U32_MASK
        end = ptr + len(data)
        if end > self.length:
            self._recheck(end)
        if end - ptr <= PIECE_BYTES:
            self.buffer[ptr:end] = data
            return
        source = memoryview(data)
        for start in range(0, len(data), PIECE_BYTES):
            piece = source[start : start + PIECE_BYTES]
            self.buffer[ptr + start : ptr + start + len(piece)] = piece
            pause()

    def read_u32(self, ptr: int) -> int:
        """Return the 32-bit number at ``ptr``."""
        ptr &= _U32_MASK
        if ptr + 4 > self.length:
            self._recheck(ptr + 4)
        value: int = _U32.unpack_from(self.buffer, ptr)[0]
        return value

    def write_u32(self, ptr: int, value: int) -> None:
        """Store the low 32 bits of ``value`` at ``ptr``."""
        ptr &= _U32_MASK
        if ptr + 4 > self.length:
            self._recheck(ptr + 4)
        _U32.pack_into(self.buffer, ptr, value & _U32_MASK)

    def write_u32_pair(self, first_ptr: int, first: int, second_ptr: int, second: int) -> None:
        """Store the low 32 bits of two numbers, each at its pointer: both, or with a bad pointer neither."""
        first_ptr &= _U32_MASK
        second_ptr &= _U32_MASK
        end = max(first_ptr, second_ptr) + 4
        if end > self.length:
            self._recheck(end)
        _U32.pack_into(self.buffer, first_ptr, first & _U32_MASK)
        _U32.pack_into(self.buffer, second_ptr, second & _U32_MASK)

    def write_u64(self, ptr: int, value: int) -> None:
        """Store the low 64 bits of ``value`` at ``ptr``."""
        ptr &= _U32_MASK
        if ptr + 8 > self.length:
            self._recheck(ptr + 8)
        _U64.pack_into(self.buffer, ptr, value & _U64_MASK)

    def iovecs(self, ptr: int, count: int, max_count: int, max_bytes: int) -> list[memoryview]:
        """Return writable views of a scatter or gather list, cut after ``max_bytes`` in all, without empty ones.

        Raises:
            WasiError: ``INVAL`` for more than ``max_count`` entries, ``FAULT`` for one outside the memory.
        """
        count &= _U32_MASK
        if count == 1:  # what libc's read and write send
            ptr &= _U32_MASK
            if ptr + 8 > self.length:
                self._recheck(ptr + 8)
            start, n = IOVEC.unpack_from(self.buffer, ptr)
            n = min(n, max_bytes)
            end = start + n
            if end > self.length:
                self._recheck(end)
            return [self.buffer[start:end]] if n else []
        if count > max_count:
            raise WasiError(Errno.INVAL)
        views: list[memoryview] = []
        for start, n in IOVEC.iter_unpack(self.slice(ptr, count * 8)):
            self.check(start, n)
            taken = min(n, max_bytes)
            if taken:
                views.append(self.buffer[start : start + taken])
                max_bytes -= taken
        return views
