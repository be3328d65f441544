"""Garbage: full collections put off while a large value is under way, and a large value freed in pieces.

CPython collects everything whenever the number of containers has grown by a quarter, and holds the interpreter's lock
while it does: 16 MiB of empty lists, decoded in parts of 20 ms, stood still for 300 ms at a time, and took three times
as long. What is being decoded has no cycles, so nothing is lost by waiting until it is there, nor by waiting on until
the library has let it go.

**State, and a side effect on the whole program.** The collector is the process's. While a large value is encoded or
decoded on any thread, is a hostcall's payload, or is being let go, ``gc``'s third threshold is out of reach, and then
what it was. A threshold that the program sets meanwhile stays. Guests that send one value over the other could keep
full collections off for ever, and with them what the program's own cycles hold. So after `LONGEST_S` of that, however
many values they are, everything is collected before the next value begins, when the last one is gone as a rule. Should
there never be such a moment, it is done all the same, or let through, after twice that.
"""

from __future__ import annotations

__all__ = ["LONGEST_S", "FullCollections", "full_collections", "is_alone", "let_go", "no_full_collections"]

import gc
import os
import sys
import time
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, cast

from isola_anyio.codec.chunked.writer import is_small
from isola_anyio.fairness import yield_gil

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

LONGEST_S: Final = 5.0
"""How long full collections may be put off in all before there is one."""

_NEVER: Final = 2**31 - 1
_PIECE: Final = 256

_CONTAINERS: Final[frozenset[object]] = frozenset({list, dict, tuple})
_WITH_PLAIN_TRUTH: Final = _CONTAINERS | {str, int, float, bool, bytes, type(None)}
"""Types whose truth may be asked: a stranger's may do anything."""


class FullCollections:
    """Who puts full collections off, and for how long already; one object for a process, tests make their own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        # All below are written under the lock, on any thread.
        self._users = 0
        self._threshold = 0  # the program's own, while ours stands in its place
        self._put_off_at = 0.0
        self._spent_s = 0.0  # put off for so long since the last full collection
        self._seen: int = 0  # full collections there had been when `_spent_s` was last set to zero

    @contextmanager
    def put_off(self, *, is_due: bool = True) -> Generator[None, None, None]:
        """Collect only young objects for a while; see :meth:`begin`."""
        self.begin(is_due=is_due)
        try:
            yield
        finally:
            self.end()

    def begin(self, *, is_due: bool = True) -> None:
        """Collect only young objects until :meth:`end`; everything first, if that was put off for long already.

        Not with ``is_due=False``, where the large value is there already: to be encoded, or to be let go.
        """
        with self._lock:
            self._users += 1
            now = self._clock()
            young, middle, old = gc.get_threshold()
            is_put_off = old == _NEVER
            self._count_anew_after_collection(now)
            spent = self._spent_s + (now - self._put_off_at if is_put_off else 0.0)
            is_due = is_due and spent >= (LONGEST_S if self._users == 1 else 2 * LONGEST_S)
            if is_due:
                self._spent_s, self._put_off_at = 0.0, now
            # Too long already, and none is made here: one has to come through first, however close the users follow.
            elif not is_put_off and spent >= 2 * LONGEST_S:
                return
            if not is_put_off:
                self._threshold, self._put_off_at = old, now
                gc.set_threshold(young, middle, _NEVER)
                gc.callbacks.append(self._on_collection)
        # Without the lock: what is collected may run anything. A program that has switched collections off has none.
        if is_due and gc.isenabled():
            gc.collect()

    def end(self) -> None:
        """Let full collections through again, unless there is another who puts them off."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._restore()

    def _count_anew_after_collection(self, now: float) -> None:
        collections: int = gc.get_stats()[-1]["collections"]
        if collections != self._seen:
            self._seen = collections
            self._spent_s, self._put_off_at = 0.0, now

    def _restore(self) -> None:
        young, middle, old = gc.get_threshold()
        with suppress(ValueError):
            gc.callbacks.remove(self._on_collection)
        if old == _NEVER:  # unless the program has set another one meanwhile
            self._spent_s += self._clock() - self._put_off_at
            gc.set_threshold(young, middle, self._threshold)

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        """After a collection of young objects: do not put full ones off for longer than twice `LONGEST_S`."""
        # On any thread, at any moment, maybe in the middle of a method above: the lock is not waited for.
        if phase == "stop" and info["generation"] and self._lock.acquire(blocking=False):
            try:
                if self._clock() - self._put_off_at >= 2 * LONGEST_S:
                    self._restore()
            finally:
                self._lock.release()

    def _begin_anew(self) -> None:
        """In a child of ``os.fork``, where nobody is under way: give the program's threshold back."""
        self._lock = Lock()  # another thread of the parent's may have held it
        self._users = 0
        self._restore()


full_collections: Final = FullCollections()
"""Of the process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=full_collections._begin_anew)  # noqa: SLF001 - same module

no_full_collections: Final = full_collections.put_off
"""A context in which full collections are put off, in the whole process; see `FullCollections.put_off`."""


def _references(held: list[Any]) -> int:
    """Return how many references there are to the last item of ``held``, the call's own included."""
    return sys.getrefcount(held[-1])


_ALONE: Final = _references([[]])
"""What `_references` returns where the list has the only one; what the call's own add differs between interpreters."""


def is_alone(held: list[Any]) -> bool:
    """Whether nobody but ``held`` refers to the one item of it."""
    return _references(held) <= _ALONE


def let_go(held: list[Any], pause: Callable[[], object], *, owned: bool = False) -> None:
    """Empty ``held``: what nobody else refers to is freed in pieces, everything else is left as it is.

    Freed in one go, the containers of a large value would hold the interpreter's lock for a tenth of a second and more.
    The caller has no other reference to the items; a local variable is one. Whatever else the program refers to, the
    value as a whole or a part of it, keeps what is in it: containers are emptied only where the reference here is the
    last one.

    Args:
        held: a list of values, which is the caller's own.
        pause: called every few hundred items, to let other threads run. What it raises is left to whoever calls it
            next: here it is only not called any more, and the interpreter's lock alone is given up.
        owned: every container in it was made by the caller, and may be emptied whatever else refers to it: frames of
            an exception that is on its way, perhaps.
    """
    while held:
        if not owned and _references(held) > _ALONE:
            held.pop()
            continue
        found = held[-1]
        kind = cast("Any", type(found))  # exactly these: a subclass may do anything when it is asked for its items
        some: list[Any]
        if kind is list:
            some = found[-_PIECE:]
            del found[-_PIECE:]
        elif kind is dict:
            some = [found.popitem()[1] for _ in range(min(len(found), _PIECE))]
        elif kind is tuple:
            held[-1:] = [list(found)]  # in its place: a list can be emptied
            del found
            continue
        else:
            some = []
        if not some:
            held.pop()
        elif _may_hold_much(some):
            held += [item for item in some if type(item) in _CONTAINERS and item]
        # What is dropped here is freed here: the piece, less what is still to be taken apart.
        found = some = None  # type: ignore[assignment]
        try:
            pause()
        except BaseException:  # noqa: BLE001 - the reason stays, and this is work that has to be done
            pause = yield_gil


def _may_hold_much(some: list[Any]) -> bool:
    """Whether there may be containers among a few items that are better taken apart than freed in one go."""
    kinds: set[object] = set(map(type, some))
    if not kinds & _CONTAINERS or (kinds <= _WITH_PLAIN_TRUTH and not any(some)):
        return False
    return not is_small(some)
