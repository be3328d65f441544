"""Which kinds of guests are there? Their drivers, made on first use."""

from __future__ import annotations

__all__ = ["drivers"]

from functools import cache
from typing import TYPE_CHECKING

from isola_anyio.guests.js.driver import JsDriver
from isola_anyio.guests.python.driver import PythonDriver

if TYPE_CHECKING:
    from isola_anyio.guests import Driver


@cache
def drivers() -> dict[str, Driver]:
    """Return the drivers by the runtime's name."""
    return {"python": PythonDriver(), "js": JsDriver()}
