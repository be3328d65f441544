"""Which guest functions are there, what do they give back, and what stays behind between two runs?"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import (
    EndEvent,
    GuestError,
    InvalidArgumentError,
    MountConfig,
    ResultEvent,
    SandboxTemplate,
    build_template,
)

if TYPE_CHECKING:
    from pathlib import Path

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


async def test_the_contracts_first_example_runs_as_it_stands(anyio_backend_name: str) -> None:
    import trio

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


async def test_globals_persist_between_runs_and_are_never_seen_by_another_sandbox(template: SandboxTemplate) -> None:
    async with template.create() as one, template.create() as two:
        await one.load_script("count = 0\ndef bump():\n    global count\n    count += 1\n    return count")
        assert [await one.run("bump") for _ in range(3)] == [1, 2, 3]
        with pytest.raises(GuestError, match="bump"):
            await two.run("bump")
        await two.load_script("import sys, builtins\ndef names(): return 'count' in globals()")
        assert await two.run("names") is False


async def test_modules_and_builtins_patched_in_one_sandbox_are_whole_in_the_next(template: SandboxTemplate) -> None:
    async with template.create() as one:
        await one.load_script(
            "import json, builtins\njson.dumps = None\nbuiltins.len = lambda x: 99\nfor _ in (): pass"
        )
    async with template.create() as two:
        await two.load_script("import json\ndef check(): return [json.dumps([1]), len([1])]")
        assert await two.run("check") == ["[1]", 1]


async def test_what_the_prelude_did_is_in_every_sandbox() -> None:
    template = await build_template(
        "python", prelude="import json, asyncio\ntable = {'a': [1]}\nawait asyncio.sleep(0)\ndef get(): return table"
    )
    try:
        for _ in range(2):
            async with template.create() as sandbox:
                assert await sandbox.run("get") == {"a": [1]}
                await sandbox.load_script("table['a'].append(2)")
                assert await sandbox.run("get") == {"a": [1, 2]}
    finally:
        template.close()


@pytest.mark.parametrize(
    ("prelude", "type_name"),
    [("1/0", "ZeroDivisionError"), ("x =", "SyntaxError"), ("raise SystemExit(3)", "SystemExit")],
)
async def test_a_prelude_that_raises_makes_no_template(prelude: str, type_name: str) -> None:
    with pytest.raises(GuestError) as caught:
        await build_template("python", prelude=prelude)
    assert caught.value.type == type_name
    assert "<prelude>" in caught.value.traceback


async def test_a_script_may_await_at_top_level(template: SandboxTemplate) -> None:
    async def double(x: int) -> int:
        return 2 * x

    async with template.create(hostcalls={"double": double}) as sandbox:
        await sandbox.load_script(
            "from sandbox.asyncio import hostcall\nx = await hostcall('double', 21)\n"
            "async with __import__('asyncio').timeout(5):\n    y = x + 1\ndef both(): return [x, y]"
        )
        assert await sandbox.run("both") == [42, 43]


async def test_two_sandboxes_never_share_a_random_state(template: SandboxTemplate) -> None:
    code = "import random, uuid, os\ndef draw(): return [random.random(), str(uuid.uuid4()), os.urandom(8).hex()]"
    drawn = []
    for _ in range(3):
        async with template.create() as sandbox:
            await sandbox.load_script(code)
            drawn.append(await sandbox.run("draw"))
    assert all(len(set(column)) == 3 for column in zip(*drawn, strict=True))
    seeded = []
    for seed in (1, 1, 2):
        async with template.create(seed=seed) as sandbox:
            await sandbox.load_script(code)
            seeded.append(await sandbox.run("draw"))
    assert seeded[0] == seeded[1] != seeded[2]


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


async def test_results_that_cannot_cross_are_type_errors_of_the_guest_and_break_nothing(
    template: SandboxTemplate,
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
def gives_set(): return {1}
def gives_keys(): return {1: 2}.keys()
def gives_deque():
    import collections
    return collections.deque([1])
def gives_class():
    class Iterable:
        def __iter__(self): return iter(())
    return Iterable
def gives_table():
    import pandas
    return pandas.DataFrame({"a": [1]})
def gives_function(): return len
def gives_cycle():
    a = []; a.append(a); return a
def gives_key(): return {1: 2}
def yields_set():
    yield 1
    yield {1}
def fine(): return "fine"
""")
        for name in (
            *("gives_set", "gives_keys", "gives_deque", "gives_class", "gives_table"),
            *("gives_function", "gives_cycle", "gives_key", "yields_set"),
        ):
            with pytest.raises(GuestError) as caught:
                await sandbox.run(name)
            assert caught.value.type in ("TypeError", "ValueError"), name
            assert caught.value.traceback.splitlines()[-1] == f"{caught.value.type}: {caught.value.message}"
            assert not sandbox.broken
        assert await sandbox.run("fine") == "fine"


async def test_arguments_that_cannot_cross_are_named_before_anything_runs(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        with pytest.raises(InvalidArgumentError, match="argument 1"):
            await sandbox.run("f", 1, {1, 2})
        with pytest.raises(InvalidArgumentError, match="argument 'key'"):
            await sandbox.run("f", 1, key=object())
        with pytest.raises(InvalidArgumentError, match=r"rows\[1\]"):
            await sandbox.run("f", {"rows": [1, print]})


def metadata(*lines: str) -> str:
    return "\n".join(["# /// script", *(f"# {line}" if line else "#" for line in lines), "# ///", "loaded = True"])


@pytest.mark.parametrize(
    ("script", "type_name", "said"),
    [
        (
            metadata('dependencies = ["numpy", "foo @ https://host.test/foo.zip"]'),
            "ImportError",
            "'foo @ https.*no HTTP",
        ),
        (metadata("dependencies = [", '  "nowhere<3",', '  "other",', "]"), "ImportError", "'nowhere<3'.*no HTTP"),
        (metadata('dependencies = ["numpy<1"]'), "ImportError", "'numpy<1'.*version [0-9]"),
        (metadata("dependencies = ["), "ValueError", "not TOML"),
        (metadata("dependencies = 5"), "ValueError", "list of str, not 5"),
        (metadata("dependencies = [5]"), "ValueError", "no requirement: 5"),
        (metadata('dependencies = ["a b"]'), "ValueError", "no requirement: 'a b'"),
        (metadata("requires-python = '<3'"), "RuntimeError", "requires Python <3; this sandbox has 3"),
        (metadata("requires-python = 3"), "ValueError", "no version specifier: 3"),
        (metadata("requires-python = 'new'"), "ValueError", "no version specifier: 'new'"),
        (metadata("") + "\n" + metadata(""), "ValueError", "one block"),
    ],
)
async def test_a_script_whose_metadata_asks_for_what_is_not_there_is_refused(
    template: SandboxTemplate, script: str, type_name: str, said: str
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("loaded = False\ndef look(): return loaded")
        for code in (script, script.replace("\n", "\r\n")):
            with pytest.raises(GuestError, match=said) as caught:
                await sandbox.load_script(code)
            assert caught.value.type == type_name
        assert await sandbox.run("look") is False


@pytest.mark.parametrize(
    "script",
    [
        metadata("requires-python = '>=3.11'"),
        metadata('dependencies = ["numpy>=1.0", "Pillow"]', "", "[tool.x]", "y = 1"),
        metadata("dependencies = [\"gone; sys_platform == 'win32'\"]"),
        "# /// script\n# dependencies = ['gone']\nloaded = True",
        metadata('dependencies = ["gone"]').replace("/// script", "/// other"),
        "text = '''\n  # /// script\n  # dependencies = ['gone']\n  # ///\n'''\nloaded = True",
    ],
)
async def test_a_script_whose_metadata_is_satisfied_loads(template: SandboxTemplate, script: str) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(script + "\ndef look(): return loaded")
        assert await sandbox.run("look") is True


async def test_a_guests_numpy_scalars_arrive_as_the_numbers_they_are(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
import numpy as np
def numbers():
    return [np.int64(-3), np.uint64(2**64 - 1), np.int8(5), np.float32(0.1), np.float16(0.1), np.float64(0.1), np.bool_(True)]
def one(): return np.arange(10).sum()
def many():
    for x in np.array([1.5, -0.0]): yield {"x": x}
def date(): return np.datetime64("2024-01-01")
def complex_(): return np.complex64(1j)
def long(): return np.longdouble(1)
""")
        numbers: Any = await sandbox.run("numbers")
        assert numbers == [-3, 2**64 - 1, 5, 0.10000000149011612, 0.0999755859375, 0.1, True]
        assert [type(number) for number in numbers] == [int, int, int, float, float, float, bool]
        assert await sandbox.run("one") == 45
        async with sandbox.run_stream("many") as events:
            assert [repr(event.data) async for event in events] == ["{'x': 1.5}", "{'x': -0.0}", "None"]
        for name in ("date", "complex_", "long"):
            with pytest.raises(GuestError) as caught:
                await sandbox.run(name)
            assert caught.value.type == "TypeError"
