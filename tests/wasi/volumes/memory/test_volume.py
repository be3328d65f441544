"""The in-memory tree against a dictionary: whatever is done, both say the same, and so do forks and dumps."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from isola_anyio.wasi.errno import Errno
from isola_anyio.wasi.files.dump import dump_files, load_files
from isola_anyio.wasi.files.filesystem import FileSystem
from isola_anyio.wasi.volumes.memory.content import CHUNK_BYTES
from tests.wasi.client import RW, Guest, W, WasiFailure

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
OFFSETS = st.sampled_from([0, 1, 5, 100, CHUNK_BYTES - 2, CHUNK_BYTES, 3 * CHUNK_BYTES + 7])
BYTES = st.binary(min_size=1, max_size=20) | st.sampled_from([b"x" * (CHUNK_BYTES + 3)])

Path = tuple[str, ...]


class Tree(RuleBasedStateMachine):
    """``model`` maps a path to bytes (a file) or ``None`` (a directory)."""

    def __init__(self) -> None:
        super().__init__()
        self.guest = Guest()
        self.model: dict[Path, bytes | None] = {(): None}

    def teardown(self) -> None:
        self.guest.files.close()

    @staticmethod
    def wire(path: Path) -> str:
        return "/".join(("tmp", *path))

    def below(self, path: Path) -> list[Path]:
        return [other for other in self.model if other[: len(path)] == path and other != path]

    def parent_error(self, path: Path) -> Errno | None:
        for depth in range(len(path)):
            if path[:depth] not in self.model:
                return Errno.NOENT
            if self.model[path[:depth]] is not None:
                return Errno.NOTDIR
        return None

    def expect(self, errno: Errno | None, call: str, *args: object) -> None:
        try:
            getattr(self.guest, call)(*args)
        except WasiFailure as failure:
            assert failure.errno is errno, (call, args)
        else:
            assert errno is None, (call, args)

    @initialize()
    def start(self) -> None:
        self.guest.mkdir("tmp/a")
        self.model["a",] = None

    @rule(path=PATHS)
    def mkdir(self, path: Path) -> None:
        errno = self.parent_error(path) or (Errno.EXIST if path in self.model else None)
        self.expect(errno, "mkdir", self.wire(path))
        if errno is None:
            self.model[path] = None

    @rule(path=PATHS)
    def rmdir(self, path: Path) -> None:
        errno = self.parent_error(path)
        if errno is None and path not in self.model:
            errno = Errno.NOENT
        elif errno is None and self.model[path] is not None:
            errno = Errno.NOTDIR
        elif errno is None and self.below(path):
            errno = Errno.NOTEMPTY
        self.expect(errno, "rmdir", self.wire(path))
        if errno is None:
            del self.model[path]

    @rule(path=PATHS)
    def unlink(self, path: Path) -> None:
        errno = self.parent_error(path)
        if errno is None and path not in self.model:
            errno = Errno.NOENT
        elif errno is None and self.model[path] is None:
            errno = Errno.ISDIR
        self.expect(errno, "unlink", self.wire(path))
        if errno is None:
            del self.model[path]

    @rule(path=PATHS, data=BYTES)
    def write_file(self, path: Path, data: bytes) -> None:
        errno = self.parent_error(path)
        if errno is None and path in self.model and self.model[path] is None:
            errno = Errno.ISDIR
        self.expect(errno, "write_file", self.wire(path), data)
        if errno is None:
            self.model[path] = data

    @rule(path=PATHS, offset=OFFSETS, data=BYTES)
    def pwrite(self, path: Path, offset: int, data: bytes) -> None:
        old = self.model.get(path)
        if old is None:
            return
        with self.guest.opened(self.wire(path), W) as fd:
            assert self.guest.pwrite(fd, data, offset) == len(data)
        self.model[path] = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]

    @rule(path=PATHS, size=OFFSETS)
    def resize(self, path: Path, size: int) -> None:
        old = self.model.get(path)
        if old is None:
            return
        with self.guest.opened(self.wire(path), RW) as fd:
            self.guest.call("fd_filestat_set_size", fd, size)
        self.model[path] = old[:size].ljust(size, b"\0")

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: Path, new: Path) -> None:
        errno = self.rename_error(old, new)
        self.expect(errno, "rename", self.wire(old), self.wire(new))
        if errno is None and old != new:
            moved = {new + path[len(old) :]: self.model.pop(path) for path in [old, *self.below(old)]}
            self.model.update(moved)

    def rename_error(self, old: Path, new: Path) -> Errno | None:
        if errno := self.parent_error(old):
            return errno
        if old not in self.model:
            return Errno.NOENT
        if errno := self.parent_error(new):
            return errno
        if old == new:
            return None
        if self.model[old] is None:
            if new[: len(old)] == old:
                return Errno.INVAL
            if new in self.model:
                if self.model[new] is not None:
                    return Errno.NOTDIR
                if self.below(new):
                    return Errno.NOTEMPTY
        elif new in self.model and self.model[new] is None:
            return Errno.ISDIR
        return None

    @rule()
    def fork(self) -> None:
        """Go on in a fork; what the template is left with must not matter."""
        template = self.guest
        self.guest = Guest(template.files.fork())
        template.write_file("tmp/a", b"template") if self.model.get(("a",), b"") is not None else None
        template.close()

    @rule()
    def store(self) -> None:
        data = dump_files(self.guest.files)
        self.guest.close()
        files = FileSystem.base()
        load_files(files, data)
        self.guest = Guest(files)

    @invariant()
    def same(self) -> None:
        found: dict[Path, bytes | None] = {(): None}
        todo: list[Path] = [()]
        while todo:
            at = todo.pop()
            for name in self.guest.listdir(self.wire(at)):
                path = (*at, name)
                if self.guest.stat(self.wire(path)).filetype == 3:
                    found[path] = None
                    todo.append(path)
                else:
                    found[path] = self.guest.read_file(self.wire(path))
        assert found == self.model


SLOW_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
Tree.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=SLOW_CHECKS, database=None
)
TestTree = Tree.TestCase
