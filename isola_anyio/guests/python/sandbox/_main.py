"""Dispatcher: what this guest does with each kind of message, and how messages reach it.

`dispatch` is the one entrance. A run's messages go to `_run`, the others are answered here: what happens right after
the fork (`setup`), the prelude, and the last steps before the image is taken (`freeze`).
"""

import asyncio
import gc
import linecache
import os
import types

from . import _codec, _failures, _loop, _port, _randomness, _rehearsal, _run, _stdio

_decode = _codec.decode
_describe = _failures.describe
_collect = gc.collect
_operations = _port.operations
Run = _run.Run
loop = _run.loop
user_names = _run.user_names

LARGE = 1 << 16
"""A longer message is taken apart where it lies instead of being copied first."""

_reserve = bytearray(1 << 16)
"""Memory to report an out-of-memory error with; given up while one is being reported."""


def setup(options):
    """Right after the fork: environment, randomness, limits."""
    for name, value in options["env"].items():
        os.environ[name] = value
    _randomness.reseed(options["seed"])
    _port.max_payload = options["max_payload"]


def freeze():
    """Right before the image is taken: nothing pending, nothing open, nothing to collect soon."""
    _randomness.freeze()
    _rehearsal.rehearse(dispatch, setup)
    _forget_ordinary_turns()
    loop.clear()
    gc.collect()
    gc.freeze()


def _forget_ordinary_turns():
    """Drop the source lines that turns of source text, not of messages, have left."""
    cache = linecache.cache
    for name in [name for name in cache if name.startswith(("<python-input", "<stdin"))]:
        del cache[name]


def prelude(code, filename):
    """Run the user's prelude to its end, blocking; at build time only."""
    result = Run(0).load(code, filename)
    if result is not None:
        loop.run_until_complete(result)
        loop.wind_up()
        loop.clear()


def _clear_frames(error):
    """Clear the frames of an out-of-memory error, so that there is memory to report it with."""
    trace = error.__traceback__
    while trace is not None:
        try:
            trace.tb_frame.clear()
        except BaseException:  # a frame that is running, and perhaps no memory to say so
            pass
        trace = trace.tb_next


def dispatch(message):
    """Handle one message, which the host has built: whole and well-formed."""
    global _reserve
    kind = message[1]
    number = int.from_bytes(message[2:6], "little")
    body = message[6:] if len(message) < LARGE else memoryview(message)[6:]
    try:
        if kind == _port.RESUME:
            _operations.settle(body)
            run = _run.current
            if run is None:
                return
            if run.room is not None and not run.room.done():
                run.room.set_result(None)
            run.step()
        elif kind == _port.CALL:
            run = _run.current = Run(number)
            _port.current_run = number
            name, args, kwargs, streams = _decode(body)
            run.start(run.call, name, args, kwargs, streams)
            run.step()
        elif kind == _port.LOAD:
            run = _run.current = Run(number)
            _port.current_run = number
            run.start(run.load, *_decode(body))
            run.step()
        elif kind == _port.LOAD_FILE:
            run = _run.current = Run(number)
            _port.current_run = number
            run.start(run.load_file, _decode(body))
            run.step()
        elif kind == _port.CANCEL:
            run = _run.current
            if run is not None and run.number == number:
                run.cancel()
                run.step()
        elif kind == _port.SETUP:
            setup(_decode(body))
        elif kind == _port.PRELUDE:
            try:
                prelude(*_decode(body))
            except BaseException as error:
                _port.fail(0, _describe(error))
            else:
                _port.done(0, b"null")
        elif kind == _port.FREEZE:
            freeze()
    except BaseException as error:
        _reserve = None  # an out-of-memory report needs some memory itself
        if issubclass(type(error), MemoryError):
            _clear_frames(error)
        run = _run.current
        if run is None:
            raise
        if run.outcome is None:
            run.outcome = (False, error)
            run.generator = run.task = None
        elif run.outcome[0]:
            run.outcome = (False, error)
        error = None
        try:
            run._leave()
        except BaseException as second:
            _run.current = None
            _operations.waiting.clear()
            if issubclass(type(second), MemoryError):
                run.outcome = second = None
                _collect()  # the cleared frames may have held cycles
                _port.fail(run.number, _failures.OUT_OF_MEMORY)
            else:
                _port.fail(run.number, _describe(second))
        run = None
        try:
            _reserve = bytearray(1 << 16)
        except MemoryError:
            _collect()  # as above; the script's globals keep what they hold, and the next report may lack its traceback


def install():
    """Make the interpreter a message port: the `turn` export now brings messages here."""
    import _reactor

    turn = _reactor.turn
    compiled_turn = types.FunctionType(turn.__code__, turn.__globals__, "turn")
    turn.__globals__.update(_isola_source=compiled_turn, _isola_dispatch=dispatch)

    def port(source, environ):
        if source[:1] == b"\0":
            _isola_dispatch(source)  # noqa: F821 - a global of _reactor
            return 0
        return _isola_source(source, environ)  # noqa: F821

    turn.__code__ = port.__code__
    linecache._register_code = lambda *args: None
    _stdio.install()
    os.environ.setdefault("HOME", "/tmp")  # else matplotlib, for one, complains at every import
    asyncio.events.new_event_loop = asyncio.new_event_loop = _loop.PortLoop
    for name in [name for name in user_names if not name.startswith("__")]:
        del user_names[name]
