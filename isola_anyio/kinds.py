"""Kinds: what a value is an instance of, and what its base holds, whatever its class says of itself.

``isinstance`` asks an object for its ``__class__``, which may lie or raise; a subclass may override every method that
its base has. What decides here is the class itself, and what is read is what the base holds. Only ``items`` of a dict's
subclass is asked, as ``json`` does: an ``OrderedDict``'s order is not the base's.
"""

from __future__ import annotations

__all__ = ["CONTAINERS", "base_of", "is_a", "items_of", "iterate", "plain_int", "plain_str", "size_of", "text_of"]

from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTAINERS: Final[frozenset[object]] = frozenset({dict, list, tuple})

_BASES: Final[tuple[type[Any], ...]] = (str, dict, list, tuple, int, float, bytes, bytearray)
_EXACT: Final[frozenset[object]] = frozenset({*_BASES, bool, type(None)})


def is_a(value: object, kinds: type[Any] | tuple[type[Any], ...]) -> bool:
    """Whether ``value`` is an instance of one of ``kinds``, which may be abstract, by its class alone."""
    try:
        return issubclass(type(value), kinds)
    except Exception:  # noqa: BLE001 - a class whose own class answers for it
        return False


def base_of(value: object) -> type[Any] | None:
    """Return the type of JSON's, or of bytes, that the value is an instance of; ``None`` if it is of none."""
    kind = type(value)
    if kind in _EXACT:
        return kind
    for base in _BASES:
        if issubclass(kind, base):
            return base
    return None


def size_of(value: Any, base: Any) -> int:
    """Return how many items, characters or bytes ``value`` holds, as ``base``, which its class is derived from."""
    size: int = base.__len__(value)
    return size


def iterate(value: Any, base: type[Any]) -> Iterator[Any]:
    """Return an iterator of what ``value``, of a class derived from ``base``, holds: a dict's keys."""
    items: Iterator[Any] = base.__iter__(value)
    return items


def items_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """Return an iterator of a dict's items; a subclass is asked for them, and may raise anything."""
    return iter(value.items())


def plain_str(value: Any) -> str:
    """Return a str, of any subclass, as an exact one."""
    return value if type(value) is str else str.__str__(value)


def plain_int(value: object) -> int | None:
    """Return an int, of any subclass but bool, as an exact one; ``None`` for anything else."""
    kind = type(value)
    return int.__index__(cast("int", value)) if kind is not bool and issubclass(kind, int) else None


def text_of(value: object) -> str | None:
    """Return a str, of any subclass, as an exact one; ``None`` for anything else."""
    return plain_str(value) if issubclass(type(value), str) else None
