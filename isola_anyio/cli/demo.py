"""Demo: what the library does, in a minute: both guests, a hostcall, a stream, a timeout."""

from __future__ import annotations

__all__ = ["demo"]

import time
from typing import TYPE_CHECKING, Any

import anyio

from isola_anyio.events import EndEvent, LogEvent, ResultEvent, StdoutEvent
from isola_anyio.template import build_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.cache import CacheDir
    from isola_anyio.events import EventStream
    from isola_anyio.runtimes.progress import OnProgress
    from isola_anyio.template import SandboxTemplate

    Say = Callable[[str], object]

PYTHON_GUEST = """
from sandbox.asyncio import hostcall

async def total(order_id):
    order = await hostcall("fetch_order", {"id": order_id})
    quantities, prices = numpy.array(order["lines"]).T
    return float(quantities @ prices)

def primes(limit):
    sieve = numpy.ones(limit, dtype=bool)
    sieve[:2] = False
    for n in range(2, limit):
        if sieve[n]:
            sieve[n * n :: n] = False
            print("found", n)
            yield n
    return int(sieve.sum())

def spin():
    while True:
        pass
"""

JAVASCRIPT_GUEST = """
async function total(orderId) {
  const order = await hostcall("fetch_order", { id: orderId });
  return order.lines.reduce((sum, [quantity, price]) => sum + quantity * price, 0);
}

function* primes(limit) {
  const found = [];
  for (let n = 2; n < limit; n++) {
    if (found.every((p) => n % p)) {
      console.log("found", n);
      found.push(n);
      yield n;
    }
  }
  return found.length;
}

function spin() {
  for (;;);
}
"""


async def fetch_order(payload: Any) -> Any:
    """Answer the guests' only way out: a hostcall."""
    await anyio.sleep(0.01)
    return {"id": payload["id"], "lines": [[2, 9.5], [1, 20.0]]}


async def demo(say: Say = print, *, cache_dir: CacheDir, on_progress: OnProgress | None = None) -> None:
    """Run the demo with both guests.

    Args:
        say: called with each line of the demo's output.
        cache_dir: where runtimes, compiled code and images are kept.
        on_progress: called while a template is built.
    """
    for runtime, prelude, guest in (("python", "import numpy", PYTHON_GUEST), ("js", None, JAVASCRIPT_GUEST)):
        began = time.perf_counter()
        template = await build_template(runtime, prelude=prelude, cache_dir=cache_dir, on_progress=on_progress)
        try:
            say(f"{runtime} {template.version}: template ready in {time.perf_counter() - began:.2f} s")
            await _tour(template, guest, say)
        finally:
            template.close()


async def _tour(template: SandboxTemplate, guest: str, say: Say) -> None:
    began = time.perf_counter()
    async with template.create(hostcalls={"fetch_order": fetch_order}) as sandbox:
        say(f"  a sandbox in {(time.perf_counter() - began) * 1000:.1f} ms")
        await sandbox.load_script(guest)

        say(f"  hostcall: the order's total is {await sandbox.run('total', 7)!r}")

        async with sandbox.run_stream("primes", 12) as events:
            say(f"  stream:   {await _spell(events)}")

        began = time.perf_counter()
        with anyio.move_on_after(0.2) as scope:
            await sandbox.run("spin")
        took_ms = (time.perf_counter() - began) * 1000
        say(f"  timeout:  an endless loop, cancelled={scope.cancelled_caught}, was gone after {took_ms:.0f} ms of 200")


async def _spell(events: EventStream) -> str:
    words: list[str] = []
    async for event in events:
        match event:
            case StdoutEvent(data=text) | LogEvent(data=text):
                words.append(repr(text.rstrip()))
            case ResultEvent(data=value):
                words.append(f"-> {value!r},")
            case EndEvent(data=value):
                words.append(f"end {value!r}")
            case _:
                words.append(repr(event))
    return " ".join(words)
