"""Keep the interpreter from standing still over a large value: put full collections off, and let go in pieces.

CPython collects everything whenever the number of containers has grown by a quarter, and holds the interpreter's lock
while it does: 16 MiB of empty lists, decoded in pieces of 20 ms, stood still for 300 ms at a time, and took three times
as long. What is being decoded has no cycles, so nothing is lost by waiting until it is there.

The collector is the whole process's. Guests that take turns at decoding could keep full collections off for ever, and
with them the program's own cycles; so after `LONGEST_S` of that, however many they are, one is let through.
"""

from __future__ import annotations

__all__ = ["LONGEST_S", "FullCollections", "let_go"]

import gc
import time
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

LONGEST_S: Final = 1.0
"""How long full collections may be put off in all before one is let through, and how long that one has to come."""

_NEVER: Final = 2**31 - 1
_PIECE: Final = 1024

# Untyped, because narrowing Any to "list of unknowns" helps nobody.
_LIST: Final = cast("type[Any]", list)
_DICT: Final = cast("type[Any]", dict)

_lock = Lock()
_users = 0
_threshold = 0
_put_off_at = 0.0
_spent_s = 0.0
_seen = 0


class FullCollections:
    """While one is open, only young objects are collected, in the whole process, for `LONGEST_S` at a stretch."""

    def __enter__(self) -> Self:
        global _users  # noqa: PLW0603 - the collector is the process's, and so is this
        with _lock:
            _users += 1
            _put_off()
        return self

    def look(self) -> None:
        """Let them be, or put them off again, if it is time to."""
        with _lock:
            _put_off()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _users  # noqa: PLW0603
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
    """Empty a large value that nobody else has: freed in one go, its containers would hold the interpreter."""
    left: list[Any] = [value]
    freed = 0
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
            continue
        left.extend([item for item in some if item and isinstance(item, (_LIST, _DICT))])
        freed += len(some)
        if freed >= _PIECE:
            freed = 0
            time.sleep(0)
