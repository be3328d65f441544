"""Fairness of the interpreter's lock: how guest threads yield the GIL to the event loop in time.

What makes an event loop wait, each measured:

* CPython's GIL is not fair to who waits for it. A thread that releases it and takes it again at once, as one does that
  comes back from a host call and makes the next, has it before another has woken up. A guest whose host calls were long
  and close together (60 kB of output, again and again) kept an event loop waiting for 1.1 s. So a thread that has held
  the GIL for a while sleeps for as long as others take to wake up; ``sleep(0)`` does not help, as it does not wait.
* A waiter may insist on the GIL only when its switch interval (5 ms) has passed, and the interval begins anew whenever
  the GIL changes hands. Among five threads that all want it, the loop has its turn by chance: with four guests that
  read holes of files or moved deep trees, it waited for 70 to 295 ms, although each of them slept now and then. So one
  guest thread at a time does long Python work against the loop: the one that has the *baton*.
* One operation in C is not interrupted: a copy of 250 MB holds the GIL for 160 ms. So large blocks are copied in
  pieces.

The baton is taken at a thread's first yield point, when it has held the GIL for long, and given up for a moment at
each further one, where another takes it. Shorter work knows nothing of it. Host calls that are long and close together
are one long work, so it is kept from one to the next. It is given up when a turn ends or stands aside, before an export
of the guest's is called, and before a guest thread blocks or calls the program's code. That is for speed only; no
deadlock can come of it, because it is a lease: whoever finds the same holder for longer than ``_LEASE_S`` puts a new
baton in its place. So nothing is lost if its holder blocks, on whatever lock, or computes, or ends.

A lock that the event loop may want, such as that of a tree in memory, is not held at a yield point.
"""

from __future__ import annotations

__all__ = [
    "LONG_CALL_S",
    "PIECE_BYTES",
    "Host",
    "baton",
    "copy_in_pieces",
    "current",
    "host_call_took",
    "in_pieces",
    "join_in_pieces",
    "note_gil_released",
    "pause",
    "yield_gil",
]

import io
import threading
from contextlib import contextmanager
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

LONG_CALL_S: Final = 0.00005
"""Host calls that are shorter leave others enough room: the guest computes in between, without the GIL."""
PIECE_BYTES: Final = 1 << 20
"""Bytes copied between two yield points, or under a lock that is shared with the event loop: some tenths of a ms."""
_HOLD_S: Final = 0.002
"""For how long the GIL may be held, all in all, before others get it; less than half the interpreter's own interval."""
_SLEEP_S: Final = 0.0001
"""Long enough for a thread to wake up and take the GIL; it then has it until it waits or was asked for it."""
_LEASE_S: Final = 0.01
"""For how long the baton is its holder's, who gives it up every ``_HOLD_S`` as long as it works; a guess."""


class Host(Protocol):
    """What a linker needs of the instance that is running: its host functions, and a place for their exception."""

    handlers: Sequence[Callable[..., Any]]
    fault: BaseException | None

    def check_interrupt(self) -> None:
        """Raise if the guest is being stopped."""
        ...


class _Thread(threading.local):
    """What a thread knows of itself. No lock, because nobody else looks at it.

    Attributes:
        host: the instance that runs on this thread. A linker's callbacks are shared by all instances, and the C side
            does not say which one calls.
        in_pieces: see :func:`in_pieces`.
        held_s: for how long it has held the GIL in long host calls since others had it.
        released_at: when others last had it.
        baton: the lock that it holds as the baton, maybe one that was replaced since.
    """

    host: Host | None = None
    in_pieces = False
    held_s = 0.0
    released_at = 0.0
    baton: threading.Lock | None = None


current: Final = _Thread()


class _Baton:
    """The right to do long Python work; one for the process, tests make their own.

    Attributes:
        lock: held by who has it. Replaced when its holder's lease is over, so that it never has to come back. Written
            by any guest thread, in one operation; two that replace it at once make two holders for a moment.
        taken_at: when it was last taken.
        is_taken: whether somebody has it; may be wrong for a moment, and only saves others a call.
    """

    __slots__ = ("is_taken", "lock", "taken_at")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.taken_at = 0.0
        self.is_taken = False

    def take(self, check: Callable[[], object] | None) -> None:
        """Wait for the baton, without the GIL; ``check`` is called now and then, and may raise."""
        while True:
            lock = self.lock
            if lock.acquire(timeout=_LEASE_S):
                if lock is self.lock:
                    break
                lock.release()  # it was replaced meanwhile: others that wait for this one find out sooner
                continue
            if check is not None:
                check()
            if perf_counter() - self.taken_at > _LEASE_S and lock is self.lock:
                self.lock = threading.Lock()
        self.taken_at = perf_counter()
        self.is_taken = True
        current.baton = lock

    def give_up(self) -> None:
        """Give the baton up if the calling thread has it."""
        lock = current.baton
        if lock is not None:
            current.baton = None
            if lock is self.lock:
                self.is_taken = False
            lock.release()


baton: Final = _Baton()


def note_gil_released() -> None:
    """Note that the calling thread has just waited without the GIL, so that others could have it."""
    current.held_s = 0.0
    current.released_at = perf_counter()


def yield_gil(check: Callable[[], object] | None = None) -> bool:
    """Let others have the GIL if the calling guest thread has not released it for long; for the middle of long work.

    Args:
        check: called while the thread waits; may raise to end the work.

    Returns:
        whether others had it.
    """
    thread = current
    # An event loop's own thread, which does the same work for the program, is to go on: it would only wait for itself.
    if perf_counter() - thread.released_at > _HOLD_S and (thread.host is not None or thread.in_pieces):
        _let_others(check)
        return True
    return False


def pause() -> None:
    """Let others have the GIL, as :func:`yield_gil` does, and end the work if its guest is being stopped.

    Raises:
        StoreInterrupted: it is being stopped; whatever the work has changed must be in order.
    """
    thread = current
    if perf_counter() - thread.released_at > _HOLD_S:
        host = thread.host
        if host is not None:
            host.check_interrupt()
            _let_others(host.check_interrupt)
            host.check_interrupt()
        elif thread.in_pieces:
            _let_others(None)


def host_call_took(began: float, ended: float) -> None:
    """Let others have the GIL if long host calls, of which this was one, have held it for long.

    Raises:
        StoreInterrupted: the guest is being stopped.
    """
    thread = current
    # Less what came before a pause inside this very call, in which others had it.
    thread.held_s += ended - max(began, thread.released_at)
    if thread.held_s <= _HOLD_S:
        return
    # Calls that are close together are long work too, and as such the next ones need the baton.
    if thread.host is not None and ended - thread.released_at < 2 * _HOLD_S:
        _let_others(thread.host.check_interrupt)
        return
    baton.give_up()
    sleep(_SLEEP_S)
    note_gil_released()


def _let_others(check: Callable[[], object] | None) -> None:
    # Sleeps with the baton: who takes it next would be before the loop, which has to wake up.
    sleep(_SLEEP_S)
    baton.give_up()
    baton.take(check)
    note_gil_released()


@contextmanager
def in_pieces() -> Generator[None]:
    """Yield at yield points in this block, although no guest runs on the calling thread; for work of no event loop."""
    before, current.in_pieces = current.in_pieces, True
    try:
        yield
    finally:
        current.in_pieces = before
        baton.give_up()


def copy_in_pieces(data: memoryview, pause: Callable[[], object] = pause) -> bytes:
    """Return a copy of bytes; ``pause`` is called between pieces, and may raise."""
    return data.tobytes() if len(data) <= PIECE_BYTES else join_in_pieces((data,), pause)


def join_in_pieces(parts: Iterable[bytes | memoryview], pause: Callable[[], object] = pause) -> bytes:
    """Return the parts in one; ``pause`` is called between pieces, and may raise.

    ``b"".join`` gives the GIL up by itself for as many bytes, if all parts are ``bytes``.
    """
    # Grown by reallocation, which for large blocks moves pages and copies nothing; and `getvalue` gives the block away.
    copy = io.BytesIO()
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), PIECE_BYTES):
            copy.write(view[start : start + PIECE_BYTES])
            pause()
    return copy.getvalue()
