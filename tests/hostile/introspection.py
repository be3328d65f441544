"""Take the guest's own runtime apart from inside: it is the guest's, and only the guest's."""

from __future__ import annotations

from isola_anyio import GuestError, PayloadLimitError
from tests.hostile.attack import contained, either, gives, js, python, raises, stopped

hurt_itself = either(contained, stopped())
lied = either(raises(PayloadLimitError), raises(GuestError, "ProtocolError", "OSError"))

ATTACKS = [
    python(
        "what the guest's own objects tell of the host",
        """
        import gc, sys
        def attack():
            found = []
            for thing in gc.get_objects():
                if type(thing) is str and len(thing) > 5:
                    found.append(thing)
                elif type(thing) is dict:
                    found += [v for v in thing.values() if type(v) is str]
            text = " ".join(found)
            return [word for word in ("canary-", "only-the-host", "site-packages") if text.count(word) > 1]
        """,
        gives([]),
    ),
    python(
        "the frames above the guest's function",
        """
        import sys
        def attack():
            frame, found = sys._getframe(), []
            while frame:
                found.append(frame.f_code.co_filename)
                frame = frame.f_back
            return [name for name in found if not name.startswith("<")]
        """,
        gives([]),
    ),
    python(
        "the payload limit raised from inside",
        "from sandbox import _port\ndef attack():\n    _port.max_payload = 1 << 60\n    return 'x' * 200000\n",
        lied,
        options={"max_payload": 1000},
    ),
    python(
        "a grain over the payload limit, from inside",
        "from sandbox import _port\ndef attack():\n    _port.max_payload = 1 << 60\n    yield 'x' * 200000\n",
        lied,
        options={"max_payload": 1000},
    ),
    python(
        "the codec replaced",
        "from sandbox import _codec, _run\ndef attack():\n    _codec.encode = _run._encode = lambda *a, **k: b'{bad'\n    return 1\n",
        contained,
    ),
    python(
        "the dispatcher replaced",
        "from sandbox import _main\nimport _reactor\ndef attack():\n    _main.dispatch = None\n    _reactor.turn.__globals__['_isola_dispatch'] = lambda m: None\n    return 1\n",
        contained,
    ),
    python(
        "the entrance's code replaced",
        "import _reactor\ndef attack():\n    _reactor.turn.__code__ = (lambda source, environ: 1 / 0).__code__\n    return 1\n",
        contained,
    ),
    python(
        "the entrance's code replaced by a loop",
        "import _reactor\ndef loop(source, environ):\n    while True: pass\n_reactor.turn.__code__ = loop.__code__\ndef attack(): return 1\n",
        hurt_itself,
        cancel_after=0.3,
    ),
    python(
        "a message of the host's forged",
        "from sandbox import _main\ndef attack():\n    for kind in range(256):\n        try:\n            _main.dispatch(b'\\0' + bytes((kind, 1, 0, 0, 0)) + b'[]')\n        except BaseException: pass\n    return 'alive'\n",
        contained,
    ),
    python(
        "a message forged from inside a message",
        "from sandbox import _main, _codec\ndef inner(): return 'inner'\ndef attack():\n    _main.dispatch(b'\\0\\x04' + (99).to_bytes(4, 'little') + _codec.encode(['inner', [], {}, []]))\n    return 'outer'\n",
        contained,
    ),
    python(
        "the run forgotten",
        "from sandbox import _run\ndef attack():\n    _run.current = None\n    return 1\n",
        contained,
    ),
    python(
        "another run's number",
        "from sandbox import _run\ndef attack():\n    _run.current.number += 1\n    return 1\n",
        contained,
    ),
    python(
        "operations forgotten",
        "from sandbox import _port\nfrom sandbox.asyncio import hostcall\nasync def attack():\n    _port.operations.last = -5\n    try:\n        await hostcall('echo', 1)\n    except OverflowError: pass\n    except BaseException: pass\n    _port.operations.waiting = None\n    return 1\n",
        contained,
    ),
    python(
        "the loop closed, stopped and replaced",
        "import asyncio\nasync def attack():\n    loop = asyncio.get_running_loop()\n    try:\n        loop.close()\n    except RuntimeError: pass\n    loop.stop()\n    asyncio.set_event_loop(None)\n    loop._ready = None\n    return 1\n",
        contained,
    ),
    python(
        "the loop's clock turned",
        "import asyncio\nasync def attack():\n    asyncio.get_running_loop().time = lambda: 'noon'\n    await asyncio.sleep(0.01)\n",
        contained,
        cancel_after=0.5,
    ),
    python("every module forgotten", "import sys\ndef attack():\n    sys.modules.clear()\n    return 1\n", contained),
    python("builtins emptied", "import builtins\ndef attack():\n    vars(builtins).clear()\n    return 1\n", contained),
    python(
        "builtins poisoned",
        "import builtins\ndef attack():\n    for name in ('len', 'isinstance', 'type', 'str', 'print', 'hasattr', 'getattr', 'open'):\n        setattr(builtins, name, lambda *a, **k: 1 / 0)\n    raise ValueError('x')\n",
        raises(GuestError),
    ),
    python(
        "json, struct and asyncio poisoned",
        "import json, struct, asyncio, traceback, linecache\ndef attack():\n    for module in (json, struct, asyncio, traceback, linecache):\n        for name in list(vars(module)):\n            if not name.startswith('__'): setattr(module, name, None)\n    return {'a': [1.5]}\n",
        contained,
    ),
    python(
        "hooks everywhere",
        "import sys\ndef bad(*a, **k): raise KeyboardInterrupt\ndef attack():\n    sys.excepthook = sys.unraisablehook = sys.displayhook = bad\n    sys.addaudithook(bad)\n    sys.setprofile(bad)\n    sys.settrace(bad)\n    return 1\n",
        contained,
    ),
    python(
        "signals",
        "import signal\ndef attack():\n    done = []\n    for act in (lambda: signal.raise_signal(signal.SIGTERM), lambda: signal.alarm(1), lambda: signal.setitimer(0, 0.01), lambda: signal.signal(11, lambda *a: None), lambda: signal.raise_signal(11), lambda: signal.pthread_kill(1, 9)):\n        try:\n            act()\n        except (AttributeError, OSError, ValueError): pass\n    return 'alive'\n",
        contained,
    ),
    python(
        "threads and processes",
        "import threading, subprocess, os, multiprocessing\ndef attack():\n    started = []\n    for act in (lambda: threading.Thread(target=print).start(), lambda: subprocess.run(['/bin/true']), lambda: os.fork(), lambda: os.system('true'), lambda: os.popen('true'), lambda: os.execv('/bin/sh', ['sh']), lambda: os.posix_spawn('/bin/sh', ['sh'], {}), lambda: multiprocessing.Process(target=print).start(), lambda: os.kill(1, 9), lambda: os.spawnv(0, '/bin/sh', ['sh'])):\n        try:\n            act()\n            started.append(act.__code__.co_firstlineno)\n        except (OSError, AttributeError, RuntimeError, ImportError, NotImplementedError): pass\n    return started\n",
        gives([]),
    ),
    python(
        "native code loaded",
        "import importlib.machinery as m\ndef attack():\n    loaded = []\n    for act in (lambda: __import__('ctypes').CDLL(None), lambda: __import__('_ctypes').dlopen('libc.so.6', 1), lambda: m.ExtensionFileLoader('x', '/lib/libc.so.6').load_module()):\n        try:\n            loaded.append(str(act()))\n        except (ImportError, OSError, AttributeError): pass\n    return loaded\n",
        gives([]),
    ),
    python(
        "the guest's own package removed",
        "import sys, sandbox\ndef attack():\n    for name in list(sys.modules):\n        if name.startswith('sandbox'): vars(sys.modules.pop(name)).clear()\n    return 1\n",
        contained,
    ),
    python(
        "the collector abused",
        "import gc\nclass A:\n    def __del__(self):\n        self.again = [self]\n        gc.collect()\ndef attack():\n    gc.set_threshold(1)\n    for _ in range(1000): A()\n    gc.unfreeze()\n    gc.collect()\n    return 'alive'\n",
        contained,
        cancel_after=2.0,
    ),
    python(
        "an exit registered",
        "import atexit, weakref\ndef attack():\n    atexit.register(lambda: 1 / 0)\n    weakref.finalize(atexit, lambda: 1 / 0)\n    atexit._run_exitfuncs() if hasattr(atexit, '_run_exitfuncs') else None\n    return 'alive'\n",
        contained,
    ),
    python("ping replaced", "def ping(n): return 'pong'\ndef attack(): return 'mine'\n", gives("mine")),
    python(
        "the interpreter shut down",
        "import sys\ndef attack():\n    for name in dir(sys):\n        if name in ('_clear_type_cache', '_clear_internal_caches', '_debugmallocstats', '_current_frames'):\n            getattr(sys, name)()\n    sys.setswitchinterval(1e-9)\n    sys.flags = None\n    return 'alive'\n",
        contained,
    ),
    # --- JavaScript
    js(
        "what is in the global scope",
        "function attack() { return Reflect.ownKeys(globalThis).map(String).filter((name) => name.startsWith('__') || /door|dispatch|host_/i.test(name)) }",
        gives([]),
    ),
    js(
        "hidden names of the global scope",
        "function attack() { return [Object.getOwnPropertySymbols(globalThis).map(String), typeof globalThis[Symbol.for('isola.scope')], typeof __isola, typeof __isola_door] }",
        contained,
    ),
    js(
        "the door by way of a stack",
        "function attack() { let found = []; Error.prepareStackTrace = (e, frames) => { found = frames.map((f) => { try { return [typeof f.getThis?.(), typeof f.getFunction?.(), f.getFileName?.()] } catch { return 0 } }); return '' }; new Error('x').stack; return found.filter((f) => f && f[2] === undefined && f[1] === 'function' && f[0] !== 'undefined') }",
        gives([]),
    ),
    js(
        "callers of the guest's function",
        "function attack() { try { return [typeof attack.caller, typeof arguments.callee.caller] } catch (e) { return e.name } }",
        contained,
    ),
    js(
        "prototypes of everything poisoned",
        "function attack() { for (const C of [Object, Array, Function, String, Promise, Map, Set, Uint8Array, Symbol, Number, BigInt, Error, RegExp, Date]) for (const key of Reflect.ownKeys(C.prototype)) { try { C.prototype[key] = () => { throw 1 } } catch { } } return [1] }",
        contained,
    ),
    js(
        "prototypes poisoned before an error",
        "function attack() { Object.defineProperty(Object.prototype, 'message', { get() { for (;;); } }); Object.defineProperty(Error.prototype, 'name', { get() { throw 1 } }); throw new Error('x') }",
        either(contained, stopped()),
        cancel_after=0.3,
    ),
    js(
        "constructors replaced",
        "function attack() { for (const name of ['Promise', 'Error', 'Object', 'Array', 'JSON', 'Uint8Array', 'String', 'Symbol', 'Reflect', 'Map', 'TypeError']) globalThis[name] = null; return { a: [1] } }",
        gives({"a": [1]}),
    ),
    js(
        "then on the object prototype",
        "function attack() { Object.prototype.then = function (resolve) { resolve(7) }; return { a: 1 } }",
        contained,
        cancel_after=0.5,
    ),
    js(
        "the species of promises",
        "async function attack() { Promise.prototype.then = () => { throw 1 }; Object.defineProperty(Promise, Symbol.species, { get() { throw 2 } }); return await hostcall('echo', 1) }",
        contained,
        cancel_after=0.5,
    ),
    js(
        "the iterator of arrays replaced",
        "async function attack() { Array.prototype[Symbol.iterator] = function* () { for (;;) yield 1 }; console.log('x'); return await hostcall('echo', [1, 2]) }",
        either(contained, stopped()),
        cancel_after=0.5,
    ),
    js(
        "setters on the prototypes",
        "async function attack() { const seen = []; for (const key of ['op', 'name', 'id', 'kind', 'value', '0', 'resolve', 'reject']) Object.defineProperty(Object.prototype, key, { set(v) { seen.push([key, typeof v]) }, get() { return undefined }, configurable: true }); await hostcall('echo', { a: 1 }); const types = seen.length; for (const key of ['op', 'name', 'id', 'kind', 'value', '0', 'resolve', 'reject']) delete Object.prototype[key]; return types }",
        contained,
        cancel_after=0.5,
    ),
    js(
        "the global object frozen",
        "function attack() { Object.freeze(globalThis); Object.freeze(Object.prototype); return 1 }",
        contained,
    ),
    js(
        "with and eval tricks",
        "function attack() { const found = []; for (const code of ['arguments', 'new.target', 'import.meta', 'this', '(0, eval)(\"this\")', 'Function(\"return this\")()', 'with ({}) { }', '%DebugPrint(1)', 'gc()', 'print(1)', '__proto__']) { try { found.push(typeof eval(code)) } catch (e) { found.push(e.name) } } return found.length }",
        gives(11),
    ),
    js(
        "constructors of hidden kinds of functions",
        "function attack() { const kinds = [async () => 1, function* () { }, async function* () { }].map((f) => Object.getPrototypeOf(f).constructor); return kinds.map((K) => typeof K('return globalThis')) }",
        contained,
    ),
    js(
        "the SDK's functions changed through their objects",
        "function attack() { for (const f of [hostcall, setTimeout, queueMicrotask, structuredClone, URL, TextDecoder, AbortController]) { try { Object.setPrototypeOf(f, null); if (f.prototype) for (const k of Reflect.ownKeys(f.prototype)) { try { f.prototype[k] = null } catch { } } } catch { } } return 'alive' }",
        gives("alive"),
    ),
    js(
        "the dispatcher's modules imported",
        "async function attack() { const found = []; for (const name of ['isola:main', 'isola:codec', 'isola:boot', 'isola:primordials', 'isola:dispatcher', './dispatcher', 'dispatcher']) { try { found.push(Object.keys(await import(name))) } catch { } } return found }",
        gives([]),
    ),
    js(
        "signals to abort with nothing",
        "function attack() { const c = new AbortController(); c.signal.addEventListener('abort', () => { throw 1 }); c.abort({ get x() { throw 2 } }); c.abort(); AbortSignal.any?.([c.signal, c.signal]); return c.signal.aborted }",
        gives(True),
    ),
    js(
        "weak references and collection",
        "async function attack() { let calls = 0; const registry = new FinalizationRegistry(() => { calls++; throw 1 }); for (let i = 0; i < 10000; i++) registry.register({ i }, i); for (let i = 0; i < 100; i++) await null; return 'alive' }",
        gives("alive"),
    ),
]
