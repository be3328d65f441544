"""The port against a guest that has got hold of the door: what makes no sense ends the run, and only that sandbox."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anyio
import pytest

from isola_anyio import GuestError, SandboxContext, SandboxTemplate
from isola_anyio.guests.js import port
from isola_anyio.guests.js.driver import JsDriver
from isola_anyio.guests.kinds import drivers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isola_anyio.cache import Cache
    from isola_anyio.runtimes.resolve import RuntimeBundle

FRAMES = [
    "''",
    "'x'",
    "'\\x13'",
    "'\\x13x '",
    "'\\x1399999999999999999999999999 1'",
    "'\\x13' + '9'.repeat(100000) + ' 1'",
    "'\\x131 not json'",
    "'\\x131 ' + '['.repeat(100000)",
    "'\\x13777 1'",
    "'\\x101 no field'",
    "'\\x101 [\\x1f1'",
    "'\\x101 ' + '['.repeat(30000) + '\\x1f1'",
    "'\\x101 ' + '['.repeat(1e6) + '\\x1f1'",
    "'\\x121 \\u20acx'",
    "'\\x121 '",
    "'\\x151 soon 1'",
    "'\\x151 NaN 1'",
    "'\\x151 '",
    "'\\x181 99999999999999999999'",
    "'\\x181 x'",
    "'\\x1a0 99999999'",
    "'\\x1a0 ' + '9'.repeat(10000)",
    "'\\x1f0 ' + '9'.repeat(10000)",
    "'\\x1f0 x'",
    "'\\x1b0 ' + '\\u00e4'.repeat(1e6)",
    "'\\xff1 x'",
    "'\\x141 {}'",
    "'\\x141 null'",
    "5",
    "{}",
]


class TraitorDriver(JsDriver):
    """A driver whose SDK gives the door away."""

    def __init__(self) -> None:
        super().__init__()
        self._sdk["door"] += "\nglobalThis.door = (...frame) => door(...frame);"
        self.sdk_digest += "-traitor"  # another image, in the ordinary cache

    def with_extras(self, bundle: RuntimeBundle, cache: Cache) -> JsDriver:
        return self


@pytest.fixture(scope="module")
def traitor() -> Iterator[SandboxTemplate]:
    known = drivers()
    honest = known["js"]
    known["js"] = TraitorDriver()
    context = SandboxContext()
    try:
        template = anyio.run(context.build_template, "js")
    finally:
        known["js"] = honest  # before anybody else's template is built
    yield template
    context.close()


@pytest.mark.parametrize("frame", FRAMES)
async def test_a_frame_that_makes_no_sense_ends_the_run(traitor: SandboxTemplate, frame: str) -> None:
    async with traitor.create() as sandbox:
        await sandbox.load_script(f"const f = () => {{ door({frame}); return 'went on' }}; const fine = () => 1")
        with contextlib.suppress(GuestError):
            assert await sandbox.run("f") in ("went on", {}, None, 1)
        if not sandbox.broken:
            with contextlib.suppress(GuestError):
                await sandbox.run("fine")


@pytest.mark.parametrize(
    "frame",
    [
        "'\\x181 ' + '9'.repeat(2e6)",
        "'\\x151 ' + '1'.repeat(2e6) + ' 1'",
        "'\\x151 NaN 1'",
        "'\\x1a0 ' + '0'.repeat(2e6)",
        "'\\x1f0 ' + '9'.repeat(2e6)",
        "'\\x1b0 \\u00e4' + 'a'.repeat(2e6)",
    ],
)
async def test_a_number_of_a_guests_is_no_work_however_many_digits_it_has(
    traitor: SandboxTemplate, frame: str, unlimited_digits: None
) -> None:
    """A program may have lifted Python's limit of digits; two million of them are then minutes of work."""
    async with traitor.create() as sandbox:
        await sandbox.load_script(f"const f = () => {{ door({frame}); return 'went on' }}")
        began = time.process_time()
        try:
            assert await sandbox.run("f") == "went on"
        except GuestError as exc:
            assert exc.type == "ProtocolError"
        assert time.process_time() - began < 2.0


@pytest.fixture
def unlimited_digits() -> Iterator[None]:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(before)


async def test_a_door_call_without_arguments_or_with_other_things_ends_the_run(traitor: SandboxTemplate) -> None:
    for call in (
        "door()",
        "door(1)",
        "door({}, {})",
        "door('\\x131 ', 'x')",
        "door('\\x131 ', new Uint8Array(1))",
        "door(Symbol())",
    ):
        async with traitor.create() as sandbox:
            await sandbox.load_script(f"const f = () => {{ {call}; return 1 }}")
            with contextlib.suppress(GuestError):
                await sandbox.run("f")


async def test_random_bytes_through_the_door_are_harmless(traitor: SandboxTemplate) -> None:
    code = """
    function f() {
      const n = Math.floor(Math.random() * 40);
      const kinds = [0x10, 0x11, 0x12, 0x15, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1f];
      let text = String.fromCharCode(kinds[Math.floor(Math.random() * kinds.length)]) + Math.floor(Math.random() * 5) + " ";
      for (let i = 0; i < n; i++) text += String.fromCharCode(Math.floor(Math.random() * 300));
      try { return Math.random() < 0.3 ? door(text, crypto.getRandomValues(new Uint8Array(n))) : door(text) } catch (e) { return String(e) }
    }
    """
    for seed in range(60):
        async with traitor.create(seed=seed) as sandbox:
            await sandbox.load_script(code)
            for _ in range(5):
                with contextlib.suppress(GuestError):
                    await sandbox.run("f")
                if sandbox.broken:
                    break


async def test_a_name_longer_than_any_is_an_unknown_one_and_is_not_parsed(
    template: SandboxTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []

    def spy(text: bytes) -> object:
        parsed.append(len(text))
        return json.loads(text)

    monkeypatch.setattr(port, "json", SimpleNamespace(loads=spy))
    async with template.create() as sandbox:
        await sandbox.load_script("const f = (n) => hostcall('x'.repeat(n), 1).catch((e) => e.name)")
        assert await sandbox.run("f", 100) == "HostcallError"
        assert await sandbox.run("f", 1_000_000) == "HostcallError"
    assert parsed == [102]
