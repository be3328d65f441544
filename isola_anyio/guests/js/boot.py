"""Boot: what turns a fresh engine into the one of which the image is taken; at build time, once.

It loads the SDK, sets the engine's stack limit, connects the hooks that ``engine_patch.py`` added to the module, and
reads the template's environment variables.
"""

from __future__ import annotations

__all__ = ["boot", "read_environment"]

from typing import TYPE_CHECKING, Final

from isola_anyio.errors import InternalError
from isola_anyio.guests.js.engine_patch import TRACKER_EXPORT
from isola_anyio.guests.js.exports import JsError

if TYPE_CHECKING:
    from isola_anyio.engine.instance import Instance
    from isola_anyio.guests.js.engine_patch import Layout
    from isola_anyio.guests.js.exports import Js
    from isola_anyio.guests.js.handles import Sdk
    from isola_anyio.wasi.system import System

_STACK_PROBE: Final = 0xABCD11
"""A stack size that nothing else in memory equals: set, and searched for, to find the engine's field."""
_STACK_TOP: Final = range(0xF0000, 0x100001)
"""Where the stack begins in builds that keep it in the first MiB, growing down; other builds get no limit."""
_STACK_LIMIT: Final = 0x80000
"""The lowest address of the stack that JavaScript may use. It is half of the stack, because the engine's recursive C
functions use up to 16 times as much of the 8 MiB of the other stack, that of wasm calls, and when that is used up the
instance dies: with this limit a plain function recurses 3,270 deep, and ``JSON.parse`` of nested brackets still fails
in time. Nesting in source text that costs more (100,000 times ``(`` in ``eval``) ends the sandbox."""
_TRACKER_OFFSET: Final = 52
"""Bytes from the stack size to the rejection tracker in the engine's ``JSRuntime``."""


def boot(js: Js, sdk: Sdk, instance: Instance, layout: Layout | None) -> None:
    """Load the SDK, whose source the instance's import handlers give, and take the handles of its functions.

    ``layout`` is the patched module's; ``None`` for a module that is not patched.

    Raises:
        InternalError: the SDK does not load.
    """
    js.make_buffers()
    try:
        js.free_value(js.evaluate_module(b'import "isola:main";', "isola:boot", now=True))
    except JsError as exc:
        raise InternalError(f"the JavaScript guest's own modules did not load: {_tell(js, exc)}") from None
    scope = js.global_object()
    holder = js.get(scope, "__isola")
    sdk.find(holder)
    door = b"__isola_door"
    js.call(js.get(holder, "install"), js.new_function(js.put(door), len(door)))
    js.free_value(holder)
    js.free_value(scope)
    js.free_value(js.evaluate(b"delete globalThis.__isola"))
    js.drain()
    stack_size = _find_stack_size(js, instance)
    if stack_size is not None:
        js.memory.write_u32(stack_size + 8, _STACK_LIMIT)
        if layout is not None and _is_patched(instance):
            _connect(js, sdk, layout, stack_size)


def _is_patched(instance: Instance) -> bool:
    try:
        instance.store.export(TRACKER_EXPORT, "iIIii>")
    except LookupError:
        return False
    return True


def _connect(js: Js, sdk: Sdk, layout: Layout, stack_size: int) -> None:
    js.memory.write(layout.hook, js.memory.read(sdk.handle("onRejection"), 8))
    js.memory.write_u32(stack_size + _TRACKER_OFFSET, layout.tracker)
    sdk.name_buffer = layout.name_buffer


def _find_stack_size(js: Js, instance: Instance) -> int | None:
    """Return the address of the engine's stack size, before its stack top and its stack limit; ``None`` if unsure.

    The engine compares the stack pointer with a limit that is zero in WASI builds, so that a deep recursion runs over
    the end of the stack and the instance dies. With the limit set, a deep recursion is a ``RangeError``.
    """
    js.set_max_stack_size(_STACK_PROBE)
    raw = js.memory.read(0, instance.store.memory_size())
    probe = _STACK_PROBE.to_bytes(4, "little")
    found: list[int] = []
    at = raw.find(probe)
    while at >= 0:
        top, limit = (int.from_bytes(raw[at + offset : at + offset + 4], "little") for offset in (4, 8))
        if at % 4 == 0 and top in _STACK_TOP and limit == 0:
            found.append(at)
        at = raw.find(probe, at + 1)
    return found[0] if len(found) == 1 else None


def read_environment(js: Js, system: System) -> dict[str, str]:
    """Read the template's variables from the operating system, as a libc would."""
    sizes = js.out
    system.environ_sizes_get(sizes, sizes + 4)
    count, length = js.memory.read_u32(sizes), js.memory.read_u32(sizes + 4)
    if not count:
        return {}
    room = 4 * count + length
    pointers = js.allocate(room)
    try:
        system.environ_get(pointers, pointers + 4 * count)
        raw = js.memory.read(pointers + 4 * count, length)
    finally:
        js.qjs_free(pointers, room)
    pairs = (entry.decode("utf-8", "surrogateescape").partition("=") for entry in raw.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


def _tell(js: Js, exc: JsError) -> str:
    """Return message and stack of an error in the SDK itself."""
    parts = (js.read_text(js.get(exc.handle, name), 4096) for name in ("message", "stack"))
    return " ".join(part.decode("utf-8", "replace") for part in parts if part)
