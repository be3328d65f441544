"""Stacks: recursion and nesting deeper than any."""

from __future__ import annotations

from typing import Any

from isola_anyio import GuestError
from tests.hostile.attack import Attack, contained, python, raises


def too_deep(name: str, script: str, **rest: Any) -> Attack:
    """An error, or a wasm stack that is used up: contained either way."""
    return python(name, script, contained, **rest)


ATTACKS = [
    python("recursion", "def attack():\n    return attack()\n", raises(GuestError, "RecursionError")),
    python(
        "recursion without a limit",
        "import sys\ndef attack():\n    sys.setrecursionlimit(10**9)\n    def f(n): return f(n + 1) + 1\n    return f(0)\n",
        contained,
    ),
    too_deep(
        "recursion in C",
        """
        import sys
        def attack():
            sys.setrecursionlimit(10**9)
            class A:
                def __getattr__(self, name): return getattr(self, name + "x")
                def __eq__(self, other): return self == other
                def __repr__(self): return repr([self])
            for act in (lambda: A() == A(), lambda: repr(A()), lambda: A().x):
                act()
        """,
    ),
    too_deep(
        "recursion through map and filter objects",
        """
        def attack():
            it = iter([1])
            for _ in range(200000):
                it = map(lambda x: x, it)
            return next(it)
        """,
    ),
    too_deep(
        "an expression of a million parentheses",
        "def attack():\n    return eval('(' * 1000000 + ')' * 1000000)\n",
    ),
    too_deep(
        "source nested beyond the compiler",
        """
        def attack():
            errors = 0
            for text in ("-" * 100000 + "1", "lambda: " * 50000 + "1", "[" * 5000 + "]" * 5000,
                         "a." * 100000 + "b", "f(" * 10000 + ")" * 10000, "if 1:\\n" * 3):
                try:
                    compile(text, "x", "exec")
                except (SyntaxError, RecursionError, MemoryError):
                    errors += 1
            return errors
        """,
    ),
    too_deep(
        "objects nested deeper than a destructor's stack",
        """
        def attack():
            value = None
            for _ in range(1000000):
                value = (value,)
            del value
            chain = {}
            for _ in range(300000):
                chain = {"a": chain}
            return "gone"
        """,
    ),
    too_deep(
        "a nested regular expression",
        "import re\ndef attack():\n    return re.compile('(' * 5000 + ')' * 5000).groups\n",
    ),
    too_deep(
        "JSON nested without end",
        "import json\ndef attack():\n    return json.loads('[' * 1000000 + ']' * 1000000)\n",
    ),
]
