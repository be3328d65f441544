"""Besiege the library: ``python -m tests.siege --seconds 600``, or ``nox -s siege -- --seconds 600``; Linux only.

Exits with 1 at the first violation, of which it says what it was and what was running. The seed is printed;
``--seed`` with it draws the same assaults again, and ``--first`` begins with a later round.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import re
import sys
import time

from tests.hostile.tables import ATTACKS
from tests.siege.siege import HOSTILE, Plan, Siege, summary


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.siege", description="Besiege the library.")
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=None, help="repeats a siege; drawn and printed without")
    parser.add_argument("--first", type=int, default=0, metavar="ROUND", help="the first round (0)")
    parser.add_argument("--loop", choices=("asyncio", "trio"), help="one event loop only")
    parser.add_argument("--hostile", type=int, help="hostile actors, in every round")
    parser.add_argument("--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="attacks to draw from")
    parser.add_argument("--without", type=re.compile, metavar="REGEX", help="attacks to leave out")
    parser.add_argument("--keep-going", action="store_true", help="count violations, and go on")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.getrandbits(32)
    attacks = {
        name: attack
        for name, attack in ATTACKS.items()
        if options.only.search(name) and not (options.without and options.without.search(name))
    }
    plan = Plan(
        seed,
        options.seconds,
        loops=(options.loop,) if options.loop else ("asyncio", "trio"),
        first=options.first,
        hostile=(options.hostile,) if options.hostile else HOSTILE,
        attacks=attacks,
        keep_going=options.keep_going,
    )
    say(f"seed {seed}: {len(attacks)} attacks, {options.seconds:.0f} s")
    began = time.monotonic()

    def tell_and_leave() -> None:
        say(summary(siege.ledger, time.monotonic() - began))
        faulthandler.dump_traceback(all_threads=True)
        os._exit(1)

    siege = Siege(plan, say, tell_and_leave)
    violations = siege.run()
    say(summary(siege.ledger, time.monotonic() - began))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
