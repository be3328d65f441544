"""What does the host learn of a guest's failure?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio import GuestError, MemoryLimitError, PayloadLimitError
from tests.loops import ONE_LOOP

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

pytestmark = ONE_LOOP


async def test_a_traceback_has_the_guests_frames_file_names_and_lines_and_no_others(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        code = "import asyncio\n\ndef inner(x):\n    return 1 / x\n\nasync def outer(x):\n    return inner(x)\n"
        await sandbox.load_script(code, filename="jobs/division.py")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("outer", 0)
        error = caught.value
        assert (error.type, error.message) == ("ZeroDivisionError", "division by zero")
        assert error.traceback.splitlines() == [
            "Traceback (most recent call last):",
            '  File "jobs/division.py", line 7, in outer',
            "    return inner(x)",
            '  File "jobs/division.py", line 4, in inner',
            "    return 1 / x",
            "           ~~^~~",
            "ZeroDivisionError: division by zero",
        ]
        assert "isola" not in error.traceback


async def test_causes_and_groups_are_in_the_traceback_without_our_frames(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
import asyncio
async def fails(n): raise ValueError(n)
async def group():
    async with asyncio.TaskGroup() as tg:
        tg.create_task(fails(1)); tg.create_task(fails(2))
def caused():
    try:
        1/0
    except ZeroDivisionError as exc:
        raise KeyError("missing") from exc
""")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("group")
        assert caught.value.type == "ExceptionGroup"
        assert "ValueError: 2" in caught.value.traceback
        with pytest.raises(GuestError) as caught:
            await sandbox.run("caused")
        assert caught.value.type == "KeyError"
        assert "direct cause" in caught.value.traceback
        assert "<isola>" not in caught.value.traceback


async def test_a_syntax_error_says_where_it_is(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        with pytest.raises(GuestError) as caught:
            await sandbox.load_script("x = 1\ny = (", filename="broken.py")
        assert caught.value.type == "SyntaxError"
        assert 'File "broken.py", line 2' in caught.value.traceback


@pytest.mark.parametrize("form", ["plain", "async", "generator", "async_generator", "task"])
@pytest.mark.parametrize(
    ("raised", "type_name", "message"),
    [
        ("SystemExit(3)", "SystemExit", "3"),
        ("SystemExit()", "SystemExit", "0"),
        ("KeyboardInterrupt('stop')", "KeyboardInterrupt", "stop"),
        ("BaseException('base')", "BaseException", "base"),
        ("GeneratorExit()", "GeneratorExit", ""),
        ("asyncio.CancelledError('mine')", "CancelledError", "mine"),
        ("StopAsyncIteration()", "StopAsyncIteration", ""),
        ("Own('x')", "Own", "x"),
    ],
)
async def test_whatever_a_function_raises_arrives_as_a_guest_error_and_breaks_nothing(
    template: SandboxTemplate, form: str, raised: str, type_name: str, message: str
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script(f"""
import asyncio
class Own(Exception): pass
def plain(): raise {raised}
async def async_():
    await asyncio.sleep(0)
    raise {raised}
def generator():
    yield 1
    raise {raised}
async def async_generator():
    yield 1
    raise {raised}
async def task():
    await asyncio.create_task(async_())
def fine(): return "fine"
""")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("async_" if form == "async" else form)
        if raised == "StopAsyncIteration()" and form == "async_generator":
            type_name, message = "RuntimeError", "async generator raised StopAsyncIteration"
        assert caught.value.type == type_name
        assert caught.value.message == message
        assert not sandbox.broken
        assert await sandbox.run("fine") == "fine"


@pytest.mark.slow
async def test_exceptions_with_hostile_methods_are_still_reported(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
class NoStr(Exception):
    def __str__(self): raise RuntimeError("no")
    __repr__ = __str__
class Meta(type):
    @property
    def __name__(cls): raise RuntimeError("no name")
class NoName(Exception, metaclass=Meta): pass
class Exits(Exception):
    def __str__(self): raise SystemExit
class Odd(Exception):
    def __str__(self): return "\\ud800 lone"
class Evil(Exception):
    def __str__(self): raise Evil
    __repr__ = __str__
    def __getattribute__(self, name): raise Evil
def evil(): raise Evil
async def evil_async(): raise Evil
def no_str(): raise NoStr
def no_name(): raise NoName
def exits(): raise Exits
def odd(): raise Odd
def huge(): raise ValueError("x" * 10_000_000)
def long_chain():
    error = None
    for i in range(3000):
        try:
            raise ValueError(i) from error
        except ValueError as exc:
            error = exc
    raise error
def deep():
    def down(n):
        return down(n - 1)
    down(10**6)
def fine(): return "fine"
""")
        for name in ("evil", "evil_async", "no_str", "no_name", "exits", "odd", "huge", "long_chain", "deep"):
            with pytest.raises(GuestError) as caught:
                await sandbox.run(name)
            assert caught.value.type, name
            assert len(caught.value.message) + len(caught.value.traceback) < 1 << 18
            str(caught.value)
            assert await sandbox.run("fine") == "fine"


async def test_memory_that_runs_out_is_a_memory_limit_and_the_sandbox_goes_on(template: SandboxTemplate) -> None:
    async with template.create(max_memory=template.image_size + (64 << 20)) as sandbox:
        await sandbox.load_script("""
import asyncio
def fill():
    kept = []
    while True: kept.append(bytearray(1 << 20))
async def fill_async():
    await asyncio.sleep(0)
    fill()
def generate():
    yield 1
    fill()
def small():
    kept = []
    while True: kept.append(object())
def fine(): return "fine"
""")
        for name in ("fill", "fill_async", "generate", "small"):
            with pytest.raises(MemoryLimitError) as caught:
                await sandbox.run(name)
            assert caught.value.type == "MemoryError"
            assert not sandbox.broken
            assert await sandbox.run("fine") == "fine"


async def test_a_value_that_does_not_fit_into_the_guest_is_a_memory_limit(template: SandboxTemplate) -> None:
    async def big(payload: None) -> bytes:
        return b"x" * (40 << 20)

    async with template.create(max_memory=template.image_size + (32 << 20), hostcalls={"big": big}) as sandbox:
        await sandbox.load_script("""
from sandbox.asyncio import hostcall
def take(x): return len(x)
async def ask():
    return len(await hostcall("big"))
""")
        with pytest.raises(MemoryLimitError):
            await sandbox.run("take", b"x" * (40 << 20))
        assert await sandbox.run("take", b"xx") == 2
        with pytest.raises(GuestError) as caught:
            await sandbox.run("ask")
        assert caught.value.message.count("MemoryError") or caught.value.type == "MemoryError"
        assert await sandbox.run("take", b"xx") == 2


async def test_a_result_or_item_over_max_payload_is_a_payload_limit_and_breaks_nothing(
    template: SandboxTemplate,
) -> None:
    async with template.create(max_payload=10_000) as sandbox:
        await sandbox.load_script("""
def give(n): return "x" * n
def generate(n):
    yield 1
    yield "x" * n
def swallow(n):
    try:
        yield "x" * n
    except BaseException as exc:
        yield type(exc).__name__
""")
        assert len(await sandbox.run("give", 5000)) == 5000  # type: ignore[arg-type]
        for name in ("give", "generate"):
            with pytest.raises(PayloadLimitError, match="max_payload=10000") as caught:
                await sandbox.run(name, 20_000)
            assert caught.value.limit == "payload"
            assert not sandbox.broken
            async with sandbox.run_stream(name, 20_000) as events:
                with pytest.raises(PayloadLimitError):
                    async for _ in events:
                        pass
        assert await sandbox.run("give", 1) == "x"


@pytest.mark.parametrize("max_payload", [600, 64 << 20])
async def test_an_error_with_much_to_say_is_shortened_and_keeps_its_type(
    template: SandboxTemplate, max_payload: int
) -> None:
    async with template.create(max_payload=max_payload) as sandbox:
        await sandbox.load_script(r"""
class Fails(Exception): pass
def fails(): raise Fails(("begin" + "{}" * 100_000 + "end").format(*["x\ud800\0\U0001f600"] * 100_000))
def fails_a_bit(): raise Fails("begin" + "x" * 20_000 + "end")
def fails_by_name(): raise type("N" * 200_000, (Exception,), {})("begin end")
""")
        for name in ("fails", "fails_a_bit", "fails_by_name"):
            with pytest.raises(GuestError) as caught:
                await sandbox.run(name)
            error = caught.value
            assert error.type.startswith("N" if name == "fails_by_name" else "Fails")
            assert error.message.startswith("begin")
            assert error.message.endswith("end")
            assert f", in {name}" in error.traceback


async def test_a_log_over_max_payload_is_a_payload_limit_that_the_guest_may_catch(template: SandboxTemplate) -> None:
    async with template.create(max_payload=1000) as sandbox:
        await sandbox.load_script("""
from sandbox.logging import info
def says(n): info("x" * n)
def catches(n):
    try: says(n)
    except ValueError as error: return str(error)
""")
        await sandbox.run("says", 1000)
        for size in (1001, 5_000, 100_000):
            with pytest.raises(PayloadLimitError, match="max_payload=1000"):
                await sandbox.run("says", size)
            assert (
                await sandbox.run("catches", size)
                == f"the log's text: the value takes {size} bytes, over the limit of 1000"
            )
        assert not sandbox.broken


async def test_errors_of_this_library_go_by_the_names_that_guests_import(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
from sandbox import HostcallError
from sandbox.asyncio import hostcall
async def call(): await hostcall("nowhere")
""")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("call")
        assert caught.value.type == "HostcallError"
        assert caught.value.traceback.splitlines()[-1].startswith("sandbox.HostcallError: nowhere: ")


async def test_source_nested_too_deeply_for_the_parser_is_no_memory_limit(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("def deep(): return eval('[' * 190 + ']' * 190)\ndef big(): return len('x' * 10**9)")
        with pytest.raises(GuestError, match="too complex to parse") as caught:
            await sandbox.run("deep")
        assert not isinstance(caught.value, MemoryLimitError)
        assert caught.value.type == "MemoryError"
        with pytest.raises(MemoryLimitError):
            await sandbox.run("big")


@pytest.mark.slow
async def test_a_stream_left_while_the_guest_describes_its_failure_leaves_the_sandbox_whole(
    template: SandboxTemplate,
) -> None:
    broken = 0
    for moment in range(20):
        async with template.create() as sandbox:
            await sandbox.load_script(
                "def down0(): 1/0\n"
                + "".join(f"def down{i + 1}(): return [down{i}()]\n" for i in range(150))
                + "def generate():\n    yield 1\n    down150()\n"
            )
            async with sandbox.run_stream("generate") as events:
                await events.receive()
                await anyio.sleep(moment / 1000)
            broken += sandbox.broken
    assert broken <= 5  # on a busy machine one may be slow to come where it can be told


async def test_a_recursion_is_described_place_by_place_and_not_frame_by_frame(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
import traceback
formatted = []
original = traceback.StackSummary.format_frame_summary
def counting(self, frame, **options):
    formatted.append(frame)
    return original(self, frame, **options)
traceback.StackSummary.format_frame_summary = counting
def down(n):
    return down(n - 1) if n else 1 / 0
def count(): return len(formatted)
""")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("down", 500)
        assert caught.value.traceback.count("in down") == 3
        assert "[Previous line repeated 498 more times]" in caught.value.traceback
        assert await sandbox.run("count") == 2
