"""What ``MountConfig`` accepts, and what its refusals say."""

from __future__ import annotations

import dataclasses
import errno
import os
import site
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from isola_anyio import JsonValue, build_template
from isola_anyio.errors import InvalidArgumentError
from isola_anyio.mounts import MemoryMount, MountConfig, bind, bind_all, validate_mounts
from isola_anyio.wasi.volumes.interfaces import Permissions


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "f").write_text("x")
    return tmp_path


def close(*mounts: object) -> None:
    for mount in mounts:
        mount.volume.close()  # type: ignore[attr-defined]


def test_a_mount_is_plain_frozen_data(host: Path) -> None:
    mount = MountConfig(host, "/data")
    assert (mount.dir_perms, mount.file_perms, mount.mode, mount.allow_sensitive) == ("read", "read", "direct", False)
    assert mount == MountConfig(host, "/data")
    assert hash(mount) == hash(MountConfig(host, "/data"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        mount.guest = "/x"  # type: ignore[misc]


def test_the_two_permissions_are_four_answers(host: Path) -> None:
    for config, perms in (
        (MountConfig(host, "/data"), Permissions(True, False, True, False)),
        (MountConfig(host, "/a/b", "write", "read", allow_sensitive=True), Permissions(False, True, True, False)),
        (MountConfig(host, "/a", "read", "write", allow_sensitive=True), Permissions(True, False, False, True)),
        (MountConfig.memory("/m"), Permissions(True, True, True, True)),
    ):
        bound = bind(config)
        close(bound)
        assert bound.perms == perms


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"host": 7}, "host=7 is not a str or a path"),
        ({"host": b"/data"}, "host=b'/data' is not a str or a path"),
        ({"host": ""}, "empty"),
        ({"host": "a\0b"}, "NUL"),
        ({"guest": 7}, "guest=7 is not a str"),
        ({"guest": "data"}, "guest='data' is not an absolute path"),
        ({"guest": "/a/../b"}, "without '.', '..' and NUL"),
        ({"guest": "/a/./b"}, "without '.', '..' and NUL"),
        ({"guest": "/a\0"}, "NUL"),
        ({"guest": "/"}, "is the root"),
        ({"guest": "/a/"}, "use '/a'"),
        ({"guest": "/a//b"}, "use '/a/b'"),
        ({"guest": "/dev/x"}, "devices"),
        ({"dir_perms": "rw"}, "dir_perms='rw' is not one of 'read', 'write', 'read-write'"),
        ({"file_perms": None}, "file_perms=None is not one of"),
        ({"mode": "copy"}, "mode='copy' is not 'direct' or 'overlay'"),
        ({"mode": "memory"}, "MountConfig.memory"),
        ({"allow_sensitive": "yes"}, "allow_sensitive='yes' is not True or False"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(arguments: dict[str, object], says: str) -> None:
    values: dict[str, object] = {"host": "/tmp", "guest": "/data"} | arguments
    with pytest.raises(InvalidArgumentError) as caught:
        MountConfig(**values)  # type: ignore[arg-type]
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MountConfig.memory("data"), "guest='data'"),
        (lambda: MountConfig.memory("/data", max_bytes=0), "max_bytes=0"),
        (lambda: MountConfig.memory("/data", max_bytes="1"), "max_bytes='1'"),  # type: ignore[arg-type]
        (lambda: MountConfig.memory("/data", max_bytes=True), "max_bytes=True"),
        (lambda: MountConfig.memory("/data", files={"a": "text"}), "files['a'] is not bytes"),  # type: ignore[dict-item]
        (lambda: MountConfig.memory("/data", files={1: b""}), "files[1]"),  # type: ignore[dict-item]
        (lambda: MountConfig.memory("/data", files={"../a": b""}), "files['../a']"),
        (lambda: MountConfig.memory("/data", files={"a": b"", "a/b": b""}), "files['a/b']"),
        (lambda: MountConfig.memory("/data", max_bytes=10, files={"a": bytes(100)}), "files['a']"),
    ],
)
def test_a_bad_memory_mount_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        make()
    assert says in str(caught.value)


def test_a_memory_mount_is_itself_and_nothing_else() -> None:
    one, two = MountConfig.memory("/data"), MountConfig.memory("/data")
    assert isinstance(one, MemoryMount)
    assert one == one
    assert one != two
    assert len({one, two}) == 2
    assert (one.host, one.mode, one.dir_perms, one.file_perms) == ("", "memory", "read-write", "read-write")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.guest = "/x"  # type: ignore[misc]
    one.write("a", b"x")
    assert two.list() == []
    close(bind(one))


def test_mounts_must_be_a_sequence_of_mounts_at_different_paths(host: Path) -> None:
    a, b = MountConfig(host, "/a"), MountConfig(host, "/b")
    assert validate_mounts([a, b]) == (a, b)
    assert validate_mounts(()) == ()
    for bad in (None, 7, "mounts", {"a": a}, a):
        with pytest.raises(InvalidArgumentError, match="is not a sequence of MountConfig"):
            validate_mounts(bad)
    with pytest.raises(InvalidArgumentError, match="'/data' in it, which is not a MountConfig"):
        validate_mounts(["/data"])
    with pytest.raises(InvalidArgumentError, match="two mounts are at '/a'"):
        validate_mounts([a, MountConfig.memory("/a")])


def test_the_host_path_must_exist_when_it_is_bound(host: Path) -> None:
    missing = MountConfig(host / "later", "/data")
    with pytest.raises(InvalidArgumentError, match="No such file or directory; it must be"):
        bind(missing)
    (host / "later").mkdir()
    close(bind(missing))
    os.mkfifo(host / "fifo")
    with pytest.raises(InvalidArgumentError, match="is not a regular file"):
        bind(MountConfig(host / "fifo", "/data"))
    with pytest.raises(InvalidArgumentError, match="mode='overlay' needs one"):
        bind(MountConfig(host / "f", "/data", mode="overlay"))


def test_when_one_of_several_cannot_be_bound_the_others_are_closed(host: Path) -> None:
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with pytest.raises(InvalidArgumentError):
        bind_all([MountConfig(host, "/a"), MountConfig(host, "/b", mode="overlay"), MountConfig(host / "no", "/c")])
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)


SENSITIVE = [site.__file__ and os.path.dirname(site.__file__), *[path for path in sys.path if os.path.isdir(path)][:1]]


@pytest.mark.parametrize("place", [path for path in SENSITIVE if path])
def test_what_the_host_imports_from_is_not_writable_unless_asked_for(place: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(place)
    for path in (place, os.path.dirname(place), os.path.join(place, "."), link):
        for perms in ("write", "read-write"):
            for config in (
                MountConfig(path, "/x", file_perms=perms),
                MountConfig(path, "/x", dir_perms=perms),
            ):
                with pytest.raises(InvalidArgumentError, match="allow_sensitive=True"):
                    bind(config)
    close(
        bind(MountConfig(place, "/x")),
        bind(MountConfig(place, "/x", "read-write", "read-write", mode="overlay")),
        bind(MountConfig(place, "/x", "read-write", "read-write", allow_sensitive=True)),
    )


def test_data_beside_a_script_is_no_code_and_a_package_beside_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, content in (("data", "rows.csv"), ("package", "__init__.py")):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).write_text("")
    close(bind(MountConfig(tmp_path / "data", "/x", "read-write", "read-write")))
    for place in (tmp_path, tmp_path / "package", tmp_path / "package/__init__.py"):
        with pytest.raises(InvalidArgumentError, match="allow_sensitive=True"):
            bind(MountConfig(place, "/x", "read-write", "read-write"))


@pytest.mark.parametrize("content", [None, "module.cpython-311.pyc", "notes.txt", "nested/deeper/notes.txt"])
def test_a_place_for_bytecode_beside_a_module_is_refused_whatever_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "module.py").write_text("")
    cache = tmp_path / "package" / "__pycache__"
    cache.mkdir(parents=True)
    (tmp_path / "data").mkdir()
    if content is not None:
        (cache / content).parent.mkdir(parents=True, exist_ok=True)
        (cache / content).write_text("")
    inside = [path for path in cache.rglob("*") if path.is_dir() or content is not None]
    for place in (cache, cache.parent, *inside):
        for config in (
            MountConfig(place, "/x", dir_perms="write"),
            MountConfig(place, "/x", file_perms="write"),
            MountConfig(place, "/x", "read-write", "read-write"),
        ):
            with pytest.raises(InvalidArgumentError, match="allow_sensitive=True"):
                bind(config)
    close(
        bind(MountConfig(cache, "/x")),
        bind(MountConfig(cache, "/x", "read-write", "read-write", mode="overlay")),
        bind(MountConfig(cache, "/x", "read-write", "read-write", allow_sensitive=True)),
        bind(MountConfig(tmp_path / "data", "/x", "read-write", "read-write")),
    )


def test_a_place_for_bytecode_that_python_does_not_import_from_is_a_directory_like_others(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    close(bind(MountConfig(tmp_path / "__pycache__", "/x", "read-write", "read-write")))


def test_where_python_was_told_to_keep_all_bytecode_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prefix/deep").mkdir(parents=True)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "prefix"))
    for place in (tmp_path, tmp_path / "prefix", tmp_path / "prefix/deep"):
        with pytest.raises(InvalidArgumentError, match="allow_sensitive=True"):
            bind(MountConfig(place, "/x", "read-write"))


def test_directories_named_sensitive_are_refused_too(host: Path) -> None:
    (host / "cache/images").mkdir(parents=True)
    for path in (host, host / "cache", host / "cache/images"):
        with pytest.raises(InvalidArgumentError, match="library keeps code"):
            bind(MountConfig(path, "/x", "read-write"), sensitive=[str(host / "cache")])
    close(bind(MountConfig(host, "/x"), sensitive=[str(host / "cache")]))
    (host / "cachedir").mkdir()
    close(bind(MountConfig(host / "cachedir", "/x", "read-write"), sensitive=[str(host / "cache")]))


def test_host_directories_are_refused_on_windows(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InvalidArgumentError, match=r"cannot be mounted on Windows.*MountConfig\.memory"):
        bind(MountConfig(host, "/data"))
    bind(MountConfig.memory("/data"))


IN_PLACE_OF_A_LINK = """
import os
def attack():
    os.unlink("/disk/link")
    os.mkdir("/disk/link")
    open("/disk/link/x", "w").close()
"""
TOO_LONG_A_PATH = """
import os
def attack():
    for top in "AB":
        path = "/disk/" + top
        os.mkdir(path)
        for _ in range(14):
            path += "/" + "d" * 200
            os.mkdir(path)
        if top == "A":
            leaf = path
    os.rename("/disk/B", leaf + "/B")
"""


@pytest.mark.parametrize(("script", "listed"), [(IN_PLACE_OF_A_LINK, 2), (TOO_LONG_A_PATH, 30)])
async def test_no_tree_a_guest_builds_keeps_its_sandbox_from_closing(host: Path, script: str, listed: int) -> None:
    (host / "link").symlink_to("f")
    template = await build_template("python")
    try:
        before = _open_descriptors()
        async with template.create(
            mounts=[MountConfig(host, "/disk", "read-write", "read-write", mode="overlay")]
        ) as sb:
            await sb.load_script(script)
            view = sb.mount("/disk")
            await sb.run("attack")
            assert len(view.changes()) == listed
        assert sb.closed
        assert len(view.changes()) == listed
        assert _open_descriptors() == before
    finally:
        template.close()


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


async def test_a_size_that_a_guest_made_up_is_not_believed() -> None:
    template = await build_template("python")
    try:
        async with template.create() as sandbox:
            await sandbox.load_script(
                "import os\ndef attack(size):\n    os.truncate('/tmp/f', size)\nopen('/tmp/f', 'w')"
            )
            for size in (1 << 30, 1 << 60, (1 << 63) - 1):
                await sandbox.run("attack", size)
                with pytest.raises(OSError, match="too large") as caught:
                    sandbox.mount("/tmp").read("f")
                assert caught.value.errno == errno.EFBIG
    finally:
        template.close()


@pytest.mark.skipif(sys.platform == "win32", reason="host directories are not mounted on Windows")
async def test_guests_leave_the_host_half_of_its_descriptors(host: Path) -> None:
    import resource

    script = """
import errno, os
held = []
def attack():
    try:
        while True:
            held.append(os.open("/disk/f", os.O_RDONLY))
    except OSError as error:
        return len(held), errno.errorcode[error.errno]
"""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    template = await build_template("python")
    try:
        async with AsyncExitStack() as sandboxes:
            resource.setrlimit(resource.RLIMIT_NOFILE, (320, limits[1]))
            found: list[JsonValue] = []
            for _ in range(3):
                sandbox = await sandboxes.enter_async_context(template.create(mounts=[MountConfig(host, "/disk")]))
                await sandbox.load_script(script)
                found.append(await sandbox.run("attack"))
            assert found == [[128, "EMFILE"], [32, "ENFILE"], [0, "ENFILE"]]
            (host / "f").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        template.close()


@pytest.mark.slow
async def test_a_sandboxes_mount_covers_its_templates_at_the_same_path(host: Path) -> None:
    (host / "mine").mkdir()
    script = "import os\ndef attack():\n    return sorted(os.listdir('/data')), os.listdir('/tmp')\n"
    template = await build_template("python", mounts=[MountConfig(host, "/data")])
    mine = [MountConfig(host / "mine", "/data", "read-write"), MountConfig.memory("/tmp", files={"f": b""})]
    try:
        for mounts, found in (((), [["f", "mine"], []]), (mine, [[], ["f"]]), ((), [["f", "mine"], []])):
            async with template.create(mounts=mounts) as sandbox:
                await sandbox.load_script(script)
                assert await sandbox.run("attack") == found
        with pytest.raises(InvalidArgumentError, match="two mounts are at '/data'"):
            await template.instantiate(mounts=[*mine, MountConfig(host, "/data")])
    finally:
        template.close()
