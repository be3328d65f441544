"""Guess another sandbox's random numbers: two of one template never agree, unless they were told to."""

from __future__ import annotations

from typing import Any

from tests.hostile.attack import Attack, Outcome, gives, holds, js, python


def twins(name: str, expression: str, *, imports: str = "", same: bool = False, **rest: Any) -> Attack:
    """Two Python sandboxes of one template evaluate this."""
    script = f"{imports}\ndef attack():\n    return {expression}\n"
    return python(name, script, _agree if same else _differ, twin=True, **rest)


def twins_js(name: str, expression: str, *, same: bool = False, **rest: Any) -> Attack:
    """Two JavaScript sandboxes of one template evaluate this."""
    return js(name, f"function attack() {{ return {expression} }}", _agree if same else _differ, twin=True, **rest)


def _differ(outcome: Outcome) -> None:
    assert outcome.error is None, str(outcome)
    mine, theirs = outcome.value
    assert mine != theirs


def _agree(outcome: Outcome) -> None:
    assert outcome.error is None, str(outcome)
    mine, theirs = outcome.value
    assert mine == theirs


SEEDED = {"options": {"seed": 7}}

ATTACKS = [
    twins("random", "[random.random() for _ in range(5)]", imports="import random"),
    twins("the state of random", "str(random.getstate())", imports="import random"),
    twins("a generator made later", "[random.Random().random() for _ in range(3)]", imports="import random"),
    twins("the system's randomness", "os.urandom(32)", imports="import os"),
    twins("secrets", "secrets.token_hex(16)", imports="import secrets"),
    twins("uuid1 and uuid4", "[str(uuid.uuid4()), str(uuid.uuid4()), uuid.uuid1().clock_seq]", imports="import uuid"),
    twins("numpy's global generator", "np.random.random(5).tolist()", imports="import numpy as np"),
    twins("numpy's new generator", "np.random.default_rng().random(5).tolist()", imports="import numpy as np"),
    twins("names of temporary files", "tempfile.mkstemp()[1]", imports="import tempfile"),
    twins("shuffles", "random.sample(range(10**6), 20)", imports="import random"),
    twins(
        "sqlite's own generator",
        "sqlite3.connect(':memory:').execute('select randomblob(16)').fetchone()[0]",
        imports="import sqlite3",
    ),
    twins("the C library's own generator", "PIL.Image.effect_noise((8, 8), 50).tobytes()", imports="import PIL.Image"),
    # The runtime's own snapshot was made with the hash key 0, and every dict in it rests on that: docs/security.md.
    twins("the hash of a str, which is no secret", "[hash('abc'), hash(b'abc')]", same=True),
    twins(
        "a seed's numbers",
        "[random.random(), os.urandom(8), str(np.random.random())]",
        imports="import random, os, numpy as np",
        same=True,
        **SEEDED,
    ),
    python(
        "the seed read from the guest's memory",
        """
        import gc, random
        def attack():
            state = random.getstate()
            random.seed(1)
            return [text for text in gc.get_objects() if type(text) is str and len(text) == 64 and all(c in "0123456789abcdef" for c in text)]
        """,
        gives([]),
    ),
    python(
        "randomness without end",
        "import os\ndef attack():\n    total = 0\n    for _ in range(20): total += len(os.urandom(1 << 20))\n    return total\n",
        gives(20 << 20),
    ),
    twins_js("Math.random", "Array.from({ length: 5 }, Math.random)"),
    twins_js("crypto.randomUUID", "[crypto.randomUUID(), crypto.randomUUID()]"),
    twins_js("crypto.getRandomValues", "crypto.getRandomValues(new Uint8Array(32))"),
    twins_js("a seed's numbers", "[Math.random(), crypto.randomUUID()]", same=True, **SEEDED),
    js(
        "randomness for what cannot hold it",
        "function attack() { let errors = 0; for (const a of [new Float64Array(4), new Uint8Array(65537), null, [], new DataView(new ArrayBuffer(4)), { length: 4 }]) { try { crypto.getRandomValues(a) } catch { errors++ } } return errors }",
        gives(6),
    ),
    js(
        "a length that lies",
        "function attack() { class L extends Uint8Array { get length() { return 1e9 } get byteLength() { return 1e9 } }; const a = new L(4); crypto.getRandomValues(a); return a.slice().length >= 0 }",
        holds(lambda value: True),
    ),
]
