"""Corruption: bytecode, pointers and the allocator's lists bent, and the crashes and full memory that follow."""

from __future__ import annotations

from isola_anyio import GuestError
from tests.hostile.attack import contained, either, holds, python, raises

ATTACKS = [
    python(
        "bytecode forged to read past its constants",
        """
        def attack():
            code = (lambda: 1).__code__
            results = []
            for opcode in range(256):
                forged = code.replace(co_code=bytes([opcode, 255]) * 8, co_stacksize=100)
                def f(): pass
                f.__code__ = forged
                if opcode in (100, 124):
                    try:
                        results.append(str(f()))
                    except BaseException as error:
                        results.append(type(error).__name__)
            return results
        """,
        contained,
    ),
    python(
        "bytecode of random bytes",
        """
        import random
        def attack():
            def f(a=1, b=2): return a + b
            for seed in range(200):
                raw = random.Random(seed).randbytes(64)
                try:
                    exec(f.__code__.replace(co_code=raw, co_stacksize=500, co_nlocals=2))
                except BaseException:
                    pass
            return "alive"
        """,
        contained,
        cancel_after=2.0,
    ),
    python(
        "marshalled nonsense",
        """
        import marshal, random
        def attack():
            good = marshal.dumps(compile("x = [1, 2, {'a': (3,)}]", "x", "exec"))
            for seed in range(2000):
                raw = bytearray(good)
                rng = random.Random(seed)
                for _ in range(3):
                    raw[rng.randrange(len(raw))] = rng.randrange(256)
                try:
                    marshal.loads(bytes(raw))
                except Exception:
                    pass
            return "alive"
        """,
        contained,
    ),
    python(
        "reading all of linear memory and beyond",
        """
        import numpy as np
        def attack():
            base = np.zeros(8, np.uint8)
            at = base.__array_interface__["data"][0]
            whole = np.lib.stride_tricks.as_strided(base[:1], (at,), (-1,))
            beyond = np.lib.stride_tricks.as_strided(base[:1], (1 << 30,), (1,))
            found = 0
            step = 1 << 20
            for start in range(0, at - step, step):
                found += b"canary-" in bytes(whole[start:start + step][::-1])
            return int(beyond[-1])
        """,
        either(raises(GuestError, "Trap", text="out of bounds"), holds(lambda value: True)),
    ),
    python(
        "writing over all of linear memory",
        """
        import numpy as np
        def attack():
            base = np.zeros(8, np.uint8)
            at = base.__array_interface__["data"][0]
            whole = np.lib.stride_tricks.as_strided(base[:1], (at,), (-1,))
            whole[:] = 0x41
        """,
        contained,
        cancel_after=1.0,
    ),
    python(
        "writing over the allocator's lists",
        """
        import numpy as np
        def attack():
            base = np.zeros(8, np.uint32)
            at = base.__array_interface__["data"][0]
            words = np.lib.stride_tricks.as_strided(base[:1], (at // 4 - 1024,), (-4,))
            rng = np.random.default_rng(1)
            held = []
            for _ in range(2000):
                place = int(rng.integers(0, len(words)))
                words[place] = at + int(rng.integers(-64, 64)) * 4
                held.append(bytearray(100))
            return "alive"
        """,
        contained,
        cancel_after=1.0,
    ),
    python(
        "wild reads of null and of the last page",
        """
        import numpy as np
        def attack():
            base = np.zeros(8, np.uint8)
            at = base.__array_interface__["data"][0]
            out = []
            for offset in (-at, 1 - at, (1 << 31) - 1, -(1 << 31), (1 << 32) - at - 1 - (1 << 32)):
                try:
                    out.append(int(np.lib.stride_tricks.as_strided(base[:1], (2,), (offset,))[1]))
                except (ValueError, OverflowError):
                    pass
            return len(out)
        """,
        contained,
    ),
    python(
        "crashes made to order",
        """
        import faulthandler
        def attack():
            faulthandler._read_null()
            faulthandler._stack_overflow()
            faulthandler._fatal_error_c_thread()
        """,
        contained,
    ),
    python("abort", "import os\ndef attack():\n    os.abort()\n", contained),
    python("a fatal error", "import faulthandler\ndef attack():\n    faulthandler._sigsegv()\n", contained),
    python(
        "a guest near its limit that is sent more",
        """
        held = []
        async def attack():
            from sandbox.asyncio import hostcall
            try:
                while True:
                    held.append(bytearray(1 << 20))
            except MemoryError:
                del held[-2:]
            return len(await hostcall("big", 50_000_000))
        """,
        contained,
    ),
]
