"""Read and write a guest's linear memory without ever leaving it.

Past the end of the valid part lies a reservation whose pages fault: touching one ends the host process. The check
here, before every access, is the whole defence.
"""

from __future__ import annotations

__all__ = ["GuestMemory"]

from struct import Struct
from typing import TYPE_CHECKING, Final

from isola_anyio.wasi.abi import IOVEC
from isola_anyio.wasi.errno import Errno, WasiError

if TYPE_CHECKING:
    from collections.abc import Callable

_U32_MASK: Final = 0xFFFF_FFFF
_U64_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_U8: Final = Struct("<B")
_U16: Final = Struct("<H")
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")


class GuestMemory:
    """The guest's linear memory as the host sees it.

    Pointers and lengths are taken as the guest gave them, signed or unsigned, and masked to 32 bits.

    Attributes:
        buffer: writable bytes over the whole reservation.
        length: how many of them are valid now; a memory only grows.
    """

    __slots__ = ("_refresh", "buffer", "length")

    def __init__(self, buffer: memoryview | bytearray, length: int, refresh: Callable[[], int]) -> None:
        """``refresh`` tells the current size; it is asked only before an access is refused."""
        view = memoryview(buffer)
        self.buffer = view if view.format == "B" else view.cast("B")
        self.length = length
        self._refresh = refresh

    def check(self, ptr: int, n: int) -> int:
        """Return ``ptr`` as an unsigned offset, or raise ``FAULT`` unless ``n`` bytes from there are valid."""
        ptr &= _U32_MASK
        if ptr + n > self.length:
            self.length = self._refresh()
            if ptr + n > self.length:
                raise WasiError(Errno.FAULT)
        return ptr

    def slice(self, ptr: int, n: int) -> memoryview:
        """Return a writable view of ``n`` bytes at ``ptr``."""
        n &= _U32_MASK
        ptr = self.check(ptr, n)
        return self.buffer[ptr : ptr + n]

    def read(self, ptr: int, n: int) -> bytes:
        """Return a copy of ``n`` bytes at ``ptr``."""
        return bytes(self.slice(ptr, n))

    def write(self, ptr: int, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` to ``ptr``."""
        n = len(data)
        ptr = self.check(ptr, n)
        self.buffer[ptr : ptr + n] = data

    def iovecs(self, ptr: int, count: int, max_count: int, max_bytes: int) -> list[memoryview]:
        """Return views of a scatter or gather list, cut after ``max_bytes`` in all; empty ones are left out.

        Raises:
            WasiError: ``INVAL`` for more than ``max_count`` entries, ``FAULT`` for one outside the memory.
        """
        count &= _U32_MASK
        if count == 1:
            at = self.check(ptr, 8)
            start, n = IOVEC.unpack_from(self.buffer, at)
            n = min(n, max_bytes)
            self.check(start, n)
            return [self.buffer[start : start + n]] if n else []
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

    def read_u16(self, ptr: int) -> int:
        """Return the 16-bit number at ``ptr``."""
        value: int = _U16.unpack_from(self.buffer, self.check(ptr, 2))[0]
        return value

    def read_u32(self, ptr: int) -> int:
        """Return the 32-bit number at ``ptr``."""
        value: int = _U32.unpack_from(self.buffer, self.check(ptr, 4))[0]
        return value

    def read_u64(self, ptr: int) -> int:
        """Return the 64-bit number at ``ptr``."""
        value: int = _U64.unpack_from(self.buffer, self.check(ptr, 8))[0]
        return value

    def write_u8(self, ptr: int, value: int) -> None:
        """Store the low 8 bits of ``value`` at ``ptr``."""
        _U8.pack_into(self.buffer, self.check(ptr, 1), value & 0xFF)

    def write_u16(self, ptr: int, value: int) -> None:
        """Store the low 16 bits of ``value`` at ``ptr``."""
        _U16.pack_into(self.buffer, self.check(ptr, 2), value & 0xFFFF)

    def write_u32(self, ptr: int, value: int) -> None:
        """Store the low 32 bits of ``value`` at ``ptr``."""
        _U32.pack_into(self.buffer, self.check(ptr, 4), value & _U32_MASK)

    def write_u64(self, ptr: int, value: int) -> None:
        """Store the low 64 bits of ``value`` at ``ptr``."""
        _U64.pack_into(self.buffer, self.check(ptr, 8), value & _U64_MASK)
