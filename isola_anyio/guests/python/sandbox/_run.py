"""Run: one message's work in this guest, from its first turn to its last.

The outermost function of a run is plain, `async`, a generator or an async generator. Async ones are a task of the
loop. A plain generator is advanced here, one item a step, and is not advanced while the consumer has no room. When the
outermost function is done, the tasks it left are cancelled before the result is sent.
"""

import asyncio
import linecache
import sys
import types
import weakref
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT as _TOP_LEVEL_AWAIT

from . import _codec, _failures, _loop, _pep723, _port
from . import asyncio as sandbox_asyncio

_encode = _codec.encode
_describe = _failures.describe
_report = _failures.report
_CancelledError = asyncio.CancelledError
_current_task = asyncio.current_task
_compile = compile
_operations = _port.operations

GRACE_S = 0.9
"""How long the tasks that a finished run left may take to unwind; shorter than the host's own grace."""
_CO_COROUTINE = 0x80 | 0x200
_MISSING = object()
_PLAIN_RESULTS = frozenset((type(None), bool, int, float, str, list, dict, tuple, bytes))

main_module = sys.modules["__main__"]  # kept, so that a script which drops it from `sys.modules` keeps its names
user_names = main_module.__dict__
"""The globals of guest code."""


class Run:
    """One message's work, from its first turn to its last."""

    def __init__(self, number):
        self.number = number
        self.loop = loop
        self.task = None
        self.generator = None
        self.streams = []
        self.outcome = None
        self.delivered_to = _MISSING  # the task that a reply inside a turn has delivered the cancellation to
        self.cancelled = False
        self.deadlocked = False
        self.leave_by = None

    # --- starting

    def call(self, name, args, kwargs, streams):
        function = user_names.get(name, _MISSING)
        if function is _MISSING:
            raise NameError(f"name {name!r} is not defined", name=name)
        for where, number in streams:
            reader = sandbox_asyncio.StreamReader(number)
            self.streams.append(reader)
            if isinstance(where, int):
                args.insert(where, reader)
            else:
                kwargs[where] = reader
        return function(*args, **kwargs)

    def load(self, code, filename):
        _pep723.check(code)
        lines = code.splitlines(keepends=True)
        linecache.cache[filename] = (len(code), None, lines, filename)
        compiled = _compile(code, filename, "exec", _TOP_LEVEL_AWAIT, True)
        if compiled.co_flags & _CO_COROUTINE:
            return types.FunctionType(compiled, user_names)()
        exec(compiled, user_names)
        return None

    def load_file(self, path):
        with open(path, "rb") as file:
            raw = file.read()
        import importlib.util

        before = user_names.get("__file__", _MISSING)
        user_names["__file__"] = path
        coroutine = None
        try:
            coroutine = self.load(importlib.util.decode_source(raw), path)
        finally:
            if coroutine is None:
                _restore_file(before)
        return coroutine and self._loading(coroutine, before)

    async def _loading(self, coroutine, before):
        try:
            await coroutine
        finally:
            _restore_file(before)

    def start(self, work, *args):
        """Call `work` and decide by the type of its result: a value, an awaitable, or something to stream."""
        result = work(*args)
        kind = type(result)
        if kind in _PLAIN_RESULTS:
            self.outcome = (True, result)
        elif kind is types.CoroutineType or hasattr(kind, "__await__"):
            self._run_task(self._awaited(result))
        elif hasattr(kind, "__aiter__"):
            self._run_task(self._stream(result))
        else:
            self.generator = _plain_iterator(result)
            if self.generator is None:
                self.outcome = (True, result)

    async def _awaited(self, awaitable):
        """Await the result of an async function; an iterator that it returns is streamed, as a plain function's is."""
        result = await awaitable
        kind = type(result)
        if kind not in _PLAIN_RESULTS:
            if hasattr(kind, "__aiter__"):
                return await self._stream(result)
            iterator = _plain_iterator(result)
            if iterator is not None:
                return await self._stream_plain(iterator)
        return result

    def _run_task(self, coroutine):
        self.task = self.loop.create_task(coroutine)
        self.task._log_destroy_pending = False

    async def _stream(self, iterable):
        """Emit the items of an async iterable."""
        emit = _port.emit
        iterator = aiter(iterable)
        try:
            async for item in iterator:
                if not emit(self.number, _encode(item, max_bytes=_port.max_payload)):
                    try:
                        await self._room()
                    except _CancelledError as error:  # the iterator sees it too, where it stands
                        athrow = getattr(iterator, "athrow", None)
                        if athrow is not None:
                            try:
                                await athrow(error)
                            except StopAsyncIteration:
                                pass
                        raise
        finally:
            aclose = getattr(iterator, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _stream_plain(self, iterator):
        """Emit the items of a plain iterator that an async function returned."""
        emit = _port.emit
        try:
            while True:
                try:
                    item = next(iterator)
                except StopIteration as stop:
                    return stop.value
                if not emit(self.number, _encode(item, max_bytes=_port.max_payload)):
                    try:
                        await self._room()
                    except _CancelledError as error:
                        throw = getattr(iterator, "throw", None)
                        if throw is not None:
                            try:
                                throw(error)
                            except StopIteration:
                                pass
                        raise
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    async def _room(self):
        self.room = self.loop.create_future()
        try:
            await self.room
        finally:
            self.room = None

    room = None

    # --- going on

    def step(self):
        """Run until everything waits or the run has ended; sends the one frame that ends the turn."""
        if self.outcome is None:
            if self.generator is not None:
                self._advance_generator()
                if self.outcome is None:
                    _port.park(self.number, None, True)
                    return
            else:
                delay = self.loop.pump(self.task)
                if delay is None and not self._moves():
                    self.deadlocked = True
                    self.task.cancel()
                    delay = self.loop.pump(self.task)
                if not self.task.done() and self._moves(delay):
                    _port.park(self.number, delay, self.room is not None)
                    return
                self._take_task()
        self._leave()

    def _moves(self, delay=None):
        """Whether the run can go on: by a timer, a completion, room for events, or because its task has ended."""
        return delay is not None or _operations.waiting or self.room is not None or self.task.done()

    def _advance_generator(self):
        advance, emit, number, limit = self.generator.__next__, _port.emit, self.number, _port.max_payload
        try:
            while emit(number, _encode(advance(), max_bytes=limit)):
                pass
        except StopIteration as stop:
            self.generator, self.outcome = None, (True, stop.value)
        except BaseException as error:
            generator, self.generator = self.generator, None
            self.outcome = (False, error)
            close = getattr(generator, "close", None)
            if close is not None:
                try:
                    close()
                except BaseException as second:
                    _report("a generator failed while it was being closed", second)

    def _take_task(self):
        task, self.task = self.task, None
        if not task.done():
            self.outcome = (False, RuntimeError(_loop.DEADLOCK))
        elif task.cancelled():
            try:
                task.result()
            except _CancelledError as error:
                self.outcome = (False, error)
            if self.deadlocked:
                deadlock = RuntimeError(_loop.DEADLOCK)
                deadlock.__cause__ = self.outcome[1]  # shows where it waited
                self.outcome = (False, deadlock)
        else:
            error = task.exception()
            self.outcome = (True, task.result()) if error is None else (False, error)

    def cancel(self):
        """Deliver the host's cancellation, so that the run unwinds."""
        self.cancelled = True
        if self.outcome is not None:
            return
        if self.task is not None:
            if self.delivered_to is not self.task:  # a second one would interrupt its unwinding
                self.task.cancel()
            return
        generator, self.generator = self.generator, None
        self.outcome = (False, _CancelledError())
        try:
            if hasattr(generator, "throw"):
                generator.throw(self.outcome[1])
        except StopIteration:
            pass
        except BaseException as error:
            self.outcome = (False, error)
        try:
            if hasattr(generator, "close"):
                generator.close()
        except BaseException as error:
            self.outcome = (False, error)

    # --- ending

    def _leave(self):
        """Cancel the tasks that are left, close generators, then report; parks meanwhile, for `GRACE_S` at most."""
        loop = self.loop
        while (tasks := loop.tasks()) or loop.has_generators():
            now = loop.time()
            if self.leave_by is None:
                self.leave_by = now + GRACE_S
                loop.cancel_tasks()
            elif now >= self.leave_by:
                break
            if not tasks:  # not before: a task that unwinds may be suspended inside of a generator
                loop.create_task(loop.end_generators())
            delay = loop.pump()
            if loop.tasks():
                if delay is None and not _operations.waiting:
                    break
                left = self.leave_by - now
                _port.park(self.number, left if delay is None else min(left, delay), False)
                return
        self.finish()

    def finish(self):
        for reader in self.streams:
            reader.close()
        self.loop.given_up.update(self.loop.tasks())
        self.loop.clear()
        _operations.abandon()
        self.loop.show_reports()
        global current
        current = None
        ok, value = self.outcome
        if ok:
            try:
                frame = _encode(value, max_bytes=_port.max_payload)
            except BaseException as error:
                ok, value = False, error
        if ok:
            _port.done(self.number, frame)
        elif self.cancelled:
            _port.fail(self.number, _failures.CANCELLED)  # nobody reads it; formatting a traceback takes a millisecond
        else:
            _port.fail(self.number, _describe(value))


def _plain_iterator(value):
    """-> an iterator of the items to stream, None if `value` crosses as a whole.

    What has a length is a collection: one that cannot cross is an error, not a stream of its keys or columns.
    """
    kind = type(value)
    if hasattr(kind, "__next__"):
        return value
    if kind is range or (hasattr(kind, "__iter__") and not hasattr(kind, "__len__")):
        return iter(value)
    return None


def _restore_file(before):
    if before is _MISSING:
        user_names.pop("__file__", None)
    else:
        user_names["__file__"] = before


class MainLoop(_loop.PortLoop):
    """The loop of the outermost functions; one a sandbox."""

    def __init__(self):
        super().__init__()
        self.given_up = weakref.WeakSet()
        """Tasks that did not end when their run did; nothing waits for them again."""

    def tasks(self):
        return super().tasks() - set(self.given_up)

    def clear(self):
        """Drop every scheduled callback: the run that scheduled it is over."""
        self._ready.clear()
        self._dropped.clear()
        self._scheduled.clear()
        self._timer_cancelled_count = 0

    def show_reports(self):
        reports, self.reports = self.reports, []
        for context in reports:
            _report(context.get("message", "unhandled exception in the event loop"), context.get("exception"))


loop = MainLoop()
current = None
"""The run that has not ended yet; there is at most one."""


def cancellation():
    """Make the exception for code that a reply delivers the run's cancellation to, and note its task."""
    if current is not None:
        current.delivered_to = _current_task(loop) or loop.blocked_task
        current.cancelled = True
    return _CancelledError()


_port.cancellation = cancellation
