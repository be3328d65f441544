"""Drive QuickJS: how our SDK gets into a fresh engine, and what a message costs in calls of its exports.

The engine's exports take and give *handles*, 32-bit names of values, which the host frees (``exports.py``). A message
is one string made from bytes, one call of the dispatcher, the microtasks, and one call of its ``pump`` that ends the
turn (``port.py``); each door call is one string read and one small reply. About ten calls of half a microsecond.
"""

from __future__ import annotations

__all__ = ["JsDriver"]

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Final

from isola_anyio.guests.js import patch as patching
from isola_anyio.guests.js.exports import EXPORTS
from isola_anyio.guests.js.loader import Loader
from isola_anyio.guests.js.port import IMPORTS, JsPort
from isola_anyio.guests.js.typescript import Stripper
from isola_anyio.wasi.signatures import SIGNATURES

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio.cache import Cache
    from isola_anyio.codec import Dialect
    from isola_anyio.engine.instance import Instance
    from isola_anyio.guests import DoorHandler, Port
    from isola_anyio.runtimes.resolve import RuntimeBundle
    from isola_anyio.wasi.system import System

_MODULES: Final = (
    "abort",
    "codec",
    "console",
    "crypto",
    "dispatcher",
    "door",
    "encoding",
    "errors",
    "events",
    "globals",
    "inspect",
    "main",
    "names",
    "ops",
    "percent",
    "performance",
    "primordials",
    "promises",
    "random",
    "structured_clone",
    "timers",
    "url",
    "url_host",
    "url_params",
    "url_parser",
    "waits",
)


_BUILDERS: Final = ("boot.py", "patch.py", "port.py", "rehearsal.py", "sdk.py")
"""What of the host's side decides what is in an image."""


def _read(names: tuple[str, ...], suffix: str) -> dict[str, str]:
    root = resources.files("isola_anyio.guests.js")
    return {name: root.joinpath(name + suffix).read_text("utf-8") for name in names}


class JsDriver:
    """The driver of the JavaScript guest.

    ``stripper`` turns TypeScript into JavaScript; without one, TypeScript is a syntax error.
    """

    name = "js"
    dialect: Dialect = "js"
    default_max_memory = 64 << 20
    functions = (
        *(("wasi_snapshot_preview1", name, params, result) for name, (params, result) in SIGNATURES.items()),
        *IMPORTS,
    )
    needed_exports = EXPORTS

    def __init__(self, stripper: Stripper | None = None) -> None:
        self._sdk = _read(_MODULES, ".js")
        self._stripper = stripper
        digest = hashlib.sha256()
        for name, source in (*self._sdk.items(), *_read(_BUILDERS, "").items()):
            digest.update(f"\0{name}\0{source}".encode())
        self.sdk_digest = digest.hexdigest()

    def equip(self, bundle: RuntimeBundle, cache: Cache) -> JsDriver:
        """Give a driver that strips TypeScript with the module of this runtime's own distribution."""
        if bundle.lib_sha256 is None:
            return self
        return JsDriver(Stripper(bundle.lib_dir / "_transform.wasm", bundle.lib_sha256, cache))

    def adapt(self, module: bytes, sha256: str) -> bytes:
        """Give the module that is compiled for this runtime; see ``patch.py``."""
        layout = patching.LAYOUTS.get(sha256)
        return module if layout is None else patching.patch(module, layout)

    adaptation = "1"
    """Part of the compiled code's key; goes up when :meth:`adapt` makes something else of the same module."""

    def attach(self, instance: Instance, system: System, answer: DoorHandler, *, max_frame: int) -> JsPort:
        """Connect an instance; see :class:`~isola_anyio.guests.Driver`."""
        return JsPort(instance, system, answer, Loader(system.files, self._stripper, instance), max_frame=max_frame)

    def library(self, lib_dir: Path) -> None:  # noqa: ARG002 - the interface
        """QuickJS has no library of files."""
        return

    def boot(self, port: Port, bundle: RuntimeBundle) -> None:
        """Load the SDK into a fresh engine."""
        assert isinstance(port, JsPort)
        port.boot(self._sdk, patching.LAYOUTS.get(bundle.sha256))

    def prepare_source(self, code: str, filename: str) -> str:  # noqa: ARG002 - the interface
        """Take it as it is: only the engine can tell whether the source needs stripping; see ``JsPort``."""
        return code
