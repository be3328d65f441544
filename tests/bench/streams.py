"""A million items out of each guest, and a million in, with what the process grew by."""

from __future__ import annotations

import resource
import time

from isola_anyio import ResultEvent, SandboxContext, StreamArg
from tests.bench.measure import Samples, Table

ITEMS = 1_000_000
GUESTS = {
    "python": "def count(n):\n    yield from range(n)\nasync def total(items):\n    n = 0\n    async for item in items:\n        n += item\n    return n\n",
    "js": "function* count(n) { for (let i = 0; i < n; i++) yield i }\nasync function total(items) { let n = 0; for await (const item of items) n += item; return n }\n",
}


async def run() -> None:
    """Print a table for each kind of guest."""
    for runtime, script in GUESTS.items():
        table = Table(f"{ITEMS:,} items through {runtime}")
        async with SandboxContext() as context:
            template = await context.build_template(runtime, prelude=script)
            async with template.create() as sandbox:
                before = _peak_kib()
                start = time.perf_counter()
                seen = 0
                async with sandbox.run_stream("count", ITEMS) as events:
                    async for event in events:
                        seen += isinstance(event, ResultEvent)
                assert seen == ITEMS
                table.row("an item out", Samples([(time.perf_counter() - start) / ITEMS]))
                table.note("peak RSS grew by", f"{(_peak_kib() - before) / 1024:.1f} MiB")
                before = _peak_kib()
                start = time.perf_counter()
                assert await sandbox.run("total", StreamArg.from_iterable(range(ITEMS))) == ITEMS * (ITEMS - 1) // 2
                table.row("an item in", Samples([(time.perf_counter() - start) / ITEMS]))
                table.note("peak RSS grew by", f"{(_peak_kib() - before) / 1024:.1f} MiB")
            template.close()


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
