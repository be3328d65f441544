"""``max_payload`` counts a value by itself: as much as may cross does, one byte more does not, whichever way it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest

from isola_anyio import (
    GuestError,
    InvalidArgumentError,
    PayloadLimitError,
    ResultEvent,
    SandboxTemplate,
    StreamArg,
    build_template,
)

if TYPE_CHECKING:
    from isola_anyio import Sandbox

LIMIT = 1000
SCRIPTS = {
    "python": """
from sandbox.asyncio import hostcall
def make(kind, n): return {"bytes": bytes(n), "str": "x" * n, "buffer": memoryview(bytearray(n - n % 8)).cast("d"), "accents": "é" * (n // 2)}[kind]
def size(*values): return [len(value) for value in values]
def give(kind, n): return make(kind, n)
def generate(kind, n): yield make(kind, n)
async def ask(kind, n): return await hostcall("take", make(kind, n))
async def receive(kind, n): return len(await hostcall("make", [kind, n]))
async def collect(stream): return [len(item) async for item in stream]
""",
    "js": """
function make(kind, n) { return { bytes: new Uint8Array(n), str: "x".repeat(n), buffer: new Float64Array((n - n % 8) / 8), accents: "é".repeat(n / 2) }[kind] }
function size(...values) { return values.map((value) => value.length) }
function give(kind, n) { return make(kind, n) }
function* generate(kind, n) { yield make(kind, n) }
async function ask(kind, n) { return await hostcall("take", make(kind, n)) }
async function receive(kind, n) { return (await hostcall("make", [kind, n])).length }
async function collect(stream) { const got = []; for await (const item of stream) got.push(item.length); return got }
""",
}
MAKERS: dict[str, Any] = {
    "bytes": bytes,
    "str": lambda n: "x" * n,
    "buffer": lambda n: memoryview(bytearray(n - n % 8)).cast("d"),
    "accents": lambda n: "é" * (n // 2),
}
STEPS = {"bytes": 1, "str": 1, "buffer": 8, "accents": 2}
"""The least that one may be larger."""
KINDS = pytest.mark.parametrize(("kind", "over"), [(kind, LIMIT + step) for kind, step in STEPS.items()])


@pytest.fixture(params=["python", "js"])
async def limited(request: pytest.FixtureRequest, template: SandboxTemplate) -> SandboxTemplate:
    """The template of either guest."""
    runtime: Literal["python", "js"] = request.param
    return template if runtime == "python" else await build_template(runtime)


def started(limited: SandboxTemplate, **handlers: Any) -> Any:
    return limited.create(max_payload=LIMIT, hostcalls=handlers)


async def load(sandbox: Sandbox, limited: SandboxTemplate) -> None:
    await sandbox.load_script(SCRIPTS[limited.runtime])


@KINDS
async def test_a_result_or_event_may_be_as_large_as_max_payload(limited: SandboxTemplate, kind: str, over: int) -> None:
    async with started(limited) as sandbox:
        await load(sandbox, limited)
        value = await sandbox.run("give", kind, LIMIT)
        assert value == MAKERS[kind](LIMIT)
        async with sandbox.run_stream("generate", kind, LIMIT) as events:
            assert await events.receive() == ResultEvent(data=value)
        for name in ("give", "generate"):
            with pytest.raises(PayloadLimitError):
                await sandbox.run(name, kind, over)
        assert not sandbox.broken


@KINDS
async def test_each_argument_may_be_as_large_as_max_payload(limited: SandboxTemplate, kind: str, over: int) -> None:
    async with started(limited) as sandbox:
        await load(sandbox, limited)
        fits, too_large = MAKERS[kind](LIMIT), MAKERS[kind](over)
        assert await sandbox.run("size", fits) == [len(fits)]
        assert await sandbox.run("size", fits, fits, fits) == [len(fits)] * 3
        with pytest.raises(InvalidArgumentError, match="argument 1 cannot cross"):
            await sandbox.run("size", fits, too_large)


@KINDS
async def test_a_hostcalls_payload_and_result_may_be_as_large_as_max_payload(
    limited: SandboxTemplate, kind: str, over: int
) -> None:
    async def make(what: Any) -> Any:
        return MAKERS[what[0]](what[1])

    async with started(limited, take=len, make=make) as sandbox:
        await load(sandbox, limited)
        size = len(MAKERS[kind](LIMIT))
        assert await sandbox.run("receive", kind, LIMIT) == size
        assert await sandbox.run("ask", kind, LIMIT) == size
        for name in ("ask", "receive"):
            with pytest.raises((GuestError, PayloadLimitError)):  # as the guest makes of what it does not catch
                await sandbox.run(name, kind, over)
        assert not sandbox.broken


@KINDS
async def test_an_item_of_a_stream_may_be_as_large_as_max_payload(
    limited: SandboxTemplate, kind: str, over: int
) -> None:
    async with started(limited) as sandbox:
        await load(sandbox, limited)
        fits, too_large = MAKERS[kind](LIMIT), MAKERS[kind](over)
        assert await sandbox.run("collect", StreamArg.from_iterable([fits] * 5)) == [len(fits)] * 5
        with pytest.raises(InvalidArgumentError, match="item 2 of a stream argument"):
            await sandbox.run("collect", StreamArg.from_iterable([fits, fits, too_large]))


async def test_max_payload_is_not_about_code(limited: SandboxTemplate) -> None:
    comment = ("#" if limited.runtime == "python" else "//") + "x" * 3 * LIMIT + "\n"
    async with started(limited) as sandbox:
        await sandbox.load_script(comment + SCRIPTS[limited.runtime])
        await sandbox.load_stream(comment).result()
        assert await sandbox.run("size", "abc") == [3]
