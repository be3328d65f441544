"""Arguments are taken apart without starting anything, and sources are closed however far they got."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import ObjectReceiveStream

from isola_anyio.errors import InvalidArgumentError
from isola_anyio.values import Arg, StreamArg, StreamSource, bind_arguments

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


async def drain(source: StreamSource) -> list[Any]:
    return [item async for item in source]


class Producer:
    """A plain and an async generator that write down what happens to them."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def plain(self) -> Iterator[int]:
        try:
            for number in range(3):
                self.log.append(f"made {number}")
                yield number
        finally:
            self.log.append("closed")

    async def asynchronous(self) -> AsyncIterator[int]:
        try:
            for number in range(3):
                self.log.append(f"made {number}")
                yield number
        finally:
            self.log.append("closed")


def test_plain_values_stay_where_they_are() -> None:
    bound = bind_arguments((1, "two"), {"three": 3})
    assert (bound.positional, bound.named, bound.streams) == ([1, "two"], {"three": 3}, [])


def test_an_arg_is_positional_or_named() -> None:
    bound = bind_arguments((Arg(1), Arg(2, name="b"), 3), {"c": Arg(4), "d": Arg(5, name="d")})
    assert (bound.positional, bound.named) == ([1, 3], {"b": 2, "c": 4, "d": 5})


def test_streams_know_their_place_among_all_positional_arguments() -> None:
    args = (
        1,
        StreamArg.from_iterable([1]),
        2,
        StreamArg.from_iterable([2], name="s"),
        Arg(StreamArg.from_iterable([3])),
    )
    bound = bind_arguments(args, {"t": StreamArg.from_iterable([4])})
    assert bound.positional == [1, 2]
    assert [where for where, _ in bound.streams] == [1, "s", 3, "t"]


def test_a_bare_receive_stream_is_a_stream_argument() -> None:
    send, receive = anyio.create_memory_object_stream[int](1)
    with send, receive:
        bound = bind_arguments((0, receive), {"more": Arg(receive)})
        assert bound.positional == [0]
        assert [where for where, _ in bound.streams] == [1, "more"]
        assert bound.streams[0][1].capacity == 1024


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((Arg(1, name="a"), Arg(2, name="a")), {}, "the argument 'a' is given twice"),
        ((Arg(1, name="a"),), {"a": 2}, "the argument 'a' is given twice"),
        ((StreamArg.from_iterable([], name="a"), Arg(2, name="a")), {}, "the argument 'a' is given twice"),
        ((), {"a": Arg(1, name="b")}, "the argument 'a' is given as 'b'"),
        ((), {"a": StreamArg.from_iterable([], name="b")}, "the argument 'a' is given as 'b'"),
        ((Arg(StreamArg.from_iterable([], name="b"), name="a"),), {}, "a stream is named 'a' and 'b'"),
    ],
)
def test_names_that_clash_are_refused(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        bind_arguments(args, kwargs)


def test_an_invalid_argument_starts_no_producer() -> None:
    producer = Producer()
    stream = StreamArg.from_iterable(producer.plain(), name="a")
    with pytest.raises(InvalidArgumentError):
        bind_arguments((stream, Arg(1, name="a")), {})
    assert producer.log == []


@pytest.mark.parametrize("name", ["", 7, b"a"])
def test_a_name_is_a_str_that_is_not_empty(name: Any) -> None:
    for make in (lambda: Arg(1, name=name), lambda: StreamArg.from_iterable([], name=name)):
        with pytest.raises(InvalidArgumentError, match=r"name is .*; it must be a non-empty str"):
            make()


@pytest.mark.parametrize("name", ["$é_1", "a-b", "two words", "1st", "class"])
def test_what_a_keyword_may_be_called_an_arg_may_be_called(name: str) -> None:
    for args, kwargs in (((Arg(1, name=name),), {}), ((), {name: 1}), ((), {name: Arg(1, name=name)})):
        assert bind_arguments(args, kwargs).named == {name: 1}
    assert bind_arguments((StreamArg.from_iterable([], name=name),), {}).streams[0][0] == name


@pytest.mark.parametrize("capacity", [0, -1, 1.5, True, "9", None])
def test_a_capacity_is_a_positive_int(capacity: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"capacity is .*; it must be an int of at least 1"):
        StreamArg.from_iterable([], capacity=capacity)


def test_what_cannot_be_iterated_is_refused() -> None:
    values: Any = 7
    with pytest.raises(InvalidArgumentError, match="values is 7, which cannot be iterated; pass"):
        StreamArg.from_iterable(values)
    values = [1]
    with pytest.raises(InvalidArgumentError, match=r"cannot be iterated with `async for`; pass .*or use from_iterable"):
        StreamArg.from_async_iterable(values)


async def test_a_source_gives_what_its_iterable_gives() -> None:
    many = list(range(200))
    assert await drain(StreamArg.from_iterable(many)._open()) == many
    assert await drain(StreamArg.from_async_iterable(Producer().asynchronous())._open()) == [0, 1, 2]


async def test_what_is_only_indexed_is_an_iterable_too() -> None:
    class Squares:
        def __getitem__(self, index: int) -> int:
            if index > 3:
                raise IndexError
            return index * index

    class Never:
        __iter__ = None

        def __getitem__(self, index: int) -> int:
            raise AssertionError

    squares: Any = Squares()
    assert await drain(StreamArg.from_iterable(squares)._open()) == [0, 1, 4, 9]
    never: Any = Never()
    with pytest.raises(InvalidArgumentError, match="cannot be iterated"):
        StreamArg.from_iterable(never)


async def test_a_source_of_a_plain_iterable_lets_others_run() -> None:
    def forever() -> Iterator[int]:
        while True:
            yield 0

    with anyio.move_on_after(0.01) as scope:
        await drain(StreamArg.from_iterable(forever())._open())
    assert scope.cancelled_caught


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
async def test_closing_a_source_closes_its_generator_once(kind: str) -> None:
    producer = Producer()
    values: Any = getattr(producer, kind)()
    arg = StreamArg.from_iterable(values) if kind == "plain" else StreamArg.from_async_iterable(values)
    source = arg._open()
    items = aiter(source)
    assert await anext(items) == 0
    await source.aclose()
    await source.aclose()
    assert producer.log == ["made 0", "closed"]
    with pytest.raises(RuntimeError):
        aiter(source)


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
async def test_a_generator_that_was_never_started_is_closed_too(kind: str) -> None:
    producer = Producer()
    values: Any = getattr(producer, kind)()
    arg = StreamArg.from_iterable(values) if kind == "plain" else StreamArg.from_async_iterable(values)
    await arg._open().aclose()
    assert producer.log == []
    with pytest.raises((StopIteration, StopAsyncIteration)):
        next(values) if kind == "plain" else await anext(values)


async def test_closing_a_source_closes_its_stream_and_leaves_lists_and_files_alone() -> None:
    send, receive = anyio.create_memory_object_stream[int](1)
    bound = bind_arguments((receive,), {})
    source = bound.streams[0][1]
    await send.send(1)
    assert await anext(aiter(source)) == 1
    await source.aclose()
    with pytest.raises(anyio.BrokenResourceError):
        await send.send(2)
    send.close()

    class Lines(list[int]):
        def close(self) -> None:
            raise AssertionError

    await StreamArg.from_iterable(Lines([1]))._open().aclose()


async def test_the_exception_of_a_producer_comes_out_of_its_source() -> None:
    def fails() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    source = StreamArg.from_iterable(fails())._open()
    items = aiter(source)
    assert await anext(items) == 1
    with pytest.raises(LookupError, match="no more"):
        await anext(items)
    await source.aclose()


async def test_any_object_receive_stream_will_do() -> None:
    class Countdown(ObjectReceiveStream[int]):
        left = 3
        closed = False

        async def receive(self) -> int:
            if not self.left:
                raise anyio.EndOfStream
            self.left -= 1
            return self.left

        async def aclose(self) -> None:
            self.closed = True

    stream = Countdown()
    source = bind_arguments((stream,), {}).streams[0][1]
    assert await drain(source) == [2, 1, 0]
    await source.aclose()
    assert stream.closed


def test_a_stream_arg_shows_what_it_is() -> None:
    assert repr(StreamArg.from_iterable([1], name="a", capacity=5)) == "<StreamArg of list name='a' capacity=5>"
