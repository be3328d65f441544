"""Which event loops a test runs on: both, unless it says that they cannot matter.

An event loop matters where a test cancels, times, streams, or waits for a handler. It does not matter for what a guest
finds in its own world (its asyncio, its tracebacks, its values); such tests run on one.
"""

from __future__ import annotations

import pytest

ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["trio"])
"""What is tested is on the guest's side, or before any loop is asked for anything."""
