"""What the bridge does about each message code that Interactive Brokers documents.

The expectations are read from "TWS API message codes", not from our table: a code that slips into
another group costs rows or makes false ones.
"""

from __future__ import annotations

import pytest

from trio_bridge.gateways.socket.codes import REACTIONS, Reaction, reaction_to

EXPECTED = {
    Reaction.UPSTREAM_LOST: {1100, 2110},
    Reaction.UPSTREAM_BACK: {1102},
    Reaction.UPSTREAM_BACK_EMPTY: {1101},
    Reaction.RECONNECT: {502, 504, 1300},
    Reaction.CLIENT_ID_TAKEN: {326},
    Reaction.FARM_BROKEN: {2103},
    Reaction.FARM_WELL: {2104},
    Reaction.DEFINITIONS_WELL: {2158},
    Reaction.NOTE: {2105, 2157},
    Reaction.PACE: {100},
    Reaction.TOO_MANY_LINES: {101},
    Reaction.UNKNOWN_CONTRACT: {200},
    Reaction.ADVICE: {354, 10089, 10090, 10091, 10167, 10168, 10186},
    Reaction.COMPETING_SESSION: {10197},
    Reaction.INVALID_REQUEST: {321},
    Reaction.IGNORE: {300, 2106, 2107, 2108, 2119},
}


@pytest.mark.parametrize("reaction", EXPECTED, ids=lambda reaction: reaction.name)
def test_each_code_leads_to_its_reaction(reaction: Reaction) -> None:
    assert {code for code, found in REACTIONS.items() if found is reaction} == EXPECTED[reaction]


def test_a_code_that_is_not_in_the_table_never_tears_anything_down() -> None:
    assert reaction_to(2199) is Reaction.REMARK  # 2100 to 2199 are warnings
    assert reaction_to(399) is Reaction.INVALID_REQUEST


@pytest.mark.parametrize("code", [321, 399, 2199])
def test_the_limit_of_sub_accounts_has_a_text_but_no_code(code: int) -> None:
    text = "Positions info is not supported for masters with more than 50 Sub-Accounts"
    assert reaction_to(code, text) is Reaction.SUB_ACCOUNTS


def test_what_a_text_holds_changes_nothing_about_a_code_with_a_meaning() -> None:
    for code in REACTIONS.keys() - {321}:
        assert reaction_to(code, "50 sub-accounts") is REACTIONS[code]


def test_every_reaction_has_a_code_or_is_a_default_or_has_a_text() -> None:
    assert {*REACTIONS.values(), Reaction.REMARK, Reaction.SUB_ACCOUNTS} == {*Reaction}
