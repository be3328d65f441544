"""Log events of the sandbox: `debug`, `info`, `warning`, `error`."""

from . import _port

__all__ = ["debug", "error", "info", "warning"]


def _text(message, args, fields):
    if not isinstance(message, str):
        message = str(message)
    if args:
        # Without a brace `str.format` would drop the arguments in silence.
        message = message.format(*args) if "{" in message else message % args
    shown = [f"{name}={(value() if callable(value) else value)!r}" for name, value in fields.items()]
    return " ".join([message, *shown])


def debug(message, /, *args, **fields):
    """Send a log event of level "debug".

    Arguments by position are put into the message's `{}`, as `str.format` does, or into its `%s`. Those by name are
    fields, which follow the message as `name=value`; one that is callable is called for its value.
    """
    _port.log(_port.current_run, 0, _text(message, args, fields))


def info(message, /, *args, **fields):
    """Send a log event of level "info"."""
    _port.log(_port.current_run, 1, _text(message, args, fields))


def warning(message, /, *args, **fields):
    """Send a log event of level "warning"."""
    _port.log(_port.current_run, 2, _text(message, args, fields))


def error(message, /, *args, **fields):
    """Send a log event of level "error"."""
    _port.log(_port.current_run, 3, _text(message, args, fields))
