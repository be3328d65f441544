"""Attacks on the Python guest's own dispatcher: its frames, its loop, its package, its memory.

Each knows the door and writes frames of its own. What must always hold is the claim; most do to themselves alone what
they do.
"""

from __future__ import annotations

from typing import Final

from tests.hostile.attack import MIB, contained, python

PRELUDE: Final = """
import asyncio, time, os, sys, json
from sandbox.asyncio import hostcall, run
import _host
def frame(kind, number, body=b""): return bytes([kind]) + number.to_bytes(4, "little") + body
"""

SCRIPTS: Final[dict[str, str]] = {
    "spin": "def attack():\n    while True: pass",
    "sleep": "def attack(): time.sleep(1000)",
    "flood stdout": "def attack():\n    while True: print('x' * 1000)",
    "flood stdout raw": "def attack():\n    while True: os.write(1, b'\\xff' * 60000)",
    "flood tiny writes": "def attack():\n    while True: os.write(1, b'x')",
    "flood logs": "from sandbox import logging\ndef attack():\n    while True: logging.info('x' * 100)",
    "allocate": "def attack():\n    kept = []\n    while True: kept.append(bytearray(1 << 20))",
    "allocate at once": "def attack(): return bytearray(1 << 31)",
    "recurse": "def attack(): return attack()",
    "recurse in repr": "def attack():\n    x = []\n    for _ in range(10**6): x = [x]\n    return repr(x)",
    "recurse in json": "def attack():\n    x = []\n    for _ in range(10**5): x = [x]\n    return json.dumps(x)",
    "recurse in json text": "def attack(): return json.loads('[' * 10**6)",
    "recurse in pickle": """
def attack():
    import pickle
    x = []
    for _ in range(10**5): x = [x]
    return pickle.dumps(x)
""",
    "recurse in compile": "def attack(): eval('(' * 10**5 + ')' * 10**5)",
    "recurse in getattr": """
class A:
    def __getattr__(self, name): return getattr(self, name + 'x')
def attack(): return A().y
""",
    "recurse in C through sorted": """
def attack():
    class A:
        def __lt__(self, other): return sorted([A(), A()])
    return sorted([A(), A()])
""",
    "deep result": "def attack():\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "swallow everything": """
def attack():
    while True:
        try:
            while True: time.sleep(0.001)
        except BaseException: pass
""",
    "os._exit": "def attack(): os._exit(3)",
    "os.abort": "def attack(): os.abort()",
    "sys.exit": "def attack(): sys.exit(3)",
    "kill": "def attack():\n    import signal; os.kill(os.getpid(), signal.SIGKILL)",
    "raise SystemExit in task": """
async def attack():
    async def f(): raise SystemExit(3)
    asyncio.create_task(f())
    await asyncio.sleep(10)
""",
    "big result": "def attack(): return 'x' * (60 << 20)",
    "big list": "def attack(): return list(range(4_000_000))",
    "nested small lists": "def attack(): return [[] for _ in range(3_000_000)]",
    "big numbers": "def attack(): return [10**4000] * 3000",
    "one huge number": "def attack(): return 1 << (8 * 3_000_000)",
    "over the limit": "def attack(): return 'x' * (100 << 20)",
    "many results": "def attack():\n    while True: yield 1",
    "big hostcall": "def attack(): run(hostcall('echo', [[]] * 200_000))",
    "hostcalls without end": "async def attack():\n    while True: asyncio.create_task(hostcall('never'))",
    "hostcalls in a plain loop": """
def attack():
    n = 0
    while True:
        n += 1
        _host.call(frame(0x10, n & 0xFFFFFFFF, b'\\x05\\0never' + b'\\0null'))
""",
    "answers without end": """
def attack():
    n = 1000
    while True:
        n += 1
        _host.call(frame(0x10, n & 0xFFFFFFFF, b'\\x03\\0big' + b'10000'))
""",
    "hostcall with a long name": "def attack(): _host.call(frame(0x10, 9, b'\\xff\\xff' + b'x' * 65535 + b'null'))",
    "one op twice": "def attack():\n    for _ in range(3): _host.call(frame(0x10, 77, b'\\x05\\0nevernull'))\n    time.sleep(9)",
    "speak for another run": "def attack(): _host.call(frame(0x13, 4_000_000_000, b'null'))",
    "done twice": """
def attack():
    n = sys.modules['sandbox._port'].current_run
    _host.call(frame(0x13, n, b'1'))
    _host.call(frame(0x13, n, b'2'))
""",
    "done and spin": """
def attack():
    _host.call(frame(0x13, sys.modules['sandbox._port'].current_run, b'1'))
    while True: pass
""",
    "park and spin": """
def attack():
    import struct
    _host.call(frame(0x15, sys.modules['sandbox._port'].current_run, struct.pack('<dB', -1.0, 0)))
    while True: pass
""",
    "park with odd timers": """
def attack():
    import struct
    _host.call(frame(0x15, sys.modules['sandbox._port'].current_run, struct.pack('<dB', float('nan'), 0)))
""",
    "park with an endless timer": """
async def attack():
    asyncio.get_running_loop().call_later(1e300, print)
    asyncio.get_running_loop().call_later(float('inf'), print)
    await asyncio.Event().wait()
""",
    "timers without end": """
async def attack():
    def again(): asyncio.get_running_loop().call_later(0, again)
    again()
    await asyncio.Event().wait()
""",
    "setup again": "def attack(): sys.modules['sandbox._main'].dispatch(bytes([0, 1, 0, 0, 0, 0]) + b'{}')",
    "forget the run": "def attack():\n    sys.modules['sandbox._run'].current = None\n    time.sleep(0)",
    "replace the dispatcher": """
def attack():
    import _reactor
    def port(source, environ): return 7
    _reactor.turn.__code__ = port.__code__
    return 1
""",
    "delete builtins": "def attack():\n    import builtins\n    for name in list(vars(builtins)): delattr(builtins, name)",
    "empty sys.modules": "def attack():\n    sys.modules.clear()\n    import json\n    return json.dumps(1)",
    "poison the package": """
def attack():
    for name, module in list(sys.modules.items()):
        if name.startswith('sandbox') or name.startswith('asyncio'):
            for key in list(vars(module)):
                setattr(module, key, None)
    return 1
""",
    "patch the door": "def attack():\n    _host.call = lambda frame: b''\n    return 1",
    "close the streams": "def attack():\n    print('x', end='')\n    sys.stdout.close(); os.close(1); os.close(2)\n    return 1",
    "generator that ignores close": """
def attack():
    while True:
        try: yield 1
        except BaseException: pass
""",
    "task that ignores cancellation": """
async def attack():
    while True:
        try: await asyncio.sleep(1000)
        except BaseException: pass
""",
    "del tricks": """
class Bomb:
    def __del__(self):
        global kept
        kept = Bomb()
        while True: pass
def attack():
    Bomb()
""",
    "bomb at exit": """
import atexit, threading, weakref
class Bomb:
    def __del__(self): print('bang')
def attack():
    global kept
    kept = Bomb()
    atexit.register(lambda: [].clear())
    return 1
""",
    "huge exception": "def attack(): raise ValueError('x' * (50 << 20))",
    "exceptions in the traceback": """
class E(Exception):
    def __str__(self): raise E
    __repr__ = __str__
    def __getattribute__(self, name): raise E
def attack(): raise E
""",
    "regular expression": "def attack():\n    import re; re.match(r'(a*)*$', 'a' * 40 + 'b')",
    "big integer": "def attack(): return str(3 ** 10**7)",
    "random bytes at once": "def attack(): os.urandom(200 << 20)",
    "poll a century": "def attack():\n    import select; select.select([], [], [], 3e9)",
    "threads": "def attack():\n    import threading\n    t = threading.Thread(target=print); t.start()",
    "fork": "def attack(): os.fork()",
    "sockets": "def attack():\n    import socket; socket.create_connection(('127.0.0.1', 80))",
    "read the host": "def attack(): return open('/etc/passwd').read()",
    "write at the root": "def attack():\n    open('/x', 'wb').write(b'x'); os.symlink('/etc', '/y'); return open('/y/passwd').read()",
}
STREAMED: Final = {"many results"}

ATTACKS: Final = [
    python(
        name,
        PRELUDE + script,
        contained,
        options={"max_memory": 320 * MIB},
        cancel_after=0.4,
        stream="slowly" if name in STREAMED else "",
    )
    for name, script in SCRIPTS.items()
]
