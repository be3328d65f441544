"""What can a guest that speaks the door's language do? Not end the host, not speak for another, not take its memory."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import CpuLimitError, GuestError, IsolaError, OutputLimitError, SandboxBrokenError
from tests.hostile.dispatcher import PRELUDE
from tests.templates import built_template
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio import SandboxTemplate

FLOOD = "def attack():\n    while True: os.write(1, b'\\xff' * 60000)"


@pytest.fixture(scope="module")
def hostile_template() -> Iterator[SandboxTemplate]:
    """Give a template whose guests know the door."""
    with built_template("python", prelude=PRELUDE, max_memory=320 << 20) as template:
        yield template


async def never(_: Any) -> None:
    await anyio.sleep_forever()


@pytest.mark.slow
async def test_random_frames_through_the_door_are_survived(hostile_template: SandboxTemplate) -> None:
    code = """
import random, struct
def attack(seed, rounds):
    draw = random.Random(seed)
    mine = sys.modules['sandbox._port'].current_run
    replies = 0
    for _ in range(rounds):
        kind = draw.choice([*range(0x10, 0x1e), draw.randrange(256)])
        number = draw.choice([mine, 0, 1, 2**32 - 1, draw.randrange(2**32)])
        length = draw.choice([0, 1, 2, 3, 4, 5, 8, 9, 10, 100, 5000])
        body = draw.choice([bytes(length), b'\\xff' * length, draw.randbytes(length), b'null', b'[1]',
                            b'\\x04\\0echo' + b'{"a": 1}', struct.pack('<dB', draw.choice([0.0, 1e308, -1e308, 0.001]), 255)])
        if kind in (0x13, 0x14, 0x15, 0x16) and draw.random() < 0.95:
            continue
        try:
            _host.call(frame(kind, number, body))
            replies += 1
        except OSError:
            pass
    for junk in (b'', b'x', b'\\x10', b'\\x10\\0\\0\\0'):
        if draw.random() < 0.2:
            _host.call(junk)
    return replies
"""
    outcomes: dict[str, int] = {}

    async def one(seed: int) -> None:
        async with hostile_template.create(hostcalls={"echo": lambda p: p, "never": never}) as sandbox:
            await sandbox.load_script(code)
            with anyio.move_on_after(3):
                try:
                    await sandbox.run("attack", seed, 300)
                    kind = "answered"
                except IsolaError as exc:
                    kind = type(exc).__name__ + getattr(exc, "type", "")
                outcomes[kind] = outcomes.get(kind, 0) + 1
                assert kind != "InternalError"
            if not sandbox.broken:
                with anyio.move_on_after(3):
                    try:
                        await sandbox.load_script("x = 1")
                    except IsolaError as exc:
                        assert "InternalError" not in type(exc).__name__

    async with anyio.create_task_group() as group:
        limit = anyio.CapacityLimiter(8)

        async def limited(seed: int) -> None:
            async with limit:
                await one(seed)

        for seed in range(120):
            group.start_soon(limited, seed)
    assert "InternalError" not in outcomes
    assert sum(outcomes.values()) >= 100


@pytest.mark.slow
@pytest.mark.timing
async def test_a_cpu_budget_stops_a_spinner_and_spares_a_sleeper(template: SandboxTemplate) -> None:
    async with template.create(max_cpu=0.2) as sandbox:
        await sandbox.load_script(
            "import asyncio\nasync def nap(): await asyncio.sleep(0.5)\ndef spin():\n    while True: pass\n"
            "async def pieces():\n    while True:\n        sum(range(100000))\n        await asyncio.sleep(0.001)"
        )
        await sandbox.run("nap")
        began = time.perf_counter()
        with pytest.raises(CpuLimitError, match=r"max_cpu=0\.2") as caught:
            await sandbox.run("spin")
        assert caught.value.limit == "cpu"
        assert time.perf_counter() - began < 5 * SLACK
        assert sandbox.broken
        assert 0.15 < sandbox.usage.cpu_s < 1
    async with template.create(max_cpu=0.1) as sandbox:
        await sandbox.load_script(
            "import asyncio\nasync def pieces():\n    while True:\n        sum(range(100000))\n"
            "        await asyncio.sleep(0.001)"
        )
        with pytest.raises(CpuLimitError):
            await sandbox.run("pieces")


async def test_a_guest_that_died_tells_why_and_is_broken(template: SandboxTemplate) -> None:
    for code, type_name in (("import os; os._exit(3)", "SystemExit"), ("import os; os.abort()", "Trap|SystemExit")):
        async with template.create() as sandbox:
            with pytest.raises(GuestError) as caught:
                await sandbox.load_script(code)
            assert caught.value.type in type_name.split("|")
            assert sandbox.broken
            with pytest.raises(SandboxBrokenError):
                await sandbox.run("value")


async def test_a_time_bomb_of_one_run_cannot_speak_for_the_next(hostile_template: SandboxTemplate) -> None:
    async with hostile_template.create() as sandbox:
        await sandbox.load_script("""
class Bomb:
    def __del__(self):
        _host.call(frame(0x13, number, b'"forged"'))
def plant():
    global bomb, number
    number = sys.modules['sandbox._port'].current_run
    bomb = Bomb()
def honest():
    global bomb
    bomb = None
    return "honest"
""")
        await sandbox.run("plant")
        with pytest.raises(GuestError) as caught:
            await sandbox.run("honest")
        assert caught.value.type == "ProtocolError"


@pytest.mark.slow
async def test_a_hundred_thousand_pending_hostcalls_are_bounded_on_the_host(hostile_template: SandboxTemplate) -> None:
    async with hostile_template.create(hostcalls={"never": never}) as sandbox:
        await sandbox.load_script("""
def attack(n):
    for op in range(1, n):
        _host.call(frame(0x10, op + 1000, b'\\x05\\0never' + b'null'))
    time.sleep(100)
""")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with anyio.move_on_after(4):
            await sandbox.run("attack", 10_000_000)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 400 << 10, f"{grown >> 10} MiB"


async def test_output_is_bounded_without_a_consumer(hostile_template: SandboxTemplate) -> None:
    async with hostile_template.create(max_output=1 << 20) as sandbox:
        await sandbox.load_script(FLOOD)
        with pytest.raises(OutputLimitError):
            await sandbox.run("attack")
