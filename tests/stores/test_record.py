"""A row on its way: encoded once, and never believed again once it is damaged."""

from __future__ import annotations

import json
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.identity import recorder
from trio_bridge.model import (
    AccountSet,
    ApiEvent,
    ApiMode,
    DataType,
    Severity,
    Snapshot,
    Verdict,
)
from trio_bridge.stores.record import (
    DamagedLineError,
    Record,
    decode_line,
    encode_line,
    record_of,
)

AT = datetime(2026, 7, 15, 14, 30, 0, 123456, tzinfo=UTC)
SNAPSHOT = Snapshot(
    AT,
    "DU1,DU2",
    delta=-75.25,
    gamma=0.1,
    vega=None,
    theta=1e-300,
    underlying_price=230.5,
    positions=3,
    priced=2,
    greeks_age_s=12.5,
    data_type=DataType.DELAYED_FROZEN,
    verdict=Verdict.PARTIAL,
    currency="USD",
    gamma_error=0.005,
    late_s=0.001,
)

numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
instants = st.datetimes(
    datetime(1970, 1, 1),
    datetime(9000, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-4)), timezone(timedelta(hours=9))]),
)
snapshots = st.builds(
    Snapshot,
    timestamp=instants,
    account=st.text(st.characters(exclude_categories=["Cs"])),
    delta=numbers,
    gamma=numbers,
    vega=numbers,
    theta=numbers,
    underlying_price=numbers,
    positions=st.integers(0, 10**6),
    priced=st.integers(0, 10**6),
    greeks_age_s=st.none() | st.floats(0, 1e6),
    data_type=st.none() | st.sampled_from(DataType),
    verdict=st.sampled_from([Verdict.COMPLETE, Verdict.STALE, Verdict.PARTIAL]),
    currency=st.none() | st.sampled_from(["USD", "EUR"]),
    gamma_error=numbers,
    late_s=st.floats(0, 1e3),
)
# Any code point: surrogates and NUL can come out of a gateway's text.
any_text = st.text(st.characters())
api_events = st.builds(
    ApiEvent,
    timestamp=instants,
    api_mode=st.sampled_from(ApiMode),
    message=any_text,
    status=st.sampled_from(Severity),
    kind=st.sampled_from([None, "rows.resumed"]),
    numbers=st.none() | st.dictionaries(st.text("abc"), st.integers(0, 9) | st.floats()),
)
account_sets = st.builds(
    AccountSet, timestamp=instants, key=st.text("abc-09"), accounts=st.text("DU12,")
)
records = st.builds(record_of, snapshots | api_events | account_sets)


def test_a_snapshot_is_one_json_object_of_columns() -> None:
    record = record_of(SNAPSHOT)

    assert record.table == "portfolio_greeks"
    assert json.loads(record.row) == {
        "event_id": str(SNAPSHOT.event_id),
        "timestamp": "2026-07-15T14:30:00.123456+00:00",
        "contract": "PORTFOLIO",
        "account": "DU1,DU2",
        "delta": -75.25,
        "gamma": 0.1,
        "vega": None,
        "theta": 1e-300,
        "underlying_price": 230.5,
        "positions": 3,
        "priced": 2,
        "greeks_age_s": 12.5,
        "data_type": "delayed-frozen",
        "verdict": "partial",
        "currency": "USD",
        "gamma_error": 0.005,
        "late_s": 0.001,
        "recorder": recorder(),
    }


def test_an_event_is_one_json_object_of_columns() -> None:
    event = ApiEvent(
        AT, ApiMode.PORTAL, "Überlauf – „again“", Severity.WARNING, "rows.resumed", {"slots": 3}
    )
    record = record_of(event)

    assert record.table == "api_logs"
    assert json.loads(record.row) == {
        "event_id": str(event.event_id),
        "timestamp": "2026-07-15T14:30:00.123456+00:00",
        "api_mode": "PORTAL",
        "message": "Überlauf – „again“",
        "status": "warning",
        "kind": "rows.resumed",
        "numbers": {"slots": 3},
        "recorder": recorder(),
    }


def test_a_set_of_accounts_is_one_json_object_of_columns() -> None:
    names = AccountSet(AT, "2-accounts-0123456789abcdef", "DU1,DU2")
    record = record_of(names)

    assert record.table == "account_sets"
    assert json.loads(record.row) == {
        "event_id": str(names.event_id),
        "timestamp": "2026-07-15T14:30:00.123456+00:00",
        "key": "2-accounts-0123456789abcdef",
        "accounts": "DU1,DU2",
    }


@given(snapshots)
def test_no_digit_of_a_number_and_no_microsecond_is_lost(snapshot: Snapshot) -> None:
    row = json.loads(record_of(snapshot).row)

    for name in ("delta", "gamma", "vega", "theta", "underlying_price", "greeks_age_s"):
        assert row[name] == getattr(snapshot, name)
    assert datetime.fromisoformat(row["timestamp"]) == snapshot.timestamp
    assert datetime.fromisoformat(row["timestamp"]).utcoffset() is not None


def test_waiting_rows_take_no_more_memory_than_they_say() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        waiting = [record_of(SNAPSHOT) for _ in range(100)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2 * sum(sys.getsizeof(one.row) for one in waiting)


def test_half_a_character_from_a_gateway_is_spelt_out() -> None:
    event = ApiEvent(AT, ApiMode.SOCKET, "bad \udcff text")

    # The page and the status show what is stored.
    assert event.message == json.loads(record_of(event).row)["message"] == "bad \\udcff text"


@given(records, st.integers(0, 10**9))
def test_a_line_of_the_spool_gives_the_same_bytes_back(record: Record, offset: int) -> None:
    line = encode_line(record)

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_line(line[:-1], offset=offset) == record


@given(records)
def test_a_line_is_json_that_anyone_can_read(record: Record) -> None:
    line = encode_line(record)
    value = json.loads(line)

    assert value["table"] == record.table
    assert value["row"] == json.loads(record.row)
    assert int(value["crc"], 16) == crc32(line[: line.rindex(b',"crc"')])


@given(records, st.data())
def test_any_changed_byte_is_noticed(record: Record, data: st.DataObject) -> None:
    line = bytearray(encode_line(record)[:-1])
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= data.draw(st.integers(1, 255))

    with pytest.raises(DamagedLineError):
        decode_line(bytes(line), offset=0)


@given(records, st.data())
def test_any_torn_line_is_noticed(record: Record, data: st.DataObject) -> None:
    line = encode_line(record)[:-1]
    torn = line[: data.draw(st.integers(1, len(line) - 1))]

    with pytest.raises(DamagedLineError):
        decode_line(torn, offset=0)
    with pytest.raises(DamagedLineError):  # nor may it lend its beginning to the next line
        decode_line(torn + line, offset=0)


@given(st.binary(max_size=200) | any_text.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_noise_is_damaged_and_nothing_worse(noise: bytes) -> None:
    with pytest.raises(DamagedLineError):
        decode_line(noise, offset=0)


# Lines of the earlier system: no checksum, no id

EARLIER = (
    b'{"table": "portfolio_greeks", "row": {"timestamp": "2026-01-02T03:04:05Z", "delta": 1.5}}'
)


def test_a_line_of_the_earlier_system_gets_an_id_and_keeps_its_values() -> None:
    record = decode_line(EARLIER, offset=0)
    row = json.loads(record.row)

    assert record.table == "portfolio_greeks"
    assert row.pop("event_id")
    assert row == {"timestamp": "2026-01-02T03:04:05Z", "delta": 1.5}


def test_its_id_follows_from_content_and_place_alone() -> None:
    def event_id(line: bytes, offset: int) -> str:
        return str(json.loads(decode_line(line, offset=offset).row)["event_id"])

    again = event_id(EARLIER, 0)
    elsewhere = event_id(EARLIER, 120)  # the same row, really written twice
    other = event_id(EARLIER.replace(b"1.5", b"1.6"), 0)

    assert event_id(EARLIER, 0) == again
    assert len({again, elsewhere, other}) == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"null", "not an object"),
        (b"[1]", "not an object"),
        (b'{"table": "t"}', "not an object"),
        (b'{"table": "t", "row": {}, "more": 1}', "not an object"),
        (b'{"table": "t", "row": [1]}', '"row" is not an object'),
        (b'{"table": "t", "row": {"delta": 1}}', "no timestamp"),
        (b'{"table": "t", "row": {"timestamp": 17}}', "no timestamp"),
        (b'{"table": 1, "row": {"timestamp": "2026-01-02"}}', '"table" is not a text'),
        (
            b'{"table": "t", "row": {"timestamp": "x", "a": %b%b}}' % (b"[" * 900, b"]" * 900),
            "not a row",
        ),
        # One of ours that has lost its seal must not pass for one of the earlier system.
        (b'{"table": "t", "row": {"timestamp": "x", "event_id": "y"}}', "checksum is missing"),
        (b'{"table":"t","row":{},"crc":"00000000"}', "checksum does not match"),
        (b'{"table":"t","row":{},"crc":"0000000"}', "not an object"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line: bytes, reason: str) -> None:
    with pytest.raises(DamagedLineError) as caught:
        decode_line(line, offset=0)

    assert reason in str(caught.value)


@pytest.mark.parametrize("body", [b'{"row":{},"table":"t"', b'{"table":17,"row":{}', b"{"])
def test_a_true_checksum_does_not_make_a_record(body: bytes) -> None:
    with pytest.raises(DamagedLineError):
        decode_line(body + b',"crc":"%08x"}' % crc32(body), offset=0)
