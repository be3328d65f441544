"""Messages: what a run begins with, encoded at once if it is small, else on a guest thread, in pieces.

A small message is encoded where it is asked for. A large one would keep the event loop from its other tasks for as long
as that takes, 0.6 s for three million ints; it is encoded by the run, while that waits in line, with pauses.
"""

from __future__ import annotations

__all__ = ["call_message", "script_message"]

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from isola_anyio import codec
from isola_anyio.engine import ffi
from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.guests.protocol import ToGuest
from isola_anyio.run.services import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from isola_anyio.codec import Dialect
    from isola_anyio.limits import Limits
    from isola_anyio.values import BoundArguments

    Pause = Callable[[], object]

_MAX_CODE_BYTES: Final = 64 << 20
"""How long a script may be; ``max_payload`` is about values."""
_POSITIONAL: Final = 1
_NAMED: Final = 2
"""Where a call's value has its arguments: name, positional ones, named ones, places of streams."""


def call_message(name: str, bound: BoundArguments, limits: Limits, dialect: Dialect) -> Message:
    """Return the message that calls a guest function.

    Raises:
        InvalidArgumentError: an argument cannot cross; of a large message, this is raised when it is encoded.
    """
    places = [(where, number) for number, (where, _) in enumerate(bound.streams)]
    held: list[Any] = [[name, bound.positional, bound.named, places]]
    streams = tuple(source for _, source in bound.streams)
    encode = partial(_encode_call, held, [where for where, _ in bound.streams], limits, dialect)
    if codec.is_small(held[0]):
        return Message(ToGuest.CALL, encode(None), streams)
    return Message(ToGuest.CALL, b"", streams, encode, held)


def script_message(code: str, filename: str, dialect: Dialect) -> Message:
    """Return the message that runs a script.

    Raises:
        InvalidArgumentError: it is too long; of a large message, this is raised when it is encoded.
    """
    encode = partial(_encode_script, [code, filename], dialect)
    if codec.is_small([code, filename]):
        return Message(ToGuest.LOAD, encode(None))
    return Message(ToGuest.LOAD, b"", (), encode)


def _encode_script(script: list[str], dialect: Dialect, pause: Pause | None) -> bytes:
    try:
        return codec.encode(script, max_bytes=_MAX_CODE_BYTES, dialect=dialect, pause=pause)
    except codec.EncodeError as exc:
        raise InvalidArgumentError(f"the script cannot cross: {exc}") from None


def _encode_call(
    held: list[Any], streams: list[int | str], limits: Limits, dialect: Dialect, pause: Pause | None
) -> bytes:
    """Encode the value in ``held``, which is let go if it was large."""
    call = held[0]
    try:
        body = codec.encode(call, dialect=dialect, wrap=2, pause=pause)
    except codec.EncodeError as exc:
        raise _refused(exc, streams) from exc.__cause__
    if len(body) > limits.max_payload:  # the limit is each argument's; together they may be more
        _refuse_too_large(call, streams, limits, dialect, pause)
    del call
    if pause is not None:
        codec.let_go(held, ffi.yield_gil)
    return body


def _refused(exc: codec.EncodeError, streams: list[int | str]) -> InvalidArgumentError:
    """Name the argument that an error is in: its path begins with the argument's place."""
    steps = exc.steps
    if len(steps) < 2 or steps[0] not in (_POSITIONAL, _NAMED):
        return InvalidArgumentError(f"the arguments cannot cross: {exc}")
    kind, place = steps[:2]
    where = clip(place) if kind == _NAMED else next(itertools.islice(_positions(streams), int(place), None))
    return InvalidArgumentError(f"argument {where} cannot cross: {codec.format_path('$', steps[2:])}: {exc.reason}")


def _positions(streams: list[int | str]) -> Iterator[int]:
    """Give the indices of positional arguments that are no streams."""
    return (index for index in itertools.count() if index not in streams)


def _refuse_too_large(
    call: list[Any], streams: list[int | str], limits: Limits, dialect: Dialect, pause: Pause | None
) -> None:
    """Refuse an argument that is over ``max_payload`` by itself: each is encoded once more, to be measured."""
    _, positional, named, _ = call
    places = map(str, itertools.islice(_positions(streams), len(positional)))
    for where, value in zip((*places, *map(clip, named)), (*positional, *named.values()), strict=True):
        try:
            codec.encode(value, max_bytes=limits.max_payload, dialect=dialect, pause=pause)
        except codec.EncodeError as exc:
            raise InvalidArgumentError(f"argument {where} cannot cross: {exc}") from None
