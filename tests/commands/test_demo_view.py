"""What the demo shows while it runs."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from tests.support.rows import row_as_read
from trio_bridge.commands.demo import View
from trio_bridge.stores.reading.landing import LandedEvent, LandedRow

AT = datetime(2026, 1, 2, 14, 30, 5, tzinfo=UTC)


@pytest.fixture
def shown() -> str:
    return show(80)


def show(width: int) -> str:
    view = View()
    row = row_as_read(
        LandedRow,
        id=1,
        timestamp=AT,
        account="U1",
        delta=-3488.55,
        gamma=34.89,
        vega=12348.9,
        theta=-12418.68,
        underlying_price=5330.64,
        positions=30,
        priced=30,
        greeks_age_s=111.4,
        data_type="live",
    )
    event = row_as_read(
        LandedEvent, id=1, timestamp=AT, status="info", message="connected to 127.0.0.1:4001"
    )
    view.add([row], [event])
    console = Console(width=width, file=io.StringIO())
    console.print(view)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_a_row_fits_a_terminal_of_80_columns_and_nothing_is_cut(shown: str) -> None:
    assert "…" not in shown
    (row,) = [line for line in shown.splitlines() if "14:30:05" in line and "/" in line]
    assert row.split() == [
        *("14:30:05", "-3,488.55", "34.89", "12,348.90", "-12,418.68", "5,330.64"),
        *("30/30", "111.4", "s"),
    ]


def test_headings_are_whole_and_events_are_below(shown: str) -> None:
    headings = "UTC delta gamma vega theta underlying priced age"
    assert headings in [" ".join(line.split()) for line in shown.splitlines()]
    assert "14:30:05 UTC connected to 127.0.0.1:4001" in shown


@pytest.mark.parametrize("width", range(30, 100, 3))
def test_in_a_narrow_terminal_columns_are_missing_but_no_digit(width: int) -> None:
    (row,) = [line for line in show(width).splitlines() if "14:30:05" in line and "," in line]
    whole = ["14:30:05", "-3,488.55", "34.89", "12,348.90", "-12,418.68", "5,330.64", "30/30"]
    shown = row.replace("111.4 s", "").split()
    assert set(shown) <= set(whole)
    assert shown[:2] == whole[:2]
    assert width < 50 or {"-12,418.68", "30/30"} <= set(shown)
