"""What a benchmark returns: tables of medians with their spread, and checks on ratios. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Effort(IntEnum):
    """How long to measure."""

    QUICK = 0
    """Seconds for each theme: only what the checks need."""
    NORMAL = 1
    """Minutes: the report."""
    FULL = 2
    """Also the largest sizes."""


@dataclass(frozen=True)
class Spread:
    """The median of several runs, with the smallest and the largest."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def scaled(self, factor: float) -> Spread:
        return Spread(self.median * factor, self.least * factor, self.most * factor)

    def __str__(self) -> str:
        if self.least == self.most:
            return number(self.median)
        return f"{number(self.median)} ({number(self.least)}–{number(self.most)})"


def number(value: float) -> str:
    """Three significant digits with thousands separators; counts in full."""
    if value == 0:
        return "0"
    size = abs(value)
    if isinstance(value, int) or size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]


Cell = str | int | float | Spread


@dataclass
class Table:
    """The first column names the row, the others are figures."""

    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        assert len(cells) == len(self.columns), (cells, self.columns)
        self.rows.append(cells)


@dataclass(frozen=True)
class Check:
    """A ratio with a margin beyond any noise; `--quick` fails if it does not hold."""

    what: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    def __str__(self) -> str:
        limits = [
            f"{word} {limit:g}"
            for word, limit in (("at least", self.at_least), ("at most", self.at_most))
            if limit is not None
        ]
        verdict = "ok" if self.holds else "FAILED"
        return f"{verdict}: {self.what} {number(self.value)}, {' and '.join(limits)}"


@dataclass
class Section:
    """One theme of the report."""

    title: str
    about: str
    """What was measured and how, in a paragraph of Markdown."""
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def table(self, *columns: str) -> Table:
        table = Table(columns)
        self.tables.append(table)
        return table


def merged(runs: Sequence[Section]) -> Section:
    """Several runs of one theme merged: each figure is a median with its spread."""
    first = runs[0]
    section = Section(first.title, first.about, notes=first.notes)
    for tables in zip(*(run.tables for run in runs), strict=True):
        table = section.table(*tables[0].columns)
        for rows in zip(*(one.rows for one in tables), strict=True):
            names, *figures = zip(*rows, strict=True)
            assert len(set(names)) == 1, names
            table.add(names[0], *map(_merged, figures))
    section.checks = [check for run in runs for check in run.checks]
    return section


def _merged(cells: Sequence[Cell]) -> Cell:
    numbers = [cell for cell in cells if isinstance(cell, int | float)]
    if len(numbers) == len(cells):
        return Spread.of(numbers)
    return " / ".join(dict.fromkeys(map(str, cells)))
