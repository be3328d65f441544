"""Keep full garbage collections out of the decoding of a long value.

CPython collects everything whenever the number of containers has grown by a quarter, and holds the interpreter's lock
while it does: 16 MiB of empty lists, decoded in pieces of 20 ms, stood still for 300 ms at a time, and took three times
as long. What is being decoded has no cycles, so nothing is lost by waiting until it is there.
"""

from __future__ import annotations

__all__ = ["no_full_collections"]

import gc
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

_NEVER: Final = 2**31 - 1

_lock = Lock()
_users = 0
_threshold = 0


@contextmanager
def no_full_collections() -> Generator[None, None, None]:
    """Collect only young objects for a while, in the whole process; the last one to leave restores the threshold."""
    global _users, _threshold  # noqa: PLW0603 - the collector is the process's, and so is this
    with _lock:
        young, middle, old = gc.get_threshold()
        if not _users and old != _NEVER:
            _threshold = old
            gc.set_threshold(young, middle, _NEVER)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            young, middle, old = gc.get_threshold()
            if not _users and old == _NEVER:  # unless the program has set another one meanwhile
                gc.set_threshold(young, middle, _threshold)
