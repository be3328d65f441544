"""Options: what may be asked of a template and of a sandbox, and the one place where it is checked.

Whoever makes a sandbox (``create``, ``instantiate``, a fork of a live one, a restored checkpoint) passes its
``**options`` to :func:`check_options` and goes on with a frozen :class:`CheckedOptions`; whoever builds a template does
so with :func:`check_template_options`. A new option is a key of the ``TypedDict``, a field of the frozen class, and the
line that checks it; a new limit is a field and a check in ``limits.py`` and a key here.

Pure: no loop, no engine, nothing is opened.
"""

from __future__ import annotations

__all__ = [
    "CheckedOptions",
    "CheckedTemplateOptions",
    "Handler",
    "Handlers",
    "SandboxOptions",
    "TemplateBounds",
    "TemplateOptions",
    "check_cache_dir",
    "check_handlers",
    "check_names",
    "check_options",
    "check_template_options",
]

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict, cast

from isola_anyio.cache import DEFAULT_CACHE_DIR, cache_directory
from isola_anyio.clipping import type_name
from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.kinds import is_a, plain_int, text_of
from isola_anyio.limits import Limits, check_size
from isola_anyio.mounts import validate_mounts
from isola_anyio.runtimes.choice import choose_runtime
from isola_anyio.runtimes.progress import check_on_progress

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from isola_anyio.cache import CacheDir
    from isola_anyio.mounts import MountConfig
    from isola_anyio.runtimes.choice import RuntimeChoice
    from isola_anyio.runtimes.progress import OnProgress

Handler: TypeAlias = Callable[[Any], Any]
Handlers: TypeAlias = Mapping[str, Handler]
"""Hostcall handlers by name: each takes the decoded payload and returns a value, or is ``async`` and does so."""

_SEED_BYTES: Final = 32


class SandboxOptions(TypedDict, total=False):
    """Options of :meth:`SandboxTemplate.create` and :meth:`SandboxTemplate.instantiate`; each may be left out.

    ``None`` is the same as leaving it out, except for ``mounts``, which is a sequence. An unknown option is a
    ``TypeError``, a wrong type or value :class:`InvalidArgumentError`.

    Attributes:
        max_memory: bytes of guest memory, linear memory and files in memory together. Default: the template's, which it
            may only lower, and not below ``template.image_size``.
        mounts: what of the host's files this sandbox sees, besides the template's mounts. Default: nothing.
        env: environment variables, over the template's. Default: none.
        hostcalls: handlers by name. Default: none; a guest's hostcall is then an error in the guest.
        http: only ``None``: the guest has no network.
        max_fuel: wasm instructions, roughly, for each run; the template must be ``metered``. Default: no limit.
        max_cpu: seconds of guest CPU for each run; waiting for the host does not count. Default: no limit.
        max_output: bytes of stdout, stderr and logs that a run may write. Default: 16 MiB.
        max_payload: encoded bytes of any one value that crosses the boundary. Default: 64 MiB.
        max_hostcalls: hostcalls in flight at once; further ones wait. Default: 1024.
        max_total_hostcalls: hostcalls that a run may make. Default: no limit.
        seed: makes the guest's randomness repeatable. Default: fresh entropy for every sandbox.
    """

    max_memory: int | None
    mounts: Sequence[MountConfig]
    env: Mapping[str, str] | None
    hostcalls: Handlers | None
    http: None
    max_fuel: int | None
    max_cpu: float | None
    max_output: int | None
    max_payload: int | None
    max_hostcalls: int | None
    max_total_hostcalls: int | None
    seed: int | str | bytes | None


class TemplateOptions(TypedDict, total=False):
    """Options of :func:`build_template`, each described at :meth:`SandboxContext.build_template`."""

    version: str | None
    runtime_path: str | os.PathLike[str] | None
    runtime_lib_dir: str | os.PathLike[str] | None
    cache_dir: CacheDir
    max_memory: int | None
    runtime_digest: str | None
    prelude: str | None
    mounts: Sequence[MountConfig]
    env: Mapping[str, str] | None
    metered: bool
    on_progress: OnProgress | None


@dataclass(frozen=True, slots=True)
class TemplateBounds:
    """What a template allows its sandboxes.

    Attributes:
        max_memory: bytes of guest memory, which a sandbox may lower.
        image_size: bytes that every sandbox holds from its start.
        metered: whether fuel is counted, so that a fuel limit can be enforced.
    """

    max_memory: int
    image_size: int
    metered: bool


@dataclass(frozen=True, slots=True)
class CheckedOptions:
    """The options of one sandbox, checked and copied: what the caller does to his own objects changes nothing.

    Attributes:
        limits: with the defaults of what was left out.
        mounts: not opened yet; the host's files are looked for when the sandbox starts.
        env: variables, over the template's.
        handlers: hostcall handlers by name.
        seed: 32 bytes made of ``seed=``; ``None`` for fresh entropy.
    """

    limits: Limits
    mounts: tuple[MountConfig, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    handlers: Handlers = field(default_factory=dict[str, Handler])
    seed: bytes | None = None


@dataclass(frozen=True, slots=True)
class CheckedTemplateOptions:
    """The options of one template, checked and copied.

    Attributes:
        runtime: which runtime, and where it is to come from.
        cache_dir: a path, ``None`` for no cache, or the mark for the context's own.
        max_memory: bytes of guest memory, with the runtime's default.
        prelude: guest code to run once, or ``None``.
        mounts: seen by the prelude and by every sandbox; not opened yet.
        env: variables of the prelude and of every sandbox.
        metered: whether the code counts fuel.
        on_progress: a plain function, or ``None``.
    """

    runtime: RuntimeChoice
    cache_dir: CacheDir
    max_memory: int
    prelude: str | None
    mounts: tuple[MountConfig, ...]
    env: Mapping[str, str]
    metered: bool
    on_progress: OnProgress | None


def check_options(
    options: Mapping[str, object], bounds: TemplateBounds, *, base: CheckedOptions | None = None
) -> CheckedOptions:
    """Check the options of a sandbox.

    Args:
        options: what the caller gave, as :class:`SandboxOptions` describes it.
        bounds: what the template allows.
        base: options of another sandbox that these are laid over, as for a fork: limits that are left out are its
            own; ``mounts``, ``env`` and ``hostcalls`` add to its own. A seed is never taken over: two sandboxes with
            one would draw the same numbers.

    Raises:
        TypeError: there is no such option; the text has those there are.
        InvalidArgumentError: one has a wrong type or value, or cannot be enforced; the text says which and why.
    """
    check_names("a sandbox", options, SandboxOptions)
    if base is None:
        base = CheckedOptions(Limits(max_memory=bounds.max_memory))
    limits = base.limits.replaced(options)
    if options.get("max_memory") is not None and not bounds.image_size <= limits.max_memory <= bounds.max_memory:
        raise InvalidArgumentError(
            f"max_memory={limits.max_memory} must be between {bounds.image_size}, which the template already uses, and "
            f"{bounds.max_memory}, the template's own max_memory"
        )
    if limits.max_fuel is not None and not bounds.metered:
        raise InvalidArgumentError(
            f"max_fuel={limits.max_fuel} needs a template built with metered=True; build one, or leave max_fuel out"
        )
    if (http := options.get("http")) is not None:
        raise InvalidArgumentError(f"http={clip(http)}: this release has no HTTP bridge; leave http out")
    mounts = validate_mounts(options.get("mounts", ()))
    return CheckedOptions(
        limits=limits,
        mounts=validate_mounts((*base.mounts, *mounts)) if base.mounts else mounts,
        env={**base.env, **_check_env(options.get("env"))},
        handlers={**base.handlers, **check_handlers(options.get("hostcalls"))},
        seed=_check_seed(options.get("seed")),
    )


def check_template_options(
    runtime: object, options: Mapping[str, object], *, default_max_memory: Mapping[str, int]
) -> CheckedTemplateOptions:
    """Check the arguments of ``build_template``.

    Args:
        runtime: the runtime's name.
        options: what the caller gave, as :class:`TemplateOptions` describes it.
        default_max_memory: bytes of guest memory by the runtime's name.

    Raises:
        TypeError: there is no such option; the text has those there are.
        InvalidArgumentError: one has a wrong type or value; the text says which and why.
    """
    check_names("a template", options, TemplateOptions)
    chosen = choose_runtime(
        runtime,
        version=options.get("version"),
        runtime_path=options.get("runtime_path"),
        runtime_lib_dir=options.get("runtime_lib_dir"),
        runtime_digest=options.get("runtime_digest"),
    )
    max_memory = options.get("max_memory")
    if max_memory is None:
        max_memory = default_max_memory[chosen.pin.runtime]
    prelude = options.get("prelude")
    code = text_of(prelude)
    if prelude is not None and code is None:
        raise InvalidArgumentError(f"prelude is guest source code (a str), not {clip(prelude)}")
    metered = options.get("metered", False)
    if type(metered) is not bool:
        raise InvalidArgumentError(f"metered is True or False, not {clip(metered)}")
    return CheckedTemplateOptions(
        runtime=chosen,
        cache_dir=check_cache_dir(options.get("cache_dir", DEFAULT_CACHE_DIR)),
        max_memory=check_size("max_memory", max_memory),
        prelude=code,
        mounts=validate_mounts(options.get("mounts", ())),
        env=_check_env(options.get("env")),
        metered=metered,
        on_progress=check_on_progress(options.get("on_progress")),
    )


def check_names(what: str, options: Mapping[str, object], known: type[object]) -> None:
    """Refuse options that the ``TypedDict`` ``known`` does not have.

    Raises:
        TypeError: there is one, as for any unknown keyword argument.
    """
    names = list(known.__annotations__)
    for name in options:
        if name not in names:
            raise TypeError(f"{what} has no option {clip(name)}; it has {', '.join(names)}")


def check_cache_dir(cache_dir: object) -> CacheDir:
    """Return ``cache_dir=``: a path, ``None``, or the mark for the default, which is not looked up here.

    Raises:
        InvalidArgumentError: it is none of these.
    """
    return DEFAULT_CACHE_DIR if cache_dir is DEFAULT_CACHE_DIR else cache_directory(cache_dir)


def check_handlers(handlers: object) -> dict[str, Handler]:
    """Return a copy of ``hostcalls=``, checked.

    Raises:
        InvalidArgumentError: it is not a mapping of names to callables of one argument.
    """
    if handlers is None:
        return {}
    checked: dict[str, Handler] = {}
    for given, handler in _items("hostcalls is a mapping of names to handlers", handlers):
        name = text_of(given) or ""
        if not name:
            raise InvalidArgumentError(f"hostcalls: a handler's name is a non-empty str, not {clip(given)}")
        if not callable(handler):
            raise InvalidArgumentError(
                f"hostcalls[{clip(name)}] is not callable: {clip(handler)}; give a function that takes the payload"
            )
        checked[name] = handler
    return checked


def _check_env(env: object) -> dict[str, str]:
    if env is None:
        return {}
    checked: dict[str, str] = {}
    for given, value in _items("env is a mapping of names to text", env):
        name = text_of(given) or ""
        if not name or "=" in name or "\0" in name:
            raise InvalidArgumentError(
                f"env: {clip(given)} is no variable's name: give a non-empty str without = or NUL"
            )
        text = text_of(value)
        if text is None or "\0" in text:
            raise InvalidArgumentError(f"env[{clip(name)}] is text without NUL (a str), not {clip(value)}")
        checked[name] = text
    return checked


def _items(what: str, value: object) -> list[tuple[object, object]]:
    """Return the items of a mapping of the caller's; ``what`` it is to be, for the error's text."""
    if not is_a(value, Mapping):
        raise InvalidArgumentError(f"{what}, not {clip(value)}")
    try:
        return [(name, item) for name, item in cast("Mapping[object, object]", value).items()]
    except Exception as exc:
        raise InvalidArgumentError(f"{what}; the items of {clip(value)} cannot be read: {type_name(exc)}") from exc


def _check_seed(seed: object) -> bytes | None:
    if seed is None:
        return None
    plain: int | str | bytes | None = plain_int(seed)
    if plain is None:
        plain = text_of(seed)
    if is_a(seed, bytes):
        plain = bytes.__getitem__(cast("bytes", seed), slice(None))
    if plain is None:
        raise InvalidArgumentError(f"seed is an int, a str or bytes, not {clip(seed)}")
    return random.Random(plain).randbytes(_SEED_BYTES)  # noqa: S311 - repeatable is what was asked for
