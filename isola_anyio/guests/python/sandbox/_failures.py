"""Failures: what the host learns of an exception; its type, its message, and a traceback without this package."""

import asyncio
import sys
import traceback

from . import _codec, _port

_encode = _codec.encode
_EncodeError = _codec.EncodeError
_TooLarge = _codec.TooLarge
_CancelledError = asyncio.CancelledError
_TracebackException = traceback.TracebackException
_class_name = type.__dict__["__name__"].__get__

OWN_FILES = "<isola>/"
"""The prefix of this package's file names; its frames are left out of tracebacks."""
_NOT_OF_MEMORY = "Parser stack overflowed"
"""The start of CPython's MemoryError for source that is nested too deeply, which is no lack of memory."""
_TEXT = 1 << 16
"""The most characters of a message or a traceback that cross; the host reads no more."""
OUT_OF_MEMORY = _encode({"type": "MemoryError", "message": "", "traceback": "", "limit": "memory"})
CANCELLED = _encode({"type": "CancelledError", "message": "", "traceback": "", "limit": None})


def describe(error):
    """Return the body of FAIL for an exception, also for one whose own methods fail."""
    kind = type(error)  # `isinstance` would ask the exception, which may answer by raising
    try:
        message = str(error)
    except BaseException:
        message = "<its __str__ failed>"
    if issubclass(kind, SystemExit):
        message = message or "0"
    limit = None
    if issubclass(kind, _TooLarge):
        limit = "payload"
    elif issubclass(kind, MemoryError) and not message.startswith(_NOT_OF_MEMORY):
        limit = "memory"
    shown = kind
    try:
        if issubclass(kind, _EncodeError):  # an internal class; guest code knows the builtin one
            shown = TypeError if issubclass(kind, TypeError) else ValueError
            error = shown(message).with_traceback(error.__traceback__)
        text = _format(error)
    except BaseException:
        text = ""
    name = _class_name(shown)
    characters = _TEXT
    while True:
        fields = {"type": _shorten(name, characters), "message": _shorten(message, characters)}
        frame = _encode(fields | {"traceback": _shorten(text, characters), "limit": limit})
        if len(frame) <= _port.max_payload + _port.ROOM_BESIDE_PAYLOAD:
            return frame
        characters //= 2  # a character takes up to twelve bytes; counting them would cost more than a few rounds


def _shorten(text, characters):
    """Cut the middle out of a long text: the ends of a traceback say most."""
    if len(text) <= characters:
        return text
    mark = f" [... {len(text) - characters} characters left out ...] "
    half = (characters - len(mark)) // 2
    return text[:half] + mark + text[-half:]


def report(message, error):
    """Write a failure that nobody waits for to stderr."""
    try:
        print(message, file=sys.stderr)
        if error is not None:
            print(_format(error), file=sys.stderr, end="")
    except _CancelledError:
        pass


class _Stack(traceback.StackSummary):
    """Frames, formatted once for each place in the source: a deep recursion has few places, and each takes 0.2 ms.

    Before each one the host can deliver a cancellation. Without that a long traceback would look like a computation
    that ignores its cancellation, and be interrupted.
    """

    def __init__(self, frames):
        super().__init__(frames)
        self._known = {}

    def format_frame_summary(self, frame, **options):
        place = (frame.filename, frame.name, frame.lineno, frame.colno, frame.end_lineno, frame.end_colno)
        text = self._known.get(place)
        if text is None:
            _port.listen()
            text = self._known[place] = super().format_frame_summary(frame, **options)
        return text


def _own_frame(frame):
    return frame.filename.startswith(OWN_FILES)


def _clean(formatted):
    """Remove this package's frames from a TracebackException, its causes, contexts and grouped exceptions."""
    seen = set()
    left = [formatted]
    while left:
        formatted = left.pop()
        if formatted is not None and id(formatted) not in seen:
            seen.add(id(formatted))
            formatted.stack = _Stack(frame for frame in formatted.stack if not _own_frame(frame))
            left += (formatted.__cause__, formatted.__context__, *(formatted.exceptions or ()))


def _format(error):
    _port.listen()
    formatted = _TracebackException.from_exception(error)
    _clean(formatted)
    return "".join(formatted.format())
