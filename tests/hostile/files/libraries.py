"""Libraries: those that open files by themselves find no more than the guest does."""

from __future__ import annotations

from tests.hostile.attack import gives, python

ATTACKS = [
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
]
