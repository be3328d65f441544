"""How far a call goes: few functions and few files, so that a reader can follow it, and none that it does not need."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from isola_anyio import SandboxContext
from tests.bench.walk import GUEST, Walk, trip
from tests.loops import ONE_LOOP

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

pytestmark = ONE_LOOP


async def test_a_warm_run_walks_a_short_way(python: SandboxTemplate) -> None:
    assert python.image_size  # built, so that the context below finds everything in the cache
    async with SandboxContext() as context:
        template = await context.build_template("python")
        with Walk() as walk:  # guest threads that are started meanwhile are counted
            async with template.create(hostcalls={"plain": lambda payload: payload}) as sandbox:
                await sandbox.load_script(GUEST)
                await trip(walk, partial(sandbox.run, "add", 1, 2))
                add = (walk.calls, walk.moves, walk.files)
                await trip(walk, partial(sandbox.run, "plain"))
                plain = walk.calls
        template.close()
    calls, moves, files = add
    assert 30 < calls <= 60
    assert moves <= 32  # 28, and what two threads that run at once add when their calls alternate
    assert files <= 10
    assert plain <= 105
