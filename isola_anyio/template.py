"""Templates: contexts that build them, and sandboxes made from them.

A :class:`SandboxContext` owns what is expensive and shared: compilation engines, guest threads, compiled programs. A
:class:`SandboxTemplate` is a program, the snapshot of its started interpreter, and defaults; it belongs to no event
loop, and neither does a context: both are used from several loops and threads at once.
"""

from __future__ import annotations

__all__ = ["SandboxContext", "SandboxTemplate", "build_template"]

import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, Unpack, final

import anyio

from isola_anyio.building import Recipe, load_program, load_snapshot
from isola_anyio.cache import DEFAULT_CACHE_DIR, SharedTemporaryCache, open_cache
from isola_anyio.construction import made_by
from isola_anyio.engine import ffi
from isola_anyio.engine.threads import ThreadPool
from isola_anyio.errors import IsolaError, SandboxClosedError
from isola_anyio.guests.kinds import drivers
from isola_anyio.limits import check_count
from isola_anyio.machine import GuestMachine
from isola_anyio.mounts import MountConfig, bind_all
from isola_anyio.options import (
    SandboxOptions,
    TemplateBounds,
    TemplateOptions,
    check_cache_dir,
    check_names,
    check_options,
    check_template_options,
)
from isola_anyio.run.state import PATIENCE
from isola_anyio.runtimes.resolve import find_chosen
from isola_anyio.sandbox import Sandbox
from isola_anyio.wasi.clock import SystemClock
from isola_anyio.wasi.files.dump import load_files
from isola_anyio.wasi.files.filesystem import FileSystem
from isola_anyio.wasi.volumes.budgets import FileLimits

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from isola_anyio.cache import Cache, CacheDir
    from isola_anyio.options import CheckedOptions, CheckedTemplateOptions
    from isola_anyio.run.state import Patience
    from isola_anyio.runtimes.progress import OnProgress
    from isola_anyio.snapshot import Snapshot
    from isola_anyio.wasi.clock import Clock
    from isola_anyio.wasi.files.mount_table import BoundMount

_MAX_PARALLEL: Final = 4096


@final
class SandboxContext:
    """Owner of the engines, the guest threads and the templates built through it; usable from several event loops.

    ``async with`` closes it at the end; so do :meth:`close` and :meth:`aclose`.

    Args:
        cache_dir: where runtimes, compiled code and images are kept, for templates that name no directory of their
            own; ``None``: nothing outlives the template. Default: the user's cache directory.
        max_parallel: guests that compute at the same time, 1 to 4096; waiting ones do not count. Default: the number of
            cores plus two.

    Raises:
        InvalidArgumentError: an argument has a wrong type or value.
    """

    def __init__(self, *, cache_dir: CacheDir = DEFAULT_CACHE_DIR, max_parallel: int | None = None) -> None:
        if max_parallel is not None:
            check_count("max_parallel", max_parallel, high=_MAX_PARALLEL)
        self._cache_dir = check_cache_dir(cache_dir)
        self._pool = ThreadPool(max_parallel)
        self._pool.increment_epoch = self._increment_epoch
        self._patience: Patience = PATIENCE  # of its sandboxes' runs; tests give a shorter one
        # For the three tables. Entries are only added, until `close` drops the programs.
        self._lock = threading.Lock()
        self._engines: dict[bool, ffi.Engine] = {}  # by whether it counts fuel
        self._linkers: dict[tuple[str, bool], ffi.Linker] = {}  # by runtime, and the same
        self._programs: dict[str, ffi.Program] = {}  # by the recipe's code key
        self._temporary = SharedTemporaryCache()
        self._generation = ffi.generation()
        self._closed = False  # written once, by whichever thread closes

    def __repr__(self) -> str:
        return f"<SandboxContext{' closed' if self._closed else ''} max_parallel={self._pool.max_parallel}>"

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """Make no more templates and sandboxes; sandboxes that live go on to their end. A second call does nothing.

        May be called from any thread, and raises nothing.
        """
        self._closed = True
        self._pool.retire()
        with self._lock:
            self._programs.clear()
        self._temporary.close()

    async def aclose(self) -> None:
        """Close as :meth:`close` does. Raises nothing of its own.

        Everything is done before its one checkpoint, so one that is cancelled has closed the context as well.
        """
        self.close()
        await anyio.lowlevel.checkpoint()

    def _check_open(self) -> None:
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
        whatever it does, the prelude included, within a second and leaves nothing half written.

        Args:
            runtime: ``"python"`` or ``"js"``.
            version: a release of the runtime that this package has a pin for.
            runtime_path: a runtime of your own, a file or the directory that holds it.
            runtime_lib_dir: with ``runtime_path``: the directory of its library.
            cache_dir: where runtimes, compiled code and images are kept; ``None``: nothing outlives the template.
                Default: the context's.
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
        self._check_open()
        given = {
            "version": version,
            "runtime_path": runtime_path,
            "runtime_lib_dir": runtime_lib_dir,
            "cache_dir": cache_dir,
            "max_memory": max_memory,
            "runtime_digest": runtime_digest,
            "prelude": prelude,
            "mounts": mounts,
            "env": env,
            "metered": metered,
            "on_progress": on_progress,
        }
        defaults = {name: driver.default_max_memory for name, driver in drivers().items()}
        options = check_template_options(runtime, given, default_max_memory=defaults)
        with ExitStack() as held:  # until the build fails, or else until the template and its sandboxes are gone
            template = await self._build(options, self._open_cache(options.cache_dir, held))
            template._snapshot.on_close = held.pop_all().close  # noqa: SLF001 - same module
        return template

    def _open_cache(self, cache_dir: CacheDir, held: ExitStack) -> Cache:
        """Open a template's cache; what has to be given back when the template is gone is put on ``held``."""
        if cache_dir is DEFAULT_CACHE_DIR:
            cache_dir = self._cache_dir
        if cache_dir is not None:
            return open_cache(cache_dir)
        cache = self._temporary.hold()
        held.callback(self._temporary.release, cache)
        return cache

    async def _build(self, options: CheckedTemplateOptions, cache: Cache) -> SandboxTemplate:
        report = options.on_progress
        bundle = await find_chosen(options.runtime, cache, report)
        driver = drivers()[bundle.name].with_extras(bundle, cache)
        recipe = Recipe(driver, bundle, options.metered, options.max_memory, options.prelude, options.env)
        program = await self._program(recipe, cache, report)
        file_limits = FileLimits()
        clock = SystemClock()
        sensitive = (str(cache.root),)
        mounts = bind_all(options.mounts, sensitive=sensitive)
        snapshot = await load_snapshot(
            recipe,
            program,
            pool=self._pool,
            files=partial(_base_files, recipe, mounts, file_limits),
            file_limits=file_limits,
            clock=clock,
            # What a mount holds is no part of an image's key, and a temporary cache has no second reader.
            cache=None if cache.temporary or options.mounts else cache,
            on_progress=report,
        )
        return SandboxTemplate._create(self, recipe, program, snapshot, file_limits, clock, sensitive)  # noqa: SLF001

    async def _program(self, recipe: Recipe, cache: Cache, on_progress: OnProgress | None) -> ffi.Program:
        program = self._programs.get(recipe.code_key)
        if program is None or program.changed:
            engine, linker = self._engine(recipe)
            loaded = await load_program(recipe, engine, linker, cache, on_progress)
            with self._lock:
                known = self._programs.get(recipe.code_key)
                # Two builds may both have loaded it: the lock is not held over an await. The first one's is used by
                # both. A program that had changed on disk is still in the table, and is replaced.
                if known is not None and known is not program:
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
        """Let guests of every engine notice that they are to stop or to yield; called on any thread, often."""
        for engine in list(self._engines.values()):  # a copy in one step, as a build may add one meanwhile
            engine.increment_epoch()


@final
@made_by("build_template() or SandboxContext.build_template()")
class SandboxTemplate:
    """A started interpreter to fork sandboxes from; made by :func:`build_template`. Belongs to no event loop.

    Close it when no more sandboxes are wanted: its image's file is given back, sandboxes that live go on. One that is
    dropped closes itself.
    """

    _context: SandboxContext
    _recipe: Recipe
    _program: ffi.Program
    _snapshot: Snapshot
    _file_limits: FileLimits
    _clock: Clock
    _sensitive: tuple[str, ...]
    _bounds: TemplateBounds
    _closed: bool

    @classmethod
    def _create(
        cls,
        context: SandboxContext,
        recipe: Recipe,
        program: ffi.Program,
        snapshot: Snapshot,
        file_limits: FileLimits,
        clock: Clock,
        sensitive: Sequence[str],
    ) -> Self:
        """Make a template, which takes over the caller's hold of ``snapshot``."""
        self = object.__new__(cls)
        self._context = context
        self._recipe = recipe
        self._program = program
        self._snapshot = snapshot
        self._file_limits = file_limits
        self._clock = clock
        self._sensitive = tuple(sensitive)
        self._bounds = TemplateBounds(recipe.max_memory, snapshot.image.size, recipe.metered)
        self._closed = False
        return self

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
        """The runtime's version; ``"custom"`` for a module of the caller's own that no pin knows."""
        return self._recipe.bundle.version

    @property
    def image_size(self) -> int:
        """Bytes of the memory image, which all sandboxes share."""
        return self._snapshot.image.size

    def close(self) -> None:
        """Make no more sandboxes; those that live go on. A second call does nothing. From any thread."""
        if not self._closed:
            self._closed = True
            self._snapshot.release()

    def create(self, **options: Unpack[SandboxOptions]) -> Sandbox:
        """Give a sandbox to ``async with``: it is started on the way in and closed on the way out.

        An exception raised in the body leaves it as itself, never wrapped in an ``ExceptionGroup``. Options and
        errors are those of :meth:`instantiate`; they are checked at once, and mounts are opened at the start.
        """
        return self._sandbox(options)

    async def instantiate(self, **options: Unpack[SandboxOptions]) -> Sandbox:
        """Give a sandbox that is not yet started; ``async with`` it, or ``start()`` and ``aclose()`` it.

        A checkpoint; cancelled there, it has made nothing.

        Args:
            options: see :class:`SandboxOptions`.

        Raises:
            InvalidArgumentError: an option is wrong; the text says which and why.
            TypeError: there is no such option.
            SandboxClosedError: the template or its context is closed.
        """
        await anyio.lowlevel.checkpoint()
        return self._sandbox(options)

    def _sandbox(self, options: Mapping[str, object]) -> Sandbox:
        """Check the options and make a sandbox: the one place where that is done."""
        self._check_open()
        checked = check_options(options, self._bounds)
        return Sandbox._create(partial(self._fork, checked), checked.handlers, self._context._patience)  # noqa: SLF001

    def _check_open(self) -> None:
        self._context._check_open()  # noqa: SLF001 - same module
        if self._closed:
            raise SandboxClosedError("the template is closed and makes no more sandboxes; build it again")

    def _fork(self, options: CheckedOptions) -> GuestMachine:
        """Fork a guest: an instance over the image, files of its own."""
        self._check_open()
        files = self._snapshot.files.fork(bind_all(options.mounts, sensitive=self._sensitive), self._file_limits)
        self._snapshot.hold()
        try:
            return self._make_machine(options, files)
        except BaseException as exc:
            files.close()
            self._snapshot.release()
            if isinstance(exc, (OSError, MemoryError, ffi.GuestTrap)):
                raise IsolaError(
                    f"the machine has no room for another sandbox ({type(exc).__name__}: {exc}); close some, or raise "
                    "its limits on memory and on memory maps"
                ) from exc
            raise

    def _make_machine(self, options: CheckedOptions, files: FileSystem) -> GuestMachine:
        return GuestMachine(
            self._recipe.driver,
            self._program,
            pool=self._context._pool,  # noqa: SLF001 - same module
            limits=options.limits,
            files=files,
            file_limits=self._file_limits,
            clock=self._clock,
            image=self._snapshot.image,
            env=options.env,
            seed=options.seed,
            on_close=self._snapshot.release,
        )


def _base_files(recipe: Recipe, mounts: Sequence[BoundMount], limits: FileLimits, dump: bytes | None) -> FileSystem:
    """Make a template's file system: new, or as it was dumped beside its image."""
    files = FileSystem.base(stdlib=recipe.driver.library_archive(recipe.bundle.lib_dir), mounts=mounts, limits=limits)
    if dump is not None:
        load_files(files, dump)
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
    """Build a template in the process's default context.

    Options, errors and cancellation are those of :meth:`SandboxContext.build_template`. That context is never closed;
    its guest threads end when they have nothing to do.

    Raises:
        TypeError: there is no such option.
        IsolaError: as there.
    """
    check_names("a template", options, TemplateOptions)
    return await default_context().build_template(runtime, **options)
