"""Handles: the SDK's functions in one instance, and the note in its memory by which a fork finds them.

The host writes what it has to know of a booted guest (handles, addresses of buffers) into the guest's memory, at the
lowest addresses, which linkers leave unused so that null points to nothing. The note is part of the image, and a fork
reads it there.
"""

from __future__ import annotations

__all__ = ["Sdk"]

import struct
from typing import TYPE_CHECKING, Final

from isola_anyio.errors import InternalError
from isola_anyio.guests.js.exports import JsError

if TYPE_CHECKING:
    from isola_anyio.guests.js.exports import Js

_NOTE_AT: Final = 64
_NOTE: Final = struct.Struct("<4sI11I")
_NOTE_MAGIC: Final = b"isla"
_FUNCTIONS: Final = ("dispatch", "pump", "adopt", "adoptModule", "refuse", "refuseWith", "collapse", "onRejection")


class Sdk:
    """The SDK of one instance.

    Attributes:
        name_buffer: address of the next script's name; 0 for an engine without script names.
    """

    def __init__(self, js: Js) -> None:
        self._js = js
        self._handles: dict[str, int] = {}
        self.name_buffer = 0

    def find(self, holder: int) -> None:
        """Take the functions' handles from the object ``holder``; once, when the SDK has been loaded."""
        self._handles = {name: self._js.get(holder, name) for name in _FUNCTIONS}

    def handle(self, function: str) -> int:
        """Return a function's handle."""
        return self._handles[function]

    def note(self) -> None:
        """Write the note for forks."""
        js = self._js
        handles = (js.out, js.scratch, js.undefined, *self._handles.values())
        js.memory.write(_NOTE_AT, _NOTE.pack(_NOTE_MAGIC, self.name_buffer, *handles))

    def recall(self) -> None:
        """Read the note, unless it has been read or written."""
        if self._handles:
            return
        js = self._js
        magic, self.name_buffer, *handles = _NOTE.unpack(js.memory.read(_NOTE_AT, _NOTE.size))
        if magic != _NOTE_MAGIC:
            raise InternalError("the JavaScript guest was used before it was booted")
        js.out, js.scratch, js.undefined, *functions = handles
        self._handles = dict(zip(_FUNCTIONS, functions, strict=True))

    def call(self, function: str, *arguments: int) -> bool:
        """Call a function; an exception becomes the run's failure, and the result is ``False``."""
        try:
            self._js.call(self._handles[function], *arguments)
        except JsError as exc:
            self._collapse(exc)
            return False
        return True

    def _collapse(self, exc: JsError) -> None:
        try:
            self._js.call(self._handles["collapse"], exc.handle)
        except JsError as second:
            self._js.free_value(second.handle)
        finally:
            self._js.free_value(exc.handle)

    def name_script(self, name: str) -> None:
        """Set the next script's name, which fits into ``engine_patch.NAME_BYTES``."""
        if self.name_buffer:
            self._js.memory.write(self.name_buffer, name.encode() + b"\0")
