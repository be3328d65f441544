"""Standard output and error: text streams on file descriptors 1 and 2 that keep the order of what is written.

Line buffering, although these are not terminals: the lines printed before a guest is stopped have arrived.
"""

import errno
import io
import sys

from . import _port

_ECANCELED = errno.ECANCELED
_write = io.TextIOWrapper.write
_flush = io.TextIOWrapper.flush


class _Output(io.TextIOWrapper):
    """One of the two streams; writing to it first sends the unfinished line of the other."""

    _other = None
    _unsent = False

    def write(self, text):
        other = self._other
        if other is not None and other._unsent:
            other._send()
        try:
            count = _write(self, text)
        except OSError as error:
            raise _meaning(error) from None
        self._unsent = text[-1:] != "\n"
        return count

    def flush(self):
        self._send()

    def _send(self):
        self._unsent = False
        try:
            _flush(self)
        except OSError as error:
            raise _meaning(error) from None


def _meaning(error):
    """Return the exception that a failed write stands for: ECANCELED delivers the run's cancellation."""
    return _port.cancellation() if error.errno == _ECANCELED else error


def _open(number, name, errors):
    raw = io.FileIO(number, "wb", closefd=False)
    stream = _Output(io.BufferedWriter(raw), encoding="utf-8", errors=errors, newline="\n", line_buffering=True)
    raw.name = stream.mode = name if number < 0 else "w"
    return stream


def install():
    """Replace the interpreter's own streams."""
    out = _open(1, "<stdout>", "surrogateescape")
    err = _open(2, "<stderr>", "backslashreplace")
    out._other, err._other = err, out
    streams = (out, err)
    sys.stdout = sys.__stdout__ = out
    sys.stderr = sys.__stderr__ = err

    def flush():
        for stream in streams:
            if stream._unsent:
                try:
                    stream._send()
                except ValueError:  # the user closed it
                    pass

    _port.flush = flush
