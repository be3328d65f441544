"""Answers to WASI calls: what the groups of calls share, and how an exception becomes an errno.

A WASI call is a method of a group (``FdCalls``, ``PathCalls``, ...) that returns nothing or raises. The decorator
``answers_errno`` makes it what wasm expects: a function that returns a number and raises nothing but interruptions.
"""

from __future__ import annotations

__all__ = ["CallContext", "CallGroup", "answers_errno"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from isola_anyio.wasi.errno import Errno, WasiError, errno_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio.wasi.files.operations import FileOperations
    from isola_anyio.wasi.linear_memory import GuestMemory
    from isola_anyio.wasi.volumes.budgets import FileLimits
    from isola_anyio.wasi.volumes.descriptors import DescriptorTable

P = ParamSpec("P")


@dataclass(slots=True, eq=False)
class CallContext:
    """What all groups of calls of one guest work on. Used by the guest's thread only.

    Attributes:
        memory: the guest's linear memory.
        files: file operations, by path.
        table: open descriptors.
        limits: budgets of a single call.
        fault: the last exception that was no answer to the guest, which got ``IO`` for it: a bug of the host's.
    """

    memory: GuestMemory
    files: FileOperations
    table: DescriptorTable
    limits: FileLimits
    fault: Exception | None = None


class CallGroup(Protocol):
    """What ``answers_errno`` needs of the object whose method it wraps."""

    context: CallContext


G = TypeVar("G", bound=CallGroup)


def answers_errno(call: Callable[Concatenate[G, P], None]) -> Callable[Concatenate[G, P], int]:
    """Make a method that returns nothing or raises answer with an errno, 0 for success.

    A ``BaseException`` that is no ``Exception`` passes: it interrupts the run. Any other exception that is not an
    answer is kept in ``context.fault``, and the guest is told no more than ``IO``.
    """

    def answer(self: G, /, *args: P.args, **kwargs: P.kwargs) -> int:
        try:
            call(self, *args, **kwargs)
        except WasiError as exc:
            return exc.errno.value
        except OSError as exc:
            return errno_of(exc).value
        except MemoryError:
            return Errno.NOMEM.value
        except Exception as exc:  # noqa: BLE001 - nothing may escape into the guest's caller
            self.context.fault = exc
            return Errno.IO.value
        return 0

    answer.__name__, answer.__qualname__, answer.__doc__ = call.__name__, call.__qualname__, call.__doc__
    return answer
