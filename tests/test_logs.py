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


def lines_of(output: Path, *, journal: bool) -> list[str]:
    with output.open("w") as stream:
        status = os.fstat(stream.fileno())
        other = 0 if journal else 1
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
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
