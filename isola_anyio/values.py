"""What can be an argument: plain values, named ones, and streams that are fed while the guest runs."""

from __future__ import annotations

__all__ = ["Arg", "BoundArguments", "JsonValue", "StreamArg", "StreamSource", "bind_arguments"]

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from anyio.abc import ObjectReceiveStream

from isola_anyio.errors import InvalidArgumentError, clip

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

JsonValue: TypeAlias = (
    "None | bool | int | float | str | bytes | bytearray | memoryview | Sequence[JsonValue] | Mapping[str, JsonValue] | Any"
)
"""What crosses between host and guest: JSON's values, bytes, and typed buffers (numpy arrays, ``array.array``).

Checked when it crosses, not by the type checker: the buffer protocol has no type that says "of numbers".
"""

DEFAULT_CAPACITY: Final = 1024
MAX_CAPACITY: Final = 1 << 20


def _check_name(name: object) -> str | None:
    if name is not None and (not isinstance(name, str) or not name):
        raise InvalidArgumentError(f"an argument's name is a non-empty str or None, not {clip(name)}")
    return name


@dataclass(frozen=True, slots=True)
class Arg:
    """A positional argument, or a named one. JavaScript receives the named ones as one trailing object.

    Args:
        value: any value that can cross.
        name: the parameter's name; ``None`` for a positional argument.

    Raises:
        InvalidArgumentError: the name is not a non-empty str.
    """

    value: JsonValue
    name: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True, slots=True)
class StreamSource:
    """Where a stream argument's items come from: an async iterator, and how it is closed.

    Iterate it once. A plain iterable is pulled in the event loop, between the items the guest takes.
    """

    iterable: Iterable[Any] | AsyncIterable[Any]
    capacity: int = DEFAULT_CAPACITY
    _opened: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)

    async def __aiter__(self) -> AsyncIterator[Any]:
        iterable = self.iterable
        if isinstance(iterable, AsyncIterable):
            items = aiter(iterable)
            self._opened.append(items)
            async for item in items:
                yield item
        else:
            plain = iter(iterable)
            self._opened.append(plain)
            for item in plain:
                yield item

    async def aclose(self) -> None:
        """Close what was iterated, or what never was: generators run their ``finally`` blocks, streams are closed."""
        for item in (*self._opened, self.iterable):
            if isinstance(item, (AsyncIterator, ObjectReceiveStream)):
                aclose = getattr(item, "aclose", None)
                if aclose is not None:
                    await aclose()
            elif isinstance(item, Iterator):
                close = getattr(item, "close", None)
                if close is not None and hasattr(item, "gi_frame"):
                    close()


@dataclass(frozen=True, slots=True)
class StreamArg:
    """A stream argument: the guest receives an async iterator that is fed, with backpressure, while it runs.

    Make one with :meth:`from_iterable` or :meth:`from_async_iterable`. A producer's exception reaches the guest's
    loop, and ``run`` raises it whatever the guest made of it. When the guest stops early, or the run ends, the
    producer is cancelled and its iterator closed.
    """

    source: StreamSource
    name: str | None = None

    @classmethod
    def from_iterable(
        cls, values: Iterable[JsonValue], *, name: str | None = None, capacity: int = DEFAULT_CAPACITY
    ) -> StreamArg:
        """Stream a plain iterable; it is pulled in the event loop, so its steps should be quick.

        Raises:
            InvalidArgumentError: ``values`` is not iterable (text and bytes are values, not streams), or the name or
                the capacity is wrong.
        """
        if isinstance(values, (str, bytes, bytearray)) or not isinstance(values, Iterable):
            raise InvalidArgumentError(f"StreamArg.from_iterable takes an iterable of values, not {clip(values)}")
        return cls(StreamSource(values, _check_capacity(capacity)), _check_name(name))

    @classmethod
    def from_async_iterable(
        cls, values: AsyncIterable[JsonValue], *, name: str | None = None, capacity: int = DEFAULT_CAPACITY
    ) -> StreamArg:
        """Stream an async iterable, such as an async generator or an anyio object receive stream.

        Raises:
            InvalidArgumentError: ``values`` is not an async iterable, or the name or the capacity is wrong.
        """
        if not isinstance(values, AsyncIterable):
            raise InvalidArgumentError(
                f"StreamArg.from_async_iterable takes an async iterable, not {clip(values)}; plain iterables go to "
                "from_iterable"
            )
        return cls(StreamSource(values, _check_capacity(capacity)), _check_name(name))


def _check_capacity(capacity: object) -> int:
    if isinstance(capacity, bool) or not isinstance(capacity, int) or not 1 <= capacity <= MAX_CAPACITY:
        raise InvalidArgumentError(f"capacity is a number of items between 1 and {MAX_CAPACITY}, not {clip(capacity)}")
    return capacity


@dataclass(frozen=True, slots=True)
class BoundArguments:
    """Arguments taken apart: what is encoded, and what is streamed.

    Attributes:
        positional: values in order, streams left out.
        named: values by name, streams left out.
        streams: for each stream its position among *all* positional arguments, or its name, and its source.
    """

    positional: list[JsonValue]
    named: dict[str, JsonValue]
    streams: list[tuple[int | str, StreamSource]]


def bind_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundArguments:
    """Take the arguments of a run apart; nothing is started.

    Raises:
        InvalidArgumentError: the same name is given twice, or one stream is given twice.
    """
    bound = BoundArguments([], {}, [])
    position = 0
    named: list[tuple[str, Any]] = []
    for value in args:
        name, plain = _unwrap(value)
        if name is not None:
            named.append((name, plain))
            continue
        if isinstance(plain, StreamSource):
            bound.streams.append((position, plain))
        else:
            bound.positional.append(plain)
        position += 1
    for key, value in kwargs.items():
        name, plain = _unwrap(value)
        if name is not None and name != key:
            raise InvalidArgumentError(f"argument {key!r} holds an Arg named {name!r}: give it one name")
        named.append((key, plain))
    for name, plain in named:
        if name in bound.named or any(name == where for where, _ in bound.streams):
            raise InvalidArgumentError(f"argument {name!r} is given twice; give it once")
        if isinstance(plain, StreamSource):
            bound.streams.append((name, plain))
        else:
            bound.named[name] = plain
    iterables = [source.iterable for _, source in bound.streams]
    if len({id(iterable) for iterable in iterables}) != len(iterables):
        raise InvalidArgumentError("one stream is given as two arguments; give each argument a stream of its own")
    return bound


def _unwrap(value: Any) -> tuple[str | None, Any]:
    """Split an argument into its name and its value or source."""
    if isinstance(value, Arg):
        return value.name, _unwrap(value.value)[1]
    if isinstance(value, StreamArg):
        return value.name, value.source
    if isinstance(value, ObjectReceiveStream):
        return None, StreamSource(value)
    return None, value
