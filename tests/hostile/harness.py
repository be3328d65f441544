"""Run an attack beside a neighbour, and check what must hold whatever the attack is.

The host lives, its event loop never stands still, the neighbour answers all the while, what is raised is of the
contract and tells nothing of the host, and when the sandbox is closed nothing of it is left.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from isola_anyio import GuestError, IsolaError, MountConfig, Sandbox, SandboxTemplate
from tests.hostile.attack import CONTRACT, MIB, Attack, LateError, Outcome, is_of_the_contract
from tests.timing import SLACK
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

CANARY_NAME = "ISOLA_HOSTILE_CANARY"
CANARY = "canary-5b1f0a77c2"
SECRET = "only-the-host-knows-93d1"
ATTEMPTS = 3
"""Times an attack is run before what it says about time counts."""
AFTERWARDS_S = 5.0
TICK_S = 0.005
ROOT = str(Path(__file__).parents[2])

GUEST = {
    "python": "def ping(n):\n    return n\n",
    "js": "function ping(n) { return n }\n",
}
MEMORY = {"python": 128 * MIB, "js": 64 * MIB}


class Clumsy(Exception):
    """A handler's failure, with what no guest may see in its traceback."""


async def echo(payload: Any) -> Any:
    return payload


async def fail(payload: Any) -> Any:
    local = SECRET  # in the traceback, which no guest may see
    assert local
    raise Clumsy("the handler says no")


async def never(payload: Any) -> Any:
    await anyio.sleep_forever()


async def unspeakable(payload: Any) -> Any:
    return {"a": object()}


HANDLERS = {
    "echo": echo,
    "plain": lambda payload: payload,
    "fail": fail,
    "never": never,
    "unspeakable": unspeakable,
    "big": lambda payload: b"x" * payload,
}


class World:
    """The host's side of a test: directories to mount, and what must not get out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        outside = root / "outside"
        outside.mkdir()
        (outside / "secret.txt").write_text(SECRET)
        for name in ("ro", "rw"):
            shared = root / name
            shared.mkdir()
            (shared / "hello.txt").write_text("hello")
            (shared / "sub").mkdir()
            (shared / "sub" / "inner.txt").write_text("inner")
            for link, target in {
                "out": "../outside",
                "secret": "../outside/secret.txt",
                "abs": "/etc",
                "self": "self",
                "up": "..",
                "absroot": str(outside),
                "twice": "sub/../out",
            }.items():
                (shared / link).symlink_to(target)
            os.mkfifo(shared / "pipe")
        self.outside = outside

    def mounts(self, which: str) -> list[MountConfig]:
        mounts = []
        if "ro" in which:
            mounts.append(MountConfig(self.root / "ro", "/data"))
        if "rw" in which:
            mounts.append(MountConfig(self.root / "rw", "/disk", "read-write", "read-write"))
        return mounts

    def check_untouched(self) -> None:
        assert sorted(os.listdir(self.outside)) == ["secret.txt"]
        assert (self.outside / "secret.txt").read_text() == SECRET
        for path in (self.root / "rw").rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert not path.stat().st_mode & 0o7111, f"{path} was made executable"

    def check_says_nothing(self, text: str) -> None:
        for secret in (CANARY, SECRET, str(self.root), ROOT, sys.prefix, "site-packages"):
            assert secret not in text, f"{secret!r} reached the guest: {text[:300]}"


class Watch:
    """Looks at the event loop and the neighbour while an attack goes on."""

    def __init__(self, neighbour: Sandbox) -> None:
        self.neighbour = neighbour
        self.max_gap_s = 0.0
        self.answers = 0
        self.max_answer_s = 0.0
        self.peak_rss = 0

    async def tick(self) -> None:
        before, starved_before = time.monotonic(), starved_s()
        while True:
            await anyio.sleep(TICK_S)
            gap = time.monotonic() - before - TICK_S
            if gap > self.max_gap_s:
                starved = starved_s()
                self.max_gap_s = max(self.max_gap_s, gap - most_starved_s(starved_before, starved))
            self.peak_rss = max(self.peak_rss, resident_bytes())
            before, starved_before = time.monotonic(), starved_s()

    async def ask(self) -> None:
        while True:
            start = time.monotonic()
            assert await self.neighbour.run("ping", self.answers) == self.answers
            self.max_answer_s = max(self.max_answer_s, time.monotonic() - start)
            self.answers += 1
            await anyio.sleep(0.02)


@asynccontextmanager
async def watching(neighbour: Sandbox) -> AsyncGenerator[Watch]:
    watch = Watch(neighbour)
    async with anyio.create_task_group() as group:
        group.start_soon(watch.tick)
        group.start_soon(watch.ask)
        try:
            yield watch
        finally:
            group.cancel_scope.cancel()


def resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * 4096


def starved_s() -> dict[str, float]:
    """Seconds for which each thread could have run and had no processor: not the attack's doing."""
    found = {}
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError), open(f"/proc/self/task/{thread}/schedstat", "rb") as file:
            found[thread] = int(file.read().split()[1]) / 1e9
    return found


def most_starved_s(before: dict[str, float], after: dict[str, float]) -> float:
    """How long the thread that had to wait longest for a processor waited; it may have held the interpreter's lock."""
    return max(seconds - before.get(thread, 0.0) for thread, seconds in after.items())


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def run_attack(attack: Attack, template: SandboxTemplate, world: World, neighbour: Sandbox) -> Outcome:
    """Run an attack and check what must hold.

    What is about time is tried again, for the machine has other things to do: only an attack that is always at fault
    is. Everything else fails at once: an attack that succeeds now and then succeeds.

    Args:
        attack: what is tried.
        template: what to make its sandbox from.
        world: the host's side.
        neighbour: another sandbox of the template, which answers meanwhile and afterwards.
    """
    late: list[str] = []
    for _ in range(ATTEMPTS):
        outcome, complaint = await _attempt(attack, template, world, neighbour)
        if not complaint:
            return outcome
        late.append(complaint)
    raise AssertionError(f"{attack.name}: {late}")


async def _attempt(attack: Attack, template: SandboxTemplate, world: World, neighbour: Sandbox) -> tuple[Outcome, str]:
    """Run an attack; return what came of it, and what there is to say about its time."""
    fds, tasks = open_fds(), len(anyio.get_running_tasks())
    resident = resident_bytes()
    async with watching(neighbour) as watch:
        outcome = await _in_sandbox(attack, template, world)
    outcome.grown_bytes = watch.peak_rss - resident
    assert await neighbour.run("ping", "after") == "after"
    await _nothing_is_left(template, fds, tasks)
    text = " ".join(_texts(outcome))
    world.check_says_nothing(text)
    world.check_untouched()
    if outcome.error is not None:
        assert is_of_the_contract(outcome.error), repr(outcome.error)
    grown = outcome.grown_bytes
    assert grown <= attack.max_grown_bytes, f"{attack.name}: the host's memory grew by {grown >> 20} MiB"
    try:
        attack.expect(outcome)
    except LateError as exc:
        return outcome, f"{exc} ({outcome})"
    except AssertionError as exc:
        raise AssertionError(f"{attack.name}: {exc} ({outcome})") from None
    if watch.max_gap_s > attack.max_gap_s * SLACK:
        return outcome, f"the event loop stood still for {watch.max_gap_s * 1000:.0f} ms"
    if watch.max_answer_s > 1.0:
        return outcome, f"the neighbour waited {watch.max_answer_s:.1f} s for an answer"
    return outcome, ""


async def _nothing_is_left(template: SandboxTemplate, fds: set[str], tasks: int) -> None:
    """Check that no more is there than before: no work, no task, no descriptor."""
    with suppress(TimeoutError), anyio.fail_after(1):  # a thread tells the loop before it takes its next work
        await until(lambda: not template._context._pool.busy)
    assert template._context._pool.busy == 0, "a guest thread is still busy"
    assert len(anyio.get_running_tasks()) <= tasks, "a task is left"
    if not open_fds() <= fds:
        gc.collect()
    assert open_fds() <= fds, "a descriptor is left"


def _texts(outcome: Outcome) -> list[str]:
    texts = [*_strings(outcome.value), repr(outcome.events)[:MIB]]
    error = outcome.error
    while error is not None:
        texts += [repr(error)[:MIB], str(error)[:MIB]]
        error = error.__cause__ or error.__context__
    return texts


def _strings(value: Any) -> list[str]:
    """Every string in a value; the value may be deep."""
    found: list[str] = []
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            found.append(item[:MIB])
        elif isinstance(item, bytes):
            found.append(item[:MIB].decode("latin-1"))
        elif isinstance(item, dict):
            left += [*item, *item.values()]
        elif isinstance(item, list):
            left += item
    return found


async def _in_sandbox(attack: Attack, template: SandboxTemplate, world: World) -> Outcome:
    options: dict[str, Any] = {"hostcalls": HANDLERS, "max_memory": MEMORY[attack.runtime], **attack.options}
    async with template.create(mounts=world.mounts(attack.mounts), **options) as sandbox:
        outcome = Outcome()
        patience = math.inf if attack.cancel_after is None else attack.cancel_after
        with anyio.move_on_after(patience) as scope:
            try:
                await sandbox.load_script(GUEST[attack.runtime] + attack.script)
                scope.deadline = anyio.current_time() + patience  # anew: loading it may have taken its time
                outcome.value = await _call(attack, sandbox, outcome)
            except IsolaError as exc:
                outcome.error = exc
        outcome.cancelled = scope.cancelled_caught
        if scope.cancelled_caught:
            outcome.late_s = anyio.current_time() - scope.deadline
        outcome.usable = await _answers(sandbox)
        if attack.twin:
            async with template.create(hostcalls=HANDLERS, **attack.options) as twin:
                await twin.load_script(GUEST[attack.runtime] + attack.script)
                outcome.value = [outcome.value, await twin.run("attack", *attack.args)]
        return outcome


async def _call(attack: Attack, sandbox: Sandbox, outcome: Outcome) -> Any:
    if not attack.stream:
        return await sandbox.run("attack", *attack.args)
    async with sandbox.run_stream("attack", *attack.args) as events:
        if attack.stream == "slowly":
            await anyio.sleep(0.2)
        async for event in events:
            outcome.events.append(event)
            if event.type == "error":
                raise event.exception
            if event.type == "end":
                return event.data
    return None


async def _answers(sandbox: Sandbox) -> bool:
    """Whether the sandbox goes on: it answers, or says in the contract's words that it does not; it never hangs."""
    with anyio.fail_after(AFTERWARDS_S):
        try:
            return await sandbox.run("ping", 42) == 42
        except CONTRACT as exc:
            assert is_of_the_contract(exc), repr(exc)
            assert isinstance(exc, GuestError) or sandbox.broken or sandbox.closed
            return False
