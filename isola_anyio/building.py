"""Template building: compiled code, and the snapshot of a started interpreter, each made once for its cache key.

Both go the same way: look into the cache; if it is not there, take the cache's lock for that key, look again (whoever
held the lock has made it), make it, and store it. A disk that cannot hold it is no failure: it is used all the same and
made again by the next build.
"""

from __future__ import annotations

__all__ = ["Recipe", "load_program", "load_snapshot"]

import hashlib
import json
import logging
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, cast

from isola_anyio import codec
from isola_anyio.cache import entry_key
from isola_anyio.engine import ffi
from isola_anyio.engine.compiler import compile_module
from isola_anyio.engine.image import Image
from isola_anyio.engine.run_sync import run_sync
from isola_anyio.errors import (
    GuestError,
    InternalError,
    InvalidArgumentError,
    MemoryLimitError,
    RuntimeUnavailableError,
    clip,
)
from isola_anyio.guests.build_conversation import BuildConversation
from isola_anyio.guests.protocol import ToGuest, message
from isola_anyio.limits import Limits
from isola_anyio.machine import GuestMachine
from isola_anyio.runtimes.progress import Progress
from isola_anyio.runtimes.worker import run_stoppable
from isola_anyio.snapshot import Snapshot
from isola_anyio.wasi.files.dump import dump_files
from isola_anyio.wasi.system import GuestExit

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from isola_anyio.cache import Cache
    from isola_anyio.engine.threads import ThreadPool
    from isola_anyio.guests import Driver
    from isola_anyio.runtimes.progress import OnProgress
    from isola_anyio.runtimes.resolve import RuntimeBundle
    from isola_anyio.runtimes.worker import Meter
    from isola_anyio.wasi.clock import Clock
    from isola_anyio.wasi.files.filesystem import FileSystem
    from isola_anyio.wasi.volumes.budgets import FileLimits

_logger = logging.getLogger("isola_anyio.building")

IMAGE_FORMAT: Final = "1"
"""Part of every image's key; goes up when images of the same parts would differ."""
_CHUNK_BYTES: Final = 1 << 20
_COMPILER_POLL_S: Final = 0.01
"""How often it is asked whether the compiler is done, and whether the build is still wanted."""
_SHOWN_BYTES: Final = 2000
"""How much of the end of a build's output is shown should the guest die."""
_FIELD_CHARS: Final = 1 << 16
"""How much is taken over of each text with which a guest describes its prelude's failure."""
_CODE_SUFFIX: Final = ".cwasm"
_IMAGE_SUFFIX: Final = ".image"
_FILES_SUFFIX: Final = ".files"


@dataclass(frozen=True)
class Recipe:
    """Everything an image depends on, mounts excepted: what they hold is not known before they are read."""

    driver: Driver
    bundle: RuntimeBundle
    metered: bool
    max_memory: int
    prelude: str | None
    env: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def code_key(self) -> str:
        """The compiled code's cache key: of the module, the compiler, its settings and the processor."""
        settings = ffi.engine_fingerprint(metered=self.metered)
        return entry_key(self.driver.name, self.bundle.sha256, self.driver.patch_version, settings)

    @property
    def image_key(self) -> str:
        """The image's cache key: of the code and everything that ran in it."""
        return entry_key(
            *(IMAGE_FORMAT, self.code_key, str(self.bundle.lib_sha256), self.driver.sdk_digest),
            json.dumps([self.prelude, self.max_memory, sorted(self.env.items())]),
        )


async def load_program(
    recipe: Recipe, engine: ffi.Engine, linker: ffi.Linker, cache: Cache, on_progress: OnProgress | None
) -> ffi.Program:
    """Load the runtime's compiled code from the cache, or compile it; one builder at a time.

    When cancelled, the compiler is stopped and nothing half written stays.

    Raises:
        RuntimeUnavailableError: the module cannot be compiled, or lacks what the driver needs; or the cache directory
            cannot be used.
    """
    load = partial(_load_cached, recipe, engine, linker, cache)
    program = await run_stoppable(load)
    if program is not None:
        return program
    async with AsyncExitStack() as stack:
        with _blaming_disk(cache, "compiled code"):
            await stack.enter_async_context(cache.building("code", recipe.code_key))
        program = await run_stoppable(load)  # again: whoever had the lock before may have made it
        if program is not None:
            return program
        _report(on_progress, "compile", 0)
        with _blaming_disk(cache, "compiled code"):
            scratch = stack.enter_context(cache.scratch("code"))
            source, target = scratch.path / recipe.bundle.path.name, scratch.path / "code"
            await run_stoppable(partial(_write_patched, recipe, source))
            await run_stoppable(partial(_compile, source, target, recipe.metered))
        try:
            await run_stoppable(partial(_store_copy, cache, recipe.code_key, target))
        except OSError as exc:
            _logger.warning("compiled code could not be kept in %s and will be compiled again: %s", cache.root, exc)
        _report(on_progress, "compile", 1)
        program = await run_stoppable(load)
        if program is None:
            with _blaming_disk(cache, "compiled code"):
                program = _checked_program(recipe, linker, engine.load(target))
        return program


@contextmanager
def _blaming_disk(cache: Cache, what: str) -> Generator[None]:
    try:
        yield
    except OSError as exc:
        raise RuntimeUnavailableError(
            f"{what} cannot be made in {clip(str(cache.root))}: {exc.strerror or exc}; make room there, or give "
            "another cache_dir"
        ) from exc


def _write_patched(recipe: Recipe, target: Path, _meter: Meter) -> None:
    """Write the module that is to be compiled to ``target``: the runtime's own, patched by its driver.

    Its digest is checked again, on the very bytes that are compiled: it may have changed since it was found.
    """
    module = recipe.bundle.path.read_bytes()
    if hashlib.sha256(module).hexdigest() != recipe.bundle.sha256:
        raise RuntimeUnavailableError(f"{recipe.bundle.path} changed after it was checked; build the template again")
    target.write_bytes(recipe.driver.patch_module(module, recipe.bundle.sha256))


def _compile(source: Path, target: Path, metered: bool, meter: Meter) -> None:
    compile_module(source, target, metered=metered, pause=partial(meter.pause, _COMPILER_POLL_S))


def _store_copy(cache: Cache, key: str, source: Path, meter: Meter) -> None:
    def copy(target: BinaryIO) -> None:
        with source.open("rb") as code:
            while chunk := code.read(_CHUNK_BYTES):
                target.write(chunk)
                meter.advance(0)

    cache.store_file("code", key, _CODE_SUFFIX, copy)


def _load_cached(
    recipe: Recipe, engine: ffi.Engine, linker: ffi.Linker, cache: Cache, meter: Meter
) -> ffi.Program | None:
    path = cache.lookup("code", recipe.code_key, _CODE_SUFFIX, on_bytes=meter.advance)
    if path is None:
        return None
    try:
        code = engine.load(path)
    except OSError:
        return None
    except ffi.UnusableCodeError:  # of another wasmtime or another processor, which the key should have told apart
        cache.discard("code", recipe.code_key, _CODE_SUFFIX)
        return None
    return _checked_program(recipe, linker, code)


def _checked_program(recipe: Recipe, linker: ffi.Linker, code: ffi.Code) -> ffi.Program:
    """Resolve the imports and compare the exports with what the driver calls: unchecked calls rely on it."""
    path = recipe.bundle.path
    try:
        program = linker.prepare(code)
    except LookupError as exc:
        raise RuntimeUnavailableError(f"{path} is not a {recipe.bundle.name} runtime: {exc}") from None
    exports = program.exports()
    for name, signature in recipe.driver.needed_exports.items():
        if exports.get(name) != signature:
            raise RuntimeUnavailableError(
                f"{path} is not a {recipe.bundle.name} runtime: it exports {name} as {exports.get(name)}, where "
                f"{signature} is needed"
            )
    return program


async def load_snapshot(
    recipe: Recipe,
    program: ffi.Program,
    *,
    pool: ThreadPool,
    files: Callable[[bytes | None], FileSystem],
    file_limits: FileLimits,
    clock: Clock,
    cache: Cache | None,
    on_progress: OnProgress | None,
) -> Snapshot:
    """Load a template's snapshot from the cache, or start the interpreter, run the prelude, and take one.

    ``files`` makes the template's file system, as it was dumped or new. Without ``cache`` nothing is kept on disk. When
    cancelled, the guest is stopped and nothing half written stays.

    Raises:
        GuestError: the prelude raised.
        InvalidArgumentError: ``max_memory`` is too little for the interpreter to start in.
        RuntimeUnavailableError: the cache directory cannot be used.
    """
    if cache is None:
        return await _make_snapshot(recipe, program, pool, files(None), file_limits, clock, on_progress)
    look_up = partial(_cached_snapshot, recipe, cache, files)
    found = await run_stoppable(look_up)
    if found is not None:
        return found
    async with AsyncExitStack() as stack:
        with _blaming_disk(cache, "an image"):
            await stack.enter_async_context(cache.building("images", recipe.image_key))
        found = await run_stoppable(look_up)  # again: whoever had the lock before may have made it
        if found is not None:
            return found
        snapshot = await _make_snapshot(recipe, program, pool, files(None), file_limits, clock, on_progress)
        try:
            await run_stoppable(partial(_store_snapshot, recipe, cache, snapshot))
        except OSError as exc:
            _logger.warning("an image could not be kept in %s and will be made again: %s", cache.root, exc)
        except BaseException:
            snapshot.release()
            raise
        return snapshot


def _store_snapshot(recipe: Recipe, cache: Cache, snapshot: Snapshot, _meter: Meter) -> None:
    dump = dump_files(snapshot.files)
    cache.store_file("images", recipe.image_key, _FILES_SUFFIX, lambda out: out.write(dump))
    cache.store_file("images", recipe.image_key, _IMAGE_SUFFIX, snapshot.image.save)


def _cached_snapshot(
    recipe: Recipe, cache: Cache, files: Callable[[bytes | None], FileSystem], meter: Meter
) -> Snapshot | None:
    path = cache.lookup("images", recipe.image_key, _IMAGE_SUFFIX, on_bytes=meter.advance)
    dump = cache.read_verified("images", recipe.image_key, _FILES_SUFFIX)
    if path is None or dump is None:
        return None
    try:
        image = Image.open(path)
    except (OSError, ValueError):
        cache.discard("images", recipe.image_key, _IMAGE_SUFFIX)
        return None
    try:
        return Snapshot(image, files(dump))
    except ValueError:
        image.close()
        cache.discard("images", recipe.image_key, _FILES_SUFFIX)
        return None


async def _make_snapshot(
    recipe: Recipe,
    program: ffi.Program,
    pool: ThreadPool,
    files: FileSystem,
    file_limits: FileLimits,
    clock: Clock,
    on_progress: OnProgress | None,
) -> Snapshot:
    _report(on_progress, "warm", 0)
    try:
        machine = GuestMachine(
            recipe.driver,
            program,
            pool=pool,
            limits=Limits(max_memory=recipe.max_memory),
            files=files,
            file_limits=file_limits,
            clock=clock,
            boot_env=recipe.env,
        )
    except ffi.GuestTrap as exc:  # no guest code has run: the memory that the module declares does not fit
        files.close()
        raise _too_little_memory(recipe, exc) from exc
    try:
        image = await run_sync(pool, lambda: _boot_and_take(recipe, machine), stop=machine.instance.interrupt)
        machine.owns_files = False  # the template goes on with them
    finally:
        machine.close()
    _report(on_progress, "warm", 1)
    return Snapshot(image, files.fork((), file_limits), base=files)


def _boot_and_take(recipe: Recipe, machine: GuestMachine) -> Image:
    """On a guest thread: boot, run the prelude, rehearse, freeze, take the image."""
    conversation = BuildConversation(machine.instance.sleep)
    try:
        machine.instance.enter(lambda: _boot(recipe, machine, conversation))
    except ffi.GuestTrap as exc:
        tail = conversation.output_tail(_SHOWN_BYTES)
        raise GuestError("Trap", f"the guest died while the template was built: {exc}", tail) from None
    except GuestExit as exc:
        raise GuestError("SystemExit", f"the prelude ended the guest's process with status {exc.code}") from None
    return Image.take(machine.instance.store)


def _boot(recipe: Recipe, machine: GuestMachine, conversation: BuildConversation) -> None:
    driver = machine.driver
    machine.conversation = conversation
    try:
        driver.boot(machine.port, recipe.bundle, conversation)
    except (ffi.GuestTrap, GuestError, InternalError, MemoryError) as exc:
        if recipe.max_memory >= driver.default_max_memory:
            raise
        raise _too_little_memory(recipe, exc) from exc
    if recipe.prelude is not None:
        source = driver.prepare_source(recipe.prelude, "<prelude>")
        conversation.forget_failure()
        body = codec.encode([source, "<prelude>"], dialect=driver.dialect)
        machine.deliver(message(ToGuest.PRELUDE, 0, body), conversation)
        if conversation.failure is not None:
            raise _prelude_error(conversation.failure)
    machine.deliver(message(ToGuest.FREEZE, 0), conversation)


def _too_little_memory(recipe: Recipe, why: Exception) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"max_memory={recipe.max_memory} is too little for the {recipe.bundle.name} runtime to start in ({why}); "
        f"the default is {recipe.driver.default_max_memory}"
    )


def _prelude_error(untrusted_failure: bytes) -> GuestError:
    try:
        fields: Any = codec.decode(untrusted_failure)
    except codec.CodecError:
        fields = None
    if not isinstance(fields, dict):
        raise InternalError("the guest described its prelude's failure in no known way")
    described = cast("dict[str, Any]", fields)
    # Anything but a str is taken for nothing: it may take long to show, or refuse to be.
    found = (described.get(key) for key in ("type", "message", "traceback"))
    type_name, message, traceback = (text[:_FIELD_CHARS] if isinstance(text, str) else "" for text in found)
    make = MemoryLimitError if described.get("limit") == "memory" else GuestError
    return make(type_name, message, traceback)


def _report(on_progress: OnProgress | None, stage: Literal["compile", "warm"], done: int) -> None:
    if on_progress is not None:
        on_progress(Progress(stage, done, 1))
