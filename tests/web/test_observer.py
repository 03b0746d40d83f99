"""When it may be said that all is well, what is said when it is not, and what is counted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.support.rows import snapshot
from trio_bridge.config import load_settings
from trio_bridge.gateways.readiness import Blocked, Reason
from trio_bridge.model import (
    ApiEvent,
    ApiMode,
    DataType,
    Defect,
    PositionState,
    Severity,
    Snapshot,
    Verdict,
    utc_now,
)
from trio_bridge.policy.recorders import Recorders
from trio_bridge.service import Service
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.record import record_of
from trio_bridge.stores.spool.spool import Spool
from trio_bridge.tasks.supervisor import State
from trio_bridge.web.metrics import Metrics
from trio_bridge.web.observer import Observer
from trio_bridge.web.streams import Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

CONNINFO = "host=nowhere.invalid dbname=none"
NO_GREEKS = Snapshot(utc_now(), "U1", None, None, None, None, 100.0, 3, 0, verdict=Verdict.PARTIAL)


class Bench:
    """A service that does nothing by itself, and all that watches it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.hub = Hub()
        self.metrics = Metrics()
        self.observer = Observer(
            service, self.metrics.lateness.observe, self.metrics.time_to_safe.observe, self.hub
        )
        self.metrics.watch(self.observer, self.hub)
        self.observer.watch()
        service.supervisor.status.state = State.CONNECTED

    def row(self, row: Snapshot, *, safe_after_s: float | None = 0.002) -> None:
        """What happens in a service when a row is taken, and when it becomes safe."""
        ticker = self.service.ticker.status
        ticker.rows += 1
        ticker.last = row = replace(row, late_s=0.004)
        ticker.last_slot_s = trio.current_time()
        self.service._tell(row)
        if safe_after_s is not None:
            self.service._tell_safe(record_of(row), safe_after_s)

    def samples(self, *, spool_rows: int | None = 0) -> dict[str, float]:
        """What a scrape finds: name and labels → value."""
        text = self.metrics.expose("", spool_rows=spool_rows).content.decode()
        return {
            sample.name
            + "".join(f" {k}={v}" for k, v in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.chdir(tmp_path)
    spool = await Spool.open(tmp_path / "buffer.jsonl")
    settings = load_settings(buffer_path=tmp_path / "buffer.jsonl")
    yield Bench(Service(settings, PostgresStore(CONNINFO), spool, CONNINFO))
    spool.close()


# Ready


async def test_all_is_well_when_a_right_row_became_safe_within_three_intervals(
    bench: Bench, mock_clock: MockClock
) -> None:
    assert bench.observer.not_ready_because() == "no row yet: just started"
    bench.row(snapshot(1))
    assert bench.observer.not_ready_because() is None
    mock_clock.jump(15)
    assert bench.observer.not_ready_because() is None
    mock_clock.jump(0.1)
    assert bench.observer.not_ready_because() == "no row within 3 intervals of 5 s"


async def test_a_row_that_is_not_safe_does_not_count(bench: Bench) -> None:
    bench.row(snapshot(1), safe_after_s=None)
    assert bench.observer.not_ready_because() is not None
    bench.service.delivery.accept(snapshot(2))
    assert bench.observer.not_ready_because() == (
        "1 row not safe: neither database nor disk takes any"
    )


@pytest.mark.parametrize("ready", [Verdict.COMPLETE, Verdict.STALE, Verdict.PARTIAL])
@pytest.mark.parametrize("verdict", [Verdict.COMPLETE, Verdict.STALE, Verdict.PARTIAL])
async def test_the_last_row_must_be_as_good_as_the_user_demands(
    bench: Bench, ready: Verdict, verdict: Verdict
) -> None:
    bench.service.settings = bench.service.settings.model_copy(update={"ready": ready})
    bench.row(replace(snapshot(1), verdict=verdict))
    assert bench.observer.verdict() is verdict
    assert (bench.observer.not_ready_because() is None) is (verdict.rank <= ready.rank)


async def test_the_reason_is_the_verdict_and_the_first_five_defects(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    defects = [Defect(name, PositionState.NO_DATA) for name in "ABCDEFG"]
    monkeypatch.setattr(bench.service.bridge, "defects", lambda: defects)
    bench.row(replace(snapshot(1), verdict=Verdict.PARTIAL))
    assert bench.observer.not_ready_because() == (
        "partial: A (no data); B (no data); C (no data); D (no data); E (no data) and 2 more"
    )


async def test_a_row_without_greeks_does_not_count(bench: Bench) -> None:
    bench.service.settings = bench.service.settings.model_copy(update={"ready": Verdict.PARTIAL})
    bench.row(NO_GREEKS)
    assert bench.observer.not_ready_because() == "partial"


async def test_the_reason_is_the_gateways_when_it_has_one(
    bench: Bench, mock_clock: MockClock
) -> None:
    bench.row(snapshot(1))
    mock_clock.jump(60)
    bench.service.ticker.status.silent_because = str(Blocked(Reason.DOWNLOADING))
    assert bench.observer.not_ready_because() == "no rows: the positions are still being downloaded"
    gateway = bench.service.supervisor.status
    gateway.state, gateway.reason = State.BACKING_OFF, "connection refused"
    assert bench.observer.not_ready_because() == "no rows: backing off: connection refused"


async def test_a_ticker_that_stands_still_is_not_alive(bench: Bench, mock_clock: MockClock) -> None:
    bench.row(snapshot(1))
    mock_clock.jump(15)
    assert bench.observer.stalled_because() is None
    mock_clock.jump(1)
    assert bench.observer.stalled_because() == "the ticker has not moved for 16 s"


async def test_so_is_one_that_never_began(bench: Bench, mock_clock: MockClock) -> None:
    mock_clock.jump(14)
    assert bench.observer.stalled_because() is None
    mock_clock.jump(2)
    assert bench.observer.stalled_because() is not None


# Standing by


async def test_a_standby_is_ready_while_it_could_take_over(
    bench: Bench, mock_clock: MockClock
) -> None:
    bridge = bench.service.bridge
    bridge.rest("the other records")
    assert bench.observer.verdict() is Verdict.BLIND, "it has no gateway"
    assert bench.observer.not_ready_because() is not None
    bridge.readiness.clear(Reason.NOT_CONNECTED)
    for reason in Reason:
        if reason is not Reason.STANDBY:
            bridge.readiness.clear(reason)
    mock_clock.jump(3600)
    assert bench.observer.verdict() is Verdict.STANDBY
    assert bench.observer.not_ready_because() is None
    assert bench.observer.stands_by_because() == "standby: the other records"
    bridge.readiness.block(Reason.UPSTREAM_LOST)
    assert bench.observer.verdict() is Verdict.BLIND
    assert bench.observer.not_ready_because() is not None
    assert bench.observer.stands_by_because() is None


async def test_status_and_metrics_say_who_records(bench: Bench) -> None:
    recorders = bench.service.recorders
    about = bench.observer.status().recorder
    assert (about.name, about.standby, about.resting, about.other) == (
        recorders.name,
        False,
        False,
        None,
    )
    samples = bench.samples()
    assert samples["trio_bridge_standby"] == samples["trio_bridge_other_recorder"] == 0
    standby = bench.service.recorders = Recorders(recorders.name, 5.0, stands_by=True)
    for _ in range(2):
        standby.saw([(utc_now(), "nas:12-ab34")], trio.current_time(), utc_now())
    about = bench.observer.status().recorder
    assert (about.standby, about.resting, about.other) == (True, True, "nas:12-ab34")
    samples = bench.samples()
    assert samples["trio_bridge_standby"] == samples["trio_bridge_other_recorder"] == 1
    assert samples["trio_bridge_takeovers_total"] == 0
    standby.decide(trio.current_time(), is_able=True)
    standby.decide(trio.current_time() + 60, is_able=True)
    assert bench.samples()["trio_bridge_takeovers_total"] == 1
    assert bench.samples()["trio_bridge_standby"] == 0


# Live


async def test_listeners_hear_of_safe_rows_and_events_and_of_no_others(bench: Bench) -> None:
    event = ApiEvent(utc_now(), ApiMode.SOCKET, "connected")
    with bench.hub.listen() as stream:
        bench.row(snapshot(1), safe_after_s=None)
        bench.row(snapshot(2))
        bench.service._tell(event)
        bench.service._tell_safe(record_of(event), 0.1)
        heard = [stream.receive_nowait(), stream.receive_nowait()]
        with pytest.raises(trio.WouldBlock):
            stream.receive_nowait()
    assert heard[0].startswith(b'event: row\ndata: {"timestamp":')
    assert b'"delta":2.0' in heard[0]
    assert heard[1].startswith(b"event: event\n")
    assert b"connected" in heard[1]


async def test_the_last_rows_are_kept_in_memory_and_not_too_many(bench: Bench) -> None:
    for number in range(2_100):
        bench.row(snapshot(number))
    assert len(bench.observer.recent) == 2_000
    assert b'"delta":2099.0' in bench.observer.recent[-1]


async def test_of_the_last_rows_as_many_are_told_as_fit_into_a_time(bench: Bench) -> None:
    assert bench.observer.recent_json(12) == b"[]"
    for number in range(9):
        bench.row(snapshot(number))
        whole = orjson.loads(bench.observer.recent_json())
        assert [row["delta"] for row in whole] == list(range(number + 1))
        last = orjson.loads(bench.observer.recent_json(12))  # every 5 s
        assert last == whole[-3:]


# Metrics


async def test_rows_and_events_are_counted(bench: Bench) -> None:
    bench.row(snapshot(1))
    bench.row(snapshot(2), safe_after_s=None)
    for status in (Severity.INFO, Severity.WARNING, Severity.WARNING):
        bench.service._tell(ApiEvent(utc_now(), ApiMode.SOCKET, "x", status))

    found = bench.samples()

    assert found["trio_bridge_rows_total"] == 2
    assert found["trio_bridge_rows_safe_total"] == 1
    assert found["trio_bridge_events_total status=warning"] == 2
    assert found["trio_bridge_events_total status=error"] == 0
    assert found["trio_bridge_row_lateness_seconds_count"] == 2
    assert found["trio_bridge_row_lateness_seconds_bucket le=0.005"] == 2
    assert found["trio_bridge_row_lateness_seconds_bucket le=0.0025"] == 0
    assert found["trio_bridge_row_time_to_safe_seconds_sum"] == pytest.approx(0.002)


async def test_the_greeks_are_gauges_while_they_are_current(bench: Bench) -> None:
    bench.row(snapshot(7))
    found = bench.samples()
    assert found["trio_bridge_portfolio_delta"] == 7
    assert found["trio_bridge_portfolio_theta"] == 12
    assert found["trio_bridge_portfolio_underlying_price"] == 100.25
    assert found["trio_bridge_positions"] == found["trio_bridge_positions_priced"] == 3
    assert found["trio_bridge_greeks_age_seconds"] == 0
    assert found["trio_bridge_recording"] == 1


async def test_an_old_greek_must_not_look_like_a_current_one(
    bench: Bench, mock_clock: MockClock
) -> None:
    bench.row(snapshot(7))
    mock_clock.jump(16)
    found = bench.samples()
    assert found["trio_bridge_recording"] == 0
    assert "trio_bridge_last_row_timestamp_seconds" in found
    gone = ("portfolio_", "positions", "greeks_age")
    assert not [name for name in found if name.removeprefix("trio_bridge_").startswith(gone)]


async def test_an_unknown_greek_is_left_out(bench: Bench) -> None:
    bench.row(snapshot(7))
    bench.row(NO_GREEKS)
    found = bench.samples()
    assert "trio_bridge_portfolio_delta" not in found
    assert found["trio_bridge_portfolio_underlying_price"] == 100
    assert found["trio_bridge_positions_priced"] == 0


async def test_exactly_one_state_is_the_present_one(bench: Bench) -> None:
    bench.service.delivery._breaker.hold_back("test")
    bench.service.supervisor.status.state = State.BACKING_OFF
    found = bench.samples()
    breaker = {name: value for name, value in found.items() if "breaker_state" in name}
    connection = {name: value for name, value in found.items() if "connection_state" in name}
    assert breaker["trio_bridge_breaker_state state=open"] == 1
    assert connection["trio_bridge_connection_state state=backing_off"] == 1
    assert sum(breaker.values()) == sum(connection.values()) == 1
    assert (len(breaker), len(connection)) == (3, 5)


async def test_the_verdict_and_the_kind_of_data_are_gauges(
    bench: Bench, mock_clock: MockClock
) -> None:
    def present(name: str) -> list[str]:
        found = bench.samples().items()
        return [key for key, value in found if key.startswith(f"trio_bridge_{name} ") and value]

    assert present("verdict") == ["trio_bridge_verdict state=blind"]
    bench.row(replace(snapshot(1), verdict=Verdict.STALE, data_type=DataType.DELAYED_FROZEN))
    assert present("verdict") == ["trio_bridge_verdict state=stale"]
    assert present("data_type") == ["trio_bridge_data_type state=delayed-frozen"]
    mock_clock.jump(16)
    assert present("verdict") == ["trio_bridge_verdict state=blind"]
    assert present("data_type") == []


async def test_what_the_disk_does_not_tell_is_left_out(bench: Bench) -> None:
    assert bench.samples(spool_rows=5)["trio_bridge_spool_rows"] == 5
    assert "trio_bridge_spool_rows" not in bench.samples(spool_rows=None)


async def test_names_and_units_are_the_fields(bench: Bench) -> None:
    """https://prometheus.io/docs/practices/naming/"""
    bench.row(snapshot(1))
    text = bench.metrics.expose("", spool_rows=0).content.decode()
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.name.startswith(("trio_bridge", "process_"))
        assert family.type != "unknown"
        if family.type == "counter":
            assert all(s.name.endswith(("_total", "_created")) for s in family.samples)
        for unit in ("_ms", "_milliseconds", "_minutes", "_kb"):
            assert not family.name.endswith(unit)


async def test_the_number_of_series_does_not_grow(bench: Bench) -> None:
    bench.row(snapshot(1))
    before = bench.samples().keys()
    for number in range(50):
        bench.row(snapshot(number))
        bench.service._tell(
            ApiEvent(utc_now(), ApiMode.SOCKET, f"message {number}", Severity.ERROR)
        )
        bench.service.supervisor.status.reason = f"reason {number}"
    assert bench.samples().keys() == before


async def test_two_services_in_one_process_do_not_mix(bench: Bench) -> None:
    other = Metrics()
    bench.row(snapshot(1))
    assert other.registry is not bench.metrics.registry
    assert "rows_total" not in other.expose("", spool_rows=None).content.decode()


async def test_openmetrics_is_spoken_with_those_who_ask_for_it(bench: Bench) -> None:
    plain = bench.metrics.expose("*/*", spool_rows=0)
    modern = bench.metrics.expose("application/openmetrics-text; version=1.0.0", spool_rows=0)
    assert plain.content_type.startswith("text/plain; version=0.0.4")
    assert modern.content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert modern.content.endswith(b"# EOF\n")


async def test_nobody_is_told_any_more_after_the_end(bench: Bench) -> None:
    bench.observer.unwatch()
    bench.row(snapshot(1))
    assert bench.observer.safe_rows == 0
    assert not bench.service.watchers
    assert not bench.service.safe_watchers
