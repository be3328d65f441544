"""Drive CPython: a reactor whose ``turn`` export, once our package is in it, takes messages instead of source text.

An ordinary turn compiles its source (about 50 µs) and touches 180 pages of a fresh image; a message touches 34 and
takes 2 µs, because ``sandbox._main.install`` replaces the code of the function that ``turn`` runs.
"""

from __future__ import annotations

__all__ = ["PythonDriver"]

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Final

from isola_anyio.errors import InternalError
from isola_anyio.guests.protocol import HEAD, ProtocolError
from isola_anyio.guests.python import native_generators
from isola_anyio.guests.silence import SILENCE
from isola_anyio.wasi.errno import WasiError
from isola_anyio.wasi.signatures import SIGNATURES

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio.cache import Cache
    from isola_anyio.codec import Dialect
    from isola_anyio.engine.instance import Instance
    from isola_anyio.guests import Conversation, Port
    from isola_anyio.runtimes.resolve import RuntimeBundle
    from isola_anyio.wasi.system import System

_MODULES: Final = (
    "__init__",
    "_codec_errors",
    "_codec_buffers",
    "_codec_frames",
    "_codec_escapes",
    "_codec",
    "_errors",
    "_port",
    "_failures",
    "_loop",
    "asyncio",
    "logging",
    "_cbor",
    "serde",
    "_pep723",
    "_stdio",
    "_randomness",
    "_run",
    "_rehearsal",
    "_main",
)
"""The guest package, in the order of its imports: a module before those that import it."""
_MESSAGE: Final = b"\0"
"""What tells a message from source text, which cannot begin so."""
_SMALL_FRAME_BYTES: Final = 1 << 16
"""A longer message is not copied once more to be put behind its first byte."""
_DOOR_REPLIED: Final = 0
_DOOR_FAULT: Final = 0xFFFFFFFE  # -2: the guest raises OSError


def _read_package() -> dict[str, str]:
    root = resources.files("isola_anyio.guests.python").joinpath("sandbox")
    return {name: root.joinpath(f"{name}.py").read_text("utf-8") for name in _MODULES}


_BOOT: Final = """
def _boot(sources):
    import builtins, sys, types
    own = dict(vars(builtins))  # what a script puts into `builtins` breaks the script, not this package
    for name, source in sources:
        full = 'sandbox' if name == '__init__' else 'sandbox.' + name
        module = sys.modules.get(full) or types.ModuleType(full)
        module.__file__ = '<isola>/' + name + '.py'
        module.__package__ = 'sandbox'
        module.__builtins__ = own
        if name == '__init__':
            module.__path__ = []
        sys.modules[full] = module
        if name != '__init__':
            setattr(sys.modules['sandbox'], name, module)
    for name, source in sources[1:] + sources[:1]:
        full = 'sandbox' if name == '__init__' else 'sandbox.' + name
        exec(compile(source, '<isola>/' + name + '.py', 'exec', 0, True), sys.modules[full].__dict__)
    sys.modules['sandbox._main'].install()
_boot(%r)
"""


class PythonDriver:
    """The driver of the Python guest. ``layout`` is the runtime's own, ``None`` for a build that is not known."""

    name = "python"
    dialect: Dialect = "python"
    default_max_memory = 512 << 20
    functions = (
        *(("wasi_snapshot_preview1", name, params, result) for name, (params, result) in SIGNATURES.items()),
        ("host", "call", "iiii", True),
    )
    needed_exports = {"memory": "memory", "turn": "ii>i", "host_alloc": "i>i"}  # noqa: RUF012 - the protocol's shape

    def __init__(self, layout: native_generators.Layout | None = None) -> None:
        self._layout = layout
        self._package = _read_package()
        digest = hashlib.sha256(_BOOT.encode())
        for name, source in self._package.items():
            digest.update(f"\0{name}\0{source}".encode())
        self.sdk_digest = digest.hexdigest()

    patch_version = ""

    def with_extras(self, bundle: RuntimeBundle, cache: Cache) -> PythonDriver:  # noqa: ARG002 - the interface
        """Return a driver that knows where this build has its native generators."""
        layout = native_generators.LAYOUTS.get(bundle.sha256)
        return self if layout is None else PythonDriver(layout)

    def patch_module(self, module: bytes, sha256: str) -> bytes:  # noqa: ARG002 - the interface
        """Return the module unchanged: CPython is not patched."""
        return module

    def attach(self, instance: Instance, system: System, *, max_frame: int) -> PythonPort:
        """Connect an instance; see :class:`~isola_anyio.guests.Driver`."""
        return PythonPort(instance, system, max_frame=max_frame, layout=self._layout)

    def library_archive(self, lib_dir: Path) -> Path:
        """Return the path of the standard library's archive."""
        return lib_dir / "python-stdlib.zip"

    def boot(self, port: Port, bundle: RuntimeBundle, conversation: Conversation) -> None:
        """Start CPython and put the ``sandbox`` package into it."""
        assert isinstance(port, PythonPort)
        status = port.boot((_BOOT % (list(self._package.items()),)).encode(), conversation)
        if status:
            raise InternalError(f"the Python guest's own package did not load (status {status}, {bundle.path})")

    def prepare_source(self, code: str, filename: str) -> str:  # noqa: ARG002 - the interface
        """Python runs as it is."""
        return code


class PythonPort:
    """The message port of one Python instance. Its fields are the guest thread's, which has the turn."""

    def __init__(
        self,
        instance: Instance,
        system: System,
        *,
        max_frame: int,
        layout: native_generators.Layout | None = None,
    ) -> None:
        self._layout = layout
        self._memory = instance.memory
        self._conversation: Conversation = SILENCE
        self._max_frame = max_frame
        instance.set_handlers([*system.handlers(), self._door])
        self._alloc = instance.store.export("host_alloc", "i>i")
        self._replying = False
        self._turn = instance.store.export("turn", "ii>i")

    def deliver(self, frame: bytes, conversation: Conversation) -> None:
        """Run one turn with a message; see :class:`~isola_anyio.guests.Port`."""
        self._conversation = conversation
        length = 1 + len(frame)
        pointer = self._alloc(length)
        if pointer == 0:
            raise MemoryError(f"the guest has no room for a message of {length} bytes")
        try:
            if length < _SMALL_FRAME_BYTES:
                self._memory.write(pointer, _MESSAGE + frame)
            else:
                self._memory.write(pointer, _MESSAGE)
                self._memory.write(pointer + 1, frame)
        except WasiError:
            raise ProtocolError("the guest's allocator gives memory that the guest does not have") from None
        try:
            status = self._turn(pointer, length)
        finally:
            self._conversation = SILENCE  # which keeps nothing of the run alive
        if status:
            raise ProtocolError(f"the guest's message port ended a turn with status {status}")

    def reseed(self, seed: bytes) -> None:
        """Seed the generators of C libraries; see :class:`~isola_anyio.guests.Port`."""
        if self._layout is not None:
            native_generators.reseed(self._memory, self._layout, seed)

    def boot(self, source: bytes, conversation: Conversation) -> int:
        """Run one turn with source text, which the reactor compiles, and return its status, 0 for fine."""
        self._conversation = conversation
        pointer = self._alloc(len(source))
        if pointer == 0:
            raise MemoryError(f"the guest has no room for {len(source)} bytes of source")
        self._memory.write(pointer, source)
        return self._turn(pointer, len(source))

    def _door(self, pointer: int, length: int, reply_pointer: int, reply_length: int) -> int:
        """Answer a door call: the host function of the guest's ``_host.call``."""
        memory = self._memory
        if length > self._max_frame:
            return _DOOR_FAULT
        if self._replying:  # host and guest would call one another until the stack ends
            raise ProtocolError("the guest's allocator called the host")
        try:
            untrusted_frame = memory.read(pointer, length)
            if length < HEAD.size:
                raise ProtocolError(f"a frame of {length} bytes")
            kind, number = HEAD.unpack_from(untrusted_frame)
            reply = self._conversation.answer(kind, number, memoryview(untrusted_frame)[HEAD.size :])
            size = len(reply)
            target = 0
            if size:
                self._replying = True
                target = self._alloc(size)
                self._replying = False  # an exception ends the guest
                if target == 0:
                    return _DOOR_FAULT
                memory.write(target, reply)
            memory.write_u32_pair(reply_pointer, target, reply_length, size)
        except WasiError:  # a pointer outside the memory
            return _DOOR_FAULT
        return _DOOR_REPLIED
