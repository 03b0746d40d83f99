"""A column is declared once: with a line in `rows.py` and its value in `model.Snapshot`, the whole
bridge has it, from the table to the page."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import trio_bridge
from tests.support.command import run_process
from tests.support.database import fetch
from tests.web.support import watched_service
from trio_bridge.rows import API_LOGS, PORTFOLIO_GREEKS

if TYPE_CHECKING:
    from tests.web.browser import Browser

pytestmark = pytest.mark.xdist_group("chromium")

DECLARATION = """
    spare: Annotated[
        float | None,
        Column(REAL, "Net spare", "in apples", chart="Spare", metric="portfolio_spare"),
    ]
"""
BEHIND_IT = """

@dataclass(frozen=True, slots=True)
class EventRow:"""
VALUE = "    spare: float | None = 1.5\n"
BEFORE_IT = "    data_type: DataType | None = None\n"


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A folder with the package, and one more column in it: what the recipe in
    docs/architecture.md says, and nothing else."""
    folder = tmp_path / "changed"
    package = folder / "trio_bridge"
    shutil.copytree(Path(trio_bridge.__file__).parent, package)
    replace(package / "rows.py", BEHIND_IT, DECLARATION + BEHIND_IT)
    replace(package / "model.py", BEFORE_IT, BEFORE_IT + VALUE)
    return folder


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), "utf-8")


async def test_a_new_column_appears_everywhere(
    browser: Browser, tmp_path: Path, changed: Path, fresh_database: str
) -> None:
    settings = {"PYTHONPATH": changed, "DATABASE_URL": fresh_database}
    async with watched_service(tmp_path, fresh_database, PYTHONPATH=changed) as here:
        await here.wait_ready()

        # Schema and encoding
        kinds = fetch(
            fresh_database,
            "SELECT data_type FROM information_schema.columns WHERE column_name = 'spare'",
        )
        assert kinds == [("double precision",)]
        assert fetch(fresh_database, "SELECT DISTINCT spare FROM portfolio_greeks") == [(1.5,)]

        # What the endpoint says
        async with here.client() as http:
            assert (await http.get("/api/status")).json()["ticker"]["last"]["spare"] == 1.5
            assert (await http.get("/api/recent")).json()[-1]["spare"] == 1.5
            metrics = (await http.get("/metrics")).text
            assert "# HELP trio_bridge_portfolio_spare Net spare, in apples\n" in metrics
            assert "\ntrio_bridge_portfolio_spare 1.5\n" in metrics
            series = (await http.get("/api/rows", params={"points": 1})).json()["series"]["spare"]
            assert {name: column[-1] for name, column in series.items()} == {
                "last": 1.5,
                "min": 1.5,
                "max": 1.5,
            }

        # The page
        await browser.reset()
        await browser.open(here.url)
        await browser.drawn()
        await browser.until_text("#headline", "Recording")
        await browser.until_text('[data-series="spare"] .value', "1.50")
        await browser.until_text('[data-series="spare"] h3', "Spare")
        await browser.until_text('[data-series="spare"] .unit', "in apples")
        assert await browser.complaints() == []

        # Commands
        status = await run_process(
            tmp_path, "status", "--json", **settings, BRIDGE_STATUS_PORT=here.port
        )
        assert status.json["service"]["ticker"]["last"]["spare"] == 1.5
        assert status.json["database"]["last"]["spare"] == 1.5
    tail = await run_process(tmp_path, "tail", "--no-follow", "--json", **settings)
    assert any(json.loads(line).get("spare") == 1.5 for line in tail.out.splitlines())
    export = await run_process(tmp_path, "export", **settings)
    rows = list(csv.DictReader(io.StringIO(export.out)))
    assert {row["spare"] for row in rows} == {"1.5"}


def test_readers_find_the_columns_where_they_were() -> None:
    """Existing columns keep their places; new ones come behind them."""
    assert ",".join(PORTFOLIO_GREEKS.shown).startswith(
        "timestamp,account,delta,gamma,vega,theta,underlying_price,positions,priced,greeks_age_s,"
        "data_type"
    )
    assert ",".join(API_LOGS.shown).startswith("timestamp,api_mode,status,message")
