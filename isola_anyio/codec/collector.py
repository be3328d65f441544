"""Keep the interpreter from standing still over a large value: put full collections off, and let it go in pieces.

CPython collects everything whenever the number of containers has grown by a quarter, and holds the interpreter's lock
while it does: 16 MiB of empty lists, decoded in pieces of 20 ms, stood still for 300 ms at a time, and took three times
as long. What is being decoded has no cycles, so nothing is lost by waiting until it is there.

The collector is the whole process's. Guests that decode one over the other could keep full collections off for ever,
and what the program's own cycles hold; so after `LONGEST_S` of that, however many they are, one is let through before
the next begins. One that is under way is spared, for then its value is what would be looked through, to no avail.
"""

from __future__ import annotations

__all__ = ["LONGEST_S", "let_go", "no_full_collections"]

import gc
import time
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, cast

from isola_anyio.codec.pieces import is_small

if TYPE_CHECKING:
    from collections.abc import Generator

LONGEST_S: Final = 1.0
"""How long full collections may be put off in all before one is let through, and how long that one has to come."""

_NEVER: Final = 2**31 - 1
_PIECE: Final = 256

# Untyped, because narrowing Any to "list of unknowns" helps nobody.
_LIST: Final = cast("type[Any]", list)
_DICT: Final = cast("type[Any]", dict)

_lock = Lock()
_users = 0
_threshold = 0
_put_off_at = 0.0
_spent_s = 0.0
_seen = 0


@contextmanager
def no_full_collections() -> Generator[None, None, None]:
    """Collect only young objects for a while, in the whole process, unless that was so for `LONGEST_S` already."""
    global _users  # noqa: PLW0603 - the collector is the process's, and so is this
    with _lock:
        _users += 1
        _put_off()
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _restore()


def _put_off() -> None:
    """Put full collections off if that may be, else stop it."""
    global _threshold, _put_off_at, _spent_s, _seen
    now = time.monotonic()
    young, middle, old = gc.get_threshold()
    collections = gc.get_stats()[-1]["collections"]
    if collections != _seen or (old != _NEVER and now - _put_off_at >= 2 * LONGEST_S):
        _seen, _spent_s = collections, 0.0
    if old == _NEVER:
        if _spent_s + now - _put_off_at >= LONGEST_S:
            _restore()
    elif _spent_s < LONGEST_S:
        _threshold, _put_off_at = old, now
        gc.set_threshold(young, middle, _NEVER)


def _restore() -> None:
    global _spent_s  # noqa: PLW0603
    young, middle, old = gc.get_threshold()
    if old == _NEVER:  # unless the program has set another one meanwhile
        _spent_s += time.monotonic() - _put_off_at
        gc.set_threshold(young, middle, _threshold)


def let_go(value: Any) -> None:
    """Empty a large value that nobody else has: freed in one go, its containers would hold the interpreter.

    Between two pieces the interpreter is given away to whoever has waited for it.
    """
    left: list[Any] = [value]
    while left:
        found = left[-1]
        some: list[Any]
        if isinstance(found, _LIST):
            some = found[-_PIECE:]
            del found[-_PIECE:]
        elif isinstance(found, _DICT):
            some = [found.popitem()[1] for _ in range(min(len(found), _PIECE))]
        else:
            some = []
        if not some:
            left.pop()
        elif any(some) and not is_small(some):
            left.extend([item for item in some if item and isinstance(item, (_LIST, _DICT))])
