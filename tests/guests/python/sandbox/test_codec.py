"""What does a guest's own type arrive as?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from isola_anyio import GuestError
from tests.loops import ONE_LOOP

if TYPE_CHECKING:
    from isola_anyio import SandboxTemplate

pytestmark = ONE_LOOP


async def test_a_guests_numpy_scalars_arrive_as_the_numbers_they_are(template: SandboxTemplate) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
import numpy as np
def numbers():
    return [np.int64(-3), np.uint64(2**64 - 1), np.int8(5), np.float32(0.1), np.float16(0.1), np.float64(0.1), np.bool_(True)]
def one(): return np.arange(10).sum()
def many():
    for x in np.array([1.5, -0.0]): yield {"x": x}
def date(): return np.datetime64("2024-01-01")
def complex_(): return np.complex64(1j)
def long(): return np.longdouble(1)
""")
        numbers: Any = await sandbox.run("numbers")
        assert numbers == [-3, 2**64 - 1, 5, 0.10000000149011612, 0.0999755859375, 0.1, True]
        assert [type(number) for number in numbers] == [int, int, int, float, float, float, bool]
        assert await sandbox.run("one") == 45
        async with sandbox.run_stream("many") as events:
            assert [repr(event.data) async for event in events] == ["{'x': 1.5}", "{'x': -0.0}", "None"]
        for name in ("date", "complex_", "long"):
            with pytest.raises(GuestError) as caught:
                await sandbox.run(name)
            assert caught.value.type == "TypeError"


@pytest.mark.slow
async def test_results_that_cannot_cross_are_type_errors_of_the_guest_and_break_nothing(
    template: SandboxTemplate,
) -> None:
    async with template.create() as sandbox:
        await sandbox.load_script("""
def gives_set(): return {1}
def gives_keys(): return {1: 2}.keys()
def gives_deque():
    import collections
    return collections.deque([1])
def gives_class():
    class Iterable:
        def __iter__(self): return iter(())
    return Iterable
def gives_table():
    import pandas
    return pandas.DataFrame({"a": [1]})
def gives_function(): return len
def gives_cycle():
    a = []; a.append(a); return a
def gives_key(): return {1: 2}
def yields_set():
    yield 1
    yield {1}
def fine(): return "fine"
""")
        for name in (
            *("gives_set", "gives_keys", "gives_deque", "gives_class", "gives_table"),
            *("gives_function", "gives_cycle", "gives_key", "yields_set"),
        ):
            with pytest.raises(GuestError) as caught:
                await sandbox.run(name)
            assert caught.value.type in ("TypeError", "ValueError"), name
            assert caught.value.traceback.splitlines()[-1] == f"{caught.value.type}: {caught.value.message}"
            assert not sandbox.broken
        assert await sandbox.run("fine") == "fine"
