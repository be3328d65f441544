"""The sandbox's own package: what guest code may ask of its host."""

from ._errors import HostcallError, StreamError

__all__ = ["HostcallError", "StreamError"]
