"""The kinds of guests: what the host code needs to know of each, behind one small interface.

A *driver* knows one kind of guest: its host functions, how a fresh instance becomes a warm interpreter, and how
messages get in and out. Everything else (runs, events, hostcalls, cancellation, files, images) is shared.
"""

from __future__ import annotations

__all__ = ["Conversation", "Driver", "Port"]

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from isola_anyio.cache import Cache
    from isola_anyio.codec import Dialect
    from isola_anyio.engine.instance import Instance
    from isola_anyio.runtimes.resolve import RuntimeBundle
    from isola_anyio.wasi.system import System


class Conversation(Protocol):
    """Whom a guest talks to while it has its turn: a run, or the build of a template.

    Called on the guest's thread only, inside the turn that ``Port.deliver`` runs. An exception stops the guest, and
    comes out of ``deliver``.
    """

    def answer(self, kind: int, number: int, untrusted_body: memoryview, /) -> bytes:
        """Answer a door call: its kind, the number in its head, and what follows."""
        ...

    def write(self, fd: int, untrusted_chunks: Sequence[memoryview], /) -> None:
        """Take what the guest writes to standard output (``fd`` 1) or error (2); may block for room."""
        ...

    def sleep(self, seconds: float | None, /) -> None:
        """Sleep as plain guest code asked; ``None``: for ever."""
        ...


class Port(Protocol):
    """One instance's message port."""

    def deliver(self, frame: bytes, conversation: Conversation) -> None:
        """Run one turn of the guest with this message; call it inside ``Instance.enter``.

        What the guest says during the turn goes to ``conversation``.

        Raises:
            MemoryError: the guest has no room for the message; it is unharmed.
            BaseException: as ``engine.ffi.Export``.
        """
        ...

    def reseed(self, seed: bytes) -> None:
        """Give a fresh fork's generators that no message reaches, in linear memory, states that follow from ``seed``.

        On the guest's thread, before the message that tells the guest of the same seed.
        """
        ...


class Driver(Protocol):
    """One kind of guest."""

    @property
    def name(self) -> str:
        """Return the runtime's name."""
        ...

    @property
    def dialect(self) -> Dialect:
        """Return which of the codec's dialects the guest reads."""
        ...

    @property
    def default_max_memory(self) -> int:
        """Return the bytes of guest memory a template has unless it says otherwise."""
        ...

    @property
    def sdk_digest(self) -> str:
        """Return the SHA-256 of everything of ours that ends up in an image of this guest."""
        ...

    @property
    def functions(self) -> Sequence[tuple[str, str, str, bool]]:
        """Return the host functions to link: module, name, parameters (``i``/``I``), whether there is a result."""
        ...

    @property
    def needed_exports(self) -> Mapping[str, str]:
        """Return the exports that a runtime must have, with their signatures as ``Program.exports`` gives them."""
        ...

    @property
    def patch_version(self) -> str:
        """Return the version of :meth:`patch_module`'s output, a part of the compiled code's cache key."""
        ...

    def with_extras(self, bundle: RuntimeBundle, cache: Cache) -> Driver:
        """Return a driver that also uses the other files of the distribution; their compiled code goes to ``cache``."""
        ...

    def patch_module(self, module: bytes, sha256: str) -> bytes:
        """Return the WebAssembly module to compile for the runtime with this SHA-256; usually ``module`` itself."""
        ...

    def attach(self, instance: Instance, system: System, *, max_frame: int) -> Port:
        """Connect a fresh or forked instance: install its host functions and prepare its exports."""
        ...

    def library_archive(self, lib_dir: Path) -> Path | None:
        """Return the archive that the guest sees as its standard library; ``None`` for a guest without one."""
        ...

    def boot(self, port: Port, bundle: RuntimeBundle, conversation: Conversation) -> None:
        """Start the interpreter of a fresh instance and load the guest's own package; at build time, once.

        ``conversation`` hears what the guest writes meanwhile.
        """
        ...

    def prepare_source(self, code: str, filename: str) -> str:
        """Give the source that the guest is to run (JavaScript strips TypeScript here); may raise ``GuestError``."""
        ...
