"""Loops: files gone while they are listed, and work on files that only a cancellation ends."""

from __future__ import annotations

from tests.hostile.attack import MIB, gives, python, stopped

ATTACKS = [
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
]
