"""One sandbox's guest: the instance, its message port, its operating system, and the run it is busy with.

Joins the engine's side (instance, WASI) with the run's. Everything here happens on the guest's thread during a turn,
or in the sandbox's event loop between turns.
"""

from __future__ import annotations

__all__ = ["Guest", "TextOutput"]

import codecs
import random
import secrets
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from isola_anyio import codec
from isola_anyio.engine.instance import Instance
from isola_anyio.events import StderrEvent, StdoutEvent
from isola_anyio.guests import protocol
from isola_anyio.guests.protocol import FRAME_OVERHEAD_BYTES, TEXT_PIECE_BYTES, ProtocolError, ToGuest, ToHost
from isola_anyio.limits import Usage
from isola_anyio.wasi.errno import Errno, WasiError
from isola_anyio.wasi.system import System

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from isola_anyio.engine import ffi
    from isola_anyio.engine.image import Image
    from isola_anyio.engine.threads import ThreadPool
    from isola_anyio.guests import Driver
    from isola_anyio.limits import Limits
    from isola_anyio.run.turns import Turns
    from isola_anyio.wasi.clock import Clock
    from isola_anyio.wasi.files.filesystem import FileSystem
    from isola_anyio.wasi.volumes.budgets import FileLimits, FileUsage

_STDOUT: Final = 1
_REHEARSED: Final = {"__rehearse_now__": b"\0null", "__rehearse_later__": b""}
"""What a guest's rehearsal before its image is taken asks for: an answer at once, and one that comes later."""
_HEAD_BYTES: Final = protocol.HEAD.size


class TextOutput:
    """stdout and stderr of one guest, as text: characters are never split between two events.

    Implements the operating system's ``Stdio``.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._decoders = {fd: codecs.getincrementaldecoder("utf-8")("replace") for fd in (1, 2)}

    def read(self, n: int) -> bytes:  # noqa: ARG002 - the interface
        """Stdin is at its end."""
        return b""

    def write(self, fd: int, chunks: Sequence[memoryview]) -> int:
        """Take what the guest writes; stands still while the consumer has no room."""
        run = self._guest.run
        if run is None:
            data = b"".join(chunks)
            self._guest.build_output(fd, data)
            return len(data)
        size = sum(map(len, chunks))
        run.count_output(size)  # before anything is copied
        if size <= TEXT_PIECE_BYTES:
            self._say(run, fd, b"".join(chunks))
            return size
        for chunk in chunks:
            for start in range(0, len(chunk), TEXT_PIECE_BYTES):
                self._say(run, fd, bytes(chunk[start : start + TEXT_PIECE_BYTES]))
        return size

    def _say(self, run: Turns, fd: int, data: bytes) -> None:
        text = self._decoders[fd].decode(data)
        if text:
            event = StdoutEvent(data=text) if fd == _STDOUT else StderrEvent(data=text)
            if not run.emit(event, len(data)):
                raise WasiError(Errno.CANCELED)

    def flush(self, run: Turns) -> None:
        """At the end of a run: an unfinished character is shown as U+FFFD, and does not reach into the next run."""
        for fd, decoder in self._decoders.items():
            text = decoder.decode(b"", final=True)
            decoder.reset()
            if text:
                run.emit_last(StdoutEvent(data=text) if fd == _STDOUT else StderrEvent(data=text))


class Guest:
    """A forked guest. Close it when no run is under way.

    Attributes:
        run: the run under way, ``None`` between runs.
        abandoned: the guest did not unwind, or its runtime was tampered with: it is not entered again.
        usage: of the last run, with the total.
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
        self.run: Turns | None = None
        self.abandoned = False
        self.usage = Usage(total=Usage())
        self.files = files
        self._env = dict(env or {})
        self._seed = seed
        self.owns_files = True
        self._on_close = on_close
        self._is_set_up = False
        self.instance = Instance(program, pool=pool, max_memory=limits.max_memory, image=image)
        # Files in memory and linear memory share one budget: see `_fits`.
        file_limits = replace(file_limits, charge=partial(_fits, self.instance, files.usage))
        files.usage.limits = file_limits
        try:
            self._output = TextOutput(self)
            self.system = System(
                memory=self.instance.memory,
                files=files,
                stdio=self._output,
                clock=clock,
                random=_random_source(seed),
                sleep=self._sleep,
                limits=file_limits,
                args=(b"python",),
                environ=dict(boot_env or {}),
            )
            self.port = driver.attach(
                self.instance, self.system, self._answer, max_frame=limits.max_payload + FRAME_OVERHEAD_BYTES
            )
        except BaseException:
            self.instance.close()
            raise
        self._metered = program.engine.metered
        self.build_output: Callable[[int, bytes], None] = lambda fd, data: None  # noqa: ARG005 - output between runs
        self._reply: bytes | None = None

    @property
    def broken(self) -> bool:
        """Whether this guest can run nothing more."""
        return self.abandoned or self.instance.dead

    @property
    def memory_size(self) -> int:
        """Bytes of linear memory held."""
        return self.instance.store.memory_size()

    def prepare(self, run: Turns) -> None:
        """Make ``run`` the one under way, before its message is delivered; the first time, set the fork up."""
        if not self._is_set_up:
            self.set_up()
            self._is_set_up = True  # not before: a guest without its own randomness must not run
        if self.run is not run:
            self.run = run
            if self.limits.max_fuel is not None:
                self.instance.store.set_fuel(self.limits.max_fuel)
            elif self._metered:
                self.instance.store.set_fuel((1 << 63) - 1)

    def set_up(self) -> None:
        """Give the fork its own environment, randomness and limits."""
        seed = secrets.token_bytes(32) if self._seed is None else self._seed
        options = {"env": self._env, "seed": seed.hex(), "max_payload": self.limits.max_payload}
        self.port.deliver(protocol.message(ToGuest.SETUP, 0, codec.encode(options, dialect=self.driver.dialect)))

    def finish_run(self, run: Turns) -> None:
        """The run has ended: what it used is added up."""
        if self.run is not run:
            return
        if not self.broken:
            self._output.flush(run)
        self.run = None
        fuel = None
        if self._metered:
            budget = (1 << 63) - 1 if self.limits.max_fuel is None else self.limits.max_fuel
            fuel = budget - self.instance.store.fuel()
        used = run.usage(fuel, self.memory_size)
        total = (self.usage.total or Usage()).plus(used)
        self.usage = Usage(**{name: getattr(used, name) for name in Usage.__slots__ if name != "total"}, total=total)

    def build_call(self, call: ToGuest, body: bytes) -> bytes | None:
        """Deliver a message of the template's build, outside any run; return FAIL's body, ``None`` for success."""
        self._reply = None
        self.port.deliver(protocol.message(call, 0, body))
        return self._reply

    def _answer(self, untrusted_frame: bytes) -> bytes:
        """Answer the door."""
        if len(untrusted_frame) < _HEAD_BYTES:
            raise ProtocolError(f"a frame of {len(untrusted_frame)} bytes")
        kind, number = protocol.HEAD.unpack_from(untrusted_frame)
        body = memoryview(untrusted_frame)[_HEAD_BYTES:]
        run = self.run
        if run is not None:
            return run.answer(kind, number, body)
        return self._answer_build(kind, body)

    def _answer_build(self, kind: int, untrusted_body: memoryview) -> bytes:
        """Answer the door outside runs: the prelude may wait for timers, nothing else."""
        if kind == ToHost.FAIL:
            self._reply = bytes(untrusted_body)
            return b""
        if kind == ToHost.WAIT:
            delay, _ = protocol.split_park(untrusted_body)
            self.instance.sleep(delay)
            return b"\0"
        if kind in (ToHost.LOG, ToHost.EMIT):
            return b"\1"
        if kind == ToHost.HOSTCALL:
            name, _ = protocol.split_hostcall(untrusted_body)
            if name in _REHEARSED:
                return _REHEARSED[name]
            text = "hostcalls are not available while a template is built"
            return b"\1" + codec.encode({"name": "", "type": "LookupError", "message": text})
        if kind in (ToHost.DONE, ToHost.PARK, ToHost.DROP, ToHost.STOP):
            return b""
        raise ProtocolError(f"door call {kind:#x} outside a run")

    def _sleep(self, seconds: float | None) -> None:
        """Put the guest's thread to sleep, as plain code asked."""
        if self.run is None:
            self.instance.sleep(seconds)
        else:
            self.run.sleep(seconds)

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
