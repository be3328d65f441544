"""Run the groups that were asked for, or all."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from functools import partial

import anyio

from tests.bench import core, peers, streams, values, walk
from tests.bench.measure import heading

GROUPS: dict[str, Callable[[], Awaitable[None]]] = {
    "core": partial(core.run, "python"),
    "js": partial(core.run, "js"),
    "peers": peers.run,
    "values": values.run,
    "streams": streams.run,
    "walk": walk.run,
}


async def main(groups: list[str]) -> None:
    """Run the groups one after the other."""
    heading()
    for group in groups:
        await GROUPS[group]()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="default: all")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    chosen = parser.parse_args()
    anyio.run(main, chosen.groups or list(GROUPS), backend=chosen.backend)
