"""The seam: wasmtime's C library, in the one room that touches ctypes and wasmtime-py's private names.

Everything hot goes through *prepared unchecked* calls (see ``docs/design.md``, "The seam"), everything cold through
wasmtime-py's public classes. The rules that keep it sound, each from a fault that was reproduced:

* Nothing is ever raised through a C frame. A host function's exception is kept with its instance, the C callback
  returns a trap, and the call that entered the guest raises what was kept. wasmtime-py's own trampolines, which keep
  exceptions in one process-wide slot, are not used.
* Host functions are defined once per linker and find their instance in a thread-local that is set while a guest runs.
* A store is touched by one thread at a time; one that trapped is never entered again.
* Guest pointers are unsigned 32-bit numbers and are checked by ``GuestMemory`` before any byte is touched.
* Other code may take over the signals wasmtime turns into traps (``faulthandler`` does). Before a guest is entered,
  after a handler of the program's own and after a wait, the handlers are compared with wasmtime's own and put back,
  with a warning, if somebody replaced them. Nobody sees it when another thread does that while a guest computes.
* Each guest thread has a signal stack before it enters a guest, because wasmtime ends the process if it cannot make
  one (``signal_stack.py``).
"""

from __future__ import annotations

from isola_anyio.engine.ffi.backing import READ_BYTES as READ_BYTES
from isola_anyio.engine.ffi.backing import Backing as Backing
from isola_anyio.engine.ffi.linking import Linker as Linker
from isola_anyio.engine.ffi.mapping import IMAGE_MAPPING as IMAGE_MAPPING
from isola_anyio.engine.ffi.mapping import can_map as can_map
from isola_anyio.engine.ffi.mapping import map_private as map_private
from isola_anyio.engine.ffi.programs import Code as Code
from isola_anyio.engine.ffi.programs import Engine as Engine
from isola_anyio.engine.ffi.programs import Program as Program
from isola_anyio.engine.ffi.programs import engine_fingerprint as engine_fingerprint
from isola_anyio.engine.ffi.raw import CHECKED_ON as CHECKED_ON
from isola_anyio.engine.ffi.raw import PAGE_BYTES as PAGE_BYTES
from isola_anyio.engine.ffi.raw import FuelExhausted as FuelExhausted
from isola_anyio.engine.ffi.raw import GuestTrap as GuestTrap
from isola_anyio.engine.ffi.raw import StoreInterrupted as StoreInterrupted
from isola_anyio.engine.ffi.raw import UnusableCodeError as UnusableCodeError
from isola_anyio.engine.ffi.signals import generation as generation
from isola_anyio.engine.ffi.signals import trap_handlers as trap_handlers
from isola_anyio.engine.ffi.store import Export as Export
from isola_anyio.engine.ffi.store import Store as Store
from isola_anyio.engine.ffi.store import stores as stores
from isola_anyio.fairness import Host as Host
from isola_anyio.fairness import baton as baton
from isola_anyio.fairness import note_gil_released as note_gil_released
from isola_anyio.fairness import yield_gil as yield_gil
