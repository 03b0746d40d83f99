"""The catalogue of events: this file owns all their wordings. Whoever improves a sentence changes
it here, in the runbook, and nowhere else; a kind is what users' queries go by, and stays."""

# ruff: noqa: E501

from __future__ import annotations

import re
from datetime import UTC, datetime
from importlib import import_module
from pkgutil import iter_modules

import pytest

import trio_bridge.events
from trio_bridge.errors import GatewayError
from trio_bridge.events.data import (
    CompetingSession,
    CompetingSessionEnded,
    ContractUnknown,
    CurrenciesMixed,
    DataRefused,
    DataUsable,
    DataWithheld,
    ExchangeGivenUp,
    FarmBack,
    FarmDown,
    LinesEnough,
    LinesReturned,
    LinesTaken,
    LinesTooFew,
    MultipliersKnown,
    MultipliersUnknown,
    NotSubscribed,
    TypeUnknown,
)
from trio_bridge.events.event import Event
from trio_bridge.events.gateway import (
    AccountAppeared,
    AccountGone,
    AccountLeftOut,
    AccountsAwaited,
    Connected,
    ConnectionLost,
    GatewayAnswers,
    GatewayNotice,
    GatewayRemark,
    GatewaySilent,
    GatewayWarning,
    HoldBegun,
    HoldEnded,
    PositionsLacking,
    PositionsThere,
    PositionsUnconfirmed,
    RateLimited,
    Reconnecting,
    UpstreamBack,
    UpstreamLost,
)
from trio_bridge.events.portal import (
    AnswersUnusable,
    AnswersUsable,
    CertificatePinned,
    CertificateUnchecked,
    CompetingLogin,
    LoggedOut,
    LoginBack,
    LoginCutOff,
    NoBrokerageSession,
    PaceUnshared,
    RequestsPaused,
    RequestsResumed,
    StreamBack,
    StreamBegun,
    StreamLost,
)
from trio_bridge.events.rows import (
    CircuitChanged,
    CircuitClosed,
    CircuitOpened,
    RowsBegun,
    RowsComplete,
    RowsDropped,
    RowsMissed,
    RowsOnTime,
    RowsOverdue,
    RowsPartial,
    RowsQuarantined,
    RowsResumed,
    RowsSafe,
    RowsSentAgain,
    RowsStale,
    SlotsDoubled,
    SlotsSingle,
    SlotsSkipped,
    SpoolTakenAway,
    SpoolUnwritable,
)
from trio_bridge.events.service import (
    AlertTried,
    ClockStepped,
    ConnectionStuck,
    EmbeddedCreated,
    EmbeddedEnded,
    EmbeddedFailed,
    EmbeddedRestarted,
    PartBroke,
    ServiceDied,
    ServiceStarted,
    ServiceStopped,
    SteppedBack,
    TookOver,
)
from trio_bridge.model import ApiMode, Severity
from trio_bridge.stores.reading.gaps import CAUSES
from trio_bridge.text import LONGEST_QUOTE

AT = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)
URL = "https://localhost:5000"


def subclasses(kind: type[Event]) -> list[type[Event]]:
    below = kind.__subclasses__()
    return below + [one for other in below for one in subclasses(other)]


for _module in iter_modules(trio_bridge.events.__path__):
    import_module(f"trio_bridge.events.{_module.name}")
CATALOGUE = sorted(
    subclasses(Event),
    key=lambda one: one.kind,
)

# fmt: off
GOLDEN: list[tuple[Event, str, str, str]] = [
    (ServiceStarted("0.2", ApiMode.SOCKET, 5.0), "service.started", "info", "trio_bridge 0.2 has started: SOCKET mode, a row every 5 s"),
    (ServiceStopped("127.0.0.1:4001"), "service.stopped", "info", "disconnected from 127.0.0.1:4001: the service is stopping"),
    (ServiceStopped(), "service.stopped", "info", "the service is stopping"),
    (ClockStepped(-3600.2, AT, AT), "clock.stepped", "warning", "the machine's clock was set back by 1 h 0 min: the times of rows up to 2026-01-02 14:30:00 UTC, or of those from 2026-01-02 14:30:00 UTC on, are wrong by as much; let an NTP server keep it"),
    (ClockStepped(1.5, AT, AT), "clock.stepped", "warning", "the machine's clock was set forward by 1.5 s: the times of rows up to 2026-01-02 14:30:00 UTC, or of those from 2026-01-02 14:30:00 UTC on, are wrong by as much; let an NTP server keep it"),
    (ConnectionStuck(1.5), "service.connection_stuck", "error", "a connection did not end within 1.5 s: the service ends without it"),
    (ServiceDied(), "service.died", "error", "the service ended without being asked to: its log says why"),
    (PartBroke("the status endpoint", 1.0), "service.part_broke", "error", "the status endpoint failed and restarts in 1 s; the recording is not affected"),
    (AlertTried(), "alert.test", "info", "a test: alerts of this bridge arrive here"),
    (EmbeddedCreated("/var/lib/trio-bridge/db"), "embedded.created", "info", "creating a PostgreSQL database in /var/lib/trio-bridge/db"),
    (EmbeddedEnded("killed by SIGKILL"), "embedded.ended", "warning", "the embedded PostgreSQL has ended (killed by SIGKILL)"),
    (EmbeddedFailed("the disk is full"), "embedded.failed", "error", "the embedded PostgreSQL cannot be restarted: the disk is full"),
    (EmbeddedRestarted(), "embedded.restarted", "info", "the embedded PostgreSQL is running again"),
    (Connected("127.0.0.1:4001"), "gateway.connected", "info", "connected to 127.0.0.1:4001"),
    (ConnectionLost("127.0.0.1:4001", "the gateway closed the connection"), "gateway.lost", "warning", "disconnected from 127.0.0.1:4001: the gateway closed the connection"),
    (Reconnecting(2, 10.0, "connection refused"), "gateway.reconnecting", "warning", "reconnect attempt 2 in 10 s: connection refused"),
    (HoldBegun("00:05 ET", "connection refused"), "gateway.holding", "info", "holding until 00:05 ET: reset window (connection refused)"),
    (HoldEnded(), "gateway.hold_ended", "info", "the reset window is over: reconnecting now"),
    (GatewaySilent("no answer to a probe within 5 s"), "gateway.silent", "warning", "the gateway is silent (no answer to a probe within 5 s): no rows until it answers"),
    (GatewayAnswers(), "gateway.answers", "info", "the gateway answers again"),
    (UpstreamLost(1100), "gateway.upstream_lost", "warning", "the gateway lost its link to Interactive Brokers (1100): no rows until it is back"),
    (UpstreamBack(1101, forgot=True), "gateway.upstream_back", "info", "the gateway's link is back (1101): subscribing to everything again"),
    (UpstreamBack(1102, forgot=False), "gateway.upstream_back", "info", "the gateway's link is back (1102): carrying on"),
    (GatewayNotice(2105, "HMDS data farm connection is broken:ushmds"), "gateway.notice", "warning", "gateway notice (2105: HMDS data farm connection is broken:ushmds)"),
    (GatewayRemark(10167, "SPX C5000", "Displaying delayed market data"), "gateway.remark", "info", "the gateway says for SPX C5000: Displaying delayed market data (10167)"),
    (GatewayRemark(2152, "", "Exchanges"), "gateway.remark", "info", "the gateway says: Exchanges (2152)"),
    (GatewayWarning(321, "SPX C5000", "Error validating request"), "gateway.warning", "warning", "the gateway says for SPX C5000: Error validating request (321)"),
    (GatewayWarning(10999, "", "60"), "gateway.warning", "warning", "the gateway says: 60 (10999)"),
    (RateLimited(100, "Max rate of messages per second has been exceeded"), "gateway.rate_limited", "warning", "the gateway rate-limited us (100: Max rate of messages per second has been exceeded)"),
    (AccountAppeared("U1234567"), "account.appeared", "info", "account U1234567 has appeared: its positions count too"),
    (AccountGone("U1234567"), "account.gone", "warning", "account U1234567 no longer belongs to this login: its positions no longer count"),
    (AccountsAwaited(("U9",), ("U1", "U2"), 180.0), "account.awaited", "warning", "IB_ACCOUNT names U9, which this login does not list (it lists U1, U2): trying for 180 s"),
    (AccountLeftOut("U1234567", "GET /portfolio/U1234567/positions/0: HTTP 400"), "account.left_out", "warning", "the gateway names account U1234567 but refuses its positions (GET /portfolio/U1234567/positions/0: HTTP 400): they are not recorded"),
    (PositionsLacking(("U1", "U2")), "positions.lacking", "warning", "no positions of U1, U2 have arrived, but their position value or margin is not zero: no rows until they agree"),
    (PositionsThere(42.4), "positions.there", "info", "the positions agree with the account values (after 42 s)"),
    (PositionsUnconfirmed("no answer"), "positions.unconfirmed", "warning", "account values do not confirm the positions (no answer): an account without positions counts as empty"),
    (FarmDown(2103, "Market data farm connection is broken:usopt"), "data.farm_down", "warning", "a market data farm is down (2103: Market data farm connection is broken:usopt)"),
    (FarmBack("usopt", 180, 119.6), "data.farm_back", "info", "the market data farm usopt is back: it was down 180 times within 120 s"),
    (FarmBack("usopt", 1, 12.0), "data.farm_back", "info", "the market data farm usopt is back: it was down 1 time within 12 s"),
    (CompetingSession(10197), "data.competing", "warning", "another session of yours has the market data (10197): waiting for its end"),
    (CompetingSessionEnded(), "data.competing_ended", "info", "the competing session has ended: market data is back"),
    (LinesTaken(5), "data.lines_taken", "warning", "TWS needs market data lines (101): continuing with 5"),
    (LinesReturned(90), "data.lines_returned", "info", "TWS has returned its market data lines: continuing with 90"),
    (LinesTooFew(24, 4, 181.25, 120.0), "data.lines_too_few", "warning", "24 options take turns on 4 market data lines: Greeks get about 181 s old, and are unpriced beyond 120 s; raise IB_MARKET_DATA_LINES (after quote booster packs) or BRIDGE_GREEKS_MAX_AGE"),
    (LinesEnough(24, 4), "data.lines_enough", "info", "there are enough market data lines again: 4 for 24 options"),
    (NotSubscribed("SPX C5000", 354, "Requested market data is not subscribed", delayed_tried=False), "data.not_subscribed", "warning", "no market data for SPX C5000 (354: Requested market data is not subscribed): unpriced; subscribe to it at Interactive Brokers, or set IB_MARKET_DATA_TYPE=3 to take delayed data"),
    (NotSubscribed("SPX C5000", 10186, "Requested market data is not subscribed", delayed_tried=True), "data.not_subscribed", "warning", "no market data for SPX C5000 (10186: Requested market data is not subscribed): unpriced; subscribe to it at Interactive Brokers"),
    (DataWithheld(7, ("SPX 1", "SPX 2"), "the login has no subscription", "subscribe at Interactive Brokers"), "data.withheld", "warning", "no usable market data for 7 options (SPX 1, SPX 2): the login has no subscription; subscribe at Interactive Brokers"),
    (DataUsable("the login has no subscription", 42.4), "data.usable", "info", "market data can be used again (for 42 s they could not: the login has no subscription)"),
    (ContractUnknown("SPX C5000", 200, ("AMEX", "SMART", "")), "data.contract_unknown", "warning", "SPX C5000 is unknown to the gateway (200 at AMEX, SMART, without an exchange): unpriced"),
    (ContractUnknown("A, B, C, D, E and 295 more", 200, ("SMART",), 300), "data.contract_unknown", "warning", "A, B, C, D, E and 295 more are unknown to the gateway (200 at SMART): unpriced"),
    (ExchangeGivenUp("SPX C5000", 200, ("AMEX",), "SMART"), "data.exchange_given_up", "info", "no market data for SPX C5000 at AMEX (200): they come at SMART"),
    (ExchangeGivenUp("SPX C5000", 200, ("AMEX", "SMART"), ""), "data.exchange_given_up", "info", "no market data for SPX C5000 at AMEX, SMART (200): they come without an exchange"),
    (DataRefused("SPX C5000", 321, "Error validating request"), "data.refused", "error", "the gateway refuses data for SPX C5000 (321: Error validating request): unpriced"),
    (TypeUnknown("ICU"), "positions.unknown_type", "warning", "positions of the unknown type 'ICU' add nothing to the Greeks: unpriced"),
    (CurrenciesMixed(("EUR", "USD")), "positions.mixed_currencies", "warning", "options in EUR, USD: vega and theta are in the base currency, at the ledger's exchange rates, and NULL while one is missing"),
    (MultipliersUnknown((7,)), "positions.no_multiplier", "warning", "the gateway does not give the multiplier or the price magnifier of 1 position (conid 7): unpriced until it does"),
    (MultipliersUnknown((1, 2, 3, 4, 5, 6)), "positions.no_multiplier", "warning", "the gateway does not give the multiplier or the price magnifier of 6 positions (conid 1, 2, 3, 4, 5): unpriced until it does"),
    (MultipliersKnown(42.4), "positions.multipliers_known", "info", "every multiplier is known (after 42 s)"),
    (LoggedOut("", URL), "login.lost", "warning", "nobody is logged in at the gateway: no rows; open https://localhost:5000 in a browser and log in"),
    (LoggedOut("session expired", URL), "login.lost", "warning", "nobody is logged in at the gateway (session expired): no rows; open https://localhost:5000 in a browser and log in"),
    (NoBrokerageSession("failed to generate SSO tokens", URL, 15.0), "login.no_brokerage", "warning", "the gateway has no brokerage session (failed to generate SSO tokens): no rows, asking for one every 15 s; if that does not help, open https://localhost:5000 in a browser and log in"),
    (CompetingLogin(""), "login.competing", "warning", "another session of yours has the market data: no rows until it ends"),
    (LoginCutOff(""), "login.upstream_lost", "warning", "the gateway has lost its link to Interactive Brokers: no rows until it is back"),
    (LoginBack(42.4), "login.back", "info", "the brokerage session is back (after 42 s)"),
    (RequestsPaused("HTTP 429"), "portal.paused", "warning", "no requests for a while: HTTP 429"),
    (RequestsResumed(42.4), "portal.resumed", "info", "the gateway accepts requests again (after 42 s)"),
    (AnswersUnusable("HTTP 503"), "portal.answers_unusable", "warning", "the gateway's answers are unusable: HTTP 503"),
    (AnswersUsable(42.4), "portal.answers_usable", "info", "the gateway answers properly again (after 42 s)"),
    (PaceUnshared("/dev/shm/x: permission denied"), "portal.pace_unshared", "info", "other programs of this user keep a pace of their own towards the gateway (/dev/shm/x: permission denied)"),
    (StreamBegun(), "portal.streaming", "info", "quotes are streaming"),
    (StreamLost("HTTP 403"), "portal.stream_lost", "warning", "no streaming quotes (HTTP 403): polling instead"),
    (StreamBack(42.4), "portal.stream_back", "info", "quotes are streaming again (after 42 s)"),
    (CertificateUnchecked(URL), "portal.certificate_unchecked", "info", "the certificate of https://localhost:5000 is not checked: it is on this machine; IBKR_CA_FILE names a certificate to check it with"),
    (CertificatePinned(URL, "AB:CD"), "portal.certificate_pinned", "info", "the certificate of https://localhost:5000 is the one in IBKR_CA_FILE: no other is accepted, its name and dates don't matter (SHA-256 AB:CD)"),
    (RowsMissed("not connected to the gateway"), "rows.missed", "warning", "no rows: not connected to the gateway"),
    (RowsResumed(19, "not connected to the gateway"), "rows.resumed", "info", "recording again after 19 missed slots (not connected to the gateway)"),
    (RowsResumed(1, "not connected to the gateway"), "rows.resumed", "info", "recording again after 1 missed slot (not connected to the gateway)"),
    (RowsPartial(1, 30, ("SPX 5800 C (refused: not subscribed)",)), "rows.partial", "warning", "partial: 1 of 30 positions not in the sums: SPX 5800 C (refused: not subscribed)"),
    (RowsPartial(13, 30, tuple("ABCDEFG")), "rows.partial", "warning", "partial: 13 of 30 positions not in the sums: A; B; C; D; E and 2 more"),
    (RowsPartial(1, 1, ("A (waiting)",)), "rows.partial", "warning", "partial: 1 of 1 position not in the sums: A (waiting)"),
    (RowsStale(2, 30, ("SPX 5800 C (old: 75 s)", "SPX 5900 C (old: 80 s)")), "rows.stale", "warning", "stale: old data of 2 of 30 positions: SPX 5800 C (old: 75 s); SPX 5900 C (old: 80 s)"),
    (RowsComplete(26, 130.0), "rows.complete", "info", "complete rows again, after 26 rows that lacked something, over 130 s"),
    (RowsComplete(1, 0.0), "rows.complete", "info", "complete rows again, after 1 row that lacked something, over 0 s"),
    (SlotsSkipped(3), "rows.skipped", "warning", "3 slots skipped: the machine was busy, or the process was stopped"),
    (SlotsSkipped(1, 3.5, 0.001), "rows.skipped", "warning", "1 slot skipped: the machine was asleep for 3.5 s"),
    (SlotsSkipped(720, 0.0, 3600.0), "rows.skipped", "warning", "720 slots skipped: the machine's clock was set forward by 1 h 0 min, or the machine was paused"),
    (SlotsDoubled(12, ("U1", "U2")), "rows.doubled", "warning", "12 of the last slots hold two rows of U1, U2: another service records into this database too; stop one of the two"),
    (TookOver("no row from nas:812-09af since 14:30:05"), "recorder.took_over", "warning", "the standby takes over: no row from nas:812-09af since 14:30:05; look after the other service"),
    (SteppedBack("nas:812-09af"), "recorder.stepped_back", "info", "the standby steps back: nas:812-09af records again"),
    (SlotsSingle(), "rows.single", "info", "each slot holds one row again"),
    (RowsBegun(), "rows.begun", "info", "recording complete rows since the start"),
    (RowsOverdue(305.2, "not connected to the gateway"), "rows.overdue", "error", "no valid row for 305 s: not connected to the gateway"),
    (RowsOnTime(494.0), "rows.on_time", "info", "valid rows again, after 494 s without one"),
    (CircuitOpened("CLOSED", "OPEN", "3 failures in a row: connection refused"), "database.circuit_opened", "warning", "database circuit CLOSED → OPEN: 3 failures in a row: connection refused"),
    (CircuitChanged("OPEN", "HALF_OPEN", "812 bytes to replay"), "database.circuit_changed", "info", "database circuit OPEN → HALF_OPEN: 812 bytes to replay"),
    (CircuitClosed("HALF_OPEN", "CLOSED", "everything is replayed"), "database.circuit_closed", "info", "database circuit HALF_OPEN → CLOSED: everything is replayed"),
    (RowsQuarantined(1, "/var/lib/quarantine.jsonl"), "rows.quarantined", "error", "1 row could not be stored: see /var/lib/quarantine.jsonl"),
    (RowsQuarantined(1234, "/var/lib/quarantine.jsonl"), "rows.quarantined", "error", "1,234 rows could not be stored: see /var/lib/quarantine.jsonl"),
    (SpoolUnwritable(10_000, "no space left on device"), "spool.unwritable", "error", "the spool can't be written: rows go to the database from memory, where up to 10,000 rows can wait: no space left on device"),
    (RowsSentAgain(40, AT.isoformat(), AT.isoformat()), "rows.sent_again", "warning", "the database had lost 40 rows from 2026-01-02T14:30:00+00:00 to 2026-01-02T14:30:00+00:00 that it had acknowledged: sent again"),
    (SpoolTakenAway(12_345, "/x/buffer.jsonl"), "spool.taken_away", "error", "another program moved, removed or cut the spool: 12,345 bytes of rows that the database did not have went with it; keep log rotation away from /x/buffer.jsonl; if the file was moved, BRIDGE_BUFFER_PATH=THAT_FILE trio-bridge flush stores its rows"),
    (RowsSafe(), "spool.writable", "info", "all rows are safe again"),
    (RowsDropped(1234, AT, AT), "rows.dropped", "error", "1,234 rows from 2026-01-02T14:30:00+00:00 to 2026-01-02T14:30:00+00:00 dropped: neither the database nor the disk took any"),
]
# fmt: on
EXAMPLES = {type(event): event for event, *_ in reversed(GOLDEN)}
"""The first example of each."""


@pytest.mark.parametrize(("event", "kind", "severity", "message"), GOLDEN)
def test_the_words_of_an_event(event: Event, kind: str, severity: str, message: str) -> None:
    assert (event.kind, event.severity.value, event.message) == (kind, severity, message)


def test_every_event_has_its_words_here() -> None:
    assert set(EXAMPLES) == set(CATALOGUE)


def test_a_kind_is_the_name_of_one_event() -> None:
    kinds = [one.kind for one in CATALOGUE]
    assert len(set(kinds)) == len(kinds)
    assert [kind for kind in kinds if not re.fullmatch(r"[a-z]+\.[a-z_]+", kind)] == []


def test_a_row_of_the_log_has_the_kind_the_numbers_and_the_sentence_with_its_remedy() -> None:
    event = SlotsDoubled(12, ("U1",))
    row = event.as_row(AT, ApiMode.PORTAL)
    assert (row.timestamp, row.api_mode, row.status) == (AT, ApiMode.PORTAL, Severity.WARNING)
    assert (row.kind, row.numbers) == ("rows.doubled", {"slots": 12})
    assert row.message == f"{event.text}; {event.remedy}"


def test_an_event_without_numbers_has_none() -> None:
    assert SlotsSingle().as_row(AT, ApiMode.SOCKET).numbers is None


def test_the_interval_of_the_rows_can_be_read_without_reading_a_sentence() -> None:
    row = ServiceStarted("0.2", ApiMode.SOCKET, 0.5).as_row(AT, ApiMode.SOCKET)
    assert (row.kind, row.numbers) == ("service.started", {"interval_s": 0.5})


def test_a_nul_in_somebody_elses_words_does_not_keep_an_event_from_being_stored() -> None:
    assert RowsMissed("a\0b").message == "no rows: a\\x00b"


def test_somebody_elses_words_are_shortened_and_hold_nothing_that_a_terminal_obeys() -> None:
    nasty = "\x1b[2J\u202eok\u2066\x9b1m\r\n\u2028two\ufeff"
    shown = r"\x1b[2J\u202eok\u2066\x9b1m two\ufeff"
    assert GatewayNotice(2105, nasty).message == f"gateway notice (2105: {shown})"
    assert SlotsDoubled(1, (nasty,)).accounts == (shown,)
    assert GatewayError(nasty).text == shown
    long = RowsMissed("<html>" + "x" * 48_000).reason
    assert (len(long), long[-1]) == (LONGEST_QUOTE, "…")


def test_what_stops_the_rows_is_the_cause_of_a_gap() -> None:
    assert {one.kind for one in CATALOGUE if one.stops_rows} <= set(CAUSES)


def test_what_stops_the_rows_has_an_end() -> None:
    """`check` waits for a person only while such a trouble lasts."""
    families: dict[str, set[bool]] = {}
    for one in CATALOGUE:
        if one.stops_rows is not None:
            families.setdefault(one.kind.split(".")[0], set()).add(one.stops_rows)
    assert families == {"gateway": {True, False}, "login": {True, False}}
