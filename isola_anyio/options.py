"""What may be asked of a template and of a sandbox? The options, and the checks of those that have no other room.

Pure, but for what the options' types name.
"""

from __future__ import annotations

__all__ = ["SandboxOptions", "TemplateOptions", "check_env", "check_seed", "sandbox_limits"]

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypedDict, cast

from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.limits import Limits, check_count, check_seconds, check_size

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from isola_anyio.cache import CacheDir
    from isola_anyio.mounts import MountConfig
    from isola_anyio.run.hostcalls import Handlers
    from isola_anyio.runtimes.progress import OnProgress

_SEED_BYTES: Final = 32


class SandboxOptions(TypedDict, total=False):
    """Options of one sandbox; each may be left out or ``None``.

    Attributes:
        max_memory: bytes of guest memory; may only lower the template's.
        mounts: host files this sandbox sees, besides the template's.
        env: environment variables, over the template's.
        hostcalls: handlers by name.
        http: ``None``: the guest has no HTTP.
        max_fuel: fuel for each run; the template must be ``metered``.
        max_cpu: seconds of guest CPU for each run; waiting for the host does not count.
        max_output: bytes of stdout, stderr and logs a run may write; 16 MiB by default.
        max_payload: bytes of any one value crossing the boundary; 64 MiB by default.
        max_hostcalls: hostcalls in flight at once, further ones wait their turn; 1024 by default.
        max_total_hostcalls: hostcalls a run may make.
        seed: makes the guest's randomness repeatable.
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
    """Options of :func:`build_template`; see :meth:`SandboxContext.build_template`."""

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


def sandbox_limits(
    template: Limits,
    *,
    image_size: int,
    metered: bool,
    max_memory: int | None,
    max_fuel: int | None,
    max_cpu: float | None,
    max_output: int | None,
    max_payload: int | None,
    max_hostcalls: int | None,
    max_total_hostcalls: int | None,
) -> Limits:
    """Return the limits of one sandbox, checked, of a template that allows ``template`` and already uses its image.

    Raises:
        InvalidArgumentError: one has a wrong type or value, or cannot be enforced; the text says which.
    """
    limits = template
    if max_memory is not None:
        check_size("max_memory", max_memory)
        if not image_size <= max_memory <= template.max_memory:
            raise InvalidArgumentError(
                f"max_memory={max_memory} must be between {image_size}, which the template already uses, and "
                f"{template.max_memory}, the template's own max_memory"
            )
        limits = replace(limits, max_memory=max_memory)
    if max_fuel is not None:
        check_count("max_fuel", max_fuel)
        if not metered:
            raise InvalidArgumentError(
                f"max_fuel={max_fuel} needs a template built with metered=True; build one, or leave max_fuel out"
            )
        limits = replace(limits, max_fuel=max_fuel)
    if max_cpu is not None:
        limits = replace(limits, max_cpu=check_seconds("max_cpu", max_cpu))
    if max_output is not None:
        limits = replace(limits, max_output=check_size("max_output", max_output, high=1 << 40))
    if max_payload is not None:
        limits = replace(limits, max_payload=check_size("max_payload", max_payload, low=1, high=1 << 31))
    if max_hostcalls is not None:
        limits = replace(limits, max_hostcalls=check_count("max_hostcalls", max_hostcalls))
    if max_total_hostcalls is not None:
        total = check_count("max_total_hostcalls", max_total_hostcalls, low=0)
        limits = replace(limits, max_total_hostcalls=total)
    return limits


def check_env(env: object) -> dict[str, str]:
    """Return a copy of ``env=``, checked.

    Raises:
        InvalidArgumentError: it is not a mapping of names to text.
    """
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise InvalidArgumentError(f"env is a mapping of names to text, not {clip(env)}")
    checked: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", env).items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise InvalidArgumentError(
                f"env: {clip(name)} is no variable's name: give a non-empty str without = or NUL"
            )
        if not isinstance(value, str) or "\0" in value:
            raise InvalidArgumentError(f"env[{name!r}] is text without NUL (a str), not {clip(value)}")
        checked[name] = value
    return checked


def check_seed(seed: object) -> bytes | None:
    """Return 32 bytes made of ``seed=``.

    Raises:
        InvalidArgumentError: it is not an int, a str or bytes.
    """
    if seed is None:
        return None
    if isinstance(seed, bool) or not isinstance(seed, (int, str, bytes)):
        raise InvalidArgumentError(f"seed is an int, a str or bytes, not {clip(seed)}")
    return random.Random(seed).randbytes(_SEED_BYTES)  # noqa: S311 - repeatable is what was asked for
