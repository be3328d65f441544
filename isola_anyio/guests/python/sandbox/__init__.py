"""The package `sandbox`: the errors that guest code meets at its border; the rest is in the submodules."""

from ._errors import HostcallError, StreamError

__all__ = ["HostcallError", "StreamError"]
