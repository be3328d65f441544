"""Print the run's state table as ``docs/design.md`` has it: ``python -m tests.run.state_table``, ``--write`` to put it there."""

from __future__ import annotations

__all__ = ["PAGE", "section", "table"]

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from isola_anyio.run.state import (
    IN_TURN,
    RULES,
    Interrupt,
    Notice,
    Pending,
    Phase,
    Stop,
)

if TYPE_CHECKING:
    from enum import IntEnum

    from isola_anyio.run.state import Rule

PAGE: Final = Path(__file__).parents[2] / "docs" / "design.md"
BEGIN: Final = "<!-- state table: python -m tests.run.state_table --write -->\n"
END: Final = "<!-- end of the state table -->\n"
_TYPES: Final[dict[str, type[IntEnum]]] = {
    "phase": Phase,
    "stop": Stop,
    "notice": Notice,
    "interrupt": Interrupt,
    "pending": Pending,
}


def _value(name: str, value: int) -> str:
    return str(bool(value)) if name == "delivered" else _TYPES[name](value).name


def _phases(rule: Rule) -> str:
    return "in a turn" if rule.phases == IN_TURN else ", ".join(phase.name for phase in sorted(rule.phases))


def _condition(rule: Rule) -> str:
    parts = []
    for name, values in rule.when.items():
        among = " or ".join(_value(name, value) for value in sorted(values))
        parts.append(f"{name} {among}")
    return "; ".join(parts)


def _becomes(rule: Rule) -> str:
    parts = [f"{name} {_value(name, value)}" for name, value in rule.to.items()]
    if rule.stop:
        parts.append(f"stop {rule.stop.name}, if there is none")
    return "; ".join(parts) or "as it is"


def table() -> str:
    """Return the table, a line for each rule in their order."""
    lines = ["| event | phase | if | becomes | do |", "|---|---|---|---|---|"]
    for rule in RULES:
        actions = ", ".join(action.name for action in rule.actions)
        lines.append(f"| {rule.event.name} | {_phases(rule)} | {_condition(rule)} | {_becomes(rule)} | {actions} |")
    return "\n".join(lines) + "\n"


def section(page: str) -> str:
    """Return what stands between the marks of a page."""
    return page.partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        text = PAGE.read_text("utf-8")
        PAGE.write_text(text.replace(BEGIN + section(text) + END, BEGIN + table() + END), "utf-8")
    else:
        print(table(), end="")
