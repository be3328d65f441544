"""Every bundled library with a generator: two sandboxes of one template never agree, whatever the prelude has drawn.

The prelude uses each of them, so that their states are in the image. What must differ between two forks, and be the
same for one ``seed``, is one table, ``DRAWS``. A slow test imports everything that the runtime bundles and looks for
generators that the guest's own table does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio.guests.python.native_generators import LAYOUTS
from isola_anyio.runtimes.pins import PINS
from tests.loops import ONE_LOOP
from tests.templates import built_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isola_anyio import SandboxTemplate

    Templates = Callable[[str, bool], SandboxTemplate]

STYLE = """<x:stylesheet version="1.0" xmlns:x="http://www.w3.org/1999/XSL/Transform" xmlns:m="http://exslt.org/math">
<x:template match="/"><a><x:value-of select="m:random()"/></a></x:template>
</x:stylesheet>"""
DRAWS = {
    "random": ("import random", "[random.random(), random.gauss(0, 1), random.randbytes(8)]"),
    "random.Random()": ("import random", "random.Random().random()"),
    "random.SystemRandom": ("import random", "random.SystemRandom().random()"),
    "os.urandom": ("import os", "os.urandom(8)"),
    "secrets": ("import secrets", "secrets.token_hex(8)"),
    "uuid4": ("import uuid", "str(uuid.uuid4())"),
    "uuid1's node": ("import uuid", "uuid.getnode()"),
    "uuid7": ("import uuid", "uuid.uuid7().int & ((1 << 62) - 1)"),
    "tempfile": ("import os, tempfile", "os.path.basename(tempfile.mkdtemp())"),
    "multiprocessing": ("import multiprocessing.process as mp", "bytes(mp.current_process().authkey)"),
    "email": ("import email.utils", "email.utils.make_msgid(domain='x').split('.')[2]"),
    "sqlite3 random()": ("import sqlite3", "sqlite3.connect(':memory:').execute('select random()').fetchone()[0]"),
    "sqlite3 randomblob()": (
        "import sqlite3",
        "sqlite3.connect(':memory:').execute('select randomblob(100)').fetchone()[0]",
    ),
    "numpy.random": ("import numpy as np", "[*np.random.random(2), np.random.normal()]"),
    "numpy default_rng()": ("import numpy as np", "np.random.default_rng().random()"),
    "scipy.stats": ("import scipy.stats", "float(scipy.stats.norm.rvs())"),
    "scipy.stats, frozen": ("import scipy.stats; frozen = scipy.stats.gamma(2.0)", "float(frozen.rvs())"),
    "scipy.stats, multivariate": ("import scipy.stats", "scipy.stats.multivariate_normal.rvs([0, 0]).tolist()"),
    "pandas": ("import pandas as pd", "pd.DataFrame({'a': range(10**6)}).sample(1).index.tolist()"),
    "sklearn": ("import sklearn.utils", "float(sklearn.utils.check_random_state(None).random())"),
    "networkx": ("import networkx as nx", "sorted(nx.gnm_random_graph(99, 50).edges)"),
    "networkx, with numpy": ("import networkx as nx", "sorted(nx.fast_gnp_random_graph(99, 0.1).edges)"),
    "sympy": ("import sympy.core.random", "sympy.core.random.rng.random()"),
    "sympy's matrices": ("import sympy", "str(sympy.randMatrix(3))"),
    "sympy's assumptions": ("import sympy.core.random", "sympy.core.random._assumptions_rng.random()"),
    "sympy's dummies": ("import sympy", "sympy.Dummy._prng.random()"),
    "mpmath": ("import mpmath", "str(mpmath.rand())"),
    "more_itertools": ("import more_itertools.recipes as recipes", "recipes._private_randrange(1 << 62)"),
    "Pillow effect_noise": ("import PIL.Image", "PIL.Image.effect_noise((8, 8), 50).tobytes()"),
    "Pillow effect_spread": ("import PIL.Image", "PIL.Image.linear_gradient('L').effect_spread(9).tobytes()"),
    "lxml math:random()": (
        f"import lxml.etree as etree; style = etree.XSLT(etree.XML({STYLE!r}))",
        "str(style(etree.XML('<b/>')))",
    ),
    "jinja2": ("import jinja2", "jinja2.Template('{{ range(10**9) | random }}').render()"),
    "toolz": ("import toolz", "list(toolz.random_sample(0.5, range(64)))"),
}
"""By name: what is imported, and what is drawn."""
SCRIPT = "\n".join(imports for imports, _ in DRAWS.values()) + "".join(
    f"\n_draws[{name!r}] = lambda: {expression}" for name, (_, expression) in DRAWS.items()
)
HEAD = "_draws = {}\n"
DRAW = """
def draw():
    return {name: one() for name, one in _draws.items()}
"""
LATER_IN_THE_SAME_SECOND = """
def draw():
    import sqlite3, PIL.Image
    return [
        sqlite3.connect(':memory:').execute('select hex(randomblob(8))').fetchone()[0],
        PIL.Image.effect_noise((8, 8), 50).tobytes(),
    ]
"""


@pytest.fixture(scope="module")
def used() -> Iterator[SandboxTemplate]:
    """A template whose prelude has drawn from everything."""
    with built_template(prelude=f"{HEAD}{SCRIPT}{DRAW}\ndraw()") as template:
        yield template


async def drawn(template: SandboxTemplate, **options: Any) -> Any:
    async with template.create(**options) as sandbox:
        return await sandbox.run("draw")


async def test_two_sandboxes_draw_nothing_alike(used: SandboxTemplate) -> None:
    mine, theirs = await drawn(used), await drawn(used)
    assert sorted(mine) == sorted(DRAWS)
    assert [name for name in DRAWS if mine[name] == theirs[name]] == []


async def test_two_sandboxes_with_one_seed_draw_the_same(used: SandboxTemplate) -> None:
    mine, theirs, other = await drawn(used, seed=7), await drawn(used, seed=7), await drawn(used, seed=8)
    assert [name for name in DRAWS if mine[name] != theirs[name]] == []
    assert [name for name in DRAWS if mine[name] == other[name]] == []


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
@ONE_LOOP
async def test_a_generator_that_the_prelude_gave_numpy_is_seeded_too(kind: str) -> None:
    prelude = f"""
        import numpy as np
        np.random.set_bit_generator(np.random.{kind}(1))
        def draw():
            return [float(np.random.random()), type(np.random.get_bit_generator()).__name__]
    """
    with built_template(prelude="if True:" + prelude) as template:
        mine, theirs = await drawn(template), await drawn(template)
        assert mine[0] != theirs[0]
        assert mine[1] == theirs[1] == kind
        assert await drawn(template, seed=7) == await drawn(template, seed=7)


async def test_native_generators_that_are_first_used_after_the_fork_differ_within_a_second(
    templates: Templates,
) -> None:
    """Without ``/dev/urandom`` SQLite seeds itself with the second."""
    template = templates("python", False)
    seen: list[Any] = []
    for _ in range(3):
        async with template.create() as sandbox:
            await sandbox.load_script(LATER_IN_THE_SAME_SECOND)
            seen.append(await sandbox.run("draw"))
    for mine, theirs in ((0, 1), (1, 2), (0, 2)):
        assert all(a != b for a, b in zip(seen[mine], seen[theirs], strict=True))


def test_every_pinned_python_has_its_layout() -> None:
    assert {pin.main.sha256 for pin in PINS["python"].values()} <= set(LAYOUTS)


@ONE_LOOP
async def test_sqlites_state_is_where_the_layout_says(used: SandboxTemplate) -> None:
    """A state of the library's own making: constant, key, counter and nonce give the output beside them."""
    (layout,) = LAYOUTS.values()
    async with used.create() as sandbox:
        await sandbox.load_script(
            "import sqlite3\ndef f(): return sqlite3.connect(':memory:').execute('select randomblob(1)').fetchone()[0]"
        )
        assert sandbox._runs is not None
        memory = sandbox._runs.machine.instance.memory
        first = await sandbox.run("f")
        state = memory.read(layout.sqlite, 129)
        assert state[:16] == b"expand 32-byte k"
        assert state[48:52] == (1).to_bytes(4, "little"), "one block has been made"
        assert chacha20(state[:64]) == state[64:128]
        left = state[128]
        assert 0 < left < 64
        assert first == state[64 + left : 65 + left], "what was drawn last is what is taken off the end"


def chacha20(state: bytes) -> bytes:
    """A block of the cipher, as in RFC 8439."""
    words = [int.from_bytes(state[at : at + 4], "little") for at in range(0, 64, 4)]
    block = list(words)

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for left, right, target, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            block[left] = (block[left] + block[right]) & 0xFFFFFFFF
            mixed = block[target] ^ block[left]
            block[target] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return b"".join(((a + b) & 0xFFFFFFFF).to_bytes(4, "little") for a, b in zip(block, words, strict=True))


# --- is anything missing? --------------------------------------------------------------------------------------------

SEARCH = """
import gc, importlib, os, pkgutil, random, secrets, sys

made = set()

def place():
    frame = sys._getframe(2)
    while "importlib" in frame.f_code.co_filename or "numpy/random" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_code.co_filename.split("python315.zip/")[-1] + " " + frame.f_code.co_name

def watch(owner, name, is_unseeded=lambda args: True):
    original = getattr(owner, name)
    def watched(*args, **options):
        if is_unseeded(args):
            made.add(name + " by " + place())
        return original(*args, **options)
    setattr(owner, name, watched)

import numpy as np
watch(random.Random, "__init__", lambda args: args[1:] in ((), (None,)))
for name in ("random", "uniform", "randint", "randrange", "getrandbits", "choice", "sample", "shuffle", "randbytes"):
    watch(random, name)
for name in ("RandomState", "default_rng", "SeedSequence", "PCG64", "MT19937", "Philox", "SFC64"):
    watch(np.random, name, lambda args: args in ((), (None,)))
watch(os, "urandom")
watch(secrets, "token_bytes")

def names(top):
    try:
        module = importlib.import_module(top)
    except BaseException:
        return []
    found = [top]
    for info in pkgutil.walk_packages(getattr(module, "__path__", ()), top + ".", onerror=lambda name: None):
        if not any(part in info.name for part in (".tests", ".test_", "__main__", "conftest")):
            found.append(info.name)
    return found

def tops():
    skipped = {"antigravity", "this", "idlelib", "turtle", "isympy", "host", "__hello__", "__phello__"}
    return sorted(({info.name for info in pkgutil.iter_modules()} | set(sys.builtin_module_names)) - skipped)

def load(names):
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException:
            pass

def result():
    return sorted(made), len(sys.modules)
"""
KNOWN = {
    "__init__ by sympy/core/random.py <module>",
    "__init__ by sympy/core/symbol.py Dummy",
    "__init__ by more_itertools/recipes.py <module>",
    "urandom by multiprocessing/process.py __init__",
}
"""Who makes a generator, or draws, while it is imported, seeded by nothing but the system."""


@pytest.mark.slow
@ONE_LOOP
async def test_no_bundled_module_makes_a_generator_that_is_not_known(templates: Templates) -> None:
    with built_template(max_memory=2 << 30) as template:
        async with template.create() as sandbox:
            await sandbox.load_script(SEARCH)
            tops: Any = await sandbox.run("tops")
            for top in tops:
                names: Any = await sandbox.run("names", top)
                for start in range(0, len(names), 50):
                    await sandbox.run("load", names[start : start + 50])
            result: Any = await sandbox.run("result")
    found, count = result
    assert count > 2000, "little of what is bundled was imported"
    assert set(found) == KNOWN
