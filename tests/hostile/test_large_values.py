"""Large values: those of guests that the library is last to hold, and those of the program's own upstream."""

from __future__ import annotations

import gc
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from isola_anyio import Arg, InvalidArgumentError, IsolaError, MountConfig, SandboxOptions, StreamArg, codec, disposal
from isola_anyio.codec.chunked import garbage
from tests.hostile.attack import Attack
from tests.hostile.harness import World, max_answer_s, run_attack
from tests.hostile.large_values import ATTACKS
from tests.hostile.watch import watching
from tests.timing import NOISE, SLACK
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from isola_anyio import Sandbox
    from tests.hostile.conftest import Neighbours, Templates

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc, and makes a fifo"),
    pytest.mark.slow,
    pytest.mark.timing,
]

MAX_GAP_S: Final = 0.05
ATTEMPTS: Final = 3


@pytest.fixture
async def let_go_of_all() -> AsyncIterator[None]:
    """Begin and end with nothing that waits to be let go."""
    await until(lambda: not disposal._of_process.busy)
    yield
    await until(lambda: not disposal._of_process.busy)


@pytest.mark.usefixtures("let_go_of_all")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_attack(attack: Attack, templates: Templates, neighbours: Neighbours, world: World) -> None:
    template = templates(attack.runtime, attack.metered)
    await run_attack(attack, template, world, await neighbours(template))


# --- slots -----------------------------------------------------------------------------------------------------------

SENDING: Final = """
import _host
from sandbox import _port
BODY = b'[' + b'[],' * 2_500_000 + b'1]'
def send(_):
    number = 100000
    while True:
        number += 1
        _host.call(bytes([0x10]) + number.to_bytes(4, 'little') + b'\\4\\0gone' + BODY)
def take(value): return len(value)
"""


@pytest.mark.usefixtures("let_go_of_all")
@pytest.mark.parametrize("name", ["send", "take"])
async def test_large_values_do_not_keep_all_slots(name: str, templates: Templates, neighbours: Neighbours) -> None:
    """Of as many guests as there are slots: short runs of others have one while values are encoded and decoded."""
    template = templates("python", False)
    neighbour = await neighbours(template)
    value: list[Any] = [[number] for number in range(1_000_000)]

    async def send() -> None:
        async with template.create(hostcalls={"gone": lambda _: None}) as sandbox:
            await sandbox.load_script(SENDING)
            with anyio.move_on_after(3):
                await sandbox.run(name, value if name == "take" else None)

    with garbage.no_full_collections():
        async with watching(neighbour) as watch, anyio.create_task_group() as group:
            for _ in range(template._context._pool.max_parallel):
                group.start_soon(send)
    assert watch.answers
    assert watch.max_answer_s <= max_answer_s(4) * NOISE
    assert watch.max_gap_s <= MAX_GAP_S * NOISE


# --- what is let go, and where ---------------------------------------------------------------------------------------

MANY: Final = 100_000
CODE: Final = f"""
import asyncio, _host
from sandbox import _port
from sandbox.asyncio import hostcall
BODY = b'[' + b'[],' * {MANY - 1} + b'[]]'
def frame(kind, number, body): return bytes([kind]) + number.to_bytes(4, 'little') + body
def call(op, name): return _host.call(frame(0x10, op, len(name).to_bytes(2, 'little') + name.encode() + BODY))
def large(*args): return [[] for _ in range({MANY})]
def items():
    yield large()
async def late(name, wait=0.5):
    call(1000001, name)
    await asyncio.sleep(wait)
async def reads(items):
    try:
        async for _ in items: pass
    except Exception: pass
    return large()
async def unstarted():
    waiting = asyncio.ensure_future(hostcall('never', 0))
    await asyncio.sleep(0)
    call(1000001, 'never')
"""


class Freed:
    """Which large values were let go in pieces, and by whom else they were held then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alone: list[bool] = []
        let_go = garbage.let_go

        def noted(held: list[Any], pause: Callable[[], object], *, owned: bool = False) -> None:
            for _ in range(len(held)):
                one = [held.pop(0)]
                if type(one[0]) is list and len(one[0]) >= MANY:
                    self.alone.append(garbage.is_alone(one))
                let_go(one, pause, owned=owned)

        monkeypatch.setattr(codec, "let_go", noted)

    @property
    def in_pieces(self) -> bool:
        """Whether one was, and by its last holder."""
        return any(self.alone)


async def failing() -> AsyncIterator[int]:
    yield 1
    raise OSError("the producer broke")


async def by_a_failing_producer(sandbox: Sandbox) -> None:
    with pytest.raises(OSError, match="broke"):
        await sandbox.run("reads", StreamArg.from_async_iterable(failing()))


async def by_a_reader_that_leaves(sandbox: Sandbox) -> None:
    async with sandbox.run_stream("items") as events:
        await until(lambda: events._queue._events)


async def by_a_dropped_stream(sandbox: Sandbox) -> None:
    events = [sandbox.run_stream("items")]
    await until(lambda: events[0]._queue._events)
    events.clear()
    gc.collect()


DROPPED: Final[dict[str, Callable[[Sandbox], Awaitable[object]]]] = {
    "a plain handler that is over": lambda sandbox: sandbox.run("late", "plain"),
    "an async handler that is over": lambda sandbox: sandbox.run("late", "quick"),
    "an async handler that failed": lambda sandbox: sandbox.run("late", "fail"),
    "an answer that was taken": lambda sandbox: sandbox.run("late", "echo"),
    "an answer that was never taken": lambda sandbox: sandbox.run("late", "echo", 0),
    "a handler that was cancelled": lambda sandbox: sandbox.run("late", "never"),
    "a handler that was never started": lambda sandbox: sandbox.run("unstarted"),
    "a result in whose place a producer's failure is raised": by_a_failing_producer,
    "a stream that nobody reads on": by_a_reader_that_leaves,
    "a stream that is dropped": by_a_dropped_stream,
    "a stream of which only the result is wanted": lambda sandbox: sandbox.run_stream("items").result(),
    "a script's value": lambda sandbox: sandbox.load_script(
        "_port.done = lambda run, value: _port.call_host(frame(0x13, run, BODY))"
    ),
}


async def quick(payload: Any) -> int:
    return 1


async def echo(payload: Any) -> Any:
    return payload


async def fail(payload: Any) -> Any:
    raise OSError("the handler failed")


async def never(payload: Any) -> Any:
    await anyio.sleep_forever()


HANDLERS: Final = {"plain": lambda payload: 1, "quick": quick, "echo": echo, "fail": fail, "never": never}


@pytest.mark.usefixtures("let_go_of_all")
@pytest.mark.parametrize("name", DROPPED)
async def test_what_is_dropped_is_let_go_in_pieces(
    name: str, templates: Templates, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = templates("python", False)
    async with template.create(hostcalls=HANDLERS, max_hostcalls=1) as sandbox:
        await sandbox.load_script(CODE)
        freed = Freed(monkeypatch)
        await DROPPED[name](sandbox)
        await until(lambda: freed.in_pieces)


async def test_what_the_program_has_stays_as_it_is(templates: Templates) -> None:
    kept: list[Any] = []

    async def keep(payload: Any) -> int:
        kept.append(payload)
        return 1

    template = templates("python", False)
    async with template.create(hostcalls={"keep": keep, "plain": kept.append}) as sandbox:
        await sandbox.load_script(CODE)
        rows: list[Any] = [[n] for n in range(MANY)]
        await sandbox.run("late", "keep")
        await sandbox.run("late", "plain")
        await sandbox.run("large", rows)
    await until(lambda: not disposal._of_process.busy)
    assert [len(payload) for payload in kept] == [MANY, MANY]
    assert rows == [[n] for n in range(MANY)]


# --- what upstream sent ----------------------------------------------------------------------------------------------

SENT: Final[dict[str, Callable[[], Any]]] = {
    "three million ints": lambda: list(range(3_000_000)),
    "sixty megabytes of text": lambda: "\u00e9" * 30_000_000,
    "sixty megabytes of bytes": lambda: bytes(60_000_000),
    "a million dicts": lambda: [{"a": 1, "b": "x"} for _ in range(1_000_000)],
    "bytes beside a million lists": lambda: [b"x", *([n] for n in range(1_000_000))],
}


@asynccontextmanager
async def loop_goes_on(neighbour: Sandbox) -> AsyncGenerator[list[float]]:
    """Note how long the event loop stood still."""
    gaps: list[float] = []
    async with watching(neighbour) as watch:
        yield gaps
        await anyio.sleep(0.01)
    gaps.append(watch.max_gap_s)


@pytest.mark.parametrize("runtime", ["python", "js"])
@pytest.mark.parametrize("name", SENT)
async def test_an_argument_is_encoded_off_the_loop(
    name: str, runtime: str, templates: Templates, neighbours: Neighbours
) -> None:
    template = templates(runtime, False)
    script = "def f(x): return 1" if runtime == "python" else "function f(x) { return 1 }"
    value = SENT[name]()
    worst: list[float] = []
    async with template.create() as sandbox:
        await sandbox.load_script(script)
        for _ in range(ATTEMPTS):
            async with loop_goes_on(await neighbours(template)) as gaps:
                try:
                    await sandbox.run("f", value)
                except IsolaError as exc:  # the guest may have no room for it
                    assert not isinstance(exc, InvalidArgumentError)
            worst += gaps
            if gaps[0] <= MAX_GAP_S * SLACK:
                return
    raise AssertionError(f"the event loop stood still for {worst}")


@pytest.mark.parametrize("runtime", ["python", "js"])
@pytest.mark.parametrize("character", ["a", "\u00e9", "\U0001f600", "\ud800"])
async def test_a_script_is_encoded_off_the_loop(
    character: str, runtime: str, templates: Templates, neighbours: Neighbours
) -> None:
    template = templates(runtime, False)
    code = ("# " if runtime == "python" else "// ") + character * 4_000_000
    worst: list[float] = []
    for _ in range(ATTEMPTS):
        async with template.create() as sandbox, loop_goes_on(await neighbours(template)) as gaps:
            try:
                await sandbox.load_script(code)
            except IsolaError as exc:
                assert not isinstance(exc, InvalidArgumentError)
        worst += gaps
        if gaps[0] <= MAX_GAP_S * SLACK:
            return
    raise AssertionError(f"the event loop stood still for {worst}")


# --- classes that lie ------------------------------------------------------------------------------------------------


def asked(*_: object) -> Any:
    raise OSError("asked")


METHODS: Final = ("repr", "str", "iter", "len", "bool", "index", "fspath", "hash", "eq")
Raises: Final[Any] = type("Raises", (), {"__class__": property(asked), **{f"__{name}__": asked for name in METHODS}})
"""Objects that raise whatever they are asked."""


def false(kind: type) -> object:
    """An object that says it is of a class that it is not of."""
    lies: Any = type("Lies", (), {"__class__": kind})
    return lies()


FALSE: Final = (dict, list, str, int, float, bytes, tuple, Arg, StreamArg, MountConfig, type)


class Dict(dict[str, Any]):
    def items(self) -> Any:
        raise OSError("asked")

    keys = values = __iter__ = __len__ = __getitem__ = items  # type: ignore[assignment]


class Pairs(dict[str, Any]):
    def items(self) -> Any:
        return [("a", 1, 2)]


class List(list[Any]):
    def __iter__(self) -> Any:
        raise OSError("asked")

    __len__ = __getitem__ = __bool__ = __repr__ = __iter__  # type: ignore[assignment]


class Str(str):  # noqa: SLOT000 - as programs write them
    def __len__(self) -> Any:
        raise OSError("asked")

    __iter__ = __getitem__ = __bool__ = __repr__ = __str__ = startswith = encode = isascii = __len__  # type: ignore[assignment]
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise OSError("asked")


class Int(int):
    def __index__(self) -> Any:
        raise OSError("asked")

    __int__ = __bool__ = __repr__ = __str__ = __le__ = __lt__ = bit_length = __neg__ = __index__  # type: ignore[assignment]


class Float(float):
    def __float__(self) -> Any:
        raise OSError("asked")

    __repr__ = __sub__ = __bool__ = __str__ = __float__  # type: ignore[assignment]


LIARS: Final[dict[str, Callable[[], Any]]] = {
    "raises": Raises,
    **{f"false {kind.__name__}": partial(false, kind) for kind in FALSE},
    "a dict whose items raise": lambda: Dict({"a": 1}),
    "a dict whose items are none": lambda: Pairs({"a": 1}),
    "a class with a long name": type("k" * 10_000_000, (), {}),
}
HARMLESS: Final[dict[str, tuple[Callable[[], Any], Any]]] = {
    "list": (lambda: List([1, [2]]), [1, [2]]),
    "str": (lambda: Str("text"), "text"),
    "int": (lambda: Int(7), 7),
    "float": (lambda: Float(1.5), 1.5),
    "str in dict": (lambda: {Str("key"): Str("x" * 200_000)}, {"key": "x" * 200_000}),
    "large list": (lambda: List(range(5000)), list(range(5000))),
    "beside bytes": (lambda: [b"x", List([Int(1), Float(0.5), Str("s")])], [b"x", [1, 0.5, "s"]]),
}


@pytest.mark.parametrize("name", LIARS)
@pytest.mark.parametrize("runtime", ["python", "js"])
async def test_a_class_that_lies_is_an_invalid_argument(name: str, runtime: str, templates: Templates) -> None:
    template = templates(runtime, False)
    script = "def f(*a, **k): return 1" if runtime == "python" else "function f() { return 1 }"
    async with template.create() as sandbox:
        await sandbox.load_script(script)
        given = LIARS[name]()
        large = [*range(5000), given]
        ways: list[Callable[[], Awaitable[object]]] = [
            lambda: sandbox.run("f", given),
            lambda: sandbox.run("f", [given]),
            lambda: sandbox.run("f", x={"a": given}),
            lambda: sandbox.run("f", [b"x", given]),
            lambda: sandbox.run("f", Arg(given, "x")),
            lambda: sandbox.run("f", large),
            lambda: sandbox.run(given),
            lambda: sandbox.load_script(given),
            lambda: sandbox.load_script("1", filename=given),
            lambda: sandbox.load_file(given),
        ]
        for way in ways:
            with pytest.raises(InvalidArgumentError) as caught:
                await way()
            assert len(str(caught.value)) < 1000
        with pytest.raises(InvalidArgumentError):
            StreamArg.from_async_iterable(given)
        with pytest.raises(InvalidArgumentError):
            StreamArg.from_iterable([], name=given)
        with pytest.raises(InvalidArgumentError):
            StreamArg.from_iterable([], capacity=given)
        assert await sandbox.run("f") == 1


@pytest.mark.parametrize("name", LIARS)
@pytest.mark.parametrize(
    "option",
    [*sorted(SandboxOptions.__annotations__)],
)
async def test_a_class_that_lies_is_an_invalid_option(name: str, option: str, templates: Templates) -> None:
    liar = LIARS[name]()
    values: list[Any] = [liar, {"a": liar} if option == "env" else [liar]]
    for value in values:
        options: Any = {option: value}
        with pytest.raises(InvalidArgumentError) as caught:
            await templates("python", False).instantiate(**options)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", LIARS)
async def test_a_class_that_lies_is_no_mount(name: str) -> None:
    liar = LIARS[name]()
    wrong: list[Any] = [{"host": liar, "guest": "/x"}, {"host": "/", "guest": liar}]
    for arguments in wrong:
        with pytest.raises(InvalidArgumentError):
            MountConfig(**arguments)
    with pytest.raises(InvalidArgumentError):
        MountConfig("/", "/x", liar)


@pytest.mark.parametrize("name", HARMLESS)
async def test_a_subclass_crosses_as_its_base_whatever_its_methods_do(name: str, templates: Templates) -> None:
    make, expected = HARMLESS[name]
    async with templates("python", False).create() as sandbox:
        await sandbox.load_script("def f(x): return x")
        assert await sandbox.run("f", make()) == expected


HUGE: Final[Any] = ["x"] * 3_000_000


async def test_texts_of_errors_are_short_whatever_is_wrong(templates: Templates) -> None:
    long = "k" * 10_000_000
    async with templates("python", False).create() as sandbox:
        ways: list[Callable[[], Awaitable[object]]] = [
            lambda: sandbox.run(HUGE),
            lambda: sandbox.load_script(HUGE),
            lambda: sandbox.load_file(HUGE),
            lambda: sandbox.run("f", {tuple(HUGE): 1}),
            lambda: sandbox.run("f", **{long: object()}),
            lambda: sandbox.run("f", {long: object()}),
            lambda: sandbox.run("f", Arg(1, long), Arg(2, long)),
        ]
        for way in ways:
            with pytest.raises(InvalidArgumentError) as caught:
                await way()
            assert len(str(caught.value)) < 500
    refused: list[Any] = [{"max_memory": 10**5000}, {"max_cpu": 10**5000}, {"env": {long: 1}}, {"hostcalls": {long: 1}}]
    for options in refused:
        with pytest.raises(InvalidArgumentError) as caught:
            await templates("python", False).instantiate(**options)
        assert len(str(caught.value)) < 500
    unknown: Any = {long: 1}
    with pytest.raises(TypeError) as raised:
        await templates("python", False).instantiate(**unknown)
    assert len(str(raised.value)) < 1000
