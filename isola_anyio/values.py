"""Values: what an argument of a guest function may be, and which of the arguments are streams.

Plain values go to the codec as they are, which says whether they can cross. Streams stay on the host: the guest is
told their positions and numbers, and a run pulls the items from their `StreamSource` when the guest has room for them.
Nothing is iterated here, so an invalid argument costs no producer its first item.
"""

from __future__ import annotations

__all__ = ["Arg", "BoundArguments", "JsonValue", "StreamArg", "StreamSource", "bind_arguments"]

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Union, cast, final

from anyio.abc import ObjectReceiveStream, UnreliableObjectReceiveStream
from anyio.lowlevel import checkpoint

from isola_anyio.construction import made_by
from isola_anyio.errors import InvalidArgumentError, clip
from isola_anyio.kinds import is_a, text_of

if TYPE_CHECKING:
    from typing import Self

# A `Union`, not `|`: the alias refers to itself, and pyright and mypy both resolve the names in quotes.
JsonValue: TypeAlias = Union[  # noqa: UP007
    bool, int, float, str, bytes, memoryview, list["JsonValue"], dict[str, "JsonValue"], None
]
"""What a guest's value is on the host. Typed buffers (numpy arrays, TypedArrays) arrive as ``memoryview``.

In the other direction subclasses of these, tuples, and everything that exports a buffer may be sent too; see
``docs/values.md``.
"""

DEFAULT_CAPACITY: Final = 1024
"""How many items of a stream wait for the guest at most: enough to hide the time between two turns; a guess."""

_ITEMS_PER_CHECKPOINT: Final = 64
"""After how many items of a plain iterable other tasks get to run; a guess between latency and cost."""


@final
@dataclass(frozen=True, slots=True)
class Arg:
    """An argument of a guest function, positional or, with ``name``, named.

    A named one is what a keyword argument of ``run`` is, for names that Python's syntax does not allow there (such as
    ``name`` itself). JavaScript receives the named ones as one object, its last argument.

    Raises:
        InvalidArgumentError: ``name`` is empty, or no str.
    """

    value: object
    name: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _checked_name(self.name))


@final
@made_by("StreamArg.from_iterable() or StreamArg.from_async_iterable()")
class StreamArg:
    """A stream of values as an argument: the guest receives an async iterator, fed with back pressure.

    Made with :meth:`from_iterable` or :meth:`from_async_iterable`. A task of the run pulls the values in the event
    loop, as the guest takes them. They are closed when the run is over, however it ends, a cancellation included. A
    producer's exception reaches the guest's loop, and ``run`` raises it whatever the guest made of it.

    Attributes:
        name: its name, or ``None`` for a positional argument.
        capacity: how many items wait for the guest at most; a producer that is ahead is not pulled from.
    """

    __slots__ = ("_values", "capacity", "name")

    _values: AsyncIterable[object] | Iterable[object]
    name: str | None
    capacity: int

    @classmethod
    def _create(cls, values: AsyncIterable[object] | Iterable[object], name: str | None, capacity: int) -> Self:
        name = _checked_name(name)
        if type(capacity) is not int or capacity < 1:
            raise InvalidArgumentError(f"capacity is {clip(capacity)}; it must be an int of at least 1")
        self = object.__new__(cls)
        self._values = values
        self.name = name
        self.capacity = capacity
        return self

    @classmethod
    def from_iterable(
        cls, values: Iterable[object], *, name: str | None = None, capacity: int = DEFAULT_CAPACITY
    ) -> StreamArg:
        """Stream what a plain iterable gives; it is iterated in the event loop's thread and must not block.

        Args:
            values: an iterable; a generator is closed when the run is over.
            name: makes it a named argument.
            capacity: how many items wait for the guest at most, 1 or more.

        Raises:
            InvalidArgumentError: one of them has a wrong type or value.
        """
        if not _is_iterable(values):
            raise InvalidArgumentError(
                f"values is {clip(values)}, which cannot be iterated; pass a list or a generator"
            )
        return cls._create(values, name, capacity)

    @classmethod
    def from_async_iterable(
        cls, values: AsyncIterable[object], *, name: str | None = None, capacity: int = DEFAULT_CAPACITY
    ) -> StreamArg:
        """Stream what an async iterable gives.

        Args:
            values: an async iterable; an async generator or an ``anyio`` stream is closed when the run is over.
            name: makes it a named argument.
            capacity: how many items wait for the guest at most, 1 or more.

        Raises:
            InvalidArgumentError: one of them has a wrong type or value.
        """
        if not is_a(values, AsyncIterable):
            raise InvalidArgumentError(
                f"values is {clip(values)}, which cannot be iterated with `async for`; "
                "pass an async generator or a stream, or use from_iterable"
            )
        return cls._create(values, name, capacity)

    def __repr__(self) -> str:
        return f"<StreamArg of {type(self._values).__name__} name={clip(self.name)} capacity={self.capacity}>"

    def _open(self) -> StreamSource:
        """Return a source of its items; nothing is pulled from the values yet."""
        return StreamSource(self._values, self.capacity)


class StreamSource:
    """The producing end of one stream argument of one run: iterated once, and closed before its end if need be.

    Used by one task, the run's.

    Attributes:
        capacity: how many of its items may wait for the guest.
    """

    def __init__(self, values: AsyncIterable[object] | Iterable[object], capacity: int) -> None:
        self.capacity = capacity
        self._values = values
        self._items: AsyncIterator[object] | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[Any]:
        """Start pulling; at most once. A second time is a ``RuntimeError``."""
        if self._closed or self._items is not None:
            raise RuntimeError("a stream source is iterated once")
        values = self._values
        self._items = (
            aiter(cast("AsyncIterable[object]", values))
            if is_a(values, AsyncIterable)
            else _PlainItems(cast("Iterable[object]", values))
        )
        return self._items

    async def aclose(self) -> None:
        """Close what the items come from: a generator, an async generator, a stream. A second call does nothing.

        An exception of the producer's own cleanup is raised; a cancellation is delivered inside that cleanup.
        """
        if self._closed:
            return
        self._closed = True
        # A generator that was passed and never iterated is its own iterator and is closed all the same.
        source: object = self._values if self._items is None else self._items
        self._values = ()
        if isinstance(source, _PlainItems):
            source = source.items
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
            return
        close = getattr(source, "close", None)
        if close is not None and hasattr(type(source), "__next__"):
            close()


class _PlainItems:
    """Iterates a plain iterable without keeping other tasks from running."""

    def __init__(self, values: Iterable[object]) -> None:
        self.items = iter(values)
        self._left = _ITEMS_PER_CHECKPOINT

    def __aiter__(self) -> _PlainItems:
        return self

    async def __anext__(self) -> object:
        self._left -= 1
        if not self._left:
            self._left = _ITEMS_PER_CHECKPOINT
            await checkpoint()
        try:
            return next(self.items)
        except StopIteration:
            raise StopAsyncIteration from None


@dataclass(frozen=True, slots=True)
class BoundArguments:
    """The arguments of one call, sorted into plain values and streams.

    Attributes:
        positional: the plain positional values, in order.
        named: the plain named values.
        streams: for each stream, in order: its name or its index among all positional arguments, and its source.
    """

    positional: list[object]
    named: dict[str, object]
    streams: list[tuple[int | str, StreamSource]]


def bind_arguments(args: Sequence[object], kwargs: Mapping[str, object]) -> BoundArguments:
    """Sort the arguments of a call into plain values and streams.

    Any ``anyio`` object receive stream is a stream argument by itself; it is closed when the run is over.

    Raises:
        InvalidArgumentError: a name is given twice, or an `Arg` given by keyword has another name.
    """
    positional: list[object] = []
    named: dict[str, object] = {}
    opened: list[tuple[int | str, StreamArg]] = []
    taken: set[str] = set()
    count = 0
    for value in args:
        name, found = _name_and_value(value)
        if name is not None:
            _claim_name(name, taken)
            where: int | str = name
        else:
            where = count
            count += 1
        if type(found) is StreamArg:
            opened.append((where, found))
        elif isinstance(where, str):
            named[where] = found
        else:
            positional.append(found)
    for keyword, value in kwargs.items():
        name, found = _name_and_value(value)
        if name is not None and name != keyword:
            raise InvalidArgumentError(
                f"the argument {clip(keyword)} is given as {clip(name)}; leave one of the names out"
            )
        _claim_name(keyword, taken)
        if type(found) is StreamArg:
            opened.append((keyword, found))
        else:
            named[keyword] = found
    streams = [(where, stream._open()) for where, stream in opened]  # noqa: SLF001 - same module
    return BoundArguments(positional, named, streams)


def _name_and_value(value: object) -> tuple[str | None, object]:
    if type(value) is Arg:
        name, value = value.name, value.value
        if type(value) is StreamArg:
            if name is not None and value.name is not None and name != value.name:
                raise InvalidArgumentError(
                    f"a stream is named {clip(name)} and {clip(value.name)}; leave one of the names out"
                )
            return name or value.name, value
    else:
        name = value.name if type(value) is StreamArg else None
    if is_a(value, (ObjectReceiveStream, UnreliableObjectReceiveStream)):
        stream = cast("UnreliableObjectReceiveStream[object]", value)
        return name, StreamArg._create(stream, name, DEFAULT_CAPACITY)  # noqa: SLF001 - same module
    return name, value


def _claim_name(name: str, taken: set[str]) -> None:
    if name in taken:
        raise InvalidArgumentError(f"the argument {clip(name)} is given twice; leave one out")
    taken.add(name)


def _checked_name(name: object) -> str | None:
    if name is None:
        return None
    # Any other name a guest's function may take in its `**kwargs`, or JavaScript's object.
    if plain := text_of(name):
        return plain
    raise InvalidArgumentError(f"name is {clip(name)}; it must be a non-empty str such as 'rows', or None")


def _is_iterable(values: object) -> bool:
    """Tell whether ``iter()`` accepts it, without calling that: a class with ``__getitem__`` alone is iterable too."""
    kind = type(values)
    return is_a(values, Iterable) or (hasattr(kind, "__getitem__") and not hasattr(kind, "__iter__"))
