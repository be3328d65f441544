"""Port: the frames that this guest sends and what it does with the replies.

The frames are described in docs/protocol.md. Everything the port needs is bound to names of this module when it is
imported, before any code of the user's runs, so that a script which replaces `json` or `asyncio` internals breaks
itself only.
"""

import struct

import _host

from . import _codec

_TooLarge = _codec.TooLarge
call_host = _host.call

SETUP, LOAD, LOAD_FILE, CALL, RESUME, CANCEL, PRELUDE, FREEZE = range(0x01, 0x09)
HOSTCALL, EMIT, LOG, DONE, FAIL, PARK, WAIT, DROP, READ, STOP = range(0x10, 0x1A)
OK, FAILED, ITEMS, ENDED, PRODUCER_FAILED = range(5)

_head = struct.Struct("<BI").pack
_park = struct.Struct("<BIdB").pack
_completion = struct.Struct("<IBI").unpack_from
_u32 = struct.Struct("<I").pack
_u16 = struct.Struct("<H").pack


class Operations:
    """Ops that the host has not answered yet: op number -> the function to call with (status, body)."""

    def __init__(self):
        self.waiting = {}
        self.last = 0

    def ask(self, kind, body, settle):
        """Make a door call for a new op; `settle(status, body)` is called now or with the completion. -> op or None."""
        self.last = op = self.last + 1
        reply = call_host(_head(kind, op) + body)
        if reply:
            settle(reply[0], reply[1:])
            return None
        self.waiting[op] = settle
        return op

    def drop(self, op):
        """Tell the host that nobody waits for this op any more."""
        if self.waiting.pop(op, None) is not None:
            call_host(_head(DROP, op))

    def settle(self, completions):
        """Call the function of each op that RESUME, or the reply to WAIT, has a completion for."""
        at, end = 0, len(completions)
        while at < end:
            op, status, length = _completion(completions, at)
            at += 9
            settle = self.waiting.pop(op, None)
            if settle is not None:
                settle(status, completions[at : at + length])
            at += length

    def abandon(self):
        """Drop all of them: the run is over."""
        for op in list(self.waiting):
            self.drop(op)


operations = Operations()


def hostcall_body(name, value):
    raw = name.encode("utf-8", "surrogatepass")
    if len(raw) > 0xFFFF:
        raise ValueError("a hostcall's name has at most 65535 bytes")
    return _u16(len(raw)) + raw + value


def read_stream(number, settle):
    return operations.ask(READ, _u32(number), settle)


def stop_stream(number):
    call_host(_head(STOP, number))


max_payload = 64 << 20
"""The most bytes of one value; SETUP brings the real number."""
ROOM_BESIDE_PAYLOAD = (1 << 16) - 64
"""Bytes that a frame may have beside the largest value; the host allows 64 more, for the head."""


def flush():
    """Write out what stdout and stderr still buffer; `_stdio` puts the real function here."""


def emit(run, value):
    """Send a partial result; tell whether there is room for another."""
    flush()
    return call_host(_head(EMIT, run) + value) == b"\1"


def log(run, level, text):
    flush()
    raw = text.encode("utf-8", "replace")
    if len(raw) > max_payload:
        raise _TooLarge("the log's text", len(raw), max_payload)
    if call_host(_head(LOG, run) + bytes((level,)) + raw) == b"\2":
        raise cancellation()


def done(run, value):
    flush()
    call_host(_head(DONE, run) + value)


def fail(run, value):
    flush()
    call_host(_head(FAIL, run) + value)


def park(run, delay, needs_room):
    flush()
    call_host(_park(PARK, run, -1.0 if delay is None else delay, 1 if needs_room else 0))


current_run = 0
"""The number of the run that this turn belongs to; the dispatcher sets it."""


def cancellation():
    """Make the exception for code to which a reply of the host's delivers the run's cancellation; `_run` puts the real
    function here, which also notes the task."""


def wait(delay):
    """Block until the host has news or `delay` seconds have passed; False when the run is being cancelled."""
    flush()
    reply = call_host(_park(WAIT, current_run, -1.0 if delay is None else delay, 0))
    if reply[:1] == b"\1":
        return False
    operations.settle(reply[1:])
    return True


def listen():
    """Give the host a chance to deliver a cancellation, without waiting for anything."""
    if not wait(0.0):
        raise cancellation()
