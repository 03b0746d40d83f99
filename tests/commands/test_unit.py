"""The systemd unit is accepted by systemd, and agrees with what the service does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from trio_bridge import cli, service
from trio_bridge.delivery import delivery
from trio_bridge.stores.embedded import server

UNIT = Path(__file__).parents[2] / "scripts" / "systemd" / "trio-bridge.service"
LEAST_SECURE = 2.0
"""systemd's own scale: below this it calls the exposure OK, and near 10 unsafe."""


@pytest.fixture
def unit() -> ConfigParser:
    parser = ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read_string(UNIT.read_text("utf-8"))
    return parser


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed here (Debian package systemd)")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)


def test_systemd_has_nothing_against_it(tmp_path: Path) -> None:
    """But for the program, which is not installed under /opt here."""
    copy = tmp_path / UNIT.name
    program = "/opt/trio-bridge/.venv/bin/trio-bridge"
    assert program in UNIT.read_text("utf-8")
    copy.write_text(UNIT.read_text("utf-8").replace(program, sys.executable), "utf-8")
    done = analyze("verify", "--man=no", copy)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_well_locked_up() -> None:
    done = analyze(
        "security", "--offline=true", "--no-pager", f"--threshold={LEAST_SECURE * 10:.0f}", UNIT
    )
    assert done.returncode == 0, done.stdout


def test_it_agrees_with_the_service(unit: ConfigParser) -> None:
    settings = unit["Service"]
    assert settings["Type"] == "notify"
    assert settings["Restart"] == "always"
    assert settings["LimitCORE"] == "0"
    assert int(settings["RestartPreventExitStatus"]) == cli.EXIT_CONFIG
    # Only the bridge is told to end: PostgreSQL must outlive its last rows.
    assert settings["KillMode"] == "mixed"
    goodbye_s = service.DRAIN_S + delivery.RESCUE_TIMEOUT_S
    goodbye_s += sum(deadline_s for _, deadline_s in server.STOP_DEADLINES_S)
    assert int(settings["TimeoutStopSec"]) > 1.5 * goodbye_s
    assert int(settings["TimeoutStartSec"]) > server.START_TIMEOUT_S + server.INITDB_TIMEOUT_S
