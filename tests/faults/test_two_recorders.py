"""Two services on one account, one gateway and one database: each slot is there once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.faults.ledger import POLL_INTERVAL_S, Run, bridge, more_rows
from tests.support.database import fetch
from trio_bridge.identity import account_of, is_key
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import open_tws_simulator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INTERVAL = timedelta(seconds=POLL_INTERVAL_S)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("accounts", [1, 12])
async def test_each_slot_is_stored_once_whoever_took_it(
    accounts: int, tmp_path: Path, fresh_database: str
) -> None:
    book = make_book(accounts=accounts)
    async with open_tws_simulator(book) as gateway:
        settings = {"IB_SOCKET_PORT": gateway.port, "DATABASE_URL": fresh_database}
        homes = [tmp_path / name for name in ("one", "other")]
        for home in homes:
            home.mkdir()
        async with (
            bridge(homes[0], IB_CLIENT_ID=11, **settings) as one,
            bridge(homes[1], IB_CLIENT_ID=12, **settings) as other,
        ):
            for service in (one, other):
                await more_rows(service, 40)
            for service in (one, other):
                service.interrupt()
                assert await service.wait() == 0
    runs = [Run(service.output) for service in (one, other)]
    both = {*runs[0].rows} & {*runs[1].rows}
    assert len(both) > 20, "they hardly recorded at the same time"
    stored = fetch(
        fresh_database, "SELECT timestamp, late_s, recorder FROM portfolio_greeks ORDER BY id"
    )
    slots = [at for at, _, _ in stored]
    assert sorted(slots) == sorted({*runs[0].rows, *runs[1].rows})
    assert all((at - EPOCH) % INTERVAL == timedelta() for at in slots)
    assert all(late_s >= 0 for _, late_s, _ in stored)
    recorders = {name for (name,) in fetch(fresh_database, "SELECT recorder FROM api_logs")}
    assert len(recorders) == 2
    assert {recorder for _, _, recorder in stored} <= recorders
    for service in (one, other):
        assert any(f":{service.pid}-" in name for name in recorders)
    _check_accounts(fresh_database, book.accounts)


def _check_accounts(conninfo: str, accounts: Sequence[str]) -> None:
    account = account_of(accounts)
    assert fetch(conninfo, "SELECT DISTINCT account FROM portfolio_greeks") == [(account,)]
    sets = fetch(conninfo, "SELECT key, accounts, timestamp FROM account_sets ORDER BY id")
    if not is_key(account):
        assert sets == []
        return
    assert 1 <= len(sets) <= 2
    assert {(key, names) for key, names, _ in sets} == {(account, ",".join(sorted(accounts)))}
    first = fetch(conninfo, "SELECT min(timestamp) FROM portfolio_greeks")
    assert min(at for _, _, at in sets) == first[0][0]
