"""Turn the clocks, sleep for centuries, and measure what is none of a guest's business."""

from __future__ import annotations

from isola_anyio import GuestError
from tests.hostile.attack import contained, either, gives, holds, js, python, raises, stopped

ATTACKS = [
    python(
        "a clock that is set",
        "import time\ndef attack():\n    try:\n        time.clock_settime(time.CLOCK_REALTIME, 0)\n    except (OSError, AttributeError): return 'refused'\n",
        gives("refused"),
    ),
    python(
        "a monotonic clock that goes back",
        "import time\ndef attack():\n    before = time.monotonic_ns()\n    for _ in range(20000):\n        now = time.monotonic_ns()\n        if now < before: return False\n        before = now\n    return True\n",
        gives(True),
    ),
    python(
        "how long the host is up",
        "import time\ndef attack(): return time.monotonic()\n",
        holds(lambda seconds: 0 <= seconds < 86400),
    ),
    python(
        "clocks there are none of",
        "import time\ndef attack():\n    errors = 0\n    for number in (-1, 4, 7, 100, 1 << 31):\n        try:\n            time.clock_gettime(number)\n        except (OSError, OverflowError): errors += 1\n    return errors\n",
        contained,
    ),
    python(
        "a sleep of centuries",
        "import time\ndef attack(): time.sleep(4e9)\n",
        either(stopped(), raises(GuestError)),
        cancel_after=0.1,
    ),
    python(
        "a sleep longer than numbers",
        "import time\ndef attack():\n    errors = 0\n    for seconds in (1e300, float('inf'), float('nan'), -1, 1 << 70):\n        try:\n            time.sleep(seconds)\n        except (OverflowError, ValueError, OSError): errors += 1\n    return errors\n",
        gives(5),
    ),
    python(
        "short sleeps without end",
        "import time\ndef attack():\n    while True: time.sleep(1e-9)\n",
        stopped(),
        cancel_after=0.2,
    ),
    python(
        "an async sleep of centuries",
        "import asyncio\nasync def attack(): await asyncio.sleep(1e18)\n",
        stopped(usable=True),
        cancel_after=0.1,
    ),
    python(
        "an async sleep longer than numbers",
        "import asyncio\nasync def attack():\n    loop = asyncio.get_running_loop()\n    loop.call_at(float('inf'), print)\n    loop.call_at(1e308, print)\n    await asyncio.sleep(float('inf'))\n",
        stopped(),
        cancel_after=0.1,
    ),
    python(
        "an async sleep that is no number",
        "import asyncio\nasync def attack():\n    loop = asyncio.get_running_loop()\n    loop.call_at(float('nan'), print)\n    loop.call_at(float('-inf'), print)\n    await asyncio.sleep(0.01)\n    return 'woke'\n",
        either(gives("woke"), contained, stopped()),
        cancel_after=0.5,
    ),
    python(
        "a hundred thousand timers",
        "import asyncio\nasync def attack():\n    loop = asyncio.get_running_loop()\n    for n in range(100000): loop.call_later(1000 + n, print)\n    await asyncio.sleep(0.01)\n    return 'woke'\n",
        gives("woke"),
        cancel_after=5.0,
    ),
    python(
        "a wait for nothing",
        "import select\ndef attack():\n    errors = 0\n    for act in (lambda: select.select([], [], [], 0), lambda: select.select([0], [1], [], 0), lambda: select.poll().poll(0), lambda: select.select(range(100), [], [], 0)):\n        try:\n            act()\n        except (OSError, ValueError, AttributeError): errors += 1\n    return errors\n",
        contained,
    ),
    python(
        "time turned by the guest",
        "import time\ndef attack():\n    time.time = time.monotonic = lambda: 0\n    return 'still'\n",
        gives("still"),
    ),
    python(
        "a timeout that never comes",
        "import asyncio\nasync def attack():\n    async with asyncio.timeout(1e300):\n        await asyncio.sleep(1e300)\n",
        stopped(),
        cancel_after=0.1,
    ),
    js(
        "a timer of centuries",
        "function attack() { return new Promise((r) => setTimeout(r, 1e15)) }",
        contained,
        cancel_after=0.2,
    ),
    js(
        "timers that are no numbers",
        "async function attack() { let n = 0; for (const ms of [NaN, -1, -Infinity, '1', null, {}, [], 1e-9]) await new Promise((r) => setTimeout(() => { n++; r() }, ms)); return n }",
        gives(8),
    ),
    js(
        "a timer longer than numbers",
        "function attack() { return new Promise((r) => setTimeout(r, Infinity)) }",
        contained,
        cancel_after=0.2,
    ),
    js(
        "a timer whose delay throws",
        "function attack() { try { setTimeout(() => {}, { valueOf() { throw 1 } }) } catch { return 'thrown' } return 'taken' }",
        contained,
    ),
    js(
        "a hundred thousand timers",
        "async function attack() { for (let n = 0; n < 100000; n++) setTimeout(() => {}, 100000 + n); await new Promise((r) => setTimeout(r, 5)); return 'woke' }",
        either(gives("woke"), contained),
        cancel_after=5.0,
    ),
    js(
        "timers cleared that are none",
        "function attack() { for (const id of [0, -1, 1e9, NaN, {}, 'x', null, undefined]) { clearTimeout(id); clearInterval(id) } return 'fine' }",
        gives("fine"),
    ),
    js(
        "a clock that goes back",
        "function attack() { let before = performance.now(); for (let i = 0; i < 20000; i++) { const now = performance.now(); if (now < before) return false; before = now } return true }",
        gives(True),
    ),
    js(
        "how long the host is up",
        "function attack() { return performance.now() }",
        holds(lambda ms: 0 <= ms < 86_400_000),
    ),
    js(
        "a date that loops",
        "function attack() { Date.now = () => { for (;;); }; performance.now = Date.now; return 'fine' }",
        gives("fine"),
    ),
    js(
        "code in place of a timer's function",
        "async function attack() { let ran = 0; globalThis.hit = () => ran++; try { setTimeout('hit()', 0) } catch { } await new Promise((r) => setTimeout(r, 5)); return typeof ran }",
        contained,
    ),
]
