"""Everything that is run on the project, under one name each: ``nox -l`` lists it, ``nox -s tests-3.12`` runs one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests", "docs"]

PROJECT = nox.project.load_toml("pyproject.toml")
VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
GUEST_PACKAGE = "isola_anyio/guests/python/sandbox"


def lookup(version: str) -> str | None:
    """Return an interpreter of this version that really starts: a version manager's shim may be there and refuse."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}"), *sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")))]
    for candidate in filter(None, candidates):
        started = subprocess.run([candidate, "-c", ""], capture_output=True, check=False)  # noqa: S603 - ours
        if started.returncode == 0:
            return candidate
    return None


FOUND = {version: path for version in VERSIONS if (path := lookup(version))}
MAIN = next(iter(FOUND.values()), None)
FAST_TRACE = FOUND.get("3.14", MAIN)
"""Measures coverage by ``sys.monitoring``, branches included, which no earlier version can: a fraction of the cost."""


def group(name: str) -> list[str]:
    """Return a dependency group's requirements; installing them one by one works with every pip."""
    return list(nox.project.dependency_groups(PROJECT, name))


def run_pytest(session: nox.Session, *options: str, with_group: str | None = None, **environment: str) -> None:
    """Install the project with its test extra and run pytest; arguments after ``--`` go to it."""
    session.install("-e", ".[test]", *(group(with_group) if with_group else []))
    session.run("pytest", *options, *session.posargs, env=environment)


@nox.session(python=MAIN)
def demo(session: nox.Session) -> None:
    """Run the demo."""
    session.install("-e", ".[trio]")
    session.run("python", "-m", "isola_anyio", "demo", *session.posargs)


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """Run the tests on every supported Python that is on this machine."""
    for version in VERSIONS:
        if version in FOUND:
            session.notify(f"tests-{version}", session.posargs)
        else:
            session.warn(f"Python {version} is not on this machine; its tests are not run")


def tests_on(version: str, path: str) -> None:
    """Define the session that runs the tests on one Python."""

    @nox.session(python=path, name=f"tests-{version}", default=False)
    def _(session: nox.Session) -> None:
        run_pytest(session)

    _.__doc__ = f"Run the tests on Python {version}."


for _version, _path in FOUND.items():
    tests_on(_version, _path)


@nox.session(python=MAIN, default=False)
def quick(session: nox.Session) -> None:
    """Run what takes less than a minute: the loop of who is changing something."""
    # A marker expression replaces the configuration's, so that what takes hours has to be left out again.
    run_pytest(session, "-m", "not slow and not soak and not matrix")


@nox.session(python=MAIN, default=False)
def timing(session: nox.Session) -> None:
    """Hold the tests that judge by the clock to what is promised; for a quiet machine."""
    run_pytest(session, "-m", "timing and not soak and not matrix", ISOLA_STRICT_TIMING="1")


@nox.session(python=MAIN, default=False)
def random(session: nox.Session) -> None:
    """Run the tests in random order: what one leaves behind must not matter to another.

    pytest's header names the seed, and ``-- --randomly-seed=SEED`` repeats that order.
    """
    run_pytest(session, with_group="random")


@nox.session(python=FAST_TRACE, default=False)
def coverage(session: nox.Session) -> None:
    """Run the tests and measure what they reach of the host's code; less than the configured floor is a failure.

    Arguments after ``--`` go to pytest, and the floor is then not asked for: part of the tests reach part of the code.
    """
    session.install("-e", ".[test]", *group("coverage"))
    session.run("coverage", "run", "-m", "pytest", "--timeout", "1800", *session.posargs)
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


@nox.session(python=MAIN)
def lint(session: nox.Session) -> None:
    """Check style and form; the guest's own package by rules of its own."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("ruff", "check", "--config", ".ruff-guest.toml", GUEST_PACKAGE)


@nox.session(python=MAIN)
def types(session: nox.Session) -> None:
    """Check types with two checkers."""
    session.install("-e", ".[test]", *group("lint"), "nox")
    session.run("mypy")
    session.run("pyright")


@nox.session(python=MAIN)
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install("-e", ".", *group("docs"))
    session.run("mkdocs", *(session.posargs or ("build", "--strict")))


@nox.session(python=MAIN, default=False)
def bench(session: nox.Session) -> None:
    """Measure what docs/design.md claims."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session(python=MAIN, default=False)
def soak(session: nox.Session) -> None:
    """Run sandboxes for minutes and look for what accumulates."""
    run_pytest(session, "-m", "soak", "--timeout", "3600")


@nox.session(python=MAIN, default=False)
def hostile(session: nox.Session) -> None:
    """Run every attack on both event loops by 1, 4 and 32 guests at once, on plain and on metered engines: hours.

    Arguments after ``--`` go to pytest: ``-k trio-4-cpu`` chooses a loop, a number of guests and a theme.
    """
    run_pytest(session, "tests/hostile", "-m", "", "--timeout", "600")


@nox.session(python=MAIN, default=False)
def siege(session: nox.Session) -> None:
    """Attack without end from several sides, beside neighbours that must not notice; the first violation is a failure.

    Arguments after ``--`` go to ``python -m tests.siege``: ``--seconds``, ``--seed`` of an earlier siege.
    """
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.siege", *session.posargs)


@nox.session(python=MAIN, default=False)
def fuzz(session: nox.Session) -> None:
    """Throw frames, paths and values, bred for what they reach, at everything that reads what a guest wrote.

    Arguments after ``--`` go to ``python -m tests.fuzz``: a target, ``--seconds``, ``--corpus``.
    """
    session.install("-e", ".[test]", "atheris>=3")
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session(python=MAIN, default=False)
def deep(session: nox.Session) -> None:
    """Run every test with many more generated examples."""
    run_pytest(session, "--timeout", "3600", HYPOTHESIS_PROFILE="deep")
