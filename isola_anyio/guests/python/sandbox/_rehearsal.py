"""Rehearsal: every common path walked before the image is taken.

What the interpreter rewrites in its own code now (it specialises instructions by what they met) is shared by all
sandboxes of the template; what it rewrites later is copied in each.
"""

import asyncio
import linecache

from . import _codec, _failures, _port, _run
from . import asyncio as sandbox_asyncio

_encode = _codec.encode
_describe = _failures.describe
_operations = _port.operations

REHEARSALS = 24
"""Enough for the interpreter to have specialised the code that every message runs."""


def rehearse(dispatch, setup):
    """Walk every common path of `dispatch`, and leave nothing behind."""

    def deliver(kind, value):
        dispatch(b"\0" + bytes((kind, 0, 0, 0, 0)) + _encode(value))

    user_names = _run.user_names
    user_names.update({function.__name__: function for function in (_r_plain, _r_async, _r_hostcall, _r_generator)})
    setup({"env": {}, "seed": "0" * 64, "max_payload": _port.max_payload})
    script = (
        "def _r_script(a):\n    return a\nawait __import__('asyncio').sleep(0)\n"
        "def _r_fails(a):\n    try:\n        return a['b'] + 1\n    except TypeError:\n        return 1 / 0\n"
    )
    for _ in range(REHEARSALS):
        for name in ("_r_plain", "_r_async", "_r_generator"):
            deliver(_port.CALL, [name, [1, "two"], {"c": 3.0}, []])
        deliver(_port.CALL, ["_r_hostcall", ["__rehearse_now__", None], {}, []])
        deliver(_port.CALL, ["_r_hostcall", ["__rehearse_later__", {"a": 1}], {}, []])
        answer = b"null"
        completion = _operations.last.to_bytes(4, "little") + b"\0" + len(answer).to_bytes(4, "little") + answer
        dispatch(b"\0" + bytes((_port.RESUME, 0, 0, 0, 0)) + completion)
        deliver(_port.LOAD, [script, "<script>"])
        deliver(_port.CALL, ["_r_script", [None], {}, []])
        try:
            user_names["_r_fails"](None)
        except ZeroDivisionError as error:
            _describe(error)  # not as a message: its FAIL would be the build's
    setup({"env": {}, "seed": "0" * 64, "max_payload": _port.max_payload})
    linecache.cache.pop("<script>", None)
    for name in [name for name in user_names if name.startswith("_r_")]:
        del user_names[name]
    _port.current_run = 0


def _r_plain(a, b, c):
    return [a, b, c]


async def _r_async(a, b, c):
    await asyncio.sleep(0)
    return {"a": a}


async def _r_hostcall(name, payload):
    return await sandbox_asyncio.hostcall(name, payload)


def _r_generator(a, b, c):
    yield a
    yield b
