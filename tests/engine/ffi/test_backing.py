"""Files of a cache that are written over while they are in use: what is small is read, what is large is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from isola_anyio.engine import ffi
from isola_anyio.engine.image import Image
from isola_anyio.errors import RuntimeUnavailableError
from tests.engine.support import call, make_program

ROOT = Path(__file__).parents[3]
SIZE = 2 * 65536


def cut(path: Path) -> None:
    os.truncate(path, 100)


def garble(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


damages = pytest.mark.parametrize("damage", [cut, garble])


@pytest.fixture
def _mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Map whatever its size."""
    monkeypatch.setattr("isola_anyio.engine.ffi.programs.READ_BYTES", 0)
    monkeypatch.setattr(ffi, "READ_BYTES", 0)


def saved_image(path: Path, program: ffi.Program) -> Path:
    store = ffi.Store(program, max_memory=1 << 20)
    call(store, "poke", "ii>", 4096, 41)
    image = Image.take(store)
    with path.open("wb") as out:
        image.save(out)
    image.close()
    store.close()
    return path


@damages
def test_small_code_is_the_processes_own(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    program = make_program(tmp_path)
    damage(tmp_path / "code")
    store = ffi.Store(program, max_memory=1 << 20)
    assert call(store, "add", "ii>i", 1, 2) == 3
    store.close()
    assert not program.changed


@damages
def test_a_small_image_is_the_processes_own(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    program = make_program(tmp_path)
    image = Image.open(saved_image(tmp_path / "image", program))
    damage(tmp_path / "image")
    store = ffi.Store(program, max_memory=1 << 20)
    image.fork_into(store)
    assert call(store, "peek", "i>i", 4096) == 41
    store.close()
    image.close()


@pytest.mark.usefixtures("_mapped")
@damages
def test_a_mapped_image_that_was_written_to_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    program = make_program(tmp_path)
    image = Image.open(saved_image(tmp_path / "image", program))
    damage(tmp_path / "image")
    store = ffi.Store(program, max_memory=1 << 20)
    refused = pytest.raises(RuntimeUnavailableError, match=r"image was written to .* build the template again")
    with refused:
        image.fork_into(store)
    with refused, (tmp_path / "again").open("wb") as out:
        image.save(out)
    store.close()
    image.close()


@pytest.mark.usefixtures("_mapped")
def test_a_mapped_file_may_be_removed_and_replaced(tmp_path: Path) -> None:
    """That is how a cache changes its entries."""
    program = make_program(tmp_path)
    image = Image.open(saved_image(tmp_path / "image", program))
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "other").replace(tmp_path / "image")
    (tmp_path / "code").unlink()
    store = ffi.Store(program, max_memory=1 << 20)
    image.fork_into(store)
    assert call(store, "peek", "i>i", 4096) == 41
    store.close()
    image.close()


def run_child(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{textwrap.dedent(code)}"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
@damages
def test_mapped_code_that_was_written_to_is_refused_and_harms_nobody(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """In a process of its own: to free such code, or to use it, would end the process."""
    child = run_child(
        """
        import gc
        from pathlib import Path
        from isola_anyio.engine.ffi import programs
        programs.READ_BYTES = 0
        from isola_anyio.engine import ffi
        from isola_anyio.errors import RuntimeUnavailableError
        from tests.engine.ffi import test_backing
        from tests.engine.support import make_program
        program = make_program(Path(sys.argv[1]))
        getattr(test_backing, sys.argv[2])(Path(sys.argv[1], "code"))
        try:
            ffi.Store(program, max_memory=1 << 20)
        except RuntimeUnavailableError as exc:
            print(exc)
        del program
        gc.collect()
        print("survived")
        """,
        str(tmp_path),
        damage.__name__,
    )
    assert child.returncode == 0, child
    assert "compiled code was written to" in child.stdout
    assert child.stdout.endswith("survived\n")


@pytest.mark.slow
@damages
def test_a_template_survives_what_is_done_to_its_cache(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """A thread's forced unwinding, as at the interpreter's end, reads every unwind table: a code file cut in place
    killed a process long after it was last used.
    """
    child = run_child(
        """
        import ctypes, threading
        from pathlib import Path
        import anyio
        from isola_anyio import SandboxContext
        from tests.engine.ffi import test_backing

        async def main():
            async with SandboxContext(cache_dir=sys.argv[1]) as context:
                template = await context.build_template("js")
                again = await context.build_template("js")
                for path in Path(sys.argv[1]).rglob("*.*"):
                    if path.suffix in (".cwasm", ".image", ".files"):
                        print("damaged", path.suffix)
                        getattr(test_backing, sys.argv[2])(path)
                for one in (template, again, await context.build_template("js")):
                    async with one.create() as sandbox:
                        await sandbox.load_script("const answer = () => 42")
                        print(await sandbox.run("answer"))
                    one.close()

        anyio.run(main)
        thread = threading.Thread(target=lambda: ctypes.CDLL(None).pthread_exit(None), daemon=True)
        thread.start()
        thread.join(0.5)
        print("survived", flush=True)
        """,
        str(tmp_path / "cache"),
        damage.__name__,
    )
    assert child.returncode == 0, child
    assert sorted(child.stdout.split("\n")) == sorted(
        ["damaged .cwasm", "damaged .image", "damaged .files", "42", "42", "42", "survived", ""]
    )
