"""Serialisation for guest code: `dumps(value, format)` and `loads(value, format)` for "json", "yaml" and "cbor"."""

import json as _json

__all__ = ["dumps", "loads"]

_FORMATS = '"json", "yaml" or "cbor"'


def dumps(value, format):
    """Serialise `value`: text for "json" and "yaml", bytes for "cbor"."""
    if format == "json":
        return _json.dumps(value)
    if format == "yaml":
        import yaml

        return yaml.safe_dump(value)
    if format == "cbor":
        from . import _cbor

        return _cbor.dumps(value)
    raise ValueError(f"format is {_FORMATS}, not {format!r}")


def loads(value, format):
    """Read what `dumps` wrote."""
    if format == "json":
        return _json.loads(value)
    if format == "yaml":
        import yaml

        return yaml.safe_load(value)
    if format == "cbor":
        from . import _cbor

        return _cbor.loads(value)
    raise ValueError(f"format is {_FORMATS}, not {format!r}")
