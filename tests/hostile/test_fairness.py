"""Guests whose host calls are long, one or many at once: the loop goes on, and each of them can be cancelled.

Not a theme of ``ATTACKS``: what is tried is several guests at once, and what the host does beside them.
"""

from __future__ import annotations

import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import pytest

from isola_anyio import MountConfig, SandboxContext
from isola_anyio.wasi.volumes.memory.nodes import File
from tests.hostile.harness import GUEST, max_answer_s
from tests.hostile.watch import TICK_S, watching
from tests.templates import built_template
from tests.timing import NOISE, SLACK
from tests.waiting import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from isola_anyio import Sandbox, SandboxTemplate

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc"),
    pytest.mark.slow,
    pytest.mark.timing,
]

MAX_GAP_S: Final = 0.05
MAX_LATE_S: Final = 0.25
ATTACK: Final = """
async def attack():
    await hostcall('ready', None)
    while True:
        done = step()
        if inspect.isawaitable(done):
            await done
"""
LASTS_S: Final = 0.5
"""For how long the guests make their calls."""


class LongCall(NamedTuple):
    """A host call that takes long; ``step`` makes it once."""

    name: str
    script: str
    mounts: str = ""


CALLS: Final = (
    LongCall(
        "links that lead through links",
        """
import os
os.makedirs('/tmp/d', exist_ok=True)
os.symlink('d', '/tmp/l0')
for i in range(1, 39):
    os.symlink('./' * 1900 + 'l%d' % (i - 1), '/tmp/l%d' % i)
def step():
    try:
        os.stat('/tmp/l38')
    except OSError:
        pass
""",
    ),
    LongCall(
        "moves of a deep tree",
        """
import os
os.chdir('/tmp')
os.makedirs('t')
os.mkdir('u')
for i in range(30):
    os.makedirs('t/%d/' % i + '/'.join('abcdefgh' * 20))
def step():
    os.rename('t', 'u/t')
    os.rename('u/t', 't')
""",
    ),
    LongCall(
        "reads of a hole",
        """
import io
f = io.FileIO('/tmp/h', 'w+')
f.truncate(1 << 40)
b = bytearray(100 << 20)
def step():
    f.seek(0)
    f.readinto(b)
""",
    ),
    LongCall(
        "reads of a hole in a mount",
        """
import io
f = io.FileIO('/shared/hole', 'r+')
b = bytearray(100 << 20)
def step():
    f.seek(0)
    f.readinto(b)
""",
        mounts="memory",
    ),
    LongCall(
        "files that are filled and cut",
        """
import os
f = os.open('/tmp/f', os.O_RDWR | os.O_CREAT)
b = b'x' * (64 << 20)
def step():
    os.pwrite(f, b, 0)
    os.ftruncate(f, 0)
""",
    ),
    LongCall(
        "chunks of a sparse file",
        """
import os
f = os.open('/tmp/f', os.O_RDWR | os.O_CREAT)
for i in range(20_000):
    os.pwrite(f, b'x', i << 16)
def step():
    os.ftruncate(f, 1 << 50)
    os.ftruncate(f, 1 << 49)
""",
    ),
    LongCall(
        "lists of many entries",
        """
import os
os.mkdir('/tmp/q')
for i in range(6000):
    os.mkdir('/tmp/q/%d' % i)
def step():
    os.listdir('/tmp/q')
""",
    ),
    LongCall("lists of the host's entries", "import os\ndef step(): os.listdir('/disk/many')\n", mounts="overlay"),
    LongCall(
        "copies of the host's file",
        """
import os
def step():
    with open('/disk/large', 'r+b'):
        pass
    os.unlink('/disk/large')
    os.link('/disk/again', '/disk/large')
""",
        mounts="overlay",
    ),
    LongCall("randomness", "import os\ndef step(): os.urandom(16 << 20)\n"),
    LongCall("output", "import sys\ndef step(): sys.stderr.write('\\u00e9' * 200_000)\n"),
    LongCall(
        "values",
        "big = list(range(300_000))\nasync def step(): await hostcall('take', big)\n",
    ),
)


@pytest.fixture(scope="module")
def template() -> Iterator[SandboxTemplate]:
    context = SandboxContext()
    with built_template("python", context=context) as template:
        yield template
    context.close()


def mounts_of(call: LongCall, directory: Path) -> tuple[list[MountConfig], Callable[[], object]]:
    """Return what a call needs, and what the host does with it meanwhile, on its loop."""
    if call.mounts == "memory":
        mount = MountConfig.memory("/shared", files={"small": b"x", "hole": b""})
        volume = mount._volume
        hole = volume.entries_of(volume.root)[b"hole"]
        assert isinstance(hole, File)
        hole.resize(1 << 40)
        return [mount], lambda: mount.read("small")
    if call.mounts == "overlay":
        if not (directory / "many").exists():
            (directory / "large").write_bytes(b"x" * (48 << 20))
            (directory / "again").hardlink_to(directory / "large")
            (directory / "many").mkdir()
            for number in range(20_000):
                (directory / "many" / str(number)).touch()
        return [MountConfig(directory, "/disk", "read-write", "read-write", mode="overlay")], lambda: None
    return [], lambda: None


def runs() -> Iterator[tuple[int, LongCall]]:
    """Choose how many guests make each call: those that need little memory are made by many, too."""
    for call in CALLS:
        yield 1, call
        yield 4, call
        if call.name in {"links that lead through links", "output", "randomness"}:
            yield 32, call


@pytest.mark.parametrize(
    ("guests", "call"), [pytest.param(*run, id=f"{run[0]}-{run[1].name.replace(' ', '-')}") for run in runs()]
)
async def test_long_calls_of_many_guests_leave_the_loop_and_a_neighbour_alone(
    call: LongCall, guests: int, template: SandboxTemplate, tmp_path: Path
) -> None:
    mounts, beside = mounts_of(call, tmp_path)
    entered = Signal()

    async def use_beside() -> None:
        while True:
            beside()
            await anyio.sleep(TICK_S)

    async with AsyncExitStack() as stack:
        neighbour = await stack.enter_async_context(template.create())
        await neighbour.load_script(GUEST["python"])
        sandboxes: list[Sandbox] = []
        for _ in range(guests):
            sandbox = template.create(mounts=mounts, max_output=1 << 40, hostcalls={"ready": entered, "take": len})
            await stack.enter_async_context(sandbox)
            await sandbox.load_script("import inspect\nfrom sandbox.asyncio import hostcall\n" + call.script + ATTACK)
            sandboxes.append(sandbox)
        async with watching(neighbour) as watch, anyio.create_task_group() as group:
            group.start_soon(use_beside)
            async with anyio.create_task_group() as attackers:
                for sandbox in sandboxes:
                    attackers.start_soon(sandbox.run, "attack")
                await entered.wait()
                await anyio.sleep(LASTS_S)
                cancelled = time.monotonic()
                attackers.cancel_scope.cancel()
            late = time.monotonic() - cancelled
            group.cancel_scope.cancel()
    assert watch.max_gap_s <= MAX_GAP_S * NOISE
    assert watch.max_answer_s <= max_answer_s(guests) * NOISE
    assert late <= MAX_LATE_S * SLACK
