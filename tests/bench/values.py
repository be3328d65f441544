"""What a value costs on its way: in and out of each guest, beside the guest's own json and a bare memcpy."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from isola_anyio import SandboxContext, codec
from tests.bench.measure import Samples, Table, timed, timed_async

SIZES = {"1 KB": 1_000, "100 KB": 100_000, "10 MB": 10_000_000}
GUESTS = {
    "python": """
import json, time
def take(value):
    return None
def keep(value):
    global kept
    kept = value
def give():
    return kept
def own_json():
    start = time.perf_counter()
    json.loads(json.dumps(kept))
    return time.perf_counter() - start
""",
    "js": """
let kept
function take(value) {}
function keep(value) { kept = value }
function give() { return kept }
function own_json() {
  const start = performance.now()
  JSON.parse(JSON.stringify(kept))
  return (performance.now() - start) / 1000
}
""",
}


def document(size: int) -> list[dict[str, Any]]:
    """Rows of a JSON document of about ``size`` bytes."""
    row = {"id": 12345, "name": "user-12345", "score": 0.123456789, "tags": ["a", "b", "c"], "ok": True}
    return [dict(row, id=number) for number in range(max(1, size // len(json.dumps(row))))]


async def run() -> None:
    """Print a table for each kind of guest, and one for the host's codec alone."""
    _host_codec()
    for runtime, script in GUESTS.items():
        async with SandboxContext() as context:
            template = await context.build_template(
                runtime, prelude=script, max_memory=None if runtime == "python" else 512 << 20
            )
            table = Table(f"values through {runtime}")
            async with template.create() as sandbox:
                nothing = await timed_async(partial(sandbox.run, "take", None), 200)
                table.row("a run with no value to speak of", nothing)
                for label, size in SIZES.items():
                    times = 50 if size < 1_000_000 else 3
                    await _one_size(table, sandbox, f"{label} JSON", document(size), times)
                    await _one_size(table, sandbox, f"{label} bytes", bytes(range(256)) * (size // 256 + 1), times)
            template.close()


async def _one_size(table: Table, sandbox: Any, label: str, value: Any, times: int) -> None:
    into = await timed_async(partial(sandbox.run, "take", value), times, warm=1)
    await sandbox.run("keep", value)
    out = await timed_async(partial(sandbox.run, "give"), times, warm=1)
    if isinstance(value, bytes):
        copy = timed(lambda: bytearray(value), times)
        table.row(f"{label}, host to guest", into, copy, "memcpy")
        table.row(f"{label}, guest to host", out, copy, "memcpy")
        return
    own = Samples([await sandbox.run("own_json") for _ in range(times)])
    table.row(f"{label}, host to guest", into, own, "the guest's own json, there and back")
    table.row(f"{label}, guest to host", out, own, "the guest's own json, there and back")


def _host_codec() -> None:
    table = Table("the host's codec, beside json")
    small = {"user_id": 7, "name": "user-7", "tags": [1, 2.5, None, True]}
    for label, value, times in (("a small value", small, 5000), ("100 KB", document(100_000), 50)):
        text = json.dumps(value).encode()
        table.row(
            f"encode {label}",
            timed(partial(codec.encode, value), times),
            timed(partial(json.dumps, value), times),
            "json.dumps",
        )
        table.row(
            f"decode {label}",
            timed(partial(codec.decode, text), times),
            timed(partial(json.loads, text), times),
            "json.loads",
        )
