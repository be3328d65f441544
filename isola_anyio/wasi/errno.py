"""Error numbers: those of WASI preview 1, the exception that carries one, and their host counterparts.

The numbers are those of the ``errno`` enumeration in the preview 1 witx files; a host ``OSError`` is translated by
its symbolic name, never by its number, because the numbers differ between hosts.
"""

from __future__ import annotations

__all__ = ["Errno", "WasiError", "errno_of"]

import errno as host_errno
from enum import IntEnum
from typing import Final


class Errno(IntEnum):
    """Preview 1 error numbers; ``SUCCESS`` is 0."""

    SUCCESS = 0
    TOOBIG = 1
    ACCES = 2
    ADDRINUSE = 3
    ADDRNOTAVAIL = 4
    AFNOSUPPORT = 5
    AGAIN = 6
    ALREADY = 7
    BADF = 8
    BADMSG = 9
    BUSY = 10
    CANCELED = 11
    CHILD = 12
    CONNABORTED = 13
    CONNREFUSED = 14
    CONNRESET = 15
    DEADLK = 16
    DESTADDRREQ = 17
    DOM = 18
    DQUOT = 19
    EXIST = 20
    FAULT = 21
    FBIG = 22
    HOSTUNREACH = 23
    IDRM = 24
    ILSEQ = 25
    INPROGRESS = 26
    INTR = 27
    INVAL = 28
    IO = 29
    ISCONN = 30
    ISDIR = 31
    LOOP = 32
    MFILE = 33
    MLINK = 34
    MSGSIZE = 35
    MULTIHOP = 36
    NAMETOOLONG = 37
    NETDOWN = 38
    NETRESET = 39
    NETUNREACH = 40
    NFILE = 41
    NOBUFS = 42
    NODEV = 43
    NOENT = 44
    NOEXEC = 45
    NOLCK = 46
    NOLINK = 47
    NOMEM = 48
    NOMSG = 49
    NOPROTOOPT = 50
    NOSPC = 51
    NOSYS = 52
    NOTCONN = 53
    NOTDIR = 54
    NOTEMPTY = 55
    NOTRECOVERABLE = 56
    NOTSOCK = 57
    NOTSUP = 58
    NOTTY = 59
    NXIO = 60
    OVERFLOW = 61
    OWNERDEAD = 62
    PERM = 63
    PIPE = 64
    PROTO = 65
    PROTONOSUPPORT = 66
    PROTOTYPE = 67
    RANGE = 68
    ROFS = 69
    SPIPE = 70
    SRCH = 71
    STALE = 72
    TIMEDOUT = 73
    TXTBSY = 74
    XDEV = 75
    NOTCAPABLE = 76


class WasiError(Exception):
    """A guest's call is refused with ``errno``, which is all the guest learns."""

    def __init__(self, errno: Errno) -> None:
        super().__init__(errno.name)
        self.errno = errno


_RENAMED: Final = {"E2BIG": Errno.TOOBIG, "EOPNOTSUPP": Errno.NOTSUP, "EWOULDBLOCK": Errno.AGAIN}

_FROM_HOST: Final[dict[int, Errno]] = {
    number: _RENAMED.get(name) or Errno[name[1:]]
    for number, name in host_errno.errorcode.items()
    if name in _RENAMED or name[1:] in Errno.__members__
}


def errno_of(error: OSError) -> Errno:
    """Return the preview 1 number for a host error; ``IO`` when there is no counterpart."""
    return _FROM_HOST.get(error.errno or 0, Errno.IO)
