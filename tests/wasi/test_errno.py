"""Host errors in the numbers of preview 1."""

from __future__ import annotations

import errno

from isola_anyio.wasi.errno import Errno, errno_of


def test_host_errors_are_translated_by_name() -> None:
    assert errno_of(FileNotFoundError(errno.ENOENT, "")) is Errno.NOENT
    assert errno_of(OSError(errno.EWOULDBLOCK, "")) is Errno.AGAIN
    assert errno_of(OSError(errno.EOPNOTSUPP, "")) is Errno.NOTSUP
    assert errno_of(OSError(errno.E2BIG, "")) is Errno.TOOBIG
    assert errno_of(OSError("no number")) is Errno.IO
    assert errno_of(OSError(99_999, "")) is Errno.IO
