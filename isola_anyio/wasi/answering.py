"""Turn what a host function raises into the number its guest gets."""

from __future__ import annotations

__all__ = ["CallTarget", "hostcall"]

from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from isola_anyio.wasi.errno import Errno, WasiError, errno_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.wasi.files.filesystem import FileSystem
    from isola_anyio.wasi.linear_memory import GuestMemory
    from isola_anyio.wasi.volumes.budgets import FileLimits
    from isola_anyio.wasi.volumes.descriptors import Table

P = ParamSpec("P")


class CallTarget(Protocol):
    """What every group of functions has at hand."""

    memory: GuestMemory
    files: FileSystem
    limits: FileLimits
    table: Table
    fault: Exception | None


S = TypeVar("S", bound=CallTarget)


def hostcall(function: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], int]:
    """Make a method answer with an error number.

    A ``BaseException`` that is no ``Exception`` passes: it is an interruption. Any other exception that is not an
    answer is kept in ``fault``, and the guest is told no more than ``IO``.
    """

    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> int:
        try:
            function(self, *args, **kwargs)
        except WasiError as exc:
            return exc.errno.value
        except OSError as exc:
            return errno_of(exc).value
        except MemoryError:
            return Errno.NOMEM.value
        except Exception as exc:  # noqa: BLE001 - nothing may escape into the guest's caller
            self.fault = exc
            return Errno.IO.value
        return 0

    call.__name__, call.__qualname__, call.__doc__ = function.__name__, function.__qualname__, function.__doc__
    return call
