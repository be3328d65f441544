"""Texts and numbers that a guest writes: none of them commands the host's terminals, or sizes the host's memory."""

from __future__ import annotations

import json
import traceback
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from isola_anyio import ErrorEvent, GuestError, IsolaError, PayloadLimitError, build_template
from tests.hostile.attack import MIB
from tests.hostile.watch import resident_bytes, watching
from tests.loops import ONE_LOOP

if TYPE_CHECKING:
    from collections.abc import Callable

    from isola_anyio import SandboxTemplate

    Templates = Callable[[str, bool], SandboxTemplate]

EVIL = "\\x1b]0;owned\\x07\\x1b[2J\\r\\x9b5m\\x7f\\u202e\\ud800"
"""A title, a cleared screen, a C1 control, an override and half a character, as both languages write them."""
FORBIDDEN = set("\x1b\x07\r\x9b\x7f\0\u202e\u2066")

PYTHON = dedent(f"""
    import _host
    from sandbox import _port

    E = '{EVIL}'
    CALLED = type('Class' + E.replace('\\ud800', ''), (Exception,), {{}})

    def message():
        raise ValueError(E)

    def name_of_a_class():
        raise CALLED('m')

    def notes():
        error = ValueError('m')
        error.add_note(E)
        raise error

    def group():
        raise ExceptionGroup(E, [ValueError(E)])

    def cause():
        try:
            message()
        except ValueError as error:
            raise KeyError(E) from error

    def source():
        exec(compile('raise ValueError()  #' + E.replace('\\r', '').replace('\\ud800', ''), '<' + E + '>', 'exec'))

    def system_exit():
        raise SystemExit(E)

    def key_of_a_result():
        return {{E: {{1}}}}

    def too_large():
        class Large(str):
            pass
        return {{E: 'x' * (2 << 20)}}

    def frame():
        fail(type='T\\\\ud800\\\\u001b', message='m\\\\ud800\\\\u001b[2J', traceback='t\\\\udfff\\\\u0007')

    def limit_of_memory():
        fail(type='T\\\\ud800\\\\u001b', message='m\\\\ud800\\\\u001b[2J', limit='memory')

    def limit_of_payload():
        fail(type='T', message='m\\\\ud800\\\\u001b[2J', limit='payload')

    def unreadable():
        say(0x13, b'{{"\\u001b[2J\\ud800": {{"$\\u001b": 1}}, 1}}')

    def fail(**fields):
        say(0x14, ('{{' + ', '.join(f'"{{key}}": "{{text}}"' for key, text in fields.items()) + '}}').encode())

    def say(kind, body):
        _port.done = _port.fail = lambda *rest: None  # what the guest says itself is no more heard
        _host.call(bytes((kind,)) + _port.current_run.to_bytes(4, 'little') + body)
""")
JS = dedent(f"""
    const E = '{EVIL}';
    function named(name, message = 'm') {{ const error = new Error(message); error.name = name; return error }}
    function message() {{ throw new Error(E) }}
    function name_of_an_error() {{ throw named(E) }}
    function name_of_a_class() {{ class C extends Error {{}}; Object.defineProperty(C, 'name', {{ value: E }}); throw new C('m') }}
    function cause() {{ throw new Error(E, {{ cause: named(E, E) }}) }}
    function aggregate() {{ throw new AggregateError([new Error(E)], E) }}
    function thrown_text() {{ throw E }}
    function thrown_object() {{ throw {{ [E]: E, message: E }} }}
    function stack() {{ const error = new Error('m'); error.stack = '    at ' + E + ' (<s>:1:1)'; throw error }}
    function key_of_a_result() {{ return {{ [E]: () => 1 }} }}
    async function rejected() {{ await null; throw named(E, E) }}
""")
NAMES = {"python": PYTHON.split("\ndef ")[1:-2], "js": JS.split("function ")[2:]}
CASES = [(kind, text.partition("(")[0]) for kind, texts in NAMES.items() for text in texts]


def assert_fit(error: BaseException) -> None:
    """What people see of an exception can be encoded, and commands no terminal."""
    for text in (str(error), repr(error), "".join(traceback.format_exception(error))):
        text.encode()
        assert not FORBIDDEN & set(text), text


@pytest.mark.parametrize(("kind", "name"), CASES)
async def test_an_error_says_nothing_that_a_terminal_obeys(templates: Templates, kind: str, name: str) -> None:
    async with templates(kind, False).create(max_payload=MIB) as sandbox:
        await sandbox.load_script(PYTHON if kind == "python" else JS)
        with pytest.raises(IsolaError) as caught:
            await sandbox.run(name)
    assert isinstance(caught.value, (GuestError, PayloadLimitError)), caught.value
    assert_fit(caught.value)


@pytest.mark.parametrize("kind", ["python", "js"])
async def test_an_error_event_and_its_exception_are_fit_to_be_shown(templates: Templates, kind: str) -> None:
    async with templates(kind, False).create() as sandbox:
        await sandbox.load_script(PYTHON if kind == "python" else JS)
        async with sandbox.run_stream("cause") as events:
            last = [event async for event in events][-1]
    assert isinstance(last, ErrorEvent)
    last.data.encode()
    assert not FORBIDDEN & set(last.data)
    assert_fit(last.exception)


@ONE_LOOP
@pytest.mark.parametrize("kind", ["python", "js"])
async def test_a_script_that_does_not_compile_cannot_command_the_terminal_either(
    templates: Templates, kind: str
) -> None:
    evil = json.loads(f'"{EVIL}"'.replace("\\x", "\\u00"))
    async with templates(kind, False).create() as sandbox:
        for code in (f"let x = '{evil}", f"{evil}", f"import '{evil}'", f"#{evil}\n)"):
            with pytest.raises(IsolaError) as caught:
                await sandbox.load_script(code, filename=f"<{evil}>")
            assert_fit(caught.value)


@ONE_LOOP
@pytest.mark.parametrize(
    ("kind", "prelude"),
    [("python", f"raise ValueError('{EVIL}')"), ("js", f"throw new Error('{EVIL}')")],
)
async def test_an_error_of_the_prelude_is_fit_to_be_shown(kind: str, prelude: str) -> None:
    with pytest.raises(GuestError) as caught:
        await build_template(kind, prelude=prelude)
    assert_fit(caught.value)


async def test_output_is_data_and_arrives_as_it_was_written(templates: Templates) -> None:
    async with templates("python", False).create() as sandbox:
        await sandbox.load_script("def f():\n    print('\\x1b[2J\\x9b\\r\\x00', end='')\n    return '\\ud800\\x1b'")
        async with sandbox.run_stream("f") as events:
            shown = [event.data async for event in events]
    assert shown == ["\x1b[2J\x9b\r\0", "\ud800\x1b"]


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["400000000", "999999999", "9" * 30, "9" * 5000, "0", "-1", "1_000", "٣"])
@pytest.mark.parametrize(
    "code",
    ["let x = 1;\n" * 250_000 + "let y = = 2;", "let x: number = 1;\n" * 3 + "let y = = 2;", "let x = = 1"],
    ids=["too long for TypeScript", "TypeScript", "JavaScript"],
)
async def test_a_forged_line_of_a_syntax_error_sizes_nothing(templates: Templates, line: str, code: str) -> None:
    """The line of a trace is the guest's text; the host made as many newlines of it, 400 MB of them."""
    template = templates("js", False)
    async with template.create() as neighbour, template.create() as sandbox:
        await neighbour.load_script("function ping(x) { return x }")
        await sandbox.load_script(f"Error.prepareStackTrace = () => ' at <x> (y:{line}:1)\\n y:{line}:1'")
        before = resident_bytes()
        async with watching(neighbour) as watch:
            with pytest.raises(GuestError) as caught:
                await sandbox.load_script(code)
        assert caught.value.type == "SyntaxError"
        assert watch.peak_rss - before < 100 * MIB
        await sandbox.load_script("function ping(x) { return x }")
        assert await sandbox.run("ping", 7) == 7
