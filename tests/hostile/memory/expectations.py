"""Expectations: how an attack on memory ends."""

from __future__ import annotations

from isola_anyio import GuestError, MemoryLimitError
from tests.hostile.attack import raises

out_of_memory = raises(MemoryLimitError, usable=True)
refused = raises(GuestError, usable=True)
