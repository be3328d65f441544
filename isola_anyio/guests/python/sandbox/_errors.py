"""Errors of hostcalls and streams, as guest code sees them."""


class HostcallError(Exception):
    """A hostcall failed: `name` of the call, the host exception's `type` and its `message`."""

    __module__ = "sandbox"  # where guest code finds it; tracebacks say so

    def __init__(self, name, type, message):
        super().__init__(f"{name}: {type}: {message}" if message else f"{name}: {type}")
        self.name = name
        self.type = type
        self.message = message


class StreamError(Exception):
    """The producer of a stream argument failed: its `type` and its `message`."""

    __module__ = "sandbox"

    def __init__(self, type, message):
        super().__init__(f"{type}: {message}" if message else type)
        self.type = type
        self.message = message
