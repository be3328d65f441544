"""Clipping: values of unknown type and size as a few characters of an error message.

``repr`` builds all of its text before anything can be cut from it, and may run anybody's code: a list of three million
took 0.2 s, a proxy can raise or never return. So containers are shown item by item until there is no more room, and an
object with a ``__repr__`` of its own by its type's name.
"""

from __future__ import annotations

__all__ = ["CLIP_CHARS", "clip", "type_name"]

import types
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

CLIP_CHARS: Final = 120
"""How much of a value's ``repr`` an error message quotes; a guess that keeps a message on two lines."""

_NAME_CHARS: Final = 100
"""The longest part of a type's name that is shown; a guess."""
_DEPTH: Final = 6
"""How deep a container is shown."""
_BITS_PER_DIGIT: Final = 4
"""More than a decimal digit has."""
_QUALNAME: Final = type.__dict__["__qualname__"]
_MODULE: Final = type.__dict__["__module__"]
_MRO: Final = type.__dict__["__mro__"]
_DICT: Final[Any] = type.__dict__["__dict__"]
_ARGS: Final[Any] = BaseException.__dict__["args"]
_BRACKETS: Final = {"list": ("[", "]"), "tuple": ("(", ")"), "set": ("{", "}"), "frozenset": ("frozenset({", "})")}
_BASES: Final[tuple[type[Any], ...]] = (str, bytes, bytearray, int, float, list, tuple, dict, set, frozenset)
_TEXTS: Final[tuple[type[Any], ...]] = (str, bytes, bytearray)
_PLAIN: Final[frozenset[object]] = frozenset({bool, type(None), types.EllipsisType, types.NotImplementedType})
_WITH_BOUNDED_REPR: Final[frozenset[object]] = frozenset({types.FunctionType, types.BuiltinFunctionType})
"""Their ``repr`` has a name and an address in it. Not that of methods and partials: it has the object's own."""


def clip(value: object, limit: int = CLIP_CHARS) -> str:
    """Return about what ``repr(value)`` is, cut to ``limit`` characters, for quoting in a message.

    Never builds what it cuts, runs no code of a stranger's, and raises nothing.
    """
    try:
        text = _shown(value, limit, _DEPTH)
    except Exception:  # noqa: BLE001 - a value that is changed meanwhile, or half made
        text = f"<{type_name(value)}>"
    if issubclass(type(value), _TEXTS):
        return text  # cut inside of its quotes
    return text if len(text) <= limit else f"{text[:limit]}..."


def type_name(value: object) -> str:
    """Return the type's name as a user would write it: ``set``, ``datetime.date``, ``numpy.int64``."""
    return _name_of(type(value))


def _name_of(kind: type[Any]) -> str:
    # Not as attributes of `kind`, whose own class may answer for it.
    name: str = _QUALNAME.__get__(kind)[:_NAME_CHARS]
    module: object = _MODULE.__get__(kind)
    if type(module) is not str or module in {"builtins", "__main__"}:
        return name
    return f"{module[:_NAME_CHARS]}.{name}"


def _shown(value: Any, room: int, depth: int) -> str:
    """Return a text that may be longer than ``room``, by little, and begins as ``repr(value)`` does."""
    kind = cast("Any", type(value))
    if kind in _PLAIN:
        return repr(value)
    bases = [base for base in _BASES if issubclass(kind, base)]
    if not bases:
        return _object(value, cast("Any", type(value)), room, depth)
    base = cast("Any", bases[0])
    name = base.__name__
    if name in {"str", "bytes", "bytearray"}:
        text: str = base.__repr__(base.__getitem__(value, slice(room)))
        return text if base.__len__(value) <= room else f"{text}..."
    if name == "int" and (bits := base.bit_length(value)) > _BITS_PER_DIGIT * room:
        return f"<int of {bits} bits>"
    if name in {"int", "float"}:
        return str(base.__repr__(value))
    if name == "dict":
        pairs = (f"{_shown(key, room, depth - 1)}: {_shown(item, room, depth - 1)}" for key, item in base.items(value))
        return _enclosed("{", pairs, "}", room, depth)
    opening, closing = _BRACKETS[name]
    if not base.__len__(value) and name.endswith("set"):
        return f"{name}()"
    if base.__len__(value) == 1 and name == "tuple":
        closing = ",)"
    return _enclosed(opening, (_shown(item, room, depth - 1) for item in base.__iter__(value)), closing, room, depth)


def _object(value: Any, kind: type[Any], room: int, depth: int) -> str:
    if kind in _WITH_BOUNDED_REPR:
        return repr(value)
    if issubclass(kind, type):
        return f"<class '{_name_of(value)}'>"
    if issubclass(kind, BaseException):
        items = (_shown(item, room, depth - 1) for item in _ARGS.__get__(value))
        return _enclosed(f"{_QUALNAME.__get__(kind)[:_NAME_CHARS]}(", items, ")", room, depth)
    if issubclass(kind, PurePath) and kind.__module__.startswith("pathlib"):
        return f"{kind.__name__}({_shown(str(value), room, depth)})"
    # Where the interpreter looks for it; its class's own class is not asked.
    found = next(names for base in _MRO.__get__(kind) if "__repr__" in (names := _DICT.__get__(base)))
    if found["__repr__"] is object.__repr__:
        return f"<{_name_of(kind)} object at {id(value):#x}>"
    if "__dataclass_fields__" in found and found["__dataclass_params__"].repr:
        names = [name for name, field in found["__dataclass_fields__"].items() if field.repr]
        fields = (f"{name}={_shown(object.__getattribute__(value, name), room, depth - 1)}" for name in names)
        return _enclosed(f"{_QUALNAME.__get__(kind)[:_NAME_CHARS]}(", fields, ")", room, depth)
    return f"<{_name_of(kind)}>"


def _enclosed(opening: str, shown: Iterable[str], closing: str, room: int, depth: int) -> str:
    """Return items between brackets, the first that are more than fit being the last."""
    if not depth:
        return f"{opening}...{closing}"
    texts: list[str] = []
    left = room - len(opening)
    for text in shown:
        if left < 0:
            texts.append("...")
            break
        texts.append(text)
        left -= len(text) + 2
    return opening + ", ".join(texts) + closing
