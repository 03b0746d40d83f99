"""What a check has found, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rich.table import Table
from rich.text import Text


class Grade(StrEnum):
    """SKIPPED: not checked, mostly because something before it failed."""

    OK = "ok"
    WARNING = "warn"
    FAILED = "FAIL"
    SKIPPED = "skip"


STYLES = {
    Grade.OK: "green",
    Grade.WARNING: "yellow",
    Grade.FAILED: "bold red",
    Grade.SKIPPED: "dim",
}
NAME_WIDTH = 11


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` says what was found; `remedy` what the user can do about it."""

    name: str
    verdict: Grade
    text: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """Text and remedy as one line."""
        return f"{self.text}: {self.remedy}" if self.remedy else self.text

    def __rich__(self) -> Table:
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(width=4)
        row.add_column(width=NAME_WIDTH)
        row.add_column(overflow="fold")
        row.add_row(
            Text(self.verdict, style=STYLES[self.verdict]), Text(self.name), Text(self.line)
        )
        return row

    def __str__(self) -> str:
        return f"{self.verdict:4}  {self.name:{NAME_WIDTH}}  {self.line}"


Report = Callable[[Finding], None]
"""Shows a finding as soon as it is known."""


def ok(name: str, text: str) -> Finding:
    return Finding(name, Grade.OK, text)


def warning(name: str, text: str, remedy: str) -> Finding:
    return Finding(name, Grade.WARNING, text, remedy)


def failed(name: str, text: str, remedy: str = "") -> Finding:
    """Without a remedy when the text (an error of the bridge) has it already."""
    return Finding(name, Grade.FAILED, text, remedy)


def skipped(name: str, text: str) -> Finding:
    return Finding(name, Grade.SKIPPED, text)


def report_with_rest(finding: Finding, names: Sequence[str], report: Report) -> None:
    """Report a finding, and that those of the names behind its own could not be checked."""
    report(finding)
    for name in names[names.index(finding.name) + 1 :]:
        report(skipped(name, "not checked"))
