"""Serialisation for guest code: `dumps(value, format)` and `loads(value, format)` for "json", "yaml" and "cbor"."""

import json as _json

__all__ = ["dumps", "loads"]


def dumps(value, format):
    """Serialise `value`: text for "json" and "yaml", bytes for "cbor"; keys keep their order.

    Raises `ValueError` for what the format cannot say.
    """
    write = _codec(format)[0]
    try:
        return write(value)
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"the value has no form in {format}: {error}") from error


def loads(value, format):
    """Read what `dumps` wrote.

    Raises `ValueError` for what is not of the format, `TypeError` for a `value` that is neither text nor bytes.
    """
    _, read, kinds = _codec(format)
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{format} is read from {expected}, not {type(value).__name__}")
    try:
        return read(value)
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # a YAML tag on a value that it does not fit may raise anything
        raise ValueError(f"this is no {format}: {error}") from error


def _codec(format):
    """-> how to write it, how to read it, and the types it is read from."""
    if format == "json":
        return _json.dumps, _json.loads, (str, bytes, bytearray)
    if format == "yaml":
        import yaml

        return _dump_yaml, yaml.safe_load, (str, bytes)
    if format == "cbor":
        from . import _cbor

        return _cbor.dumps, _cbor.loads, (bytes, bytearray, memoryview)
    raise ValueError(f'format is "json", "yaml" or "cbor", not {format!r}')


def _dump_yaml(value):
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
