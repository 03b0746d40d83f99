"""What reaches standard error, as a process of its own writes it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from trio_bridge.model import Severity

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import logging
import structlog
from trio_bridge.logs import configure_logging

configure_logging("info", "console")
log = structlog.get_logger()
log.info("well")
log.warning("not so well", reason="a fault")
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("broken", exc_info=error)
logging.getLogger("library").warning("its own words")
"""

SECRETIVE = """
import structlog, sys
from trio_bridge.logs import configure_logging

configure_logging("info", sys.argv[1])

def connect(password):
    raise RuntimeError("out of luck")

try:
    connect("hunter" + "2")
except RuntimeError as error:
    structlog.get_logger().error("it broke down", exc_info=error)
"""


EVENTS = """
from trio_bridge.events.rows import RowsMissed, RowsOverdue, RowsResumed
from trio_bridge.logs import configure_logging, log_event

configure_logging("info", "json")
for event in (RowsResumed(1, "why"), RowsMissed("why"), RowsOverdue(1.0, "why")):
    log_event(event)
"""


def lines_of(output: Path, *, journal: bool, program: str = PROGRAM) -> list[str]:
    with output.open("w") as stream:
        status = os.fstat(stream.fileno())
        other = 0 if journal else 1
        subprocess.run(
            [sys.executable, "-c", program],
            stderr=stream,
            env=os.environ
            | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + other}", "TZ": "Asia/Kolkata"},
            check=True,
        )
    return output.read_text("utf-8").splitlines()


def test_the_journal_is_told_how_grave_each_line_is_and_knows_the_time(tmp_path: Path) -> None:
    well, bad, *broken, library = lines_of(tmp_path / "journal", journal=True)

    assert well.startswith("<6>[info")
    assert well.rstrip().endswith("well")
    assert bad.startswith("<4>[warning")
    assert "reason='a fault'" in bad
    assert all(line.startswith("<3>") for line in broken)
    assert any("ZeroDivisionError" in line for line in broken)
    assert library == "<4>[WARNING] library: its own words"


def test_elsewhere_a_line_has_its_time_and_no_mark(tmp_path: Path) -> None:
    lines = lines_of(tmp_path / "file", journal=False)

    for line in (lines[0], lines[-1]):  # ours, and a library's
        at = re.match(r"(\S+) +\[", line)
        assert at, line
        assert datetime.fromisoformat(at[1]).utcoffset() == timedelta(hours=5.5)
    assert not any(line.startswith("<") for line in lines)


def test_the_log_tells_an_event_at_the_level_of_its_severity() -> None:
    told = subprocess.run(
        [sys.executable, "-c", EVENTS], capture_output=True, text=True, check=True
    ).stderr

    lines = [json.loads(line) for line in told.splitlines()]
    assert [line["level"] for line in lines] == list(Severity)


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_says_where_and_why_but_no_value(style: str) -> None:
    command = [sys.executable, "-c", SECRETIVE, style]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert "RuntimeError" in told
    assert "out of luck" in told
    assert "in connect" in told or '"name": "connect"' in told
    assert "hunter2" not in told


LIBRARIES = """
import logging, warnings
from trio_bridge.logs import Log, configure_logging

configure_logging("debug", "json")
Log().debug("ours", number=1)
logging.getLogger("asyncio").debug("Using selector: %s", "EpollSelector")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("library").exception("its\\nown")
warnings.warn("old", DeprecationWarning)
"""


@pytest.mark.parametrize("journal", [False, True])
def test_every_line_of_a_json_log_is_json(tmp_path: Path, journal: bool) -> None:
    lines = lines_of(tmp_path / "log", journal=journal, program=LIBRARIES)
    if journal:
        assert {line[:3] for line in lines} == {"<7>", "<3>", "<4>"}
        lines = [line[3:] for line in lines]
    entries = [json.loads(line) for line in lines]
    assert [entry["event"].partition(":")[0] for entry in entries[:2]] == ["ours", "Using selector"]
    assert [entry["level"] for entry in entries] == ["debug", "debug", "error", "warning"]
    assert "ZeroDivisionError" in entries[2]["exception"]
    assert all(entry["timestamp"].startswith("20") for entry in entries)


LIBRARY_USER = """
import logging, sys
before = logging.getLogger("dotenv.main").level, logging.getLogger().handlers[:]
import structlog
import trio, trio_bridge
from trio_bridge.config import load_settings
from trio_bridge.gateways.factory import build_bridge
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator
from trio_bridge.tasks.ticker import Ticker

assert not structlog.is_configured()
assert before == (logging.getLogger("dotenv.main").level, logging.getLogger().handlers[:])
if sys.argv[1:] == ["debug"]:
    logging.basicConfig(level=logging.DEBUG, format="%(name)s:%(levelname)s:%(message)s")

async def main():
    async with open_tws_simulator(make_book()) as sim:
        settings = load_settings(ib_socket_host=sim.host, ib_socket_port=sim.port)
        async with build_bridge(settings) as bridge:
            await bridge.connect()
            rows = []
            ticker = Ticker(bridge, rows.append, interval_s=0.2, emit=lambda event: None)
            with trio.move_on_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ticker.run)
                    while not rows:
                        await trio.sleep(0.1)
                    nursery.cancel_scope.cancel()
            assert rows

trio.run(main)
"""


@pytest.mark.parametrize("level", ["", "debug"])
def test_a_program_that_uses_it_as_a_library_keeps_its_own_log_and_its_output(level: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY_USER, *filter(None, [level])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    rows = [line for line in done.stderr.splitlines() if line.startswith("trio_bridge:DEBUG:row ")]
    assert bool(rows) is (level == "debug")
