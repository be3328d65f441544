"""Errors of the codec: what is wrong with a value, where in it, and what to do about it."""

from __future__ import annotations

__all__ = ["CodecError", "EncodeError", "EncodeTypeError", "Step", "TooLarge", "format_path", "remedy", "type_name"]

import json
import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from isola_anyio.clipping import type_name

if TYPE_CHECKING:
    from collections.abc import Sequence

Step: TypeAlias = str | int
"""One step of a path: a dict's key or a list's index."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*", re.ASCII)
_KEY_CHARS: Final = 40
"""The longest part of a key that a path quotes; a guess."""
_PATH_ENDS: Final = 16
"""How many steps a long path shows at either end; the rest is ``...``. A guess."""

_REMEDIES: Final[dict[str, str]] = {
    "set": "convert it to a list",
    "frozenset": "convert it to a list",
    "range": "convert it to a list",
    "generator": "convert it to a list",
    "map": "convert it to a list",
    "filter": "convert it to a list",
    "zip": "convert it to a list",
    "dict_keys": "convert it to a list",
    "dict_values": "convert it to a list",
    "dict_items": "convert it to a list",
    "collections.deque": "convert it to a list",
    "mappingproxy": "convert it to a dict",
    "collections.UserDict": "convert it to a dict",
    "complex": "convert it to a list of two floats",
    "decimal.Decimal": "convert it to a str or a float",
    "fractions.Fraction": "convert it to a str or a float",
    "uuid.UUID": "convert it to a str",
    "pathlib.PosixPath": "convert it to a str",
    "pathlib.PurePosixPath": "convert it to a str",
    "pathlib.WindowsPath": "convert it to a str",
    "datetime.datetime": "convert it with .isoformat()",
    "datetime.date": "convert it with .isoformat()",
    "datetime.time": "convert it with .isoformat()",
    "datetime.timedelta": "convert it with .total_seconds()",
    "coroutine": "await it first",
    "async_generator": "collect it into a list first",
    "function": "send what it returns",
    "builtin_function_or_method": "send what it returns",
    "method": "send what it returns",
}


class CodecError(ValueError):
    """Bytes that are not a well-formed value, or (see the subclasses) a value that cannot cross.

    Attributes:
        path: where in the value it was, such as ``"$.rows[3].id"``.
        reason: what was wrong and, for a value, what would be right.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class EncodeError(CodecError):
    """A value that cannot cross: a cycle, too deep a nesting, or (`EncodeTypeError`) a wrong type.

    Attributes:
        kind: ``"type"`` or ``"value"``: which of ``TypeError`` and ``ValueError`` a Python program would expect.
        steps: the path, step by step; empty where it is not known, or the value itself.
    """

    kind: Literal["type", "value"] = "value"
    steps: Sequence[Step] = ()


class EncodeTypeError(EncodeError, TypeError):
    """A value, or a dict's key, of a type that cannot cross."""

    kind: Literal["type", "value"] = "type"


class TooLarge(EncodeError):  # noqa: N818 - the limit is not a fault of the value's
    """The encoded value is larger than ``max_bytes``.

    Attributes:
        size: how large it is, in bytes.
        limit: how large it may be, in bytes.
    """

    def __init__(self, path: str, size: int, limit: int) -> None:
        super().__init__(path, f"the value takes {size} bytes, over the limit of {limit}")
        self.args = (path, size, limit)  # what pickling and copying call the class with
        self.size = size
        self.limit = limit


def format_path(root: str, steps: Sequence[Step]) -> str:
    """Return ``root`` and the steps from it, as in ``$.rows[3]["a key"]``."""
    if len(steps) > 2 * _PATH_ENDS:
        ends = [*map(_format_step, steps[:_PATH_ENDS]), "...", *map(_format_step, steps[-_PATH_ENDS:])]
        return root + "".join(ends)
    return root + "".join(map(_format_step, steps))


def _format_step(step: Step) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if len(step) <= _KEY_CHARS:
        return f".{step}" if _PLAIN_KEY.fullmatch(step) else f"[{json.dumps(step)}]"
    return f'[{json.dumps(step[:_KEY_CHARS])[:-1]}..."]'


def remedy(value: object) -> str:
    """Return what the user can do instead of sending ``value``, as an imperative."""
    known = _REMEDIES.get(type_name(value))
    if known is not None:
        return known
    kind = type(value)
    if issubclass(kind, type):
        return "send its name"
    # As the interpreter looks for methods: not by attribute, for which a class of the class may do anything.
    names = {
        name for base in type.__dict__["__mro__"].__get__(kind) for name in type.__dict__["__dict__"].__get__(base)
    }
    if "__dataclass_fields__" in names:
        return "convert it with dataclasses.asdict()"
    if "_value2member_map_" in names:  # an enum whose members are not int or str
        return "send its .value"
    if "__next__" in names:
        return "convert it to a list"
    return "convert it to a dict, a list or a str"
