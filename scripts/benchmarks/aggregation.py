"""What one row costs as the portfolio grows, with NumPy on prepared arrays as the lower limit."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import numpy as np
import trio
from ib_async import Contract, OptionComputation, Position, Ticker

from benchmarks.figures import Check, Effort, Section, Spread
from trio_bridge.asyncio_compat import trio_asyncio
from trio_bridge.config import Settings
from trio_bridge.gateways.base import discard_event
from trio_bridge.gateways.readiness import Reason
from trio_bridge.gateways.socket.bridge import SocketBridge
from trio_bridge.gateways.socket.connection import Connection
from trio_bridge.gateways.socket.details import Details
from trio_bridge.gateways.socket.market_data.lines import MarketLines
from trio_bridge.model import utc_now
from trio_bridge.risk.portfolio import Portfolio, aggregate

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (10, 100, 1_000, 10_000)
MULTIPLIER = 100.0
RUNS = 7
RUN_S = 0.15


def measure(effort: Effort) -> Section:
    section = Section(
        "Aggregation: what one row costs",
        "Options on ten underlyings, in microseconds of CPU for one row. *Bridge* is all of "
        "`SocketBridge.get_portfolio_greeks()`: reading positions and Greeks from ib_async's "
        "objects, then the sums; *every tick new* replaces the model computation of every option "
        "before each row, *no tick new* replaces none. *Sums alone* is `greeks.aggregate` on "
        "prepared values. NumPy is the lower limit: four products over prepared arrays, without "
        "validity, age, underlying, or anything else that makes a row true. What follows from the "
        "positions alone is computed only when they change (`greeks.Portfolio`): before that, "
        "1,000 options with every tick new took 2.0 ms on this machine, against a target of 2. "
        "Tried and rejected: the loop without a function call (6 % less, and hard to read), "
        "products by column with `map` (slower), `Greeks` as a frozen dataclass (three times as "
        "expensive to create).",
    )
    table = section.table(
        "positions",
        "bridge, every tick new, µs",
        "bridge, no tick new, µs",
        "sums alone, µs",
        "NumPy, µs",
        "bridge, every tick new, µs per position",
    )
    per_position: dict[int, float] = {}
    for size in SIZES if effort else (100, 1_000):
        fresh, still, sums, limit = trio.run(_in_a_loop, size, RUNS if effort else 3)
        per_position[size] = fresh.median / size
        table.add(size, fresh, still, sums, limit, fresh.scaled(1 / size))
    section.checks.append(
        Check(
            "cost per position, 1,000 beside 100",
            per_position[1_000] / per_position[100],
            at_most=6,
        )
    )
    return section


async def _in_a_loop(size: int, runs: int) -> tuple[Spread, Spread, Spread, Spread]:
    async with trio_asyncio.open_loop():
        return _measure(size, runs)


def _measure(size: int, runs: int) -> tuple[Spread, Spread, Spread, Spread]:
    bridge, session = _bridge_with(size)
    lines = session.subscriptions.feed.lines.values()
    tickers = [line.ticker for line in lines if line.ticker is not None]
    # Two sets of computations in alternation: a new object means "new tick".
    turns = [[_computation(number) for number in range(size)] for _ in range(2)]

    def tick(turn: int) -> None:
        for ticker, computation in zip(tickers, turns[turn % 2], strict=True):
            ticker.modelGreeks = computation

    inputs = bridge.inputs()
    portfolio = Portfolio(inputs.positions)
    instant, now = utc_now(), trio.current_time()
    units = np.array([position.quantity * MULTIPLIER for position in inputs.positions])
    matrix = np.array([list(inputs.greeks[one.con_id][:4]) for one in inputs.positions]).T.copy()

    def row_of_sums() -> object:
        return aggregate(
            portfolio,
            inputs.greeks,
            read_at=instant,
            now=now,
            max_age_s=120.0,
            interval_s=5.0,
            account="U1",
        )

    calls: list[tuple[Callable[[], object], Callable[[int], None] | None]] = [
        (bridge.get_portfolio_greeks, tick),
        (bridge.get_portfolio_greeks, None),
        (row_of_sums, None),
        (lambda: matrix @ units, None),
    ]
    results: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):  # in alternation, so that a busy moment affects all alike
        for result, (call, before) in zip(results, calls, strict=True):
            result.append(_microseconds(call, before))
    fresh, still, sums, limit = map(Spread.of, results)
    return fresh, still, sums, limit


def _microseconds(call: Callable[[], object], before: Callable[[int], None] | None) -> float:
    times: list[float] = []
    end = time.perf_counter() + RUN_S
    while time.perf_counter() < end or len(times) < 5:
        if before is not None:
            before(len(times))
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return Spread.of(times).median * 1e6


def _bridge_with(size: int) -> tuple[SocketBridge, Connection]:
    """A bridge in the state of a connection with this many options."""
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    bridge = SocketBridge(settings)
    readiness = bridge._begin()
    details = {number + 1: Details("SMART", 100.0, "", magnifier=1.0) for number in range(size)}
    session = Connection(
        settings, discard_event, readiness=readiness, lines=MarketLines(size), details=details
    )
    bridge._connection = session
    for reason in Reason:
        readiness.clear(reason)
    session.accounts.managed(["U1"])
    rng = random.Random(1)
    for number in range(size):
        contract = Contract(
            secType="OPT",
            conId=number + 1,
            symbol=f"S{number % 10}",
            exchange="SMART",
            multiplier="100",
            currency="USD",
        )
        quantity = float(rng.choice((-1, 1)) * rng.randint(1, 20))
        session.holdings.update(Position("U1", contract, quantity, 1.0))
    session.subscriptions.feed.follow(session.holdings.view.options)
    for number, line in enumerate(session.subscriptions.feed.lines.values()):
        line.request_id = number
        line.ticker = Ticker(modelGreeks=_computation(number), marketDataType=1)
    return bridge, session


def _computation(number: int) -> OptionComputation:
    rng = random.Random(number)
    return OptionComputation(
        tickAttrib=0,
        delta=rng.uniform(-1, 1),
        gamma=rng.uniform(0, 0.1),
        vega=rng.uniform(0, 2),
        theta=rng.uniform(-1, 0),
        undPrice=100.0 + number % 10,
    )
