"""Inline metadata (PEP 723): a check that this sandbox has what a script says it needs.

Nothing is fetched: there is no HTTP. Each dependency is bundled in a version that fits, or the script is refused.
"""

import re

__all__ = ["check"]

_OPENING = "# /// script"
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # PEP 723's own


def check(code):
    """Raise `ImportError` for a dependency that is missing, `RuntimeError` for another Python, `ValueError` for
    metadata that cannot be read."""
    if _OPENING not in code:
        return
    blocks = [found for found in _BLOCK.finditer(code.replace("\r\n", "\n")) if found["type"] == "script"]
    if not blocks:  # unclosed ones are to be ignored
        return
    if len(blocks) > 1:
        raise ValueError(f"a script has one block of metadata (PEP 723), not {len(blocks)}")
    metadata = _parse(blocks[0]["content"])
    requires = metadata.get("requires-python")
    if requires is not None:
        _check_python(requires)
    dependencies = metadata.get("dependencies", [])
    if not isinstance(dependencies, list):
        raise ValueError(f"the script's dependencies (PEP 723) are a list of str, not {dependencies!r}")
    for dependency in dependencies:
        _check_dependency(dependency)


def _parse(content):
    import tomllib

    text = "".join(line[2:] if line.startswith("# ") else line[1:] for line in content.splitlines(keepends=True))
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the script's metadata (PEP 723) is not TOML: {error}") from None


def _check_python(requires):
    import platform

    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        allowed = SpecifierSet(requires)
    except (InvalidSpecifier, TypeError, AttributeError):
        raise ValueError(f"the script's requires-python (PEP 723) is no version specifier: {requires!r}") from None
    version = platform.python_version()
    if not allowed.contains(version, prereleases=True):
        raise RuntimeError(f"the script requires Python {requires}; this sandbox has {version}")


def _check_dependency(dependency):
    from importlib import metadata

    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(dependency)
    except (InvalidRequirement, TypeError, AttributeError):
        raise ValueError(f"one of the script's dependencies (PEP 723) is no requirement: {dependency!r}") from None
    if wanted.marker is not None and not wanted.marker.evaluate():
        return
    try:
        version = None if wanted.url else metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        version = None
    if version is None:
        raise ImportError(
            f"the script depends on {dependency!r}, which is not part of this runtime, and this sandbox has no HTTP to "
            "fetch it with; mount it and put it on sys.path, and leave it out of the metadata",
            name=wanted.name,
        )
    if not wanted.specifier.contains(version, prereleases=True):
        raise ImportError(f"the script depends on {dependency!r}; this runtime has version {version}", name=wanted.name)
