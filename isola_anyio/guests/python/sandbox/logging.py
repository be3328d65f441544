"""Log events of the sandbox: `debug`, `info`, `warning`, `error`."""

from . import _port

__all__ = ["debug", "error", "info", "warning"]


def _text(message, args):
    if not isinstance(message, str):
        message = str(message)
    return message % args if args else message


def debug(message, *args):
    """Send a log event of level "debug"; `%`-arguments as in the standard library's logging."""
    _port.log(_port.current_run, 0, _text(message, args))


def info(message, *args):
    """Send a log event of level "info"."""
    _port.log(_port.current_run, 1, _text(message, args))


def warning(message, *args):
    """Send a log event of level "warning"."""
    _port.log(_port.current_run, 2, _text(message, args))


def error(message, *args):
    """Send a log event of level "error"."""
    _port.log(_port.current_run, 3, _text(message, args))
