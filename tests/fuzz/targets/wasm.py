"""Wasm: files that name what is in other files."""

from __future__ import annotations

from isola_anyio.cache.digests import Record, read_record
from isola_anyio.runtimes.wasm import MalformedModuleError, export_names, has_start_function
from tests.fuzz.harness import Bytes, measured, scratch, target


@target
def wasm(data: bytes) -> None:
    """A module's exports, and a cached digest's record."""
    path = scratch() / "file"
    source = Bytes(data)
    mode = source.u8()
    content = source.rest()
    if mode & 1:
        path.write_bytes(content)
        path.chmod(0o600)
        with measured(len(content)):
            record = read_record(path)
        if record is not None:
            found = path.lstat()
            assert type(record.covers(found)) is bool
            path.write_bytes(record.to_bytes())
            assert read_record(path) == record
            assert all(type(getattr(record, name)) is int for name in Record.__dataclass_fields__ if name != "sha256")
        return
    path.write_bytes((b"" if mode & 2 else b"\0asm\1\0\0\0") + content)
    with measured(len(content)):
        try:
            names = export_names(path)
        except MalformedModuleError as exc:
            assert str(exc)
        else:
            assert all(isinstance(name, str) for name in names)
            assert type(has_start_function(path)) is bool
