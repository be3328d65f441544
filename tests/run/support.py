"""Guest code that tests of hostcalls share."""

from __future__ import annotations

from typing import Final

CODE: Final = """
import asyncio
from sandbox import HostcallError
from sandbox.asyncio import hostcall, run
async def call(name, payload=None): return await hostcall(name, payload)
def call_plain(name, payload=None): return run(hostcall(name, payload))
async def caught(name, payload=None):
    try:
        return await hostcall(name, payload)
    except HostcallError as error:
        import traceback
        return {"name": error.name, "type": error.type, "message": error.message, "text": str(error)}
async def gather(name, payloads): return await asyncio.gather(*(hostcall(name, p) for p in payloads))
def gather_plain(name, payloads):
    async def main(): return await asyncio.gather(*(hostcall(name, p) for p in payloads))
    return run(main())
def value(): return 5
"""
