"""Which guest functions are there, what do they give back, and what stays behind between two runs?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio import EndEvent, GuestError, MountConfig, ResultEvent
from tests.loops import ONE_LOOP

if TYPE_CHECKING:
    from pathlib import Path

    from isola_anyio import SandboxTemplate

pytestmark = ONE_LOOP

FUNCTIONS = """
import asyncio
def plain(a, b=2, *rest, key=None): return [a, b, list(rest), key]
async def coroutine(a): await asyncio.sleep(0); return {"a": a}
def generator(n):
    for i in range(n): yield i
    return "done"
async def async_generator(n):
    for i in range(n):
        await asyncio.sleep(0)
        yield i
def gives_map(n): return map(str, range(n))
def gives_iterator(n): return iter(list(range(n)))
def gives_async_iterator(n): return async_generator(n)
async def awaits_to_iterator(n): return iter(range(n))
async def awaits_to_generator(n): return generator(n)
async def awaits_to_async_generator(n): return async_generator(n)
class Custom:
    def __init__(self): self.n = 0
    def __aiter__(self): return self
    async def __anext__(self):
        self.n += 1
        if self.n > 2: raise StopAsyncIteration
        return self.n
def gives_custom(): return Custom()
class Numbers:
    def __init__(self, n): self.n = n
    def __iter__(self): return iter(range(self.n))
class AsyncNumbers(Numbers):
    __iter__ = None
    def __aiter__(self): return async_generator(self.n)
def gives_range(n): return range(n)
def gives_iterable(n): return Numbers(n)
def gives_async_iterable(n): return AsyncNumbers(n)
async def awaits_to_range(n): return range(n)
async def awaits_to_iterable(n): return Numbers(n)
async def awaits_to_async_iterable(n): return AsyncNumbers(n)
def drives_async_iterable(n):
    from sandbox.asyncio import run
    return list(run(AsyncNumbers(n)))
def gives_subclass():
    import collections
    return collections.OrderedDict(b=1, a=collections.namedtuple("P", "x y")(1, 2))
class Awaitable:
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return "awaited"
def gives_awaitable(): return Awaitable()
def nothing(): pass
value = 17
class Callable_:
    def __call__(self, x): return x + 1
thing = Callable_()
"""


async def test_plain_functions_take_positional_and_named_arguments(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(FUNCTIONS)
        assert await sandbox.run("plain", 1) == [1, 2, [], None]
        assert await sandbox.run("plain", 1, 3, 4, 5, key="k") == [1, 3, [4, 5], "k"]
        assert await sandbox.run("nothing") is None
        assert await sandbox.run("thing", 4) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "args", "items", "final"),
    [
        ("coroutine", (1,), [], {"a": 1}),
        ("generator", (3,), [0, 1, 2], "done"),
        ("generator", (0,), [], "done"),
        ("async_generator", (3,), [0, 1, 2], None),
        ("gives_map", (3,), ["0", "1", "2"], None),
        ("gives_iterator", (2,), [0, 1], None),
        ("gives_async_iterator", (2,), [0, 1], None),
        ("awaits_to_iterator", (2,), [0, 1], None),
        ("awaits_to_generator", (2,), [0, 1], "done"),
        ("awaits_to_async_generator", (2,), [0, 1], None),
        ("gives_custom", (), [1, 2], None),
        ("gives_range", (2,), [0, 1], None),
        ("gives_iterable", (2,), [0, 1], None),
        ("gives_async_iterable", (2,), [0, 1], None),
        ("awaits_to_range", (2,), [0, 1], None),
        ("awaits_to_iterable", (2,), [0, 1], None),
        ("awaits_to_async_iterable", (2,), [0, 1], None),
        ("drives_async_iterable", (2,), [], [0, 1]),
        ("gives_subclass", (), [], {"b": 1, "a": [1, 2]}),
        ("gives_awaitable", (), [], "awaited"),
        ("nothing", (), [], None),
    ],
)
async def test_every_kind_of_function_streams_its_items_and_ends_with_its_value(
    template: SandboxTemplate, name: str, args: tuple[Any, ...], items: list[Any], final: Any
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(FUNCTIONS)
        async with sandbox.run_stream(name, *args) as events:
            got = [event async for event in events]
        assert got == [*(ResultEvent(data=item) for item in items), EndEvent(data=final)]
        assert await sandbox.run(name, *args) == final


@pytest.mark.slow
async def test_thousands_of_items_arrive_in_order_through_a_bounded_channel(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(FUNCTIONS)
        for name in ("generator", "async_generator", "awaits_to_generator", "gives_map"):
            async with sandbox.run_stream(name, 5000) as events:
                got = [event.data async for event in events if isinstance(event, ResultEvent)]
            assert [int(str(item)) for item in got] == list(range(5000))


async def test_an_unknown_function_is_a_name_error_of_the_guest(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        with pytest.raises(GuestError, match="nowhere") as caught:
            await sandbox.run("nowhere")
        assert caught.value.type == "NameError"
        await sandbox.load_script("value = 17")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("value")
        assert caught.value.type == "TypeError"


async def test_a_script_may_await_at_top_level(template: SandboxTemplate) -> None:
    async def double(x: int) -> int:
        return 2 * x

    async with template.create(hostcalls={"double": double}) as sandbox:
        await sandbox.load_script(
            "from sandbox.asyncio import hostcall\nx = await hostcall('double', 21)\n"
            "async with __import__('asyncio').timeout(5):\n    y = x + 1\ndef both(): return [x, y]"
        )
        assert await sandbox.run("both") == [42, 43]


async def test_load_file_runs_a_mounted_file_and_misses_a_missing_one(
    template: SandboxTemplate, tmp_path: Path
) -> None:
    (tmp_path / "job.py").write_text("place = __file__\nawait __import__('asyncio').sleep(0)\ndef f():\n    1/0\n")
    async with template.create(mounts=[MountConfig(str(tmp_path), "/jobs")]) as sandbox:
        await sandbox.load_file("/jobs/job.py")
        await sandbox.load_script("def where(): return place")
        assert await sandbox.run("where") == "/jobs/job.py"
        with pytest.raises(GuestError) as caught:
            await sandbox.run("f")
        assert 'File "/jobs/job.py", line 4, in f' in caught.value.traceback
        with pytest.raises(GuestError) as caught:
            await sandbox.load_file("/jobs/none.py")
        assert caught.value.type == "FileNotFoundError"


async def test_what_the_outermost_function_left_running_is_cancelled_before_run_returns(
    template: SandboxTemplate,
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
import asyncio
log = []
async def background():
    try:
        await asyncio.sleep(3600)
    finally:
        log.append("cleaning")
        await asyncio.sleep(0.01)
        log.append("cleaned")
async def ticking():
    try:
        while True:
            yield 1
            await asyncio.sleep(0)
    finally:
        log.append("generator closed")
async def main():
    global kept
    asyncio.get_running_loop().call_later(0.05, log.append, "time bomb")
    asyncio.create_task(background())
    kept = ticking()
    await anext(kept)
    await asyncio.sleep(0)
    return "main"
def look(): return log
async def wait(): await asyncio.sleep(0.1)
""")
        assert await sandbox.run("main") == "main"
        log: Any = await sandbox.run("look")
        assert sorted(log) == ["cleaned", "cleaning", "generator closed"]
        await sandbox.run("wait")
        log = await sandbox.run("look")
        assert "time bomb" not in log
