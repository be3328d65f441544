"""Building templates: every step once, cached by what it depends on, cancelled within a second, nothing half written."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
import wasmtime

from isola_anyio import (
    GuestError,
    MemoryLimitError,
    Progress,
    RuntimeUnavailableError,
    SandboxClosedError,
    SandboxContext,
)
from tests.loops import ONE_LOOP
from tests.timing import SLACK
from tests.waiting import computing, expire_when

ROOT = Path(__file__).parents[1]
PRELUDE = "globalThis.marker = 41"
SCRIPT = "function answer() { return marker + 1 }"


class Stages:
    """Collects what a build reports."""

    def __init__(self) -> None:
        self.seen: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)

    def count(self, stage: str) -> int:
        """How often a stage was begun."""
        return sum(1 for progress in self.seen if progress.stage == stage and progress.done == 0)


async def build(cache: Path | None, stages: Stages | None = None, **options: Any) -> None:
    """Build in a context of its own, prove that the template works, and close both."""
    options.setdefault("prelude", PRELUDE)
    async with SandboxContext(cache_dir=cache) as context:
        template = await context.build_template("js", on_progress=stages, **options)
        async with template.create() as sandbox:
            await sandbox.load_script(SCRIPT)
            assert await sandbox.run("answer") == 42
        template.close()


def files(cache: Path) -> set[str]:
    """Everything in a cache but locks and digests of others' files."""
    found = (
        path for path in cache.rglob("*") if path.is_file() and not path.name.startswith((".lock", ".seen", ".commit"))
    )
    return {path.relative_to(cache).as_posix() for path in found}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the template was built once, and nothing else: to be copied."""
    cache = tmp_path_factory.mktemp("cache") / "pristine"
    anyio.run(build, cache)
    return cache


@pytest.fixture(scope="module")
def warm(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the template was built once, for tests that add to it and spoil nothing."""
    return Path(shutil.copytree(pristine, tmp_path_factory.mktemp("cache") / "warm"))


@pytest.fixture
def copied(pristine: Path, tmp_path: Path) -> Path:
    """A cache in which the template was built once, to do with as one likes."""
    return Path(shutil.copytree(pristine, tmp_path / "copied"))


@ONE_LOOP
async def test_a_second_build_compiles_and_warms_nothing(warm: Path) -> None:
    stages = Stages()
    await build(warm, stages)
    assert stages.count("compile") == stages.count("warm") == 0


@ONE_LOOP
async def test_another_prelude_is_warmed_and_not_compiled(warm: Path) -> None:
    stages = Stages()
    await build(warm, stages, prelude=f"{PRELUDE} // {time.time_ns()}")
    assert (stages.count("compile"), stages.count("warm")) == (0, 1)


@ONE_LOOP
@pytest.mark.parametrize("options", [{"env": {"A": "1"}}, {"max_memory": 32 << 20}])
async def test_an_image_belongs_to_everything_it_was_made_with(warm: Path, options: dict[str, Any]) -> None:
    first, second = Stages(), Stages()
    await build(warm, first, **options, prelude=f"{PRELUDE} // {time.time_ns()}")
    await build(warm, second, **options)
    assert first.count("warm") == 1


@pytest.mark.slow
@ONE_LOOP
@pytest.mark.parametrize(("suffix", "stage"), [(".cwasm", "compile"), (".image", "warm"), (".files", "warm")])
@pytest.mark.parametrize("damage", ["truncated", "bit-flipped", "removed", "other-users"])
async def test_a_damaged_entry_is_made_again(copied: Path, suffix: str, stage: str, damage: str) -> None:
    (entry,) = (path for path in copied.rglob(f"*{suffix}"))
    if damage == "removed":
        entry.unlink()
    elif damage == "other-users":
        entry.chmod(0o666)
    else:
        content = bytearray(entry.read_bytes())
        content = content[: len(content) // 2] if damage == "truncated" else content
        content[len(content) // 3] ^= 0xFF
        entry.write_bytes(content)
    stages = Stages()
    await build(copied, stages)
    assert stages.count(stage) == 1


@pytest.mark.slow
@ONE_LOOP
async def test_code_of_another_compiler_is_a_miss(copied: Path) -> None:
    """The digest is right and the content is not code of this wasmtime: as after an upgrade that kept its version."""
    (entry,) = copied.rglob("*.cwasm")
    from isola_anyio.cache import open_cache

    open_cache(copied).store_file("code", entry.stem, ".cwasm", lambda out: out.write(b"\x7fELF not code" * 100))
    stages = Stages()
    await build(copied, stages)
    assert stages.count("compile") == 1


@pytest.mark.slow
async def test_two_tasks_do_the_work_once(tmp_path: Path) -> None:
    stages = Stages()
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(build, tmp_path / "cache", stages)
    assert (stages.count("compile"), stages.count("warm")) == (1, 1)


@pytest.mark.slow
def test_two_threads_with_their_own_loops_do_the_work_once(tmp_path: Path) -> None:
    stages = Stages()
    failures: list[BaseException] = []

    def work(backend: str) -> None:
        try:
            anyio.run(build, tmp_path / "cache", stages, backend=backend)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(backend,)) for backend in ("asyncio", "trio", "asyncio")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (stages.count("compile"), stages.count("warm")) == (1, 1)


CHILD = """
    import anyio, sys
    from pathlib import Path
    from tests.test_building import Stages, build
    stages = Stages()
    anyio.run(build, Path(sys.argv[1]), stages)
    print(stages.count("compile"), stages.count("warm"))
    """


def spawn(cache: Path, code: str = CHILD) -> subprocess.Popen[str]:
    """Run a script in a process of its own."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{textwrap.dedent(code)}"
    return subprocess.Popen([sys.executable, "-c", script, str(cache)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_do_the_work_once(tmp_path: Path) -> None:
    children = [spawn(tmp_path / "cache") for _ in range(3)]
    counts = [child.communicate(timeout=120)[0].split() for child in children]
    assert sorted(counts) == [["0", "0"], ["0", "0"], ["1", "1"]]


@pytest.mark.slow
@ONE_LOOP
async def test_nothing_outlives_a_template_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    await build(None)
    assert list(tmp_path.rglob("*")) == []


class Cancel:
    """Cancels the scope when a stage begins."""

    def __init__(self, stage: str, scope: anyio.CancelScope) -> None:
        self.stage = stage
        self.scope = scope
        self.at = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.stage == self.stage and not self.scope.cancel_called:
            self.at = time.monotonic()
            self.scope.cancel()


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("stage", ["compile", "warm"])
async def test_cancelling_a_build_ends_it_within_a_second_and_leaves_nothing_half_written(
    tmp_path: Path, stage: str
) -> None:
    cache = tmp_path / "cache"
    with anyio.CancelScope() as scope:
        cancel = Cancel(stage, scope)
        async with SandboxContext(cache_dir=cache) as context:
            await context.build_template("js", prelude="for (;;);" if stage == "warm" else PRELUDE, on_progress=cancel)
    assert scope.cancelled_caught
    assert time.monotonic() - cancel.at < 1 * SLACK
    assert {name.partition(".")[2] for name in files(cache)} <= {"cwasm", "cwasm.digest"}
    await build(cache)


@pytest.mark.timing
async def test_a_prelude_that_never_ends_can_be_timed_out(warm: Path) -> None:
    cancelled_at = 0.0

    def expire() -> None:
        nonlocal cancelled_at
        cancelled_at = time.perf_counter()
        scope.deadline = anyio.current_time()

    with pytest.raises(TimeoutError), anyio.fail_after(math.inf) as scope:
        await expire_when(computing, expire, lambda: build(warm, prelude="for (;;);"))
    assert time.perf_counter() - cancelled_at < 2 * SLACK


@ONE_LOOP
async def test_a_prelude_that_raises_leaves_no_image(copied: Path) -> None:
    before = files(copied)
    with pytest.raises(GuestError) as caught:
        await build(copied, prelude="\nthrow new RangeError('no')")
    assert (caught.value.type, caught.value.message) == ("RangeError", "no")
    assert "<prelude>:2" in caught.value.traceback
    assert files(copied) == before


@ONE_LOOP
async def test_a_prelude_that_needs_more_memory_than_there_is_says_so(warm: Path) -> None:
    with pytest.raises(MemoryLimitError):
        await build(warm, prelude="globalThis.all = []; for (;;) all.push(new Uint8Array(1 << 20))")


@ONE_LOOP
@pytest.mark.parametrize(
    ("wat", "text"),
    [
        ("(module)", "memory"),
        ('(module (memory (export "memory") 1) (func (export "eval_code")))', "qjs_alloc|eval_code|call_function"),
        ('(module (import "env" "surprise" (func)) (memory (export "memory") 1))', "eval_code|surprise"),
    ],
)
async def test_a_module_that_is_no_runtime_is_refused_with_what_it_lacks(
    tmp_path: Path, warm: Path, wat: str, text: str
) -> None:
    module = tmp_path / "own.wasm"
    module.write_bytes(wasmtime.wat2wasm(wat))
    with pytest.raises(RuntimeUnavailableError, match=text):
        await build(warm, runtime_path=module)


@pytest.mark.slow
async def test_a_closed_context_builds_nothing(warm: Path) -> None:
    context = SandboxContext(cache_dir=warm)
    await context.aclose()
    context.close()
    with pytest.raises(SandboxClosedError):
        await context.build_template("js")


async def test_sandboxes_outlive_their_closed_template_and_context(warm: Path) -> None:
    context = SandboxContext(cache_dir=warm)
    template = await context.build_template("js", prelude=PRELUDE)
    async with template.create() as sandbox:
        await sandbox.load_script(SCRIPT)
        template.close()
        template.close()
        context.close()
        assert await sandbox.run("answer") == 42
        with pytest.raises(SandboxClosedError):
            await template.instantiate()


@pytest.mark.slow
@ONE_LOOP
async def test_a_template_without_a_cache_leaves_nothing_when_it_and_its_sandboxes_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with SandboxContext() as context:
        first, second = [await context.build_template("js", cache_dir=None) for _ in range(2)]
        assert len(list(tmp_path.iterdir())) == 1
        first.close()
        async with second.create() as sandbox:
            second.close()
            await sandbox.load_script("const twice = (n: number): number => 2 * n")
            assert await sandbox.run("twice", 4) == 8
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(GuestError):
            await context.build_template("js", cache_dir=None, prelude="throw 1")
        assert list(tmp_path.iterdir()) == []


async def test_a_context_that_was_closed_is_not_entered(tmp_path: Path) -> None:
    context = SandboxContext(cache_dir=tmp_path)
    await context.aclose()
    with pytest.raises(SandboxClosedError):
        async with context:
            pass


@pytest.mark.slow
@ONE_LOOP
@pytest.mark.parametrize("kind", ["code", "images"])
async def test_what_cannot_be_kept_is_used_all_the_same(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from isola_anyio.cache import Cache

    store = Cache.store_file

    def full(self: Cache, into: Any, *args: Any, **options: Any) -> Path:
        if into == kind:
            raise OSError(28, "No space left on device")
        return store(self, into, *args, **options)

    monkeypatch.setattr(Cache, "store_file", full)
    await build(tmp_path / "cache")
    assert "No space left on device" in caplog.text


@pytest.mark.slow
@ONE_LOOP
@pytest.mark.parametrize("kind", ["code", "images"])
async def test_a_cache_in_which_nothing_can_be_put_is_done_without(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    (cache / kind / ".commit").mkdir(mode=0o700, parents=True)
    await build(cache)
    assert "could not be kept" in caplog.text
