"""Allocations: more memory than there is, at once or bit by bit."""

from __future__ import annotations

from typing import Any

from isola_anyio import GuestError
from tests.hostile.attack import Attack, contained, either, holds, python, raises, stopped
from tests.hostile.memory.expectations import out_of_memory, refused


def grasping(name: str, expression: str, **rest: Any) -> Attack:
    """Python refuses this much at once, and the sandbox goes on."""
    return python(name, f"def attack():\n    return len({expression})\n", refused, **rest)


ATTACKS = [
    grasping("a terabyte of bytes", "bytearray(1 << 40)"),
    grasping("a list of a trillion", "[0] * 10**12"),
    grasping("a string of gigabytes", "'x' * (1 << 31)"),
    grasping("a formatted field of gigabytes", "f'{1:>{1 << 31}}'"),
    grasping("a number with a billion digits", "str(1 << (1 << 32))"),
    python(
        "a power without end of memory",
        "def attack():\n    return str(10 ** (10 ** 10))\n",
        either(out_of_memory, stopped()),
        cancel_after=0.5,
    ),
    grasping("an array of a trillion", "__import__('array').array('d', [0]) * 10**12"),
    grasping("numpy zeros", "__import__('numpy').zeros(10**12)"),
    grasping(
        "a decompression bomb",
        "__import__('zlib').decompress(__import__('zlib').compress(bytes(1 << 20)) , bufsize=1 << 31)",
    ),
    python(
        "a list that grows until it cannot",
        "def attack():\n    held = []\n    while True:\n        held.append(bytearray(1 << 20))\n",
        out_of_memory,
    ),
    python(
        "small objects until there are no more",
        "def attack():\n    held = []\n    while True:\n        held.append([held])\n",
        out_of_memory,
    ),
    python(
        "a dict that grows until it cannot",
        "def attack():\n    held = {}\n    while True:\n        held[len(held)] = str(len(held))\n",
        out_of_memory,
    ),
    python(
        "memory errors swallowed for ever",
        """
        def attack():
            held = []
            while True:
                try:
                    held.append(bytearray(1 << 22))
                except MemoryError:
                    held = held[: len(held) // 2]
        """,
        stopped(),
        cancel_after=0.4,
    ),
    python(
        "memory kept from run to run",
        """
        held = []
        def attack():
            try:
                while True:
                    held.append(bytearray(1 << 20))
            except MemoryError:
                return len(held)
        """,
        holds(lambda count: count < 128),
    ),
    python(
        "files first, then memory",
        """
        held = []
        def attack():
            files = 0
            try:
                while True:
                    with open(f"/tmp/{files}", "wb") as file:
                        file.write(bytes(1 << 20))
                    files += 1
            except OSError:
                pass
            try:
                while True:
                    held.append(bytearray(1 << 20))
            except MemoryError:
                return files + len(held)
        """,
        holds(lambda mebibytes: mebibytes < 128, usable=True),
    ),
    python(
        "memory again once files are gone",
        """
        import os
        def attack():
            with open("/tmp/large", "wb") as file:
                try:
                    while True:
                        file.write(bytes(1 << 20))
                except OSError:
                    pass
            try:
                return len(bytearray(16 << 20))
            except MemoryError:
                os.unlink("/tmp/large")
            return len(bytearray(16 << 20))
        """,
        holds(lambda length: length == 16 << 20, usable=True),
    ),
    python(
        "memory used up to the last byte",
        """
        held = []
        def attack():
            for size in (1 << 20, 1 << 12, 1 << 6, 1):
                try:
                    while True:
                        held.append(bytearray(size))
                except MemoryError:
                    pass
            raise ValueError("no room for the report either")
        """,
        contained,
    ),
    python(
        "a decompression bomb, streamed",
        """
        import zlib
        def attack():
            packed = zlib.compress(bytes(1 << 24), 9)
            for _ in range(3):
                packed = zlib.compress(packed * 1, 9)
            data = zlib.compress(b"\\0" * (64 << 20))
            out = []
            while True:
                out.append(zlib.decompress(data))
        """,
        out_of_memory,
    ),
    python(
        "a pickle that unfolds",
        """
        import pickle
        def attack():
            value = b"x" * 1000
            code = b"(lp0\\n"
            for _ in range(40):
                value = [value] * 10
            data = pickle.dumps(b"y")
            bomb = b"\\x80\\x04" + b"]" + b"(" + b"K\\x01" * 1000000 + b"e."
            nested = b"\\x80\\x04" + b"]" * 2000000 + b"."
            found = len(pickle.loads(bomb))
            try:
                pickle.loads(nested)
            except Exception:
                pass
            return found
        """,
        contained,
    ),
    python(
        "a million of laughs in XML",
        """
        def attack():
            from lxml import etree
            entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 20))
            text = f'<!DOCTYPE d [<!ENTITY l0 "{"x" * 100}">{entities}]><d>&l19;</d>'
            return len(etree.fromstring(text, etree.XMLParser(huge_tree=True)).text)
        """,
        contained,
        cancel_after=1.0,
    ),
    python(
        "sqlite blobs",
        """
        import sqlite3
        def attack():
            db = sqlite3.connect(":memory:")
            db.execute("create table t (b)")
            while True:
                db.execute("insert into t values (randomblob(10000000))")
        """,
        either(raises(GuestError, "OperationalError", "MemoryError", "DataError"), out_of_memory),
    ),
]
