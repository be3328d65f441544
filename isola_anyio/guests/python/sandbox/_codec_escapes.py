"""Escapes: the copy of a value that says in JSON what JSON has no word for.

In the copy, a dict whose only key is the *reserved key* stands for something else: bytes, a typed buffer, a long int, a
str whose surrogates JSON would merge. ``docs/values.md`` lists the escapes. Making the copy is also how an error
learns where in the value it is.
"""

import re

from . import _codec_buffers as _buffers
from ._codec_errors import EncodeError, EncodeTypeError, format_path, remedy, type_name
from ._codec_frames import SEGMENT_KEYS

__all__ = ["MAX_DEPTH", "rewrite", "surrogate_pair"]

MAX_DEPTH = 500
MAX_INT_BITS = 2125
"""Ints up to here have at most 640 digits, the least that ``sys.set_int_max_str_digits`` can be set to."""
INLINE_HEX_BITS = 4 * 8192
"""Longer ints are segments."""

_KEY = "$"

surrogate_pair = re.compile("[\ud800-\udbff][\udc00-\udfff]").search
"""Finds two surrogates that JSON would read back as the one character they stand for in UTF-16."""


class _KeyTaken(Exception):
    """A dict of the value has a key that starts with the reserved one."""


def rewrite(value, root):
    """Return the copy of ``value`` that JSON can say, and the rewriter that holds its escapes' segments."""
    key = _KEY
    while True:
        rewriter = _Rewriter(key, root)
        try:
            return rewriter.rewrite(value), rewriter
        except _KeyTaken:
            key = _free_key(value)


def _free_key(value):
    """Return a reserved key that no key in ``value`` starts with."""
    taken = set()
    seen = set()
    left = [value]
    while left:
        found = left.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, dict):
            taken.update(key[1:].partition(_KEY)[0] for key in found if isinstance(key, str) and key.startswith(_KEY))
            left.extend(found.values())
        elif isinstance(found, (list, tuple)):
            left.extend(found)
    number = 0
    while str(number) in taken:
        number += 1
    return f"{_KEY}{number}{_KEY}"


class _Rewriter:
    """Copies a value with escapes in it for what JSON cannot say."""

    def __init__(self, key, root):
        self.key = key
        self.root = root
        self.flags = 0
        self.escapes = 0
        self.segments = []
        self._open = []  # [source, items, copy, step] of each list and dict that is being copied

    def rewrite(self, value):
        out = []
        # The outermost frame holds the value itself and is no part of any path.
        stack = self._open = [[None, iter([(0, value)]), out, 0]]
        open_ids = set()
        while stack:
            top = stack[-1]
            copy = top[2]
            for step, item in top[1]:
                top[3] = step
                if isinstance(item, str):
                    new = item if surrogate_pair(item) is None else self._escape(self._str(item))
                elif isinstance(item, (dict, list, tuple)):
                    if id(item) in open_ids:
                        raise self._error("the value contains itself; break the cycle")
                    if len(stack) > MAX_DEPTH:
                        raise self._error(f"nested deeper than {MAX_DEPTH} levels; flatten it")
                    open_ids.add(id(item))
                    is_dict = isinstance(item, dict)
                    new = {} if is_dict else []
                    stack.append([item, self._dict_items(item) if is_dict else enumerate(item), new, 0])
                else:
                    new = self._scalar(item)
                if type(copy) is list:
                    copy.append(new)
                else:
                    copy[step] = new
                if stack[-1] is not top:
                    break
            else:
                stack.pop()
                open_ids.discard(id(top[0]))
        return out[0]

    def _dict_items(self, source):
        for key, item in source.items():
            if not isinstance(key, str):
                self._open.pop()  # the dict is at fault, not what is in it
                reason = f"the key {_shown(key)} is of type {type_name(key)}; keys must be str"
                raise self._error(reason, EncodeTypeError)
            if key.startswith(self.key):
                raise _KeyTaken
            if surrogate_pair(key) is not None:
                self.flags |= SEGMENT_KEYS
                self.escapes += 1
                yield self.key + self._str(key), item
            else:
                yield key, item

    def _scalar(self, item):
        if item is None or isinstance(item, (bool, float)):
            return item
        if isinstance(item, int):
            if item.bit_length() <= MAX_INT_BITS:
                return item
            number = int.__index__(item)
            if number.bit_length() <= INLINE_HEX_BITS:
                return self._escape(f"i{number:x}")
            data = abs(number).to_bytes((number.bit_length() + 7) // 8, "little")
            return self._escape(self._segment("J" if number < 0 else "I", data))
        if isinstance(item, (bytes, bytearray)):
            return self._escape(self._segment("b", item))
        number = _buffers.number(item)
        if number is not None:
            return number
        try:
            found = _buffers.describe(item)
        except _buffers.Unsupported as exc:
            raise self._error(f"{_buffer_name(item)} is not a value that can cross; {exc}", EncodeTypeError) from None
        if found is None:
            raise self._error(f"{type_name(item)} is not a value that can cross; {remedy(item)}", EncodeTypeError)
        name, shape, data = found
        if isinstance(item, memoryview) and name == "u1" and len(shape) == 1:
            return self._escape(self._segment("b", data))
        return self._escape(f"{self._segment('t', data)}:{name}:{','.join(map(str, shape))}")

    def _str(self, item):
        return self._segment("s", item.encode("utf-8", "surrogatepass"))

    def _segment(self, code, data):
        self.segments.append(data)
        return f"{code}{len(self.segments) - 1}"

    def _escape(self, payload):
        self.escapes += 1
        return {self.key: payload}

    def _error(self, reason, kind=EncodeError):
        return kind(format_path(self.root, [level[3] for level in self._open[1:]]), reason)


def _shown(key):
    try:
        return repr(key)[:40]
    except Exception:
        return "?"


def _buffer_name(item):
    dtype = getattr(item, "dtype", None)
    return type_name(item) if dtype is None or not hasattr(item, "__len__") else f"{type_name(item)} of {dtype}"
