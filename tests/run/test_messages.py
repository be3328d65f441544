"""Large messages are encoded while their run is in line; they name a bad argument, end when cancelled, keep the order."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from isola_anyio import InvalidArgumentError, SandboxClosedError, StreamArg
from isola_anyio.limits import Limits
from isola_anyio.run import messages, task
from isola_anyio.run.messages import call_message, script_message
from isola_anyio.values import bind_arguments
from tests.waiting import WITHIN_S, cancel_when, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from isola_anyio import SandboxTemplate

LARGE: Final = 50_000
CODE: Final = "calls = []\ndef f(*args, **named):\n    calls.append(len(args))\n    return len(args) + len(named)\ndef made(): return calls\n"


def nothing() -> None:
    pass


def body_of(args: tuple[Any, ...], named: dict[str, Any], max_payload: int = 1 << 26) -> bytes:
    """The body of a call, however it is encoded."""
    message = call_message("f", bind_arguments(args, named), Limits(max_memory=1, max_payload=max_payload), "python")
    return message.body if message.encode is None else message.encode(nothing)


def stream() -> StreamArg:
    return StreamArg.from_iterable([1])


@pytest.mark.parametrize("size", [1, LARGE])
@pytest.mark.parametrize(
    ("args", "named", "text"),
    [
        ((1, 2, {1}), {}, "argument 2 cannot cross: $: set is not a value that can cross; convert it to a list"),
        ((1,), {"x": [0, {1}]}, "argument 'x' cannot cross: $[1]: set"),
        ((stream(), 1, stream(), [{1}]), {}, "argument 3 cannot cross: $[0]: set"),
        ((1,), {"y": {"a": {1: 2}}}, "argument 'y' cannot cross: $.a: the key 1 is of type int; keys must be str"),
        ((1,), {"x" * 1000: {1}}, "argument 'x"),
    ],
)
def test_the_argument_that_cannot_cross_is_named(
    size: int, args: tuple[Any, ...], named: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        body_of(args, {"rows": list(range(size)), **named})
    assert text in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("size", [60, LARGE])
def test_an_argument_over_the_limit_is_named(size: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"argument 1 cannot cross: \$: the value takes .* over the limit"):
        body_of((1, "x" * (size * 4)), {"rows": list(range(size))}, max_payload=size * 3 + 40)
    with pytest.raises(InvalidArgumentError, match=r"argument 'text' cannot cross"):
        body_of((1,), {"rows": list(range(3)), "text": "x" * (size * 4)}, max_payload=size * 3)


def test_arguments_that_are_over_the_limit_together_cross() -> None:
    assert len(body_of(("x" * 300_000, "y" * 300_000), {}, max_payload=300_000)) > 600_000
    assert len(body_of(("x" * 30, "y" * 30), {}, max_payload=30)) > 60


def test_what_the_caller_wrapped_is_found_in_what_failed() -> None:
    class Odd(dict[str, int]):
        def items(self) -> Any:
            raise OSError("why")

    with pytest.raises(InvalidArgumentError) as caught:
        body_of((Odd(a=1),), {})
    assert isinstance(caught.value.__cause__, OSError)


def test_a_script_that_is_too_long_is_refused() -> None:
    message = script_message("x" * ((64 << 20) + 1), "f", "python")
    assert message.encode is not None
    with pytest.raises(InvalidArgumentError, match=r"the script cannot cross: .* over the limit"):
        message.encode(nothing)


class Held:
    """Holds the encoding of large calls until it is let go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.threads: list[int] = []
        encode = messages._encode_call

        def held(*args: Any) -> bytes:
            pause: Callable[[], object] | None = args[-1]
            if pause is not None:
                self.threads.append(threading.get_ident())
                self.begun.set()
                for _ in range(int(WITHIN_S * 100)):
                    if self.go_on.wait(0.01):
                        break
                    pause()
            return encode(*args)

        monkeypatch.setattr(messages, "_encode_call", held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


async def test_a_large_call_is_encoded_on_another_thread_and_the_loop_goes_on(
    python: SandboxTemplate, held: Held
) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(CODE)

        async def let_go() -> None:
            await until(held.begun.is_set)
            held.go_on.set()

        async with anyio.create_task_group() as group:
            group.start_soon(let_go)
            assert await sandbox.run("f", list(range(LARGE)), x=1) == 2
    assert held.threads
    assert threading.get_ident() not in held.threads


async def test_runs_keep_their_order_while_one_is_encoded(python: SandboxTemplate, held: Held) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(CODE)
        async with sandbox.run_stream("f", *[list(range(LARGE))] * 3) as large, sandbox.run_stream("f", 1) as small:
            await until(held.begun.is_set)
            held.go_on.set()
            assert await small.result() == 1
            assert await large.result() == 3
        assert await sandbox.run("made") == [3, 1]


async def test_cancelled_while_it_is_encoded_it_ends_at_once_and_the_guest_is_well(
    python: SandboxTemplate, held: Held
) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(CODE)

        async def ready() -> None:
            await until(held.begun.is_set)

        await cancel_when(ready, lambda: sandbox.run("f", list(range(LARGE))))
        assert not held.go_on.is_set()
        held.go_on.set()
        assert await sandbox.run("made") == []
        assert await sandbox.run("f", list(range(LARGE))) == 1


async def test_arguments_of_a_call_that_is_cancelled_or_refused_are_let_go_elsewhere(
    python: SandboxTemplate, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    disposed: list[int] = []

    def note(values: list[Any]) -> None:
        disposed.extend(len(call[1][0]) for call in values if isinstance(call, list))
        values.clear()

    monkeypatch.setattr(task, "dispose", note)
    async with python.create() as sandbox:
        await sandbox.load_script(CODE)

        async def ready() -> None:
            await until(held.begun.is_set)

        await cancel_when(ready, lambda: sandbox.run("f", list(range(LARGE))))
        assert disposed == [LARGE]
        held.go_on.set()
        with pytest.raises(InvalidArgumentError):
            await sandbox.run("f", [*range(LARGE), {1}])
        assert disposed == [LARGE, LARGE + 1]
        assert await sandbox.run("f", list(range(LARGE))) == 1
    assert disposed == [LARGE, LARGE + 1]


async def test_closed_while_it_is_encoded_the_run_is_told(python: SandboxTemplate, held: Held) -> None:
    async with python.create() as sandbox:
        events = sandbox.run_stream("f", list(range(LARGE)))
        await until(held.begun.is_set)
        await sandbox.aclose()
        assert not held.go_on.is_set()
        with pytest.raises(SandboxClosedError):
            await events.receive()


async def test_a_large_argument_that_cannot_cross_is_told_where_the_events_are_read(python: SandboxTemplate) -> None:
    async with python.create() as sandbox:
        await sandbox.load_script(CODE)
        with pytest.raises(InvalidArgumentError, match="argument 0 cannot cross"):
            sandbox.run_stream("f", {1})
        async with sandbox.run_stream("f", [*range(LARGE), {1}]) as events:
            with pytest.raises(InvalidArgumentError, match=rf"argument 0 cannot cross: \$\[{LARGE}\]: set"):
                await events.receive()
        assert await sandbox.run("made") == []


async def test_streams_of_a_large_call_are_closed_when_it_cannot_cross(python: SandboxTemplate) -> None:
    pulled: list[int] = []

    async def produce() -> AsyncIterator[int]:
        pulled.append(1)
        yield 1

    async with python.create() as sandbox:
        await sandbox.load_script(CODE)
        with pytest.raises(InvalidArgumentError):
            await sandbox.run("f", [*range(LARGE), {1}], StreamArg.from_async_iterable(produce()))
    assert pulled == []
