"""What the portal's strings and field ids mean; nothing unreadable ever becomes a number."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.gateways.portal import values as portal_values
from trio_bridge.gateways.portal.values import (
    Reading,
    is_allowed,
    read_availability,
    read_con_id,
    read_number,
    read_positive,
)
from trio_bridge.model import DataType


def test_field_ids_are_the_gateways_own() -> None:
    # An older description of this bridge had theta and vega exchanged.
    assert portal_values.DELTA == "7308"
    assert portal_values.GAMMA == "7309"
    assert portal_values.THETA == "7310"
    assert portal_values.VEGA == "7311"
    assert portal_values.MARK == "7635"
    assert portal_values.UNDERLYING_CON_ID == "6457"
    assert portal_values.AVAILABILITY == "6509"
    assert (portal_values.LAST, portal_values.BID, portal_values.ASK) == ("31", "84", "86")


def test_a_question_asks_for_every_field_and_no_more_than_the_gateway_takes() -> None:
    assert {"7308", "7309", "7310", "7311", "6509", "6457", "31", "84", "86", "7635"} == set(
        portal_values.REQUESTED_FIELDS
    )
    assert len(portal_values.REQUESTED_FIELDS) <= 50


@pytest.mark.parametrize(
    ("raw", "reading"),
    [
        ("0.271", Reading(0.271)),
        ("-0.271", Reading(-0.271)),
        ("+1.5", Reading(1.5)),
        (".5", Reading(0.5)),
        ("0", Reading(0.0)),
        ("0.000", Reading(0.0)),
        ("1,300", Reading(1_300.0)),
        ("-1,234,567.89", Reading(-1_234_567.89)),
        ("10.2K", Reading(10_200.0, exact=False)),
        ("1.5M", Reading(1_500_000.0, exact=False)),
        ("0.54%", Reading(0.54, percent=True, exact=False)),
        ("C193.18", Reading(193.18, prior_close=True, exact=False)),
        ("C1,193.18", Reading(1_193.18, prior_close=True, exact=False)),
        ("H12.5", Reading(12.5, exact=False)),
        (" 2.5 ", Reading(2.5)),
        ("1e-5", Reading(1e-5)),
        (0.271, Reading(0.271)),
        (3, Reading(3.0)),
    ],
)
def test_numbers_as_the_portal_writes_them(raw: object, reading: Reading) -> None:
    read = read_number(raw)
    assert read is not None
    assert read._replace(error=0.0) == reading  # `test_units` has the errors


@pytest.mark.parametrize(
    "raw",
    [
        None, "", " ", "N/A", "NaN", "nan", "inf", "-Infinity", "1,30", "1,3000", "1.2.3", "--1",
        "C", "H", "K", "%", ".", "-", "1.7976931348623157E308", "-1.7976931348623157E308", "1e999",
        "1 2", "0x10", "1_000", "٣", "CH1", "1KK", "0,271", "-0,271", "C0,271", "00,271", True,
        False, [], {}, ["1"], math.nan, math.inf, 1.7976931348623157e308, 10**400, "9" * 100,
    ],
)  # fmt: skip
def test_what_is_not_plainly_a_number_is_none(raw: object) -> None:
    assert read_number(raw) is None


@given(st.one_of(st.text(), st.binary(), st.none(), st.booleans(), st.integers(), st.floats()))
def test_no_input_breaks_the_reader_or_yields_what_no_row_may_hold(raw: object) -> None:
    reading = read_number(raw)
    assert reading is None or (math.isfinite(reading.value) and abs(reading.value) < 1e15)


@given(st.text(alphabet="0123456789.,-+CHKMB%eE ", max_size=14))
def test_text_without_a_digit_is_never_zero(raw: str) -> None:
    if not any(letter.isdigit() for letter in raw):
        assert read_number(raw) is None


@given(
    value=st.decimals(min_value=-(10**9), max_value=10**9, places=3),
    prefix=st.sampled_from(["", "C", "H"]),
)
def test_every_number_written_the_portals_way_is_read_back(value: object, prefix: str) -> None:
    reading = read_number(f"{prefix}{value:,}")
    assert reading is not None
    assert reading.value == pytest.approx(float(str(value)))
    assert reading.prior_close == (prefix == "C")


@pytest.mark.parametrize(
    "raw",
    [None, 0, 0.0, "0", "", "-100", -1, "N/A", "100%", "1K", "C100", "H100", math.nan, True, [100]],
)
def test_a_multiplier_that_is_none_is_not_guessed(raw: object) -> None:
    assert read_positive(raw) is None


@pytest.mark.parametrize("raw", [100, 100.0, "100", "100.0"])
def test_a_multiplier_is_any_positive_number(raw: object) -> None:
    assert read_positive(raw) == 100.0


@pytest.mark.parametrize(
    ("raw", "con_id"),
    [
        (265598, 265598), ("265598", 265598), ("265598@SMART", 265598), (0, None), (-1, None),
        ("", None), ("x", None), (None, None), (True, None), (1.5, None), ("9" * 30, None),
    ],
)  # fmt: skip
def test_contract_ids(raw: object, con_id: int | None) -> None:
    assert read_con_id(raw) == con_id


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ("R", DataType.LIVE), ("RpB", DataType.LIVE), ("Z", DataType.FROZEN),
        ("DPB", DataType.DELAYED), ("Y", DataType.DELAYED_FROZEN),
        ("N", None), ("", None), ("?", None), (None, None), (1, None),
    ],
)  # fmt: skip
def test_the_first_letter_of_the_availability_tells_the_kind(
    raw: object, kind: DataType | None
) -> None:
    assert read_availability(raw) is kind


def test_data_of_no_known_kind_never_counts() -> None:
    assert not any(is_allowed(None, setting) for setting in DataType)


def test_only_the_kinds_that_the_setting_asks_for_count() -> None:
    allowed = {
        setting: {kind for kind in DataType if is_allowed(kind, setting)} for setting in DataType
    }
    assert allowed == {
        DataType.LIVE: {DataType.LIVE},
        DataType.FROZEN: {DataType.LIVE, DataType.FROZEN},
        DataType.DELAYED: {DataType.LIVE, DataType.DELAYED},
        DataType.DELAYED_FROZEN: set(DataType),
    }
