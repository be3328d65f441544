"""Budgets: more descriptors, names, bytes and levels than there are."""

from __future__ import annotations

from isola_anyio import GuestError
from isola_anyio.wasi.volumes.budgets import FileLimits
from tests.hostile.attack import MIB, either, gives, holds, python, raises, survives

MAX_OPEN = FileLimits().max_open_files

ATTACKS = [
    python(
        "more descriptors than there are",
        """
        import os, errno
        def attack():
            opened, error = [], None
            for _ in range(5000):
                try:
                    opened.append(os.open("/data/hello.txt", os.O_RDONLY))
                except OSError as exc:
                    error = exc.errno
                    break
            count = len(opened)
            for fd in opened:
                os.close(fd)
            return [count, error == errno.EMFILE, open("/data/hello.txt").read()]
        """,
        holds(lambda value: value[0] <= MAX_OPEN and value[1:] == [True, "hello"], usable=True),
        mounts="ro",
    ),
    python(
        "descriptors left open",
        """
        import os
        def attack():
            return len([os.open("/disk/hello.txt", os.O_RDWR) for _ in range(100)])
        """,
        gives(100),
        mounts="rw",
    ),
    python(
        "closing what the guest stands on",
        """
        import os
        def attack():
            for fd in range(0, 50):
                try:
                    os.close(fd)
                except OSError:
                    pass
            try:
                open("/data/hello.txt")
            except OSError:
                return "closed"
        """,
        survives,
        mounts="ro",
    ),
    python(
        "filling memory by way of /tmp",
        """
        import os
        def attack():
            total = 0
            try:
                for number in range(10000):
                    with open(f"/tmp/{number}", "wb") as file:
                        for _ in range(64):
                            total += file.write(b"x" * 65536)
            except (OSError, MemoryError):
                pass
            return total
        """,
        holds(lambda total: total < 128 * MIB, usable=True),
        max_grown_bytes=300 * MIB,
    ),
    python(
        "files without end",
        """
        import os
        def attack():
            made = 0
            try:
                while True:
                    os.close(os.open(f"/tmp/{made}", os.O_CREAT | os.O_WRONLY))
                    made += 1
            except OSError:
                return made
        """,
        holds(lambda made: made <= FileLimits().max_entries, usable=True),
        max_grown_bytes=300 * MIB,
    ),
    python(
        "names without end, by hard links",
        """
        import os
        def attack():
            made = 0
            open("/tmp/first", "w").close()
            try:
                while True:
                    os.link("/tmp/first", f"/tmp/{made:0250d}")
                    made += 1
            except OSError:
                return made
        """,
        holds(lambda made: made <= FileLimits().max_entries, usable=True),
        max_grown_bytes=300 * MIB,
    ),
    python(
        "a file of exabytes",
        """
        import os
        def attack():
            errors = 0
            with open("/tmp/huge", "wb") as file:
                for size in (1 << 40, 1 << 62, (1 << 63) - 1):
                    try:
                        os.ftruncate(file.fileno(), size)
                    except OSError:
                        errors += 1
                for offset in (1 << 62, (1 << 63) - 2):
                    try:
                        os.pwrite(file.fileno(), b"x", offset)
                        file.seek(offset)
                        file.write(b"y")
                        file.flush()
                    except OSError:
                        errors += 1
            with open("/tmp/huge", "rb") as file:
                file.seek(1 << 61)
                return len(file.read(1000))
        """,
        survives,
    ),
    python(
        "reading a sparse file of exabytes at once",
        """
        def attack():
            with open("/tmp/huge", "wb") as file:
                file.truncate(1 << 50)
            open("/tmp/huge", "rb").read()
        """,
        either(raises(GuestError, "MemoryError", "OverflowError"), raises(GuestError)),
    ),
    python(
        "one byte in each block",
        """
        import os
        def attack():
            fd = os.open("/tmp/holes", os.O_CREAT | os.O_WRONLY)
            count = 0
            try:
                for at in range(65535, 1 << 40, 65536):
                    os.pwrite(fd, b"x", at)
                    count += 1
            except OSError:
                return count
        """,
        holds(lambda count: count < 2200, usable=True),
        max_grown_bytes=300 * MIB,
    ),
    python(
        "directories deeper than any stack",
        """
        import os
        def attack():
            os.chdir("/tmp")
            fd = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY)
            depth = 0
            try:
                for depth in range(20000):
                    os.mkdir("d", dir_fd=fd)
                    inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
                    os.close(fd)
                    fd = inner
            except (OSError, NotImplementedError):
                pass
            return depth
        """,
        survives,
    ),
    python(
        "directories moved into each other",
        """
        import os
        def attack():
            os.mkdir("/tmp/c")
            for depth in range(3000):
                os.mkdir("/tmp/n")
                open("/tmp/n/f", "w").close()
                try:
                    os.rename("/tmp/c", "/tmp/n/" + "d" * 255)
                except OSError:
                    return depth
                os.rename("/tmp/n", "/tmp/c")
        """,
        holds(lambda depth: depth < FileLimits().max_tree_depth, usable=True),
    ),
    python(
        "listings held open",
        """
        import os
        def attack():
            for number in range(20000):
                os.close(os.open(f"/tmp/{number:05}", os.O_CREAT | os.O_WRONLY))
            held = []
            try:
                for _ in range(250):
                    iterator = os.scandir("/tmp")
                    next(iterator)
                    held.append(iterator)
            except OSError:
                pass
            return len(held)
        """,
        survives,
        max_grown_bytes=150 * MIB,
    ),
    python(
        "renames in circles",
        """
        import os
        def attack():
            os.makedirs("/tmp/a/b/c")
            errors = 0
            for old, new in (("/tmp/a", "/tmp/a/b/c/d"), ("/tmp/a/b", "/tmp/a/b"), ("/tmp/a", "/tmp/a/b"),
                             ("/tmp/a/b", "/tmp/a"), ("/tmp/a/.", "/tmp/x"), ("/tmp/a/..", "/tmp/x")):
                try:
                    os.rename(old, new)
                except OSError:
                    errors += 1
            return [errors >= 4, [path for path, _, _ in os.walk("/tmp")]]
        """,
        holds(lambda value: value[0] and len(value[1]) == 4, usable=True),
    ),
    python(
        "removed directories used on",
        """
        import os
        def attack():
            os.makedirs("/tmp/a/b")
            fd = os.open("/tmp/a", os.O_RDONLY | os.O_DIRECTORY)
            os.rmdir("/tmp/a/b"), os.rmdir("/tmp/a")
            done = []
            for action in (
                lambda: os.mkdir("x", dir_fd=fd), lambda: os.open("y", os.O_CREAT | os.O_WRONLY, dir_fd=fd),
                lambda: os.symlink("t", "z", dir_fd=fd),
            ):
                try:
                    action()
                    done.append(1)
                except OSError:
                    pass
            return [done, os.listdir("/tmp")]
        """,
        gives([[], []]),
    ),
]
