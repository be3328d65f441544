"""The contract's first example runs as it stands."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import anyio
import pytest
import trio

MAIN_JOB = '''
import trio
from isola_anyio import build_template, EndEvent, ResultEvent, StdoutEvent

async def lookup_user(payload):
    return {"user_id": payload["user_id"], "name": f"user-{payload['user_id']}"}

async def main():
    template = await build_template("python", prelude="import json")
    async with template.create(hostcalls={"lookup_user": lookup_user}) as sandbox:
        await sandbox.load_script("""
from sandbox.asyncio import hostcall
async def who(user_id):
    return await hostcall("lookup_user", {"user_id": user_id})
def count(n):
    for i in range(n):
        print("tick", i)
        yield i
def spin_forever():
    while True: pass
""")
        print(await sandbox.run("who", 7))

        async with sandbox.run_stream("count", 3) as events:
            async for event in events:
                match event:
                    case StdoutEvent(data=text): print("stdout:", text)
                    case ResultEvent(data=value): print("partial:", value)
                    case EndEvent(data=value): print("final:", value)

        with FAIL_AFTER(0.5):
            await sandbox.run("spin_forever")
'''


@pytest.mark.slow
async def test_the_contracts_first_example_runs_as_it_stands(anyio_backend_name: str) -> None:
    async def run_it() -> None:
        names: dict[str, Any] = {"FAIL_AFTER": trio.fail_after if anyio_backend_name == "trio" else anyio.fail_after}
        exec(compile(MAIN_JOB, "<main job>", "exec"), names)
        await names["main"]()

    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises((TimeoutError, trio.TooSlowError)):
        await run_it()
    assert output.getvalue().replace("\n\n", "\n").splitlines() == [
        "{'user_id': 7, 'name': 'user-7'}",
        *(line for i in range(3) for line in (f"stdout: tick {i}", f"partial: {i}")),
        "final: None",
    ]
