"""What can a guest that means harm do? Not end the host, not stop its event loop, not outlive its scope."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from isola_anyio import (
    CpuLimitError,
    GuestError,
    IsolaError,
    OutputLimitError,
    SandboxBrokenError,
    build_template,
)
from tests.timing import SLACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from isola_anyio import SandboxTemplate

GAP_S = 0.05 * SLACK
ATTEMPTS = 5
"""A busy machine keeps the loop waiting by itself now and then."""


class Ticker:
    """Measures the longest time for which the event loop did not come round."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        last = time.perf_counter()
        while True:
            await anyio.sleep(0.001)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last)
            last = now


@asynccontextmanager
async def watched(template: SandboxTemplate) -> AsyncIterator[Ticker]:
    """Tick, and have a neighbour sandbox answer all the while."""
    ticker = Ticker()
    answers = 0

    async def neighbour() -> None:
        nonlocal answers
        while True:
            assert await beside.run("value") == 5
            answers += 1
            await anyio.sleep(0.02)

    async with template.create() as beside:
        await beside.load_script("def value(): return 5")
        async with anyio.create_task_group() as group:
            group.start_soon(ticker.run)
            group.start_soon(neighbour)
            await anyio.sleep(0.03)
            yield ticker
            before = answers
            with anyio.fail_after(5):
                while answers == before:
                    await anyio.sleep(0.005)
            group.cancel_scope.cancel()


PRELUDE = """
import asyncio, time, os, sys, json
from sandbox.asyncio import hostcall, run
import _host
def frame(kind, number, body=b""): return bytes([kind]) + number.to_bytes(4, "little") + body
"""

HOSTILE: dict[str, str] = {
    "spin": "def attack():\n    while True: pass",
    "sleep": "def attack(): time.sleep(1000)",
    "flood stdout": "def attack():\n    while True: print('x' * 1000)",
    "flood stdout raw": "def attack():\n    while True: os.write(1, b'\\xff' * 60000)",
    "flood tiny writes": "def attack():\n    while True: os.write(1, b'x')",
    "flood logs": "from sandbox import logging\ndef attack():\n    while True: logging.info('x' * 100)",
    "allocate": "def attack():\n    kept = []\n    while True: kept.append(bytearray(1 << 20))",
    "allocate at once": "def attack(): return bytearray(1 << 31)",
    "recurse": "def attack(): return attack()",
    "recurse in repr": "def attack():\n    x = []\n    for _ in range(10**6): x = [x]\n    return repr(x)",
    "recurse in json": "def attack():\n    x = []\n    for _ in range(10**5): x = [x]\n    return json.dumps(x)",
    "recurse in json text": "def attack(): return json.loads('[' * 10**6)",
    "recurse in pickle": """
def attack():
    import pickle
    x = []
    for _ in range(10**5): x = [x]
    return pickle.dumps(x)
""",
    "recurse in compile": "def attack(): eval('(' * 10**5 + ')' * 10**5)",
    "recurse in getattr": """
class A:
    def __getattr__(self, name): return getattr(self, name + 'x')
def attack(): return A().y
""",
    "recurse in C through sorted": """
def attack():
    class A:
        def __lt__(self, other): return sorted([A(), A()])
    return sorted([A(), A()])
""",
    "deep result": "def attack():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "swallow everything": """
def attack():
    while True:
        try:
            while True: time.sleep(0.001)
        except BaseException: pass
""",
    "os._exit": "def attack(): os._exit(3)",
    "os.abort": "def attack(): os.abort()",
    "sys.exit": "def attack(): sys.exit(3)",
    "kill": "def attack():\n    import signal; os.kill(os.getpid(), signal.SIGKILL)",
    "raise SystemExit in task": """
async def attack():
    async def f(): raise SystemExit(3)
    asyncio.create_task(f())
    await asyncio.sleep(10)
""",
    "big result": "def attack(): return 'x' * (60 << 20)",
    "big list": "def attack(): return list(range(4_000_000))",
    "nested small lists": "def attack(): return [[] for _ in range(3_000_000)]",
    "big numbers": "def attack(): return [10**4000] * 3000",
    "one huge number": "def attack(): return 1 << (8 * 3_000_000)",
    "over the limit": "def attack(): return 'x' * (100 << 20)",
    "many results": "def attack():\n    while True: yield 1",
    "big hostcall": "def attack(): run(hostcall('echo', [[]] * 200_000))",
    "hostcalls without end": "async def attack():\n    while True: asyncio.create_task(hostcall('never'))",
    "hostcalls in a plain loop": """
def attack():
    n = 0
    while True:
        n += 1
        _host.call(frame(0x10, n & 0xFFFFFFFF, b'\\x05\\0never' + b'\\0null'))
""",
    "answers without end": """
def attack():
    n = 1000
    while True:
        n += 1
        _host.call(frame(0x10, n & 0xFFFFFFFF, b'\\x03\\0big' + b'null'))
""",
    "hostcall with a long name": "def attack(): _host.call(frame(0x10, 9, b'\\xff\\xff' + b'x' * 65535 + b'null'))",
    "one op twice": "def attack():\n    for _ in range(3): _host.call(frame(0x10, 77, b'\\x05\\0nevernull'))\n    time.sleep(9)",
    "speak for another run": "def attack(): _host.call(frame(0x13, 4_000_000_000, b'null'))",
    "done twice": """
def attack():
    n = sys.modules['sandbox._port'].current_run
    _host.call(frame(0x13, n, b'1'))
    _host.call(frame(0x13, n, b'2'))
""",
    "done and spin": """
def attack():
    _host.call(frame(0x13, sys.modules['sandbox._port'].current_run, b'1'))
    while True: pass
""",
    "park and spin": """
def attack():
    import struct
    _host.call(frame(0x15, sys.modules['sandbox._port'].current_run, struct.pack('<dB', -1.0, 0)))
    while True: pass
""",
    "park with odd timers": """
def attack():
    import struct
    _host.call(frame(0x15, sys.modules['sandbox._port'].current_run, struct.pack('<dB', float('nan'), 0)))
""",
    "park with an endless timer": """
async def attack():
    asyncio.get_running_loop().call_later(1e300, print)
    asyncio.get_running_loop().call_later(float('inf'), print)
    await asyncio.Event().wait()
""",
    "timers without end": """
async def attack():
    def again(): asyncio.get_running_loop().call_later(0, again)
    again()
    await asyncio.Event().wait()
""",
    "setup again": "def attack(): sys.modules['sandbox._main'].dispatch(bytes([0, 1, 0, 0, 0, 0]) + b'{}')",
    "forget the run": "def attack():\n    sys.modules['sandbox._main'].current = None\n    time.sleep(0)",
    "replace the dispatcher": """
def attack():
    import _reactor
    def port(source, environ): return 7
    _reactor.turn.__code__ = port.__code__
    return 1
""",
    "delete builtins": "def attack():\n    import builtins\n    for name in list(vars(builtins)): delattr(builtins, name)",
    "empty sys.modules": "def attack():\n    sys.modules.clear()\n    import json\n    return json.dumps(1)",
    "poison the package": """
def attack():
    for name, module in list(sys.modules.items()):
        if name.startswith('sandbox') or name.startswith('asyncio'):
            for key in list(vars(module)):
                setattr(module, key, None)
    return 1
""",
    "patch the door": "def attack():\n    _host.call = lambda frame: b''\n    return 1",
    "close the streams": "def attack():\n    print('x', end='')\n    sys.stdout.close(); os.close(1); os.close(2)\n    return 1",
    "generator that ignores close": """
def attack():
    while True:
        try: yield 1
        except BaseException: pass
""",
    "task that ignores cancellation": """
async def attack():
    while True:
        try: await asyncio.sleep(1000)
        except BaseException: pass
""",
    "del tricks": """
class Bomb:
    def __del__(self):
        global kept
        kept = Bomb()
        while True: pass
def attack():
    Bomb()
""",
    "bomb at exit": """
import atexit, threading, weakref
class Bomb:
    def __del__(self): print('bang')
def attack():
    global kept
    kept = Bomb()
    atexit.register(lambda: [].clear())
    return 1
""",
    "huge exception": "def attack(): raise ValueError('x' * (50 << 20))",
    "exceptions in the traceback": """
class E(Exception):
    def __str__(self): raise E
    __repr__ = __str__
    def __getattribute__(self, name): raise E
def attack(): raise E
""",
    "regular expression": "def attack():\n    import re; re.match(r'(a*)*$', 'a' * 40 + 'b')",
    "big integer": "def attack(): return str(3 ** 10**7)",
    "random bytes at once": "def attack(): os.urandom(200 << 20)",
    "poll a century": "def attack():\n    import select; select.select([], [], [], 3e9)",
    "threads": "def attack():\n    import threading\n    t = threading.Thread(target=print); t.start()",
    "fork": "def attack(): os.fork()",
    "sockets": "def attack():\n    import socket; socket.create_connection(('127.0.0.1', 80))",
    "read the host": "def attack(): return open('/etc/passwd').read()",
    "write at the root": "def attack():\n    open('/x', 'wb').write(b'x'); os.symlink('/etc', '/y'); return open('/y/passwd').read()",
}

STREAMED = {"many results"}
"""What is streamed."""


@pytest.fixture(scope="session")
def hostile_template() -> Any:
    import threading

    built: list[SandboxTemplate] = []

    async def build() -> None:
        built.append(await build_template("python", prelude=PRELUDE, max_memory=320 << 20))

    thread = threading.Thread(target=anyio.run, args=(build,))
    thread.start()
    thread.join()
    yield built[0]
    built[0].close()


async def never(_: Any) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize("attack", list(HOSTILE))
async def test_an_attack_harms_nobody_else(
    hostile_template: SandboxTemplate, template: SandboxTemplate, attack: str
) -> None:
    handlers = {"never": never, "echo": lambda p: None, "big": lambda _: "x" * 10_000}
    for _ in range(ATTEMPTS):
        began = time.perf_counter()
        async with watched(template) as ticker:
            async with hostile_template.create(hostcalls=handlers) as sandbox:
                await sandbox.load_script(HOSTILE[attack])
                with anyio.move_on_after(0.4):
                    try:
                        if attack in STREAMED:
                            async with sandbox.run_stream("attack") as events:
                                await events.receive()
                                await anyio.sleep(0.3)
                        else:
                            await sandbox.run("attack")
                    except IsolaError:
                        pass
                after_cancel = time.perf_counter()
                with suppress(SandboxBrokenError, GuestError):
                    await sandbox.load_script("def value(): return 5")
            gap = ticker.longest
        elapsed = time.perf_counter() - began
        assert after_cancel - began < 4 * SLACK, f"{attack} took {after_cancel - began:.1f} s to stop"
        if gap < GAP_S:
            return
        print(f"{attack}: the loop stood still for {gap * 1e3:.0f} ms ({elapsed:.2f} s)")
    assert gap < GAP_S, f"{attack} kept the event loop from running for {gap * 1e3:.0f} ms"


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


async def test_a_hundred_thousand_pending_hostcalls_are_bounded_on_the_host(hostile_template: SandboxTemplate) -> None:
    import resource

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
        await sandbox.load_script(HOSTILE["flood stdout raw"])
        with pytest.raises(OutputLimitError):
            await sandbox.run("attack")
