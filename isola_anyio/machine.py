"""One forked guest: its instance, its message port and its operating system.

Joins the engine's side (instance, WASI) with whoever talks to the guest: the :class:`~isola_anyio.guests.Conversation`
that each delivery carries. Everything here happens on the guest's thread during a turn, or in the sandbox's event loop
between turns.
"""

from __future__ import annotations

__all__ = ["GuestMachine"]

import random
import secrets
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from isola_anyio import codec
from isola_anyio.engine.instance import Instance
from isola_anyio.guests import protocol
from isola_anyio.guests.protocol import FRAME_OVERHEAD_BYTES, ToGuest
from isola_anyio.guests.silence import SILENCE
from isola_anyio.wasi.system import System

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from isola_anyio.engine import ffi
    from isola_anyio.engine.image import Image
    from isola_anyio.engine.threads import ThreadPool
    from isola_anyio.guests import Conversation, Driver
    from isola_anyio.limits import Limits
    from isola_anyio.wasi.clock import Clock
    from isola_anyio.wasi.files.filesystem import FileSystem
    from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage

_LARGE_MEMORY_BYTES: Final = 96 << 20
"""Giving more memory than this back to the kernel takes milliseconds."""
_LARGE_FILES_BYTES: Final = 4 << 20
"""What is charged for 8,000 files: freeing them takes milliseconds."""
NO_FUEL_LIMIT: Final = (1 << 63) - 1
"""Fuel of a metered guest without a budget: what a store can have at most."""


class _Stdio:
    """Standard input at its end; output goes to whoever the guest talks to. Implements the operating system's."""

    def __init__(self, machine: GuestMachine) -> None:
        self._machine = machine

    def read(self, n: int) -> bytes:  # noqa: ARG002 - the interface
        """Stdin is at its end."""
        return b""

    def write(self, fd: int, chunks: Sequence[memoryview]) -> int:
        """Hand over what the guest writes; may block for room."""
        self._machine.conversation.write(fd, chunks)
        return sum(map(len, chunks))


class GuestMachine:
    """A forked guest. Close it when no turn is under way.

    Attributes:
        conversation: whom the guest talks to. Written before a turn begins, by whoever delivers its message.
        fresh: the fork has not got its own environment and randomness yet: see :meth:`prepare`.
        metered: the guest's code counts fuel.
        abandoned: the guest did not unwind, or its runtime was tampered with: it is not entered again. Set on either
            side, never taken back.
    """

    def __init__(
        self,
        driver: Driver,
        program: ffi.Program,
        *,
        pool: ThreadPool,
        limits: Limits,
        files: FileSystem,
        file_limits: FileLimits,
        clock: Clock,
        image: Image | None = None,
        env: Mapping[str, str] | None = None,
        boot_env: Mapping[str, str] | None = None,
        seed: bytes | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.driver = driver
        self.pool = pool
        self.limits = limits
        self.conversation: Conversation = SILENCE
        self.fresh = True
        self.metered = program.engine.metered
        self.abandoned = False
        self.files = files
        self.owns_files = True
        self._env = dict(env or {})
        self._seed = seed
        self._on_close = on_close
        self.instance = Instance(program, pool=pool, max_memory=limits.max_memory, image=image)
        self.store = self.instance.store
        # Files in memory and linear memory share one budget: see `_fits`.
        file_limits = replace(file_limits, charge=partial(_fits, self.instance, files.usage))
        files.usage.limits = file_limits
        try:
            self.system = System(
                memory=self.instance.memory,
                files=files,
                stdio=_Stdio(self),
                clock=clock,
                random=_random_source(seed),
                sleep=self._sleep,
                limits=file_limits,
                args=(b"python",),
                environ=dict(boot_env or {}),
            )
            self.port = driver.attach(self.instance, self.system, max_frame=limits.max_payload + FRAME_OVERHEAD_BYTES)
        except BaseException:
            self.instance.close()
            raise

    @property
    def broken(self) -> bool:
        """Whether this guest can run nothing more."""
        return self.abandoned or self.store.dead

    @property
    def memory_size(self) -> int:
        """Bytes of linear memory held."""
        return self.store.memory_size()

    @property
    def takes_long_to_free(self) -> bool:
        """Whether closing this holds up an event loop, so that it is better done on a guest thread."""
        return self.memory_size > _LARGE_MEMORY_BYTES or self.files.usage.memory_bytes > _LARGE_FILES_BYTES

    def deliver(self, frame: bytes, conversation: Conversation) -> None:
        """Run one turn with a message, on the guest's thread, inside ``Instance.enter``; as ``Port.deliver``."""
        self.conversation = conversation
        self.port.deliver(frame, conversation)

    def prepare(self) -> None:
        """Before a run's first message, on the guest's thread: a fork gets what is its own, a metered one its fuel."""
        if self.fresh:
            self._set_up()
            self.fresh = False  # not before: a guest without its own randomness must not run
        if self.metered:
            fuel = self.limits.max_fuel
            self.store.set_fuel(NO_FUEL_LIMIT if fuel is None else fuel)

    def _set_up(self) -> None:
        """Give the fork its own environment, randomness and limits."""
        seed = secrets.token_bytes(32) if self._seed is None else self._seed
        options = {"env": self._env, "seed": seed.hex(), "max_payload": self.limits.max_payload}
        self.port.reseed(seed)
        message = protocol.message(ToGuest.SETUP, 0, codec.encode(options, dialect=self.driver.dialect))
        self.deliver(message, self.conversation)

    def fuel_used(self) -> int | None:
        """Fuel used since :meth:`prepare`; ``None`` for a guest that counts none."""
        if not self.metered:
            return None
        budget = self.limits.max_fuel
        return (NO_FUEL_LIMIT if budget is None else budget) - self.store.fuel()

    def _sleep(self, seconds: float | None) -> None:
        """Put the guest's thread to sleep, as plain code asked of the operating system."""
        self.conversation.sleep(seconds)

    def close(self) -> None:
        """Free memory and files, and say so, whatever freeing one of them raises. A second call does nothing."""
        on_close, self._on_close = self._on_close, None
        with ExitStack() as last_first:
            if on_close is not None:
                last_first.callback(on_close)
            if self.owns_files:
                last_first.callback(self.files.close)
            self.instance.close()


def _fits(instance: Instance, usage: FileUsage, delta_bytes: int) -> bool:
    """Whether in-memory files may grow: together with linear memory they stay within ``max_memory``.

    What they take, linear memory may no longer grow into.
    """
    held_bytes = usage.memory_bytes + delta_bytes
    if delta_bytes > 0 and instance.store.memory_size() + held_bytes > instance.max_memory:
        return False
    instance.store.limit_memory(instance.max_memory - held_bytes)
    return True


def _random_source(seed: bytes | None) -> Callable[[int], bytes]:
    """What ``random_get`` answers with: the operating system's randomness, or a repeatable stream."""
    if seed is None:
        return secrets.token_bytes
    return random.Random(seed).randbytes  # noqa: S311 - repeatable is what was asked for
