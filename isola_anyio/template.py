"""Templates: build one, and create sandboxes from it.

A :class:`SandboxContext` owns what is dear and shared: compilation engines, guest threads, compiled programs. A
:class:`SandboxTemplate` is a program, the image of its warm interpreter, and defaults; it belongs to no event loop.
"""

from __future__ import annotations

__all__ = ["SandboxContext", "SandboxTemplate", "build_template"]

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack

import anyio

from isola_anyio.building import Recipe, load_program, warm_image
from isola_anyio.cache import DEFAULT_CACHE_DIR, Cache, open_cache
from isola_anyio.cache.private import path_argument
from isola_anyio.engine import ffi
from isola_anyio.engine.threads import ThreadPool
from isola_anyio.errors import InvalidArgumentError, IsolaError, SandboxClosedError, clip
from isola_anyio.guests.kinds import drivers
from isola_anyio.limits import Limits, check_count, check_size
from isola_anyio.machine import Guest
from isola_anyio.mounts import MountConfig, bind_all, validate_mounts
from isola_anyio.options import SandboxOptions, TemplateOptions, check_env, check_seed, sandbox_limits
from isola_anyio.run.hostcalls import check_handlers
from isola_anyio.runtimes.progress import check_on_progress
from isola_anyio.runtimes.resolve import find_runtime
from isola_anyio.sandbox import Sandbox
from isola_anyio.wasi.clock import SystemClock
from isola_anyio.wasi.files.filesystem import FileSystem
from isola_anyio.wasi.volumes.budgets import FileLimits

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from isola_anyio.cache import CacheDir
    from isola_anyio.run.hostcalls import Handlers
    from isola_anyio.runtimes.progress import OnProgress
    from isola_anyio.snapshot import Snapshot
    from isola_anyio.wasi.clock import Clock

_MAX_PARALLEL: Final = 4096


class SandboxContext:
    """Owner of the engines, the guest threads and the templates built through it; usable from several event loops.

    Args:
        cache_dir: where runtimes, compiled code and images are kept; the default of :meth:`build_template`'s.
        max_parallel: guests that compute at the same time (waiting ones do not count); default the cores plus two.
    """

    def __init__(self, *, cache_dir: CacheDir = DEFAULT_CACHE_DIR, max_parallel: int | None = None) -> None:
        if max_parallel is not None:
            check_count("max_parallel", max_parallel, high=_MAX_PARALLEL)
        if cache_dir is not None and cache_dir is not DEFAULT_CACHE_DIR:
            path_argument("cache_dir", cache_dir, "a directory's path or None")
        self._cache_dir = cache_dir
        self._pool = ThreadPool(max_parallel)
        self._pool.increment_epoch = self._increment_epoch
        self._lock = threading.Lock()
        self._engines: dict[bool, ffi.Engine] = {}
        self._linkers: dict[tuple[str, bool], ffi.Linker] = {}
        self._programs: dict[str, ffi.Program] = {}
        self._scratch: Cache | None = None
        self._scratch_holders = 0
        self._generation = ffi.generation()
        self._closed = False

    def __repr__(self) -> str:
        return f"<SandboxContext{' closed' if self._closed else ''} max_parallel={self._pool.max_parallel}>"

    async def __aenter__(self) -> Self:
        self.check_open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """Make no more templates and sandboxes; sandboxes that live go on to their end. A second call does nothing."""
        self._closed = True
        self._pool.retire()
        with self._lock:
            cache, self._scratch = self._scratch, None
            self._programs.clear()
        if cache is not None:
            cache.close()

    async def aclose(self) -> None:
        """:meth:`close`, as a checkpoint."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def check_open(self) -> None:
        """Refuse to go on in a closed context, or in a child of ``os.fork``.

        Raises:
            SandboxClosedError: either is so.
        """
        if self._closed:
            raise SandboxClosedError("the context is closed and makes no more sandboxes; create a new SandboxContext")
        if self._generation != ffi.generation():
            raise SandboxClosedError(
                "this context was made before os.fork() and its engine lost its threads in the child; create a new "
                "SandboxContext, or call build_template again, after the fork"
            )

    async def build_template(
        self,
        runtime: str,
        *,
        version: str | None = None,
        runtime_path: str | os.PathLike[str] | None = None,
        runtime_lib_dir: str | os.PathLike[str] | None = None,
        cache_dir: CacheDir = DEFAULT_CACHE_DIR,
        max_memory: int | None = None,
        runtime_digest: str | None = None,
        prelude: str | None = None,
        mounts: Sequence[MountConfig] = (),
        env: Mapping[str, str] | None = None,
        metered: bool = False,
        on_progress: OnProgress | None = None,
    ) -> SandboxTemplate:
        """Build a template: resolve the runtime, compile it, start it, run the prelude, take its image.

        Each step is cached; two builds of the same, in one process or in two, do the work once. Cancelling it stops
        whatever it does within a second and leaves nothing half written.

        Args:
            runtime: ``"python"`` or ``"js"``.
            version: a release of the runtime that this package has a pin for.
            runtime_path: a runtime of your own, a file or the directory that holds it.
            runtime_lib_dir: with ``runtime_path``: the directory of its library.
            cache_dir: where things are kept; ``None``: nothing outlives the template.
            max_memory: bytes of guest memory; 512 MiB for Python, 64 MiB for JavaScript by default.
            runtime_digest: SHA-256 that the runtime must have.
            prelude: guest code to run once; what it leaves is in every sandbox.
            mounts: host files the prelude and every sandbox see.
            env: environment variables of the prelude and of every sandbox.
            metered: compile with fuel accounting, so that sandboxes may have a fuel budget.
            on_progress: called with :class:`Progress`.

        Raises:
            InvalidArgumentError: an argument is wrong; the text says which and why.
            RuntimeUnavailableError, DigestMismatchError: there is no such runtime here.
            GuestError: the prelude raised.
            SandboxClosedError: the context is closed.
        """
        await anyio.lowlevel.checkpoint()
        self.check_open()
        known = drivers()
        if not isinstance(runtime, str) or runtime not in known:
            raise InvalidArgumentError(f"runtime must be {' or '.join(map(repr, known))}, not {clip(runtime)}")
        driver = known[runtime]
        memory = check_size("max_memory", driver.default_max_memory if max_memory is None else max_memory)
        if prelude is not None and not isinstance(prelude, str):
            raise InvalidArgumentError(f"prelude is guest source code (a str), not {clip(prelude)}")
        environment = check_env(env)
        configs = validate_mounts(mounts)
        if not isinstance(metered, bool):
            raise InvalidArgumentError(f"metered is True or False, not {clip(metered)}")
        report = check_on_progress(on_progress)
        chosen = self._cache_dir if cache_dir is DEFAULT_CACHE_DIR else cache_dir
        find = partial(
            find_runtime,
            runtime,
            version=version,
            runtime_path=runtime_path,
            runtime_lib_dir=runtime_lib_dir,
            runtime_digest=runtime_digest,
            on_progress=report,
        )

        async def build(cache: Cache) -> SandboxTemplate:
            bundle = await find(cache=cache)
            recipe = Recipe(driver.with_extras(bundle, cache), bundle, metered, memory, prelude, environment)
            return await self._build(recipe, cache, configs, report)

        if chosen is not None:
            return await build(open_cache(chosen))
        cache = self._hold_scratch()
        release = partial(self._release_scratch, cache)
        try:
            template = await build(cache)
        except BaseException:
            release()
            raise
        template.on_gone(release)
        return template

    async def _build(
        self, recipe: Recipe, cache: Cache, configs: Sequence[MountConfig], report: OnProgress | None
    ) -> SandboxTemplate:
        driver, bundle = recipe.driver, recipe.bundle
        program = await self._program(recipe, cache, report)
        file_limits = FileLimits()
        clock = SystemClock()
        sensitive = (str(cache.root),)
        base = partial(_base_files, driver, bundle.lib_dir, bind_all(configs, sensitive=sensitive), file_limits)
        warm = await warm_image(
            recipe,
            program,
            pool=self._pool,
            files=base,
            file_limits=file_limits,
            clock=clock,
            cache=None if cache.temporary or configs else cache,
            on_progress=report,
        )
        return SandboxTemplate(self, recipe, program, warm, file_limits, clock, sensitive)

    async def _program(self, recipe: Recipe, cache: Cache, on_progress: OnProgress | None) -> ffi.Program:
        program = self._programs.get(recipe.code_key)
        if program is None or program.changed:
            engine, linker = self._engine(recipe)
            loaded = await load_program(recipe, engine, linker, cache, on_progress)
            with self._lock:
                known = self._programs.get(recipe.code_key)
                if known is not None and known is not program:  # another task was quicker
                    return known
                program = self._programs[recipe.code_key] = loaded
        return program

    def _engine(self, recipe: Recipe) -> tuple[ffi.Engine, ffi.Linker]:
        metered, driver = recipe.metered, recipe.driver
        with self._lock:
            engine = self._engines.get(metered)
            if engine is None:
                engine = self._engines[metered] = ffi.Engine(metered=metered)
            linker = self._linkers.get((driver.name, metered))
            if linker is None:
                linker = self._linkers[driver.name, metered] = ffi.Linker(engine, driver.functions)
        return engine, linker

    def _increment_epoch(self) -> None:
        for engine in list(self._engines.values()):
            engine.increment_epoch()

    def _hold_scratch(self) -> Cache:
        """Count another template that is to leave nothing behind; they share a directory, so as to compile once."""
        with self._lock:
            if self._scratch is None:
                self._scratch, self._scratch_holders = open_cache(None), 0
                self._scratch.leave_to_collector()
            self._scratch_holders += 1
            return self._scratch

    def _release_scratch(self, cache: Cache) -> None:
        """Count one of them less; the directory goes with the last."""
        with self._lock:
            if cache is not self._scratch:  # the context was closed meanwhile
                return
            self._scratch_holders -= 1
            if self._scratch_holders:
                return
            self._scratch = None
        cache.close()

    @property
    def pool(self) -> ThreadPool:
        """The guest threads."""
        return self._pool


class SandboxTemplate:
    """A warm interpreter to fork sandboxes from; made by :func:`build_template`. Belongs to no event loop.

    Close it when no more sandboxes are wanted: its image's file is given back, sandboxes that live go on.
    """

    def __init__(
        self,
        context: SandboxContext,
        recipe: Recipe,
        program: ffi.Program,
        snapshot: Snapshot,
        file_limits: FileLimits,
        clock: Clock,
        sensitive: Sequence[str],
    ) -> None:
        self._context = context
        self._recipe = recipe
        self._program = program
        self._snapshot = snapshot
        self._file_limits = file_limits
        self._clock = clock
        self._sensitive = tuple(sensitive)
        self._closed = False

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<SandboxTemplate {self.runtime} {self.version}{state}, image of {self.image_size} bytes>"

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    @property
    def runtime(self) -> str:
        """``"python"`` or ``"js"``."""
        return self._recipe.bundle.name

    @property
    def version(self) -> str:
        """The runtime's version."""
        return self._recipe.bundle.version

    @property
    def image_size(self) -> int:
        """Bytes of the memory image, which all sandboxes share."""
        return self._snapshot.image.size

    def close(self) -> None:
        """Make no more sandboxes. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._snapshot.release()

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when the template is closed and the last of its sandboxes is gone."""
        self._snapshot.on_close = callback

    def create(self, **options: Unpack[SandboxOptions]) -> Sandbox:
        """Give a sandbox to ``async with``: it is started on the way in and closed on the way out.

        An exception raised in the body leaves it as itself, never wrapped in an ``ExceptionGroup``. Options and
        errors are those of :meth:`instantiate`.
        """
        return self._prepare(**options)

    async def instantiate(self, **options: Unpack[SandboxOptions]) -> Sandbox:
        """Give a sandbox that is not yet started; ``async with`` it, or ``start()`` and ``aclose()`` it.

        Args:
            options: see :class:`SandboxOptions`.

        Raises:
            InvalidArgumentError: an option is wrong; the text says which and why.
            TypeError: there is no such option.
            SandboxClosedError: the template or its context is closed.
        """
        await anyio.lowlevel.checkpoint()
        return self._prepare(**options)

    def _prepare(
        self,
        *,
        max_memory: int | None = None,
        mounts: Sequence[MountConfig] = (),
        env: Mapping[str, str] | None = None,
        hostcalls: Handlers | None = None,
        http: None = None,
        max_fuel: int | None = None,
        max_cpu: float | None = None,
        max_output: int | None = None,
        max_payload: int | None = None,
        max_hostcalls: int | None = None,
        max_total_hostcalls: int | None = None,
        seed: int | str | bytes | None = None,
    ) -> Sandbox:
        self._check_open()
        limits = sandbox_limits(
            Limits(max_memory=self._recipe.max_memory),
            image_size=self.image_size,
            metered=self._recipe.metered,
            max_memory=max_memory,
            max_fuel=max_fuel,
            max_cpu=max_cpu,
            max_output=max_output,
            max_payload=max_payload,
            max_hostcalls=max_hostcalls,
            max_total_hostcalls=max_total_hostcalls,
        )
        handlers = check_handlers(hostcalls)
        if http is not None:
            raise InvalidArgumentError(f"http={clip(http)}: this release has no HTTP bridge; leave http out")
        configs = validate_mounts(mounts)
        environment = check_env(env)
        fork = partial(self._fork, limits, configs, environment, check_seed(seed))
        return Sandbox(fork, handlers, limits)

    def _check_open(self) -> None:
        self._context.check_open()
        if self._closed:
            raise SandboxClosedError("the template is closed and makes no more sandboxes; build it again")

    def _fork(self, limits: Limits, mounts: Sequence[MountConfig], env: Mapping[str, str], seed: bytes | None) -> Guest:
        """Fork a guest: an instance over the image, files of its own."""
        self._check_open()
        files = self._snapshot.files.fork(bind_all(mounts, sensitive=self._sensitive), self._file_limits)
        self._snapshot.hold()
        try:
            return self._make_guest(limits, files, env, seed)
        except (OSError, MemoryError, ffi.GuestTrap) as exc:
            files.close()
            self._snapshot.release()
            raise IsolaError(
                f"the machine has no room for another sandbox ({type(exc).__name__}: {exc}); close some, or raise its "
                "limits on memory and on memory maps"
            ) from exc
        except BaseException:
            files.close()
            self._snapshot.release()
            raise

    def _make_guest(self, limits: Limits, files: FileSystem, env: Mapping[str, str], seed: bytes | None) -> Guest:
        return Guest(
            self._recipe.driver,
            self._program,
            pool=self._context.pool,
            limits=limits,
            files=files,
            file_limits=self._file_limits,
            clock=self._clock,
            image=self._snapshot.image,
            env=env,
            seed=seed,
            on_close=self._snapshot.release,
        )


def _base_files(driver: Any, lib_dir: Any, mounts: Any, limits: FileLimits, dump: bytes | None) -> FileSystem:
    files = FileSystem.base(stdlib=driver.library_archive(lib_dir), mounts=mounts, limits=limits)
    if dump is not None:
        files.load(dump)
    return files


_default_lock: Final = threading.Lock()
_default: SandboxContext | None = None


def default_context() -> SandboxContext:
    """Return the process's own context; a child of ``os.fork`` gets a new one."""
    global _default  # noqa: PLW0603 - one a process
    with _default_lock:
        if _default is None or _default._generation != ffi.generation():  # noqa: SLF001 - same module
            _default = SandboxContext()
        return _default


async def build_template(runtime: str, **options: Unpack[TemplateOptions]) -> SandboxTemplate:
    """Build a template in the process's default context; see :meth:`SandboxContext.build_template` for the options."""
    return await default_context().build_template(runtime, **options)
