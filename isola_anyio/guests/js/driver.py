"""Driver: the kind of guest that runs in QuickJS, with the SDK that is loaded into a fresh engine.

A message costs about ten calls of half a microsecond: it is one string made from bytes, one call of the dispatcher,
the microtasks, and one call of the dispatcher's ``pump`` that ends the turn (``port.py``). A door call is one string
read and one small reply.
"""

from __future__ import annotations

__all__ = ["JsDriver"]

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, Final

from isola_anyio.guests.js import engine_patch
from isola_anyio.guests.js.exports import EXPORTS
from isola_anyio.guests.js.loader import Loader
from isola_anyio.guests.js.port import IMPORTS, JsPort
from isola_anyio.guests.js.typescript.stripper import Stripper
from isola_anyio.wasi.signatures import SIGNATURES

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio.cache import Cache
    from isola_anyio.codec import Dialect
    from isola_anyio.engine.instance import Instance
    from isola_anyio.guests import Conversation, Port
    from isola_anyio.runtimes.resolve import RuntimeBundle
    from isola_anyio.wasi.system import System

_CORE: Final = (
    "call",
    "codec",
    "decoder",
    "dispatcher",
    "door",
    "encoder",
    "errors",
    "logs",
    "main",
    "names",
    "ops",
    "primordials",
    "promises",
    "run",
    "scripts",
    "uncrossable",
    "value_path",
    "waits",
    "wire_form",
)
"""The SDK's own modules, in ``sdk/core``."""
_WEB: Final = (
    "abort",
    "console",
    "crypto",
    "encoding",
    "events",
    "globals",
    "inspect",
    "percent",
    "performance",
    "random",
    "structured_clone",
    "timers",
    "url",
    "url_host",
    "url_params",
    "url_parser",
    "url_parts",
)
"""The web platform's globals, in ``sdk/web``. A module is imported as ``isola:NAME``, whichever folder it is in."""
_BUILDERS: Final = ("boot.py", "engine_patch.py", "handles.py", "port.py", "rehearsal.py")
"""The host's files that decide what is in an image."""


def _read(folder: str, names: tuple[str, ...], suffix: str = "") -> dict[str, str]:
    root = resources.files("isola_anyio.guests.js").joinpath(folder)
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
        self._sdk = {**_read("sdk/core", _CORE, ".js"), **_read("sdk/web", _WEB, ".js")}
        self._stripper = stripper
        digest = hashlib.sha256()
        for name, source in (*self._sdk.items(), *_read(".", _BUILDERS).items()):
            digest.update(f"\0{name}\0{source}".encode())
        self.sdk_digest = digest.hexdigest()

    def with_extras(self, bundle: RuntimeBundle, cache: Cache) -> JsDriver:
        """Return a driver that strips TypeScript with the module of this runtime's own distribution."""
        if bundle.lib_sha256 is None:
            return self
        return JsDriver(Stripper(bundle.lib_dir / "_transform.wasm", bundle.lib_sha256, cache))

    patch_version = "1"
    """Goes up when :meth:`patch_module` returns another module for the same input."""

    def patch_module(self, module: bytes, sha256: str) -> bytes:
        """Return the module to compile: patched if it is a pinned build, see ``engine_patch.py``; else unchanged."""
        layout = engine_patch.LAYOUTS.get(sha256)
        return module if layout is None else engine_patch.patch(module, layout)

    def attach(self, instance: Instance, system: System, *, max_frame: int) -> JsPort:
        """Connect an instance; see :class:`~isola_anyio.guests.Driver`."""
        return JsPort(instance, system, Loader(system.files, self._stripper, instance), max_frame=max_frame)

    def library_archive(self, lib_dir: Path) -> None:  # noqa: ARG002 - the interface
        """Return ``None``: QuickJS has no standard library in files."""
        return

    def boot(self, port: Port, bundle: RuntimeBundle, conversation: Conversation) -> None:
        """Load the SDK into a fresh engine."""
        assert isinstance(port, JsPort)
        port.boot(self._sdk, engine_patch.LAYOUTS.get(bundle.sha256), conversation)

    def prepare_source(self, code: str, filename: str) -> str:  # noqa: ARG002 - the interface
        """Return the source unchanged: only the engine can tell whether it is TypeScript (``sources.py``)."""
        return code
