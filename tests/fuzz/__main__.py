"""Fuzz the targets, guided by coverage: ``python -m tests.fuzz TARGET --seconds 60 --corpus DIR``; needs atheris.

Without a target, each gets its seconds in turn. What is found is written below the corpus, or below a directory whose
name is printed; ``python -m tests.fuzz TARGET --replay FILE`` runs one input again, without atheris.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NAMES = ("frames", "wasi", "decode", "wasm")
LONGEST_INPUT_BYTES = 4096
TIMEOUT_S = 10
"""Of one input: the targets themselves fail after two seconds of computing, this one is for what never ends."""
MEMORY_MIB = 2048


def fuzz(name: str, seconds: int, corpus: Path) -> None:
    """Run one target; does not return."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["isola_anyio"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS
        from tests.fuzz.test_seeds import SEEDS
    inputs, found = corpus / name, corpus / f"{name}-found"
    inputs.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    for seed in SEEDS[name]:
        (inputs / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    options = {
        "max_total_time": seconds,
        "max_len": LONGEST_INPUT_BYTES,
        "timeout": TIMEOUT_S,
        "rss_limit_mb": MEMORY_MIB,
        "artifact_prefix": f"{found}/",
        "print_final_stats": 1,
    }
    atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(inputs)], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what reads a guest's bytes.")
    parser.add_argument("target", nargs="?", choices=NAMES, help="what to fuzz; without it, everything in turn")
    parser.add_argument("--seconds", type=int, default=60, help="how long, for each target (60)")
    parser.add_argument("--corpus", type=Path, help="where inputs are kept from one time to the next")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input of TARGET and nothing else")
    options = parser.parse_args()
    if options.replay is not None:
        if options.target is None:
            parser.error("--replay needs a target")
        from tests.fuzz.targets import TARGETS

        TARGETS[options.target](options.replay.read_bytes())
        return 0
    corpus: Path = options.corpus or Path(tempfile.mkdtemp(prefix="isola-fuzz-corpus-"))
    if options.target is not None:
        print(f"corpus and findings: {corpus}", flush=True)
        fuzz(options.target, options.seconds, corpus)
    status = 0
    for name in NAMES:
        command = [sys.executable, "-m", "tests.fuzz", name, f"--seconds={options.seconds}", f"--corpus={corpus}"]
        status = max(status, subprocess.run(command, check=False).returncode)
    return status


if __name__ == "__main__":
    sys.exit(main())
