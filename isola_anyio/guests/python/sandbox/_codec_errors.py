"""Errors of the codec: what is wrong with a value, where in it, and what to do about it.

The same classes, texts and remedies as the host's ``isola_anyio.codec.errors``.
"""

import json
import re

__all__ = ["CodecError", "EncodeError", "EncodeTypeError", "TooLarge", "format_path", "remedy", "type_name"]


class CodecError(ValueError):
    """Bytes that are no value, or a value that cannot cross; ``path`` says where and ``reason`` why."""

    def __init__(self, path, reason):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self):
        return f"{self.path}: {self.reason}"


class EncodeError(CodecError):
    """A value that cannot cross; ``kind`` is ``"type"`` or ``"value"``."""

    kind = "value"

    def as_builtin(self):
        """Return the ``TypeError`` or ``ValueError`` that guest code expects, with the same text."""
        return (TypeError if self.kind == "type" else ValueError)(str(self))


class EncodeTypeError(EncodeError, TypeError):
    """A value, or a dict's key, of a type that cannot cross."""

    kind = "type"


class TooLarge(EncodeError):
    """The encoded value is ``size`` bytes long, more than ``limit``."""

    def __init__(self, path, size, limit):
        super().__init__(path, f"the value takes {size} bytes, over the limit of {limit}")
        self.args = (path, size, limit)
        self.size = size
        self.limit = limit


_REMEDIES = {
    **dict.fromkeys(("set", "frozenset", "range", "generator", "map", "filter", "zip"), "convert it to a list"),
    **dict.fromkeys(("dict_keys", "dict_values", "dict_items", "collections.deque"), "convert it to a list"),
    **dict.fromkeys(("mappingproxy", "collections.UserDict"), "convert it to a dict"),
    "complex": "convert it to a list of two floats",
    **dict.fromkeys(("decimal.Decimal", "fractions.Fraction"), "convert it to a str or a float"),
    **dict.fromkeys(
        ("uuid.UUID", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath"), "convert it to a str"
    ),
    **dict.fromkeys(("datetime.datetime", "datetime.date", "datetime.time"), "convert it with .isoformat()"),
    "datetime.timedelta": "convert it with .total_seconds()",
    "coroutine": "await it first",
    "async_generator": "collect it into a list first",
    **dict.fromkeys(("function", "builtin_function_or_method", "method"), "send what it returns"),
}


def remedy(value):
    known = _REMEDIES.get(type_name(value))
    if known is not None:
        return known
    if isinstance(value, type):
        return "send its name"
    if hasattr(type(value), "__dataclass_fields__"):
        return "convert it with dataclasses.asdict()"
    if hasattr(type(value), "_value2member_map_"):
        return "send its .value"
    if hasattr(type(value), "__next__"):
        return "convert it to a list"
    return "convert it to a dict, a list or a str"


def type_name(value):
    kind = type(value)
    if kind.__module__ in {"builtins", "__main__"}:
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*", re.ASCII)


def format_path(root, steps):
    if len(steps) > 32:
        return root + "".join([*map(_format_step, steps[:16]), "...", *map(_format_step, steps[-16:])])
    return root + "".join(map(_format_step, steps))


def _format_step(step):
    if isinstance(step, int):
        return f"[{step}]"
    if len(step) <= 40:
        return f".{step}" if _PLAIN_KEY.fullmatch(step) else f"[{json.dumps(step)}]"
    return f'[{json.dumps(step[:40])[:-1]}..."]'
