"""JsCodec: the JavaScript guest's codec in the engine it is written for, without the rest of the library."""

from __future__ import annotations

from importlib import resources
from typing import Any

import quickjs_rs

SETUP = """
globalThis.body = (made) => (typeof made === "string" ? made : made.slice());
globalThis.attempt = (make) => {
  try {
    return [codec.encode(make()), null];
  } catch (e) {
    return [null, [e.name, e.message, codec.isPayloadLimit(e)]];
  }
};
"""


def _load(name: str) -> str:
    """Return the source of ``isola:NAME``; the codec imports nothing from outside ``sdk/core``."""
    path = resources.files("isola_anyio.guests.js").joinpath("sdk/core", name.removeprefix("isola:") + ".js")
    return path.read_text(encoding="utf-8")


class JsCodec:
    """One engine with the codec in it; values go in and out as the codec's own bytes."""

    def __init__(self, prelude: str = "") -> None:
        self._runtime = quickjs_rs.Runtime()
        self._runtime.set_module_loader(load=_load)
        self._context = self._runtime.new_context()
        self._context.eval("import * as codec from 'isola:codec'; globalThis.codec = codec;", module=True)
        self.eval(SETUP + prelude + "; 0")

    def close(self) -> None:
        self._context.close()
        self._runtime.close()

    def eval(self, code: str) -> Any:
        return self._context.eval(code)

    def there_and_back(self, wire: bytes) -> bytes:
        """Decode the host's bytes in the guest and encode the value again."""
        self._put(wire)
        return self._bytes(self.eval("body(codec.encode(codec.decode(input)))"))

    def run(self, code: str, wire: bytes = b"null") -> Any:
        """Evaluate an expression in which ``value`` is the decoded ``wire``."""
        self._put(wire)
        return self.eval(f"((value) => ({code}))(codec.decode(input))")

    def encode(self, expression: str) -> tuple[bytes | None, tuple[str, str, bool] | None]:
        """Encode a JavaScript value: the bytes, or the error's name, message and whether it is about size."""
        made, error = self.eval(f"attempt(() => ({expression}))")
        return (None, tuple(error)) if made is None else (self._bytes(made), None)

    def _put(self, wire: bytes) -> None:
        self._context.globals["input"] = wire if wire[:1] == b"\xfe" else wire.decode()

    @staticmethod
    def _bytes(made: Any) -> bytes:
        return made.encode() if isinstance(made, str) else bytes(made)
