"""Turn the cross-reference roles of docstrings (``:class:`Sandbox```) into links of this site.

A griffe extension: it edits the docstrings before they are rendered. A name that has no place in the reference stays
as code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_PACKAGE = "isola_anyio"
_ROLE = re.compile(r":(?:class|func|meth|attr|data|exc|mod):`~?\.?([\w.]+)`")
_LITERAL = re.compile(r"``([^`]+)``")


class Roles(griffe.Extension):
    """Rewrite the docstring of every object of the package."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Do it once the whole package is loaded, so that the public names are known."""
        public = {name: member for name, member in pkg.members.items() if member.is_alias}
        self._walk(pkg, public, set())

    def _walk(self, obj: griffe.Object, public: dict[str, Any], seen: set[str]) -> None:
        if obj.path in seen:
            return
        seen.add(obj.path)
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(lambda match: _link(match[1], obj, public), obj.docstring.value)
        for member in obj.members.values():
            if not member.is_alias:
                self._walk(member, public, seen)


def _link(name: str, obj: griffe.Object, public: dict[str, Any]) -> str:
    """Find the public path of ``name`` as a docstring of ``obj`` means it."""
    head, _, rest = name.removeprefix(f"{_PACKAGE}.").partition(".")
    if head in public:
        return f"[`{name}`][{_PACKAGE}.{head}{'.' + rest if rest else ''}]"
    owner = obj if obj.is_class else obj.parent
    if owner is not None and owner.is_class and owner.name in public and head in owner.members:
        return f"[`{name}`][{_PACKAGE}.{owner.name}.{name}]"
    return f"`{name}`"
