"""Run an attack beside a neighbour, and check what must hold whatever the attack is.

The host lives, its event loop never stands still, the neighbour answers all the while, what is raised is of the
contract and tells nothing of the host, and when the sandbox is closed nothing of it is left.

Nothing is tried again: an attack that succeeds now and then succeeds. Figures of time are those from which the machine's
part has been taken off (``watch``).
"""

from __future__ import annotations

import gc
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio

from isola_anyio import GuestError, IsolaError, MountConfig, Sandbox, SandboxTemplate
from tests.hostile.attack import CONTRACT, MIB, Attack, Outcome, is_of_the_contract
from tests.hostile.watch import available_bytes, resident_bytes, watching
from tests.timing import NOISE
from tests.waiting import until

CANARY_NAME = "ISOLA_HOSTILE_CANARY"
CANARY = "canary-5b1f0a77c2"
SECRET = "only-the-host-knows-93d1"
AFTERWARDS_S = 5.0
LONGEST_PATIENCE_S = 4.0
"""When an attack is cancelled at the latest, however many guests share the processors."""
CORES = os.cpu_count() or 1
ROOT = str(Path(__file__).parents[2])

GUEST = {
    "python": "def ping(n):\n    return n\n",
    "js": "function ping(n) { return n }\n",
}
MEMORY = {"python": 128 * MIB, "js": 64 * MIB}

FIGURES: list[tuple[str, int, float, float, float, int]] = []
"""Of each attack that was run: name, guests, standstill, longest answer and lateness in seconds, growth in bytes."""


def max_answer_s(guests: int) -> float:
    """How long a neighbour's short run may take."""
    return 0.5 if guests <= 4 else 3.0


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
        outside.mkdir(parents=True)
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


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def guests_that_fit(attack: Attack) -> int:
    """How many guests of an attack this machine has memory for, leaving as much again to others."""
    memory: int = attack.options.get("max_memory", MEMORY[attack.runtime])
    return max(1, available_bytes() // 2 // (memory + memory // 2))  # what a guest sends is held on the host as well


async def run_attack(
    attack: Attack, template: SandboxTemplate, world: World, neighbour: Sandbox, *, guests: int = 1
) -> Outcome:
    """Run an attack and check what must hold; the first success fails, and so does the first that is about time.

    Args:
        attack: what is tried.
        template: what to make its sandbox from.
        world: the host's side.
        neighbour: another sandbox of the template, which answers meanwhile and afterwards.
        guests: how many sandboxes attack at once, each with a world of its own.

    Returns:
        What came of the first guest's attack; the others' are held to the same.
    """
    fds, tasks = open_fds(), len(anyio.get_running_tasks())
    resident = resident_bytes()
    outcomes: list[Outcome] = []
    worlds = [world, *(World(world.root / str(number)) for number in range(1, guests))]

    async def attack_once(world: World) -> None:
        outcomes.append(await _in_sandbox(attack, template, world, guests))

    async with watching(neighbour) as watch, anyio.create_task_group() as group:
        for each in worlds:
            group.start_soon(attack_once, each)
    assert await neighbour.run("ping", "after") == "after"
    await _nothing_is_left(template, fds, tasks)
    for outcome in outcomes:
        outcome.grown_bytes = watch.peak_rss - resident
        for each in worlds:
            each.check_says_nothing(" ".join(texts(outcome)))
        if outcome.error is not None:
            assert is_of_the_contract(outcome.error), repr(outcome.error)
        try:
            attack.expect(outcome)
        except AssertionError as exc:
            raise AssertionError(f"{attack.name}: {exc} ({outcome})") from None
    for each in worlds:
        each.check_untouched()
    grown = watch.peak_rss - resident
    FIGURES.append((attack.name, guests, watch.max_gap_s, watch.max_answer_s, max(o.late_s for o in outcomes), grown))
    assert grown <= attack.max_grown_bytes * guests, f"{attack.name}: the host's memory grew by {grown >> 20} MiB"
    gap, answer = watch.max_gap_s, watch.max_answer_s
    assert gap <= attack.max_gap_s * NOISE, f"{attack.name}: the event loop stood still for {gap * 1000:.0f} ms"
    assert answer <= max_answer_s(guests) * NOISE, f"{attack.name}: the neighbour waited {answer:.1f} s for an answer"
    return outcomes[0]


async def _nothing_is_left(template: SandboxTemplate, fds: set[str], tasks: int) -> None:
    """Check that no more is there than before: no work, no task, no descriptor."""
    with suppress(TimeoutError), anyio.fail_after(1):  # a thread tells the loop before it takes its next work
        await until(lambda: not template._context._pool.busy)
    assert template._context._pool.busy == 0, "a guest thread is still busy"
    assert len(anyio.get_running_tasks()) <= tasks, "a task is left"
    if not open_fds() <= fds:
        gc.collect()
    assert open_fds() <= fds, "a descriptor is left"


def texts(outcome: Outcome) -> list[str]:
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


async def _in_sandbox(attack: Attack, template: SandboxTemplate, world: World, guests: int) -> Outcome:
    options: dict[str, Any] = {"hostcalls": HANDLERS, "max_memory": MEMORY[attack.runtime], **attack.options}
    async with template.create(mounts=world.mounts(attack.mounts), **options) as sandbox:
        outcome = Outcome(in_line=guests > template._context._pool.max_parallel)
        patience = _patience_s(attack, guests)
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
        outcome.usable = await _answers(sandbox, guests)
        if attack.twin:
            async with template.create(hostcalls=HANDLERS, **attack.options) as twin:
                await twin.load_script(GUEST[attack.runtime] + attack.script)
                outcome.value = [outcome.value, await twin.run("attack", *attack.args)]
        return outcome


def _patience_s(attack: Attack, guests: int) -> float:
    """When an attack is cancelled: later where many share the processors, so that each gets to do its worst."""
    if attack.cancel_after is None:
        return math.inf
    shared = attack.cancel_after * guests / CORES
    return max(attack.cancel_after, min(shared, LONGEST_PATIENCE_S))


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


async def _answers(sandbox: Sandbox, guests: int) -> bool:
    """Whether the sandbox goes on: it answers, or says in the contract's words that it does not; it never hangs."""
    with anyio.fail_after(AFTERWARDS_S * max(1.0, guests / CORES)):
        try:
            return await sandbox.run("ping", 42) == 42
        except CONTRACT as exc:
            assert is_of_the_contract(exc), repr(exc)
            assert isinstance(exc, GuestError) or sandbox.broken or sandbox.closed
            return False
