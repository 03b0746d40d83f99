"""The simplest loop: `while True: work; sleep(interval)`, on asyncio and ib_async.

    python -m benchmarks.plain_loop PORT INTERVAL_S SECONDS CONNINFO

It does the same work as the bridge: net the Greeks in memory, commit one row. Prints when each row
was read. trio_asyncio must not be imported here: it takes over asyncio's loops.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import psycopg
from ib_async import IB

from trio_bridge.model import Greeks, Position, utc_now
from trio_bridge.risk.greeks import OPTION_TYPES
from trio_bridge.risk.portfolio import Portfolio, aggregate

INSERT = """
    INSERT INTO plain_greeks (timestamp, delta, gamma, vega, theta) VALUES (%s, %s, %s, %s, %s)
"""


async def run(port: int, interval_s: float, seconds: float, conninfo: str) -> list[float]:
    ib = IB()
    await ib.client.connectAsync("127.0.0.1", port, 99, 10)
    held = await ib.reqPositionsAsync()
    portfolio = Portfolio(
        Position(
            one.account,
            one.contract.conId,
            one.contract.secType,
            one.contract.symbol,
            one.position,
            float(one.contract.multiplier or 1),
            one.contract.symbol,
        )
        for one in held
    )
    contracts = {one.contract.conId: one.contract for one in held}
    tickers = {
        con_id: ib.reqMktData(contract)
        for con_id, contract in contracts.items()
        if contract.secType in OPTION_TYPES
    }
    times = []
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS plain_greeks (timestamp timestamptz, delta float8, "
            "gamma float8, vega float8, theta float8)"
        )
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            times.append(time.monotonic())
            greeks = {
                con_id: Greeks(model.delta, model.gamma, model.vega, model.theta, model.undPrice)
                for con_id, ticker in tickers.items()
                if (model := ticker.modelGreeks) is not None
            }
            row = aggregate(
                portfolio, greeks, read_at=utc_now(), now=0.0, max_age_s=120.0, interval_s=5.0
            )
            values = [row.timestamp, row.delta, row.gamma, row.vega, row.theta]
            await connection.execute(INSERT, values)
            await asyncio.sleep(interval_s)
    ib.client.disconnect()
    return times


if __name__ == "__main__":
    _, port, interval_s, seconds, conninfo = sys.argv
    print(json.dumps(asyncio.run(run(int(port), float(interval_s), float(seconds), conninfo))))
