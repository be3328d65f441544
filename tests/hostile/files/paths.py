"""Paths: what is read by dots, links, names and descriptors must not lie outside of the mounts."""

from __future__ import annotations

from tests.hostile.attack import Attack, gives, holds, python

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
]
