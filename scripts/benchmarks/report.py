"""docs/benchmarks.md: sections are renewed one by one; each says how and when it was measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Spread, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures import Cell, Section, Table

PROJECT = Path(__file__).parents[2]
REPORT = PROJECT / "docs" / "benchmarks.md"

HEAD = """\
# Benchmarks

Written by `./scripts/bench`; don't edit. Figures are medians of several runs with the smallest and
largest in brackets, omitted where all runs agree; the soak is a single run. Percentiles and maxima
are taken within each run, so three runs give three of each. Absolute figures hold for this machine
only; the ratios carry over, because both sides always come from the same run.

A section with a Python in its title was taken with that one, each figure from a single run. That is
another build as well (Debian's own, where the others are built from source), and each section names
its commit: compare the two for their order, not to the percent.
"""

VERSIONED = ("trio", "trio-asyncio", "ib_async", "psycopg", "httpx", "orjson", "numpy", "uvloop")


def render(section: Section, command: str) -> str:
    """The section as Markdown."""
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    parts = [f"## {section.title}", section.about.strip()]
    parts += [_table(table) for table in section.tables]
    parts += ["\n".join(f"- {note}" for note in section.notes)] if section.notes else []
    load = os.getloadavg()[1]
    parts.append(
        f"`{command}`, {made}, commit {_commit()}; {machine()}; load average of the last five "
        f"minutes {load:.1f}"
    )
    return "\n\n".join(parts) + "\n"


def renew(sections: Sequence[Section], command: str, report: Path = REPORT) -> None:
    """Put the sections into the report, replacing those with the same titles."""
    text = report.read_text("utf-8") if report.exists() else ""
    _, *old = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    parts = {part.partition("\n")[0]: part.strip() + "\n" for part in old}
    for section in sections:
        parts[f"## {section.title}"] = render(section, command)
    report.parent.mkdir(exist_ok=True)
    report.write_text("\n".join([HEAD, *parts.values()]), "utf-8")


def machine() -> str:
    """The machine and versions that the figures were measured with."""
    installed = []
    for name in VERSIONED:
        try:
            installed.append(f"{name} {version(name)}")
        except ModuleNotFoundError:  # includes PackageNotFoundError
            continue
    return (
        f"{os.cpu_count()} × {_processor()}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {', '.join(installed)}"
    )


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _commit() -> str:
    answer = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or "unknown"


def _table(table: Table) -> str:
    head = "| " + " | ".join(table.columns) + " |"
    rule = "|" + "---|" * len(table.columns)
    rows = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join([head, rule, *rows])


def _cell(cell: Cell) -> str:
    return str(cell) if isinstance(cell, Spread | str) else number(cell)
