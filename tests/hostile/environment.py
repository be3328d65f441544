"""Learn where one is, who else is there, and reach them."""

from __future__ import annotations

from tests.hostile.attack import Outcome, contained, gives, holds, js, python


def _second_is_clean(outcome: Outcome) -> None:
    assert outcome.error is None, str(outcome)
    assert outcome.value[1] == "clean", str(outcome)


MARK = {"twin": True}

ATTACKS = [
    python("the host's environment", "import os\ndef attack(): return dict(os.environ)\n", gives({"HOME": "/tmp"})),
    python(
        "its own environment only",
        "import os\ndef attack(): return dict(os.environ)\n",
        gives({"HOME": "/tmp", "MINE": "1"}),
        options={"env": {"MINE": "1"}},
    ),
    python(
        "variables set behind the host's back",
        "import os\ndef attack():\n    found = os.environ.get('LEFT', 'clean')\n    os.environ['LEFT'] = 'here'\n    os.putenv('LEFT', 'here')\n    return found\n",
        _second_is_clean,
        **MARK,
    ),
    python(
        "marks left in modules",
        "import json\ndef attack():\n    found = getattr(json, 'mark', 'clean')\n    json.mark = 'here'\n    return found\n",
        _second_is_clean,
        **MARK,
    ),
    python(
        "marks left in files",
        "import os\ndef attack():\n    found = 'seen' if os.path.exists('/tmp/mark') else 'clean'\n    open('/tmp/mark', 'w').close()\n    return found\n",
        _second_is_clean,
        **MARK,
    ),
    python(
        "marks left in the interpreter",
        "import sys, builtins, gc\ndef attack():\n    found = getattr(builtins, 'mark', 'clean')\n    builtins.mark = 'here'\n    sys.modules['mark'] = sys\n    return found\n",
        _second_is_clean,
        **MARK,
    ),
    python(
        "who runs the host",
        "import os, platform, getpass\ndef attack():\n    found = []\n    for ask in (lambda: os.getlogin(), getpass.getuser, lambda: platform.node(), lambda: os.uname().nodename, lambda: platform.platform(), lambda: os.getuid(), lambda: os.cpu_count()):\n        try:\n            found.append(str(ask()))\n        except Exception: pass\n    return found\n",
        holds(lambda found: not any(name in str(found) for name in _host_names())),
    ),
    python(
        "processes and sockets",
        "import socket, os\ndef attack():\n    done = []\n    for act in (lambda: socket.create_connection(('127.0.0.1', 22), 1), lambda: socket.socket(), lambda: socket.gethostbyname('localhost'), lambda: socket.socketpair(), lambda: os.pipe(), lambda: os.getpid() and os.kill(os.getpid(), 9), lambda: socket.socket(fileno=3)):\n        try:\n            act()\n            done.append(act.__code__.co_firstlineno)\n        except Exception: pass\n    return done\n",
        gives([]),
    ),
    python(
        "downloads",
        "import urllib.request\ndef attack():\n    found = []\n    for url in ('http://127.0.0.1/', 'file:///etc/passwd', 'ftp://127.0.0.1/', 'data:text/plain,x'):\n        try:\n            found.append(urllib.request.urlopen(url, timeout=1).read(10).decode())\n        except Exception: pass\n    return found\n",
        holds(lambda found: found in ([], ["x"])),
    ),
    python(
        "standard input",
        "import sys, os\ndef attack():\n    try:\n        line = sys.stdin.readline() if sys.stdin else ''\n    except Exception: line = ''\n    try:\n        return [line, input()]\n    except Exception as error: return type(error).__name__\n",
        contained,
    ),
    python(
        "arguments and paths of the interpreter",
        "import sys\ndef attack(): return [sys.argv, sys.orig_argv, sys.executable, sys.prefix, sys.path, sys.flags.__class__.__name__]\n",
        holds(lambda value: "/disk" not in str(value) and "/home" not in str(value)),
    ),
    python(
        "hooks of a debugger or a profiler",
        "import sys\ndef attack():\n    done = []\n    for act in (lambda: sys.remote_exec(1, '/tmp/x'), lambda: sys.activate_stack_trampoline('perf'), lambda: __import__('pdb').set_trace(), lambda: breakpoint()):\n        try:\n            act()\n            done.append(1)\n        except BaseException: pass\n    return done\n",
        contained,
        cancel_after=2.0,
    ),
    python(
        "what a failed import tells",
        "def attack():\n    told = []\n    for name in ('isola_anyio', 'wasmtime', 'trio', '_ssl', 'secret', 'tests.hostile.harness'):\n        try:\n            __import__(name)\n        except ImportError as error: told.append(str(error))\n    return told\n",
        holds(lambda told: len(told) == 6),
    ),
    js(
        "the host's environment",
        "function attack() { return [typeof process, typeof Deno, typeof navigator, typeof location, typeof require, typeof scriptArgs] }",
        holds(lambda kinds: kinds.count("undefined") >= 5),
    ),
    js(
        "marks left in the global scope",
        "function attack() { const found = globalThis.mark ?? 'clean'; globalThis.mark = 'here'; return found }",
        _second_is_clean,
        **MARK,
    ),
    js(
        "marks left on prototypes",
        "function attack() { const found = Object.prototype.mark ?? 'clean'; Object.prototype.mark = 'here'; return found }",
        _second_is_clean,
        **MARK,
    ),
    js(
        "marks left in symbols",
        "function attack() { const key = Symbol.for('mark'); const found = globalThis[key] ?? 'clean'; globalThis[key] = 'here'; return found }",
        _second_is_clean,
        **MARK,
    ),
    js(
        "the network without leave",
        "async function attack() { let refused = 0; for (const url of ['http://127.0.0.1/', 'file:///etc/passwd', 'data:text/plain,x', 'http://[::1]/', '//x', '']) { try { await fetch(url) } catch { refused++ } } return refused >= 5 }",
        gives(True),
    ),
    js(
        "time zone and locale of the host",
        "function attack() { return [new Date(0).getTimezoneOffset(), new Date(0).toString(), (1234.5).toLocaleString(), typeof Intl] }",
        holds(lambda value: value[0] == 0),
    ),
    js(
        "shared memory and workers",
        "function attack() { return ['Worker', 'Atomics', 'WebAssembly', 'XMLHttpRequest', 'WebSocket', 'importScripts', 'postMessage'].filter((n) => typeof globalThis[n] === 'function') }",
        gives([]),
    ),
    js(
        "what an error's stack tells",
        "function attack() { try { null.x } catch (error) { return error.stack } }",
        holds(lambda stack: "/disk" not in stack and "site-packages" not in stack),
    ),
]


def _host_names() -> list[str]:
    import getpass
    import platform

    return [name for name in (platform.node(), getpass.getuser()) if len(name) > 3 and name != "localhost"]
