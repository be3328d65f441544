"""Out of the mounts, over the budgets, into what blocks: attacks through files."""

from __future__ import annotations

from isola_anyio import GuestError
from isola_anyio.wasi.volumes.budgets import FileLimits
from tests.hostile.attack import MIB, Attack, either, gives, holds, js, python, raises, stopped, survives

READ = """
import os
def attack():
    found = []
    for path in {paths}:
        try:
            with open(path, "rb") as file:
                found.append(file.read(100).decode("latin-1"))
        except (OSError, ValueError):
            pass
        try:
            found.append(str(os.listdir(path)))
        except (OSError, ValueError):
            pass
    return found
"""


def reading(name: str, *paths: object, mounts: str = "ro") -> Attack:
    """Nothing is found at these paths."""
    return python(name, READ.format(paths=list(paths)), gives([]), mounts=mounts)


MAX_OPEN = FileLimits().max_open_files

ATTACKS = [
    reading("dots out of a mount", "/data/../../outside/secret.txt", "/data/../../../../../../outside/secret.txt"),
    reading("dots after a directory", "/data/sub/../../outside/secret.txt", "/data/sub/../../../etc/passwd"),
    reading("dots through a missing directory", "/data/none/../../outside/secret.txt"),
    reading("dots above the root", "/../outside/secret.txt", "/../../../../etc/passwd", "../../etc/passwd"),
    reading("host paths", "/etc/passwd", "/etc/shadow", "/root", "/home", "/var/log", "/bin/sh"),
    reading(
        "the kernel's files", "/proc/self/environ", "/proc/self/maps", "/proc/1/cmdline", "/sys/kernel", "/dev/mem"
    ),
    reading("descriptors as paths", "/proc/self/fd/3", "/dev/fd/3", "/dev/stdin", "/proc/self/cwd/outside/secret.txt"),
    reading("a link to a directory outside", "/data/out/secret.txt", "/data/out", "/data/out/."),
    reading("a link to a file outside", "/data/secret", "/data/./secret", "/data//secret"),
    reading("an absolute link", "/data/abs/passwd", "/data/abs", "/data/absroot/secret.txt"),
    reading("a link to the mount's parent", "/data/up/outside/secret.txt", "/data/up", "/data/up/../outside"),
    reading("a link by way of another", "/data/twice/secret.txt", "/data/twice"),
    reading("a link to itself", "/data/self", "/data/self/x"),
    reading("odd slashes", "//etc/passwd", "/data//..//..//outside/secret.txt", "/data/./../../outside/./secret.txt"),
    reading("foreign separators", "C:\\\\Windows", "\\\\..\\\\..\\\\outside\\\\secret.txt", "/data/..%2f..%2foutside"),
    reading("dots in other scripts", "/data/\u2025/\u2025/outside/secret.txt", "/data/\uff0e\uff0e/outside/secret.txt"),
    reading("bytes that are no text", b"/data/\xff\xfe/../../../outside/secret.txt", b"/data/\x80"),
    reading("a NUL in a path", "/data/hello.txt\0/../../outside/secret.txt", "/etc/passwd\0.txt"),
    reading("a path of a megabyte", "/data/" + "../" * 30 + "outside/secret.txt", "/data/" + "a/" * 3000, "x" * 100000),
    reading("schemes", "file:///etc/passwd", "/data/file:/etc/passwd", "~/.ssh/id_rsa", "$HOME/.bashrc"),
    python(
        "dots from a directory descriptor",
        """
        import os
        def attack():
            found = []
            for start in ("/", "/data", "/data/sub", "/tmp"):
                fd = os.open(start, os.O_RDONLY | os.O_DIRECTORY)
                for path in ("..", "../..", "../../..", "../outside/secret.txt", "../../outside/secret.txt",
                             "out/secret.txt", "../etc/passwd"):
                    try:
                        found.append(os.read(os.open(path, os.O_RDONLY, dir_fd=fd), 50).decode())
                    except (OSError, NotImplementedError):
                        pass
            return found
        """,
        gives([]),
        mounts="ro",
    ),
    python(
        "dots after chdir",
        """
        import os
        def attack():
            os.chdir("/data/sub")
            found = []
            for path in ("../../outside/secret.txt", "../../../outside/secret.txt", "../out/secret.txt"):
                try:
                    found.append(open(path).read())
                except OSError:
                    pass
            for _ in range(50):
                try:
                    os.chdir("..")
                except OSError:
                    break
            return found + [name for name in os.listdir(".") if name in ("outside", "etc", "home", "root")]
        """,
        gives([]),
        mounts="ro",
    ),
    python(
        "a link of the guest's own",
        """
        import os
        def attack():
            found = []
            for number, target in enumerate((
                "../outside/secret.txt", "/etc/passwd", "sub/../../outside", "../../../../etc", "./.././outside", "..",
                "", "a" * 5000,
            )):
                link = f"/disk/mine{number}"
                try:
                    os.symlink(target, link)
                    found.append(target)
                    found.append(open(link).read())
                    found.append(open(link + "/secret.txt").read())
                except OSError:
                    pass
            return [text for text in found if text.startswith(("only", "root", "..", "/etc"))]
        """,
        gives([]),
        mounts="rw",
    ),
    python(
        "a link that leads the host out",
        """
        import os
        def attack():
            os.makedirs("/disk/a/b/c")
            os.symlink("../../..", "/disk/a/b/c/top")
            os.symlink("../../outside", "/disk/a/b/later")
            os.symlink(".", "/disk/here")
            made = []
            for act, name in (
                (lambda: os.symlink("../outside", "/disk/a/b/c/top/one"), "one"),
                (lambda: os.symlink("../../../outside", "/disk/a/b/c/top/two"), "two"),
                (lambda: os.symlink("here/../outside", "/disk/three"), "three"),
                (lambda: os.symlink("a/../../outside", "/disk/four"), "four"),
                (lambda: os.rename("/disk/a/b/later", "/disk/five"), "five"),
                (lambda: os.link("/disk/a/b/later", "/disk/six", follow_symlinks=False), "six"),
                (lambda: os.rename("/disk/a/b", "/disk/seven"), "seven"),
                (lambda: os.rename("/disk/a/b", "/disk/a/b/c/top/eight"), "eight"),
            ):
                try:
                    act()
                except (OSError, NotImplementedError):
                    pass
                if os.path.lexists("/disk/" + name):
                    made.append(name)
            return made
        """,
        gives([]),
        mounts="rw",
    ),
    python(
        "a link that leads out once it is moved",
        """
        import os
        def attack():
            os.makedirs("/disk/a/b")
            found = []
            try:
                os.symlink("../../sub", "/disk/a/b/link")
                os.rename("/disk/a/b/link", "/disk/link")
                found.append(os.listdir("/disk/link"))
            except OSError:
                pass
            try:
                os.symlink("../../outside", "/disk/a/b/deep")
                os.rename("/disk/a/b", "/disk/b")
                os.rename("/disk/b", "/disk/sub/b")
                found.append(os.listdir("/disk/sub/b/deep"))
                os.rename("/disk/sub/b/deep", "/disk/deep")
                found.append(open("/disk/deep/secret.txt").read())
            except OSError:
                pass
            return found
        """,
        holds(lambda found: "secret" not in str(found)),
        mounts="rw",
    ),
    python(
        "a hard link to what lies outside",
        """
        import os
        def attack():
            made = []
            for source in ("/disk/secret", "/disk/out/secret.txt", "/disk/../outside/secret.txt", "/etc/passwd"):
                for follow in (True, False):
                    try:
                        os.link(source, "/disk/hard", follow_symlinks=follow)
                        made.append(open("/disk/hard").read())
                    except (OSError, NotImplementedError):
                        pass
                    try:
                        os.unlink("/disk/hard")
                    except OSError:
                        pass
            return made
        """,
        gives([]),
        mounts="rw",
    ),
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
    python(
        "sqlite to the host",
        """
        import sqlite3
        def attack():
            db = sqlite3.connect(":memory:")
            done = []
            for statement in ("attach '/etc/passwd' as a", "attach '/data/../../outside/secret.txt' as b",
                              "attach 'file:/data/out/secret.txt' as c", "select load_extension('/lib/libc.so.6')",
                              "select readfile('/etc/passwd')", "select writefile('/data/x', 'y')"):
                try:
                    db.execute(statement)
                    done.append(db.execute("select count(*) from a.sqlite_master").fetchall())
                except sqlite3.Error:
                    pass
            return done
        """,
        gives([]),
        mounts="ro",
    ),
    python(
        "entities of an XML document",
        """
        def attack():
            from lxml import etree
            found = []
            for url in ("file:///etc/passwd", "/data/out/secret.txt", "/data/secret", "http://127.0.0.1:1/"):
                text = f'<!DOCTYPE d [<!ENTITY e SYSTEM "{url}">]><d>&e;</d>'
                for options in ({}, {"resolve_entities": True, "load_dtd": True, "no_network": False}):
                    try:
                        root = etree.fromstring(text, etree.XMLParser(**options))
                        if root.text:
                            found.append(root.text)
                    except etree.XMLSyntaxError:
                        pass
            return found
        """,
        gives([]),
        mounts="ro",
    ),
    python(
        "archives with paths that lead out",
        """
        import io, os, tarfile, zipfile
        def attack():
            raw = io.BytesIO()
            with zipfile.ZipFile(raw, "w") as archive:
                for name in ("../../outside/owned", "/outside/owned", "out/owned", "up/outside/owned"):
                    archive.writestr(name, "owned")
            try:
                zipfile.ZipFile(raw).extractall("/disk")
            except OSError:
                pass
            raw = io.BytesIO()
            with tarfile.open(fileobj=raw, mode="w") as archive:
                for name in ("../outside/owned", "out/owned"):
                    info = tarfile.TarInfo(name)
                    info.size = 5
                    archive.addfile(info, io.BytesIO(b"owned"))
                info = tarfile.TarInfo("sl")
                info.type, info.linkname = tarfile.SYMTYPE, "../outside"
                archive.addfile(info)
            raw.seek(0)
            for name in ("fully_trusted", "data"):
                try:
                    tarfile.open(fileobj=raw).extractall("/disk", filter=name)
                except Exception:
                    pass
            try:
                return os.listdir("/disk/sl")
            except OSError:
                return []
        """,
        gives([]),
        mounts="rw",
    ),
    python(
        "numpy's own way to files",
        """
        def attack():
            import numpy as np
            found = []
            for path in ("/etc/passwd", "/data/secret", "/data/out/secret.txt", "/proc/self/environ"):
                for read in (lambda: np.fromfile(path, np.uint8), lambda: np.memmap(path, np.uint8, "r"),
                             lambda: np.load(path, allow_pickle=True), lambda: np.genfromtxt(path, str)):
                    try:
                        found.append(bytes(read()[:20]))
                    except Exception:
                        pass
            return found
        """,
        gives([]),
        mounts="ro",
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
    python(
        "deleting while listing",
        """
        import os
        def attack():
            for number in range(500):
                open(f"/disk/f{number}", "w").close()
            with os.scandir("/disk") as entries:
                for entry in entries:
                    if entry.name.startswith("f"):
                        os.unlink(entry.path)
            return [name for name in os.listdir("/disk") if name.startswith("f")]
        """,
        gives([]),
        mounts="rw",
    ),
    python(
        "a loop over the file system, cancelled",
        """
        import os
        def attack():
            while True:
                with open("/disk/x", "w") as file:
                    file.write("x")
                os.stat("/disk/x"), os.listdir("/disk"), os.unlink("/disk/x")
        """,
        stopped(),
        mounts="rw",
        cancel_after=0.2,
    ),
    python(
        "a listing of a large directory, again and again, cancelled",
        """
        import os
        def attack():
            for number in range(20000):
                os.close(os.open(f"/tmp/{number}", os.O_CREAT | os.O_WRONLY))
            while True:
                os.listdir("/tmp")
        """,
        stopped(),
        cancel_after=1.5,
    ),
    python(
        "a transfer of a quarter of a gigabyte, cancelled",
        """
        import os
        def attack():
            fd = os.open("/tmp/sparse", os.O_CREAT | os.O_RDWR)
            os.ftruncate(fd, 1 << 40)
            room = bytearray(200 << 20)
            file = open(fd, "rb", buffering=0)
            while True:
                file.seek(0)
                file.readinto(room)
        """,
        stopped(within_s=0.2),
        options={"max_memory": 400 * MIB},
        cancel_after=0.8,
        max_gap_s=0.1,
        reason="filling linear memory for the first time makes the kernel hand out and clear 200 MiB",
    ),
    # --- JavaScript has no files of its own; what it can name are modules
    js(
        "imports from outside",
        """
        async function attack() {
            const found = [];
            for (const path of ["/etc/passwd", "../../etc/passwd", "/data/../../outside/secret.txt", "/data/secret",
                "file:///etc/passwd", "/proc/self/environ", "/data/out/secret.txt", "http://127.0.0.1:1/x.js", "fs",
                "node:fs", "std", "os", "isola:main", "isola:dispatcher", "/data/pipe", "qjs:std", "/data/self"]) {
                try { found.push(Object.keys(await import(path))) } catch (error) { }
            }
            return found;
        }
        """,
        gives([]),
        mounts="ro",
    ),
    js(
        "an import error that tells what it read",
        """
        async function attack() {
            const told = [];
            for (const path of ["/data/out/secret.txt", "/data/secret", "/etc/hostname", "/data/hello.txt"]) {
                try { await import(path) } catch (error) { told.push(String(error) + error.stack) }
            }
            return told.filter((text) => text.includes("only-the-host"));
        }
        """,
        gives([]),
        mounts="ro",
    ),
    js(
        "imports of names that are none",
        """
        async function attack() {
            let refused = 0;
            const names = ["", "\\0", "x".repeat(1e6), "../".repeat(1e5), "\\ud800", "/".repeat(5000), "/data",
                "/data/hello.txt\\0.js", "data:text/javascript,1", "blob:x", "/tmp", "/dev/stdin"];
            for (const name of names) {
                try { await import(name) } catch (error) { refused++ }
            }
            return refused === names.length;
        }
        """,
        gives(True),
        mounts="ro",
    ),
    js(
        "a module that imports itself",
        """
        async function attack() {
            try { await import("/data/self.js") } catch (error) { return error.name }
        }
        """,
        survives,
        mounts="ro",
    ),
    js(
        "the engine's own file modules",
        """
        function attack() {
            return ["std", "os", "bjson", "scriptArgs", "require", "process", "Deno", "Bun", "module", "__filename",
                "loadScript", "__loadScript", "print", "read", "readFile", "load"].filter((name) => name in globalThis);
        }
        """,
        gives([]),
    ),
]
