"""A handler's answers and a guest's payloads: large ones, odd ones, and ones whose run is cancelled meanwhile."""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import CpuLimitError, GuestError, codec
from isola_anyio.run.answers import failure
from isola_anyio.run.turns import Turns
from tests.run.support import CODE
from tests.timing import SLACK
from tests.waiting import cancel_when, until

if TYPE_CHECKING:
    from isola_anyio import Sandbox, SandboxTemplate


class Watched(dict[str, Any]):
    """A dict that notes which threads encode it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.threads: set[int] = set()

    def items(self) -> Any:
        self.threads.add(threading.get_ident())
        return super().items()


@pytest.mark.parametrize("how", ["call", "call_plain"])
async def test_a_large_result_is_not_encoded_on_the_event_loop(template: SandboxTemplate, how: str) -> None:
    small, large = Watched({"a": 1}), Watched({str(number): [number] for number in range(20_000)})

    async def get(size: str) -> Any:
        return small if size == "small" else large

    async with template.create(hostcalls={"get": get}) as sandbox:
        await sandbox.load_script(CODE)
        for result, size in ((small, "small"), (large, "large")):
            assert await sandbox.run(how, "get", size) == result
    assert small.threads == {threading.get_ident()}
    assert large.threads
    assert threading.get_ident() not in large.threads


@pytest.mark.slow
async def test_what_happens_to_a_result_after_the_handler_returned_it_does_not_matter(
    template: SandboxTemplate,
) -> None:
    shared: list[int] = []

    async def append(item: int) -> list[int]:
        shared.append(item)
        return shared

    async with template.create(hostcalls={"append": append}) as sandbox:
        await sandbox.load_script(CODE)
        got: Any = await sandbox.run("gather", "append", list(range(30)))
        assert sorted(got, key=len) == [shared[: n + 1] for n in range(30)]


async def test_large_results_reach_the_calls_they_answer(template: SandboxTemplate) -> None:
    async def repeat(item: int) -> Any:
        return [item] * 10_000 if item % 2 else item

    async with template.create(hostcalls={"repeat": repeat}) as sandbox:
        await sandbox.load_script(
            CODE
            + "\nasync def sums(n):\n    return [x if type(x) is int else sum(x) for x in await gather('repeat', range(n))]\n"
        )
        assert await sandbox.run("sums", 60) == [item * 10_000 if item % 2 else item for item in range(60)]


async def test_large_results_that_cannot_cross_are_errors_of_the_guest(template: SandboxTemplate) -> None:
    async def bad(what: str) -> Any:
        return {"set": [0] * 10_000 + [{1}], "long": "x" * 500_000, "text": ["x" * 500_000]}[what]

    async with template.create(hostcalls={"bad": bad}, max_payload=400_000) as sandbox:
        await sandbox.load_script(CODE)
        for what, words in (("set", "$[10000]: set is not"), ("long", "500000 bytes"), ("text", "500004 bytes")):
            got = await sandbox.run("caught", "bad", what)
            assert isinstance(got, dict)
            assert got["type"] == "InvalidArgumentError"
            assert words in str(got["message"])
        assert await sandbox.run("value") == 5


class Pauses:
    """How often long work for a guest was interrupted to let others run."""

    def __init__(self) -> None:
        self.count = 0

    async def cancel_after(self, count: int, sandbox: Sandbox, *call: Any) -> None:
        """Run, and cancel when there were so many of them."""
        await cancel_when(lambda: until(lambda: self.count >= count), functools.partial(sandbox.run, *call))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Count them."""
    counted = Pauses()
    pause = Turns.yield_gil

    def counting(self: Turns) -> None:
        counted.count += 1
        pause(self)

    monkeypatch.setattr(Turns, "yield_gil", counting)
    return counted


async def test_a_cancelled_run_does_not_finish_decoding_a_large_payload(
    template: SandboxTemplate, pauses: Pauses
) -> None:
    async with template.create(hostcalls={"drop": lambda _: None}) as sandbox:
        await sandbox.load_script("""
import _host, struct
def value(): return 5
def go(n):
    body = struct.pack("<H", 4) + b"drop[" + b"[]," * n + b"0]"
    return len(_host.call(struct.pack("<BI", 0x10, 77) + body))
""")
        await pauses.cancel_after(5, sandbox, "go", 15_000_000)
        assert await sandbox.run("value") == 5  # it was told that there is no answer, and went on to its end
    assert pauses.count < 45_000_000 // (128 * 1024) * 0.8


@pytest.mark.parametrize("how", ["waits", "waits_plainly"])
async def test_a_cancelled_guest_that_waits_for_a_large_result_unwinds(
    template: SandboxTemplate, pauses: Pauses, how: str
) -> None:
    unwound: list[int] = []

    async def give(_: Any) -> Any:
        return [0] * 8_000_000

    async with template.create(hostcalls={"give": give, "unwound": unwound.append}) as sandbox:
        await sandbox.load_script(
            CODE
            + """
async def waits():
    try:
        return await hostcall("give")
    finally:
        await hostcall("unwound", 1)
def waits_plainly(): return run(waits())
"""
        )
        await pauses.cancel_after(5, sandbox, how)
        assert unwound == [1]
        assert await sandbox.run("value") == 5
    assert pauses.count < 16_000_000 // (64 * 1024) * 0.8


@pytest.mark.slow
async def test_a_guests_cpu_counts_what_the_host_decodes_for_it(template: SandboxTemplate) -> None:
    async with template.create(hostcalls={"drop": lambda _: None}, max_cpu=0.3) as sandbox:
        await sandbox.load_script(
            CODE
            + """
import _host, struct
def lie(n):
    body = struct.pack("<H", 4) + b"drop[" + b"[]," * 500_000 + b"0]x"
    for _ in range(n): _host.call(struct.pack("<BI", 0x10, 77) + body)
"""
        )
        with pytest.raises(CpuLimitError):
            await sandbox.run("lie", 10_000)
        assert sandbox.usage.cpu_s >= 0.3
        assert sandbox.usage.hostcalls < 1000


async def test_answers_and_payloads_that_cannot_cross_are_errors_of_the_guest(template: SandboxTemplate) -> None:
    async def later(_: Any) -> Any:
        return {1, 2}

    handlers = {"set": lambda _: {1}, "later": later, "echo": lambda p: p, "big": lambda _: "x" * 100_000}
    async with template.create(hostcalls=handlers, max_payload=10_000) as sandbox:
        await sandbox.load_script(CODE + "\nasync def send_set(): return await hostcall('echo', {1})\n")
        for name in ("set", "later", "big"):
            got = await sandbox.run("caught", name)
            assert isinstance(got, dict)
            assert got["type"] == "InvalidArgumentError"
            assert name in str(got["message"])
        with pytest.raises(GuestError) as caught:
            await sandbox.run("send_set")
        assert caught.value.type in ("TypeError", "ValueError")
        assert await sandbox.run("value") == 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_what_encoding_an_answer_takes_is_not_the_guests_cpu(template: SandboxTemplate, kind: str) -> None:
    rows = [[float(i), str(i)] for i in range(200_000)]

    async def later(_: Any) -> Any:
        return rows

    async with template.create(hostcalls={"rows": later if kind == "async" else lambda _: rows}) as sandbox:
        await sandbox.load_script(
            "from sandbox.asyncio import hostcall\nasync def f(): return len(await hostcall('rows'))"
        )
        began = time.process_time()
        assert await sandbox.run("f") == 200_000
        assert sandbox.usage.cpu_s < (time.process_time() - began) * 0.8


@pytest.mark.slow
async def test_answers_that_came_are_not_lost_when_making_another_is_cancelled(
    template: SandboxTemplate, pauses: Pauses
) -> None:
    big = [0.5] * 3_000_000

    async def get(_: Any) -> Any:
        return big

    async def small(_: Any) -> int:
        return 1

    async with template.create(hostcalls={"get": get, "small": small}) as sandbox:
        await sandbox.load_script(
            "import asyncio\nfrom sandbox.asyncio import hostcall\nseen = []\n"
            "async def f():\n"
            "    first, second = (asyncio.ensure_future(hostcall(name)) for name in ('small', 'get'))\n"
            "    try: await asyncio.shield(second)\n"
            "    finally: seen.append(await asyncio.wait_for(asyncio.shield(first), 0.5))\n"
            "def told(): return seen"
        )
        await pauses.cancel_after(3, sandbox, "f")
        assert not sandbox.broken
        assert await sandbox.run("told") == [1]


@pytest.mark.slow
async def test_a_plain_handlers_answer_reaches_a_guest_that_was_cancelled_meanwhile(
    template: SandboxTemplate,
) -> None:
    entered = threading.Event()

    def slow(_: Any) -> str:
        entered.set()
        time.sleep(0.2)
        return "done"

    async with template.create(hostcalls={"slow": slow}) as sandbox:
        await sandbox.load_script(
            "import asyncio\nfrom sandbox.asyncio import hostcall\nseen = []\n"
            "async def f():\n"
            "    answer = asyncio.ensure_future(hostcall('slow'))\n"
            "    try: await asyncio.shield(answer)\n"
            "    finally: seen.append(await answer)\n"
            "def told(): return seen"
        )
        await cancel_when(lambda: anyio.to_thread.run_sync(entered.wait), lambda: sandbox.run("f"))
        assert not sandbox.broken
        assert await sandbox.run("told") == ["done"]


def test_of_a_failure_no_more_text_is_built_than_is_told() -> None:
    long = "\0" * 10_000_000
    before = time.process_time()
    excs = (KeyError(long), ValueError(long), ValueError([long]))
    told = [str(codec.decode(failure("", exc))["message"]) for exc in excs]
    assert time.process_time() - before < 0.05 * SLACK
    assert [text[:3] for text in told] == ["'\\x", "\0\0\0", "['\\"]
    assert all(len(text) <= 65_536 + 3 for text in told)
    for exc in (KeyError("a"), KeyError(), ValueError("a", 1), OSError(2, "no"), UnicodeError("x")):
        assert codec.decode(failure("", exc))["message"] == str(exc)
