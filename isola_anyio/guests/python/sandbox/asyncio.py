"""Async helpers of the sandbox: `hostcall`, `run`, `subscribe`."""

from asyncio.events import get_running_loop as _get_running_loop

from . import _codec, _errors, _loop, _port

__all__ = ["hostcall", "run", "subscribe"]

_encode = _codec.encode
_EncodeError = _codec.EncodeError
_decode = _codec.decode
_operations = _port.operations


def _settle_hostcall(future, name, status, body):
    if future.cancelled():
        return
    try:
        answer = _decode(body)
    except BaseException as error:  # no room for it, most likely; other answers must not be lost with it
        future.set_exception(error)
        return
    if status == _port.OK:
        future.set_result(answer)
    else:
        future.set_exception(_errors.HostcallError(name, answer["type"], answer["message"]))


class _Immediate:
    """Stands in for a future when the answer is there before anybody could wait for it."""

    def __init__(self):
        self.value = self.error = None

    def cancelled(self):
        return False

    def set_result(self, value):
        self.value = value

    def set_exception(self, error):
        self.error = error


async def hostcall(name, payload=None):
    """Call the host's handler `name` with `payload` and return what it returns.

    Raises `sandbox.HostcallError` when the handler failed or there is none of that name, `TypeError` or `ValueError`
    when the payload cannot cross.
    """
    if not isinstance(name, str):
        raise TypeError(f"a hostcall's name is a str, not {type(name).__name__}")
    try:
        body = _port.hostcall_body(name, _encode(payload, max_bytes=_port.max_payload))
    except _EncodeError as error:
        raise error.as_builtin() from None
    loop = _get_running_loop()
    now = _Immediate()
    target = [now]
    op = _operations.ask(_port.HOSTCALL, body, lambda status, answer: _settle_hostcall(target[0], name, status, answer))
    if op is None:
        if now.error is not None:
            raise now.error
        return now.value
    target[0] = future = loop.create_future()
    try:
        return await future
    finally:
        _operations.drop(op)


def run(main):
    """Drive an awaitable to its end from plain code and return its result; an async iterable gives a generator back."""
    if hasattr(type(main), "__aiter__"):
        return _iterate(aiter(main))
    loop = _loop.PortLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        _finish(loop)


def _iterate(agen):
    loop = _loop.PortLoop()
    try:
        while True:
            try:
                item = loop.run_until_complete(agen.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        aclose = getattr(agen, "aclose", None)
        if aclose is not None:
            loop.run_until_complete(aclose())
        _finish(loop)


def _finish(loop):
    """Let what a private loop still has unwind, and close it."""
    loop.wind_up()
    loop.close()


async def subscribe(pollable):
    """Wait for a low-level pollable: any awaitable of this runtime, such as what a host operation gives back."""
    return await pollable


class StreamReader:
    """A stream argument: an async iterator, and a plain one for plain code."""

    def __init__(self, number):
        self._number = number
        self._items = []
        self._at = 0
        self._error = None
        self._ended = False
        self._asked = False
        self._pending = None

    def __aiter__(self):
        return self

    def __iter__(self):
        return self

    def _settle(self, status, body):
        try:
            if status == _port.ITEMS:
                self._items, self._at = _decode(body), 0
            elif status == _port.ENDED:
                self._ended = True
            else:
                failure = _decode(body)
                self._ended = True
                self._error = _errors.StreamError(failure["type"], failure["message"])
        except BaseException as error:  # no room for them, most likely
            self._ended, self._error = True, error
        self._asked = False
        pending = self._pending
        if pending is not None and not pending.done():
            pending.set_result(None)

    def _take(self, stop):
        """The next item, or `_NOTHING` when the host has to be asked for more; at the end, raise."""
        at = self._at
        if at < len(self._items):
            self._at = at + 1
            item, self._items[at] = self._items[at], None
            return item
        if self._ended:
            error, self._error = self._error, None
            raise stop if error is None else error
        return _NOTHING

    async def __anext__(self):
        item = self._take(StopAsyncIteration())
        while item is _NOTHING:
            if self._pending is not None:
                raise RuntimeError("two tasks read one stream at once")
            if not self._asked:
                self._asked = True
                _port.read_stream(self._number, self._settle)
            if self._asked:
                self._pending = _get_running_loop().create_future()
                try:
                    await self._pending
                finally:
                    self._pending = None
            item = self._take(StopAsyncIteration())
        return item

    def __next__(self):
        item = self._take(StopIteration())
        while item is _NOTHING:
            if not self._asked:
                self._asked = True
                _port.read_stream(self._number, self._settle)
            while self._asked:
                if not _port.wait(None):
                    raise _port.cancellation()
            item = self._take(StopIteration())
        return item

    def close(self):
        """Tell the host that no more items are wanted; its producer is cancelled."""
        if not self._ended:
            self._ended = True
            self._items = []
            _port.stop_stream(self._number)

    async def aclose(self):
        self.close()

    def __del__(self):
        try:
            self.close()
        except BaseException:
            pass


_NOTHING = object()
