"""A service whose rows four look at who do not know each other, and what can be broken about it."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import httpx
import psycopg
import trio

from tests.support.command import Done, run_command
from tests.support.database import fetch
from tests.support.network import open_network
from tests.support.process import PATIENCE_S
from tests.support.receiver import open_receiver
from tests.web.support import client, watched_service
from trio_bridge.events.rows import (
    CircuitClosed,
    CircuitOpened,
    RowsBegun,
    RowsComplete,
    RowsMissed,
    RowsPartial,
    RowsResumed,
    RowsStale,
    SlotsSkipped,
)
from trio_bridge.model import Verdict
from trio_bridge.policy.schedule import INTERVALS_ALLOWED

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from tests.support.network import Network
    from tests.support.postgres import PostgresServer
    from tests.support.receiver import Receiver
    from tests.web.support import Watched

in_thread = trio.to_thread.run_sync

INTERVAL_S = 0.3
ANSWER_S = 1.0
"""Who gets no answer within this long is blind. (The page waits for 15 s.)"""

QUICK = """
import trio_bridge.asyncio_compat
from trio_bridge.risk import verdict
verdict.RENEWAL_S = 2.0
from trio_bridge.gateways.socket.market_data import feed, lines
from trio_bridge.policy import digest
feed.ANSWER_S = 1.0
lines.RENEWAL_GAP_S = 0.05
digest.GATHER_S = digest.CLOSEST_S = digest.FIRST_REPEAT_S = digest.LONGEST_REPEAT_S = 0.1
"""
"""Minutes in seconds: how long a line may be silent, and alerts apart."""

SAYS = {
    RowsMissed.kind: Verdict.BLIND,
    RowsBegun.kind: Verdict.COMPLETE,
    RowsResumed.kind: Verdict.COMPLETE,
    RowsPartial.kind: Verdict.PARTIAL,
    RowsStale.kind: Verdict.STALE,
    RowsComplete.kind: Verdict.COMPLETE,
}
"""What a person takes an alert to mean."""

MONITOR, SCRIPT, PAGE, PERSON = "monitor", "script", "page", "person"
TABLE = "rows reach the table"
"""What the person takes the alerts about the database to mean."""


Act: TypeAlias = "Callable[[Scene], Awaitable[None]]"


@dataclass
class Scene:
    """A service, its gateway, its database, the network to it, and the receiver of its alerts."""

    home: Path
    watched: Watched
    database: PostgresServer
    network: Network
    receiver: Receiver
    http: httpx.AsyncClient
    """Through the network."""
    active: list[str] = field(default_factory=list)
    """The faults that are there now, in order of their coming."""
    unseen: list[tuple[datetime, datetime]] = field(default_factory=list)
    """From when to when the others saw rows, but the script could not."""

    async def ask(self, path: str) -> httpx.Response | None:
        """None when no answer comes."""
        with trio.move_on_after(ANSWER_S), suppress(httpx.TransportError):
            return await self.http.get(path)
        return None

    async def monitor(self) -> bool:
        """Whether all is well, by `/readyz`."""
        answer = await self.ask("/readyz")
        return answer is not None and answer.status_code == httpx.codes.OK

    async def page(self) -> Verdict:
        answer = await self.ask("/api/status")
        return Verdict.BLIND if answer is None else Verdict(answer.json()["verdict"])

    async def look(self) -> dict[str, Any]:
        """All that the page gets."""
        async with self.watched.client() as http:
            found: dict[str, Any] = (await http.get("/api/status")).json()
            return found

    async def status(self, **settings: object) -> Done:
        """What `trio-bridge status --json` says."""
        return await run_command(
            self.home,
            "status",
            "--json",
            **{
                "DATABASE_URL": self.database.url,
                "BRIDGE_STATUS_PORT": self.watched.port,
                "BRIDGE_POLL_INTERVAL": INTERVAL_S,
                **settings,
            },
        )

    async def script(self) -> Verdict:
        """By the last row of the table."""
        read = partial(
            fetch,
            f"{self.database.conninfo} connect_timeout=2",
            "SELECT verdict, extract(epoch FROM now() - timestamp)::float FROM portfolio_greeks"
            " ORDER BY timestamp DESC LIMIT 1",
        )
        with trio.move_on_after(ANSWER_S), suppress(psycopg.OperationalError):
            ((verdict, age_s),) = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
            if age_s <= INTERVALS_ALLOWED * INTERVAL_S:
                return Verdict(verdict)
        return Verdict.BLIND

    def told(self) -> list[str]:
        """The kinds of everything alerted, in the order in which it is read."""
        return [one["kind"] for post in self.receiver.posts for one in post["events"]]

    def person(self) -> Verdict:
        """By the last alert about rows."""
        return next((SAYS[kind] for kind in reversed(self.told()) if kind in SAYS), Verdict.BLIND)

    def rows_reach_the_table(self) -> bool:
        """By the last alert about the database."""
        changes = (CircuitOpened.kind, CircuitClosed.kind)
        last = next((kind for kind in reversed(self.told()) if kind in changes), None)
        return last != CircuitOpened.kind

    async def conclusions(self) -> dict[str, object]:
        found: dict[str, object] = {}

        async def ask(who: str, look: Callable[[], Awaitable[object]]) -> None:
            found[who] = await look()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, MONITOR, self.monitor)
            nursery.start_soon(ask, SCRIPT, self.script)
            nursery.start_soon(ask, PAGE, self.page)
        return found | {PERSON: self.person(), TABLE: self.rows_reach_the_table()}

    @property
    def truth(self) -> Verdict:
        """What the rows are worth: the worst of what is broken."""
        found = [FAULTS[name].verdict for name in self.active]
        return max(found, key=lambda one: one.rank, default=Verdict.COMPLETE)

    def wanted(self) -> dict[str, object]:
        """What the four must say: the truth, where they can see it."""
        says = dict.fromkeys((MONITOR, SCRIPT, PAGE, PERSON), self.truth)
        for name in self.active:
            says.update(dict.fromkeys(FAULTS[name].hides, Verdict.BLIND))
        wanted = {**says, MONITOR: says[MONITOR] is Verdict.COMPLETE}
        if self.truth is not Verdict.BLIND:  # without rows nobody need notice the database
            wanted[TABLE] = not any(SCRIPT in FAULTS[name].hides for name in self.active)
        return wanted

    async def settle(self) -> None:
        """Wait until all four say what they must."""
        wanted, found = self.wanted(), dict[str, object]()
        began = trio.current_time()
        with trio.move_on_after(PATIENCE_S):
            while found != wanted:
                said = await self.conclusions()
                found = {who: said[who] for who in wanted}
                await trio.sleep(0.05)
        print(f"{trio.current_time() - began:6.1f} s until {self.truth}, with {self.active}")
        assert found == wanted, f"{found} instead of {wanted}"

    async def begin(self, name: str) -> None:
        await FAULTS[name].begin(self)
        self.active.append(name)
        await self.settle()
        if SCRIPT in FAULTS[name].hides and self.truth is not Verdict.BLIND:
            since = datetime.now(UTC)
            await trio.sleep(3 * INTERVAL_S)
            self.unseen.append((since, datetime.now(UTC)))

    async def end(self, name: str) -> None:
        await FAULTS[name].end(self)
        self.active.remove(name)
        await self.settle()

    async def nap(self, seconds: float) -> None:
        """The service is stopped, and goes on: it can say nothing meanwhile, and whoever asks hears
        nothing; then it says that slots were skipped."""
        skipped = self.told().count(SlotsSkipped.kind)
        self.watched.service.interrupt(signal.SIGSTOP)
        try:
            await trio.sleep(seconds)
            found = await self.conclusions()
        finally:
            self.watched.service.interrupt(signal.SIGCONT)
        assert (found[MONITOR], found[SCRIPT], found[PAGE]) == (False, Verdict.BLIND, Verdict.BLIND)
        with trio.fail_after(PATIENCE_S):
            while self.told().count(SlotsSkipped.kind) == skipped:
                await trio.sleep(0.05)
        await self.settle()

    async def check_what_is_stored(self) -> None:
        """Each row bears the word that the page got with it, also those that came late."""
        async with self.watched.client() as http:
            recent = (await http.get("/api/recent")).json()
        said = {datetime.fromisoformat(row["timestamp"]): row["verdict"] for row in recent}
        rows = fetch(self.database.conninfo, "SELECT timestamp, verdict FROM portfolio_greeks")
        assert said.items() <= dict(rows).items()
        late = [at for at, _ in rows if any(since < at < until for since, until in self.unseen)]
        assert late, "no row came late"

    # The faults: each begins, and ends

    @property
    def options(self) -> list[int]:
        return [option.con_id for option in self.watched.gateway.book.market.options()]

    def hold(self, quantity: float) -> None:
        """So much of the last option, which nobody holds otherwise."""
        book = self.watched.gateway.book
        book.set_position(book.accounts[0], self.options[-1], quantity)

    async def impossible_greek(self) -> None:
        self.watched.gateway.book.market.override(self.options[0], delta=40.0)

    async def possible_greek(self) -> None:
        self.watched.gateway.book.market.override(self.options[0])

    async def refused_subscription(self) -> None:
        """Of an option that has just been bought."""
        self.watched.gateway.refuse_market_data(self.options[-1:], 10186)
        self.hold(5)

    async def nothing_refused(self) -> None:
        self.hold(0)
        self.watched.gateway.allow_market_data()

    async def silent_lines(self) -> None:
        """Not one line but the first speaks, or answers a renewal."""
        self.watched.gateway.pause_ticks(self.options[1:])
        self.watched.gateway.stall_lines(self.options[1:])

    async def speaking_lines(self) -> None:
        self.watched.gateway.revive_lines()
        self.watched.gateway.resume_ticks()

    async def no_upstream(self) -> None:
        self.watched.gateway.lose_upstream()

    async def upstream(self) -> None:
        self.watched.gateway.restore_upstream()

    async def no_gateway(self) -> None:
        self.watched.gateway.stop_listening()
        self.watched.gateway.drop_connections()

    async def gateway(self) -> None:
        await self.watched.gateway.start_listening()

    async def killed_database(self) -> None:
        await in_thread(self.database.kill)

    async def started_database(self) -> None:
        await in_thread(self.database.start)

    async def frozen_database(self) -> None:
        self.database.freeze()

    async def thawed_database(self) -> None:
        self.database.thaw()

    async def cut_network(self) -> None:
        self.network.cut()

    async def whole_network(self) -> None:
        self.network.mend()


@asynccontextmanager
async def open_scene(
    home: Path, database: PostgresServer, **settings: object
) -> AsyncGenerator[Scene]:
    (home / "sitecustomize.py").write_text(QUICK)
    async with (
        open_receiver() as receiver,
        watched_service(
            home,
            database.url,
            PYTHONPATH=home,
            BRIDGE_POLL_INTERVAL=INTERVAL_S,
            BRIDGE_DB_TIMEOUT=0.5,
            BRIDGE_FLUSH_INTERVAL=0.5,
            BRIDGE_ALERT_URL=receiver.url(),
            book=None,
            **settings,
        ) as watched,
        open_network(watched.port) as network,
        client(network.port) as http,
    ):
        scene = Scene(home, watched, database, network, receiver, http)
        scene.hold(0)
        await watched.wait_ready()
        await scene.settle()
        yield scene
        database.thaw()


class Fault(NamedTuple):
    """`verdict`: on the rows meanwhile. `hides`: who can't see them."""

    begin: Act
    end: Act
    verdict: Verdict = Verdict.COMPLETE
    hides: tuple[str, ...] = ()


FAULTS = {
    "impossible Greek": Fault(Scene.impossible_greek, Scene.possible_greek, Verdict.PARTIAL),
    "refused": Fault(Scene.refused_subscription, Scene.nothing_refused, Verdict.PARTIAL),
    "silent lines": Fault(Scene.silent_lines, Scene.speaking_lines, Verdict.STALE),
    "upstream lost": Fault(Scene.no_upstream, Scene.upstream, Verdict.BLIND),
    "gateway gone": Fault(Scene.no_gateway, Scene.gateway, Verdict.BLIND),
    "database killed": Fault(Scene.killed_database, Scene.started_database, hides=(SCRIPT,)),
    "database frozen": Fault(Scene.frozen_database, Scene.thawed_database, hides=(SCRIPT,)),
    "network cut": Fault(Scene.cut_network, Scene.whole_network, hides=(MONITOR, PAGE)),
}
