"""Mounts: nothing is changed outside of one, or in it beyond its rights."""

from __future__ import annotations

from tests.hostile.attack import gives, holds, python

ATTACKS = [
    python(
        "writing through links that lead out",
        """
        import os
        def attack():
            done = []
            for path in ("/disk/out/new.txt", "/disk/secret", "/disk/up/new.txt", "/disk/absroot/new.txt",
                         "/disk/up/outside/secret.txt", "/disk/twice/new.txt"):
                for action in (lambda: open(path, "w").write("owned"), lambda: os.mkdir(path), lambda: os.utime(path),
                               lambda: os.truncate(path, 0), lambda: open(path, "a").write("owned")):
                    try:
                        action()
                        done.append(path)
                    except OSError:
                        pass
            return done
        """,
        gives([]),
        mounts="rw",
    ),
    python(
        "moving and removing what lies outside",
        """
        import os
        def attack():
            done = []
            for action in (
                lambda: os.rename("/disk/out/secret.txt", "/disk/taken"),
                lambda: os.rename("/disk/hello.txt", "/disk/out/hello.txt"),
                lambda: os.rename("/disk/hello.txt", "/disk/../outside/hello.txt"),
                lambda: os.unlink("/disk/out/secret.txt"),
                lambda: os.rmdir("/disk/up/outside"),
                lambda: os.rename("/disk/up/outside", "/disk/taken"),
                lambda: os.rename("/disk/out", "/tmp/out"),
            ):
                try:
                    action()
                    done.append(action.__code__.co_firstlineno)
                except OSError:
                    pass
            return done
        """,
        gives([]),
        mounts="rw",
    ),
    python(
        "changing a read-only mount",
        """
        import os
        def attack():
            done = []
            for action in (
                lambda: open("/data/hello.txt", "w"), lambda: open("/data/hello.txt", "a"),
                lambda: open("/data/hello.txt", "r+"), lambda: open("/data/new", "x"),
                lambda: os.open("/data/hello.txt", os.O_RDONLY | os.O_TRUNC),
                lambda: os.open("/data/new", os.O_RDONLY | os.O_CREAT),
                lambda: os.truncate("/data/hello.txt", 0), lambda: os.unlink("/data/hello.txt"),
                lambda: os.mkdir("/data/new"), lambda: os.rmdir("/data/sub"),
                lambda: os.rename("/data/hello.txt", "/data/bye.txt"), lambda: os.rename("/data/hello.txt", "/tmp/x"),
                lambda: os.link("/data/hello.txt", "/data/hard"), lambda: os.symlink("hello.txt", "/data/link"),
                lambda: os.utime("/data/hello.txt", (0, 0)), lambda: os.utime("/data/sub", (0, 0)),
            ):
                try:
                    action()
                    done.append(action.__code__.co_firstlineno)
                except OSError:
                    pass
            return [done, open("/data/hello.txt").read()]
        """,
        gives([[], "hello"]),
        mounts="ro",
    ),
    python(
        "a descriptor's rights, used for what they are not",
        """
        import os
        def attack():
            done = []
            reader = os.open("/disk/hello.txt", os.O_RDONLY)
            writer = os.open("/disk/sub/inner.txt", os.O_WRONLY)
            folder = os.open("/disk", os.O_RDONLY | os.O_DIRECTORY)
            for action in (
                lambda: os.write(reader, b"x"), lambda: os.ftruncate(reader, 0), lambda: os.pwrite(reader, b"x", 0),
                lambda: os.read(writer, 1), lambda: os.pread(writer, 1, 0), lambda: os.read(folder, 1),
                lambda: os.write(folder, b"x"), lambda: os.ftruncate(folder, 0), lambda: os.lseek(folder, 1, 0),
                lambda: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=reader),
            ):
                try:
                    action()
                    done.append(action.__code__.co_firstlineno)
                except OSError:
                    pass
            return done
        """,
        holds(lambda done: len(done) <= 1),  # libc itself answers a seek in a directory
        mounts="rw",
    ),
    python(
        "a fifo that would block for ever",
        """
        import os
        def attack():
            tried = 0
            for path in ("/disk/pipe", "/data/pipe"):
                for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK):
                    try:
                        os.read(os.open(path, flags), 1)
                    except OSError:
                        tried += 1
            return tried
        """,
        gives(8),
        mounts="ro rw",
    ),
    python(
        "mount points moved, removed and replaced",
        """
        import os, shutil
        def attack():
            done = []
            for action in (
                lambda: os.rmdir("/disk"), lambda: os.rename("/disk", "/gone"), lambda: os.rename("/tmp", "/disk/tmp"),
                lambda: os.rename("/data", "/disk/data"), lambda: os.unlink("/data"), lambda: os.rmdir("/"),
                lambda: os.rename("/", "/x"), lambda: os.mkdir("/new"), lambda: open("/file", "w"),
                lambda: os.symlink("/tmp", "/link"), lambda: os.rename("/usr", "/tmp/usr"),
                lambda: os.unlink("/usr/local/lib/python315.zip"), lambda: shutil.rmtree("/usr"),
                lambda: open("/usr/local/lib/python315.zip", "r+"), lambda: open("/usr/local/lib/x.py", "w"),
            ):
                try:
                    action()
                    done.append(action.__code__.co_firstlineno)
                except OSError:
                    pass
            return done
        """,
        gives([]),
        mounts="ro rw",
    ),
    python(
        "an executable file on the host",
        """
        import os
        def attack():
            fd = os.open("/disk/tool", os.O_CREAT | os.O_WRONLY, 0o7777)
            os.write(fd, b"#!/bin/sh\\ntouch owned\\n")
            for change in (lambda: os.fchmod(fd, 0o7777), lambda: os.chmod("/disk/tool", 0o4755),
                           lambda: os.chown("/disk/tool", 0, 0), lambda: os.umask(0)):
                try:
                    change()
                except (OSError, AttributeError):
                    pass
            return os.path.exists("/disk/tool")
        """,
        gives(True),
        mounts="rw",
    ),
    python(
        "writing more to the host than allowed, in one sparse step",
        """
        import os
        def attack():
            errors = 0
            fd = os.open("/disk/huge", os.O_CREAT | os.O_RDWR)
            for act in (lambda: os.ftruncate(fd, 1 << 42), lambda: os.posix_fallocate(fd, 0, 1 << 42),
                        lambda: os.truncate("/disk/huge", 1 << 42)):
                try:
                    act()
                except (OSError, AttributeError):
                    errors += 1
            return [errors, os.fstat(fd).st_size]
        """,
        gives([3, 0]),
        mounts="rw",
    ),
]
