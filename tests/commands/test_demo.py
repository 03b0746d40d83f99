"""The demo, from its gateway to its last line."""

from __future__ import annotations

import re
import shutil
import signal
from typing import TYPE_CHECKING

import psutil
import pytest
import trio

from tests.support.postgres import reachable_directory
from tests.support.process import PATIENCE_S
from trio_bridge.commands import demo
from trio_bridge.model import ApiMode
from trio_bridge.stores.reading.landing import Landing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_bridge.stores.reading.landing import LandedEvent, LandedRow


@pytest.fixture
def room() -> Iterator[Path]:
    home = reachable_directory("trio_bridge-room-")
    yield home / "demo"
    shutil.rmtree(home)


@pytest.mark.parametrize(("mode", "scheme"), [(ApiMode.SOCKET, ""), (ApiMode.PORTAL, "https://")])
async def test_rows_of_either_mode_are_shown_until_ctrl_c(
    mode: ApiMode,
    scheme: str,
    room: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add = demo.View.add

    def add_and_interrupt(
        view: demo.View, rows: list[LandedRow], events: list[LandedEvent]
    ) -> None:
        before = view.row_count
        add(view, rows, events)
        if before < 3 <= view.row_count:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(demo.View, "add", add_and_interrupt)
    # Where the demo would keep them: they may be somebody's.
    monkeypatch.setattr(demo, "default_directory", lambda name: room)
    monkeypatch.setattr(demo, "DEMO_BUFFER", tmp_path / "buffer.jsonl")
    monkeypatch.setenv("BRIDGE_POLL_INTERVAL", "0.5")
    monkeypatch.chdir(tmp_path)

    await demo.run_demo(seconds=PATIENCE_S, mode=mode)

    said = " ".join(capsys.readouterr().out.split())
    assert "30/30" in said
    assert f"connected to {scheme}127.0.0.1:" in said
    assert ": the service is stopping" in said
    assert "rows in portfolio_greeks and" in said


async def test_a_later_run_shows_its_own_first_event_however_late_it_looks(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_to_end = Landing.skip_to_end

    async def skip_late(landing: Landing, *, but: int = 0) -> None:
        await trio.sleep(1)
        await skip_to_end(landing, but=but)

    monkeypatch.setattr(Landing, "skip_to_end", skip_late)
    monkeypatch.setattr(demo, "default_directory", lambda name: room)
    monkeypatch.setattr(demo, "DEMO_BUFFER", tmp_path / "buffer.jsonl")
    monkeypatch.setenv("BRIDGE_POLL_INTERVAL", "100")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        await demo.run_demo(seconds=3, mode=ApiMode.SOCKET)
        said = " ".join(capsys.readouterr().out.split())
        assert said.count("has started: SOCKET mode") == 1
        assert "3 events in api_logs" in said


async def test_rows_that_wait_at_the_end_are_told_of_and_land_in_the_next_run(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add = demo.View.add

    def add_and_freeze(view: demo.View, rows: list[LandedRow], events: list[LandedEvent]) -> None:
        before = view.row_count
        add(view, rows, events)
        if before < 3 <= view.row_count:
            freeze(room)

    monkeypatch.setattr(demo, "default_directory", lambda name: room)
    monkeypatch.setattr(demo, "DEMO_BUFFER", tmp_path / "buffer.jsonl")
    monkeypatch.setenv("BRIDGE_POLL_INTERVAL", "0.5")
    monkeypatch.setenv("BRIDGE_DB_TIMEOUT", "1")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as once:
        once.setattr(demo.View, "add", add_and_freeze)
        await demo.run_demo(seconds=8, mode=ApiMode.SOCKET)
    assert re.search(r"\d+ \w+ of rows and events wait in \S+buffer.jsonl", capsys.readouterr().out)

    await demo.run_demo(seconds=3, mode=ApiMode.SOCKET)
    assert " wait in " not in capsys.readouterr().out
    assert (tmp_path / "buffer.jsonl").read_bytes() == b""


def freeze(room: Path) -> None:
    """Stop the demo's whole server where it stands."""
    (pid_file,) = room.rglob("postmaster.pid")
    postmaster = psutil.Process(int(pid_file.read_text().split()[0]))
    for process in [postmaster, *postmaster.children()]:
        process.suspend()
