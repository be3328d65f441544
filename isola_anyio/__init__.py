"""Run untrusted Python and JavaScript in sandboxes that live in your trio or asyncio program.

    template = await build_template("python", prelude="import json")
    async with template.create(hostcalls={"lookup": lookup}) as sandbox:
        await sandbox.load_script("def add(a, b): return a + b")
        await sandbox.run("add", 1, 2)

Start at :func:`build_template`; ``docs/`` has the guide. What is imported here is public, and ``isola_anyio.testing``
is; nothing else is.
"""

# The modules and packages, from the top down: imports go down this list, and to the right in a line, and never back.
# tests/test_layering.py reads the list here and follows every import.
#
#   cli                         the command line, the demo and the doctor
#   testing                     hypothesis strategies for what users send
#   template, building          contexts and templates; how a template is made
#   sandbox                     life cycle of one sandbox
#   run                         one run of a guest: its queue, its task, its turns, its services
#   snapshot, machine           a memory image with its files; one forked guest
#   events                      what a run says while it goes on
#   values                      arguments of guest functions
#   options                     what may be asked of a template and a sandbox, checked
#   mounts, limits              what a sandbox may see and use
#   disposal                    large values that nobody wants any more
#   guests                      one driver for each kind of guest, and the guests' own files
#   codec                       values and their bytes
#   runtimes, cache             which runtime is used; files that are kept
#   engine                      threads, images, instances; ffi is the one seam to wasmtime
#   wasi                        the guest's operating system
#   concurrency, construction, errors, clipping, kinds, printable, fairness

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from isola_anyio.cache import DEFAULT_CACHE_DIR as DEFAULT_CACHE_DIR
from isola_anyio.cli.doctor import DoctorCheck as DoctorCheck
from isola_anyio.cli.doctor import DoctorReport as DoctorReport
from isola_anyio.cli.doctor import doctor as doctor
from isola_anyio.errors import CpuLimitError as CpuLimitError
from isola_anyio.errors import DigestMismatchError as DigestMismatchError
from isola_anyio.errors import FuelExhaustedError as FuelExhaustedError
from isola_anyio.errors import GuestError as GuestError
from isola_anyio.errors import InternalError as InternalError
from isola_anyio.errors import InvalidArgumentError as InvalidArgumentError
from isola_anyio.errors import IsolaError as IsolaError
from isola_anyio.errors import LimitError as LimitError
from isola_anyio.errors import MemoryLimitError as MemoryLimitError
from isola_anyio.errors import OutputLimitError as OutputLimitError
from isola_anyio.errors import PayloadLimitError as PayloadLimitError
from isola_anyio.errors import RuntimeUnavailableError as RuntimeUnavailableError
from isola_anyio.errors import SandboxBrokenError as SandboxBrokenError
from isola_anyio.errors import SandboxBusyError as SandboxBusyError
from isola_anyio.errors import SandboxClosedError as SandboxClosedError
from isola_anyio.errors import StreamClosedError as StreamClosedError
from isola_anyio.errors import StreamFullError as StreamFullError
from isola_anyio.events import EndEvent as EndEvent
from isola_anyio.events import ErrorEvent as ErrorEvent
from isola_anyio.events import Event as Event
from isola_anyio.events import EventStream as EventStream
from isola_anyio.events import LogEvent as LogEvent
from isola_anyio.events import LogLevel as LogLevel
from isola_anyio.events import ResultEvent as ResultEvent
from isola_anyio.events import StderrEvent as StderrEvent
from isola_anyio.events import StdoutEvent as StdoutEvent
from isola_anyio.limits import Usage as Usage
from isola_anyio.mounts import MemoryMount as MemoryMount
from isola_anyio.mounts import MountConfig as MountConfig
from isola_anyio.options import Handlers as Handlers
from isola_anyio.options import SandboxOptions as SandboxOptions
from isola_anyio.options import TemplateOptions as TemplateOptions
from isola_anyio.runtimes.progress import Progress as Progress
from isola_anyio.runtimes.resolve import RuntimeBundle as RuntimeBundle
from isola_anyio.runtimes.resolve import resolve_runtime as resolve_runtime
from isola_anyio.sandbox import Sandbox as Sandbox
from isola_anyio.template import SandboxContext as SandboxContext
from isola_anyio.template import SandboxTemplate as SandboxTemplate
from isola_anyio.template import build_template as build_template
from isola_anyio.values import Arg as Arg
from isola_anyio.values import JsonValue as JsonValue
from isola_anyio.values import StreamArg as StreamArg
from isola_anyio.wasi.volumes.memory.view import MountView as MountView

try:
    __version__ = version("isola-anyio")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0+unknown"
