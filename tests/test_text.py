"""Numbers in words."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

from trio_bridge.text import count, duration, number, percent, size, uncertain, waiting


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (5_300_000, "5.3 MB"),
        (83.9e9, "83.9 GB"),
        (2e15, "2000.0 TB"),
    ],
)
def test_sizes(bytes_: float, text: str) -> None:
    assert size(bytes_) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (2.345, "2.3 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_and_numbers() -> None:
    assert count(1, "row") == "1 row"
    assert count(1234, "row") == "1,234 rows"
    assert waiting(1, "row") == "1 row waits"
    assert waiting(1234, "row") == "1,234 rows wait"
    assert number(-1234.5) == "-1,234.50"
    assert number(None) == "–"
    assert number(0.0) == "0.00"
    assert number(0.01) == "0.01"
    assert number(-0.00234) == "-0.0023"


def test_what_is_missing_is_not_rounded_away() -> None:
    assert percent(1.0) == "100.0%"
    assert percent(0.99999) == "99.9%"
    assert percent(0.0004) == "0.0%"
    assert percent(0.5) == "50.0%"


PACKAGE = Path(__file__).parent.parent / "trio_bridge"
PLURAL = re.compile(r" (?:market data )?(rows|slots|events|positions|options|lines|accounts)\b")


def plurals(source: str) -> list[int]:
    """The lines in which a number that may be one is told in the plural."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            for value, text in pairwise(node.values):
                match value, text:
                    case ast.FormattedValue(value=number), ast.Constant(value=str(words)):
                        chosen = ast.unparse(number).isupper()  # and not one
                        if PLURAL.match(words) and not chosen:
                            found.append(node.lineno)
    return found


def test_no_number_is_told_in_the_plural_that_may_be_one() -> None:
    assert plurals('f"{n} rows"; f"{status.skipped:,} market data lines are"') == [1, 1]
    assert plurals("""f"{LIMIT} rows"; f"{count(n, 'row')} are"; f"{n} of the slots" """) == []
    sources = [path for path in PACKAGE.rglob("*.py") if "simulator" not in path.parts]
    assert [(path, plurals(path.read_text("utf-8"))) for path in sources] == [
        (path, []) for path in sources
    ]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (8.15, 1.3, "8.15±1.30"),
        (-8.15, 0.09, "-8.15±0.09"),
        (8.15, 0.08, "8.15"),
        (8.15, 0.0, "8.15"),
        (0.0, 0.5, "0.00±0.50"),
        (0.0012, 0.0005, "0.0012±0.0005"),
        (8.15, None, "8.15"),
        (None, 1.3, "–"),
        (None, None, "–"),
    ],
)
def test_an_error_shows_beyond_one_percent(
    value: float | None, error: float | None, text: str
) -> None:
    assert uncertain(value, error) == text
