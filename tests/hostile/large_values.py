"""Values of millions of containers that the library is last to hold: refused, never started, replaced, or unread."""

from __future__ import annotations

from typing import Any, Final

from isola_anyio import GuestError
from tests.hostile.attack import MIB, Attack, Expectation, contained, gives, python, raises, stopped

COUNT: Final = 9_000_000
"""Empty lists: 27 MB of text, 0.7 GB decoded, and 0.2 s or more to free in one go."""
HEAD: Final = f"""
import asyncio, time
import _host
from sandbox import _port
from sandbox.asyncio import hostcall
BODY = b'[' + b'[],' * {COUNT - 1} + b'[]]'
def frame(kind, number, body): return bytes([kind]) + number.to_bytes(4, 'little') + body
def call(op, name): return _host.call(frame(0x10, op, len(name).to_bytes(2, 'little') + name.encode() + BODY))
"""
LOOKED_THROUGH: Final[Any] = {
    "max_gap_s": 0.5,
    "reason": "a value that a handler keeps for seconds is looked through by the program's next full collection",
}
GROWN: Final = 1300 * MIB
"""One such value may be there, as ``max_payload`` allows, and the bytes of the next."""


def large(name: str, body: str, expect: Expectation, **rest: Any) -> Attack:
    """A script whose ``attack`` has such a value at hand."""
    options = {"max_memory": 400 * MIB} | rest.pop("options", {})
    return python(name, HEAD + body, expect, options=options, max_grown_bytes=GROWN, **rest)


ATTACKS: Final = [
    large(
        "a failure with fields of millions",
        'def attack():\n    _host.call(frame(0x14, _port.current_run, b\'{"type":"E","message":\' + BODY + b\'}\'))\n',
        raises(GuestError, "ProtocolError", text="a failure that is described in"),
    ),
    large(
        "a hostcall that is never started",
        "async def attack():\n"
        "    waiting = asyncio.ensure_future(hostcall('never', 0))\n"
        "    await asyncio.sleep(0)\n"
        "    call(1000001, 'never')\n"
        "    return 1\n",
        gives(1),
        options={"max_hostcalls": 1},
    ),
    large(
        "a hostcall that is taken back before it is started",
        "async def attack():\n"
        "    waiting = asyncio.ensure_future(hostcall('never', 0))\n"
        "    await asyncio.sleep(0)\n"
        "    call(1000001, 'never')\n"
        "    _host.call(frame(0x17, 1000001, b''))\n"
        "    await asyncio.sleep(0.5)\n"
        "    return 1\n",
        gives(1),
        options={"max_hostcalls": 1},
    ),
    *(
        large(
            f"a payload for {handler}",
            f"async def attack():\n    call(1000001, '{handler}')\n    await asyncio.sleep(2)\n    return 1\n",
            gives(1),
        )
        for handler in ("plain", "echo", "fail", "nothing")
    ),
    large(
        "a payload for a handler that is cancelled with its run",
        "async def attack():\n    call(1000001, 'never')\n    await asyncio.sleep(100)\n",
        stopped(within_s=0.5),
        cancel_after=4.0,
        **LOOKED_THROUGH,
    ),
    large(
        "an answer that the guest never takes",
        "def attack():\n    call(1000001, 'echo')\n    time.sleep(0.5)\n    return 1\n",
        gives(1),
    ),
    large(
        "answers of the same values, one after the other",
        "def attack():\n"
        "    for op in range(1000001, 1000004):\n"
        "        call(op, 'echo')\n"
        "        time.sleep(0.2)\n"
        "    return 1\n",
        gives(1),
        **LOOKED_THROUGH,
    ),
    large(
        "two payloads at once",
        "async def attack():\n    call(1000001, 'never')\n    call(1000002, 'never')\n    return 1\n",
        stopped(within_s=0.5),
        cancel_after=6.0,
        **LOOKED_THROUGH,
    ),
    large(
        "a value, and then a word too many",
        "def attack():\n    _host.call(frame(0x13, _port.current_run, BODY))\n",
        raises(GuestError, "ProtocolError"),
    ),
    large(
        "a partial result, and a stream that is closed",
        f"def attack():\n    yield [[] for _ in range({COUNT})]\n    yield 1\n    time.sleep(100)\n",
        contained,
        cancel_after=8.0,
    ),
]
