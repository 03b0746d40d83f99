"""Everyone who asks what the rows are worth comes to the same conclusion, whatever breaks.

Four who do not know each other: a monitor that polls only `/readyz`, a script that reads only the
stored `verdict` and the age of its row, a page that reads only `/api/status`, and a person who gets
only alerts. Faults come and go at random, two at a time; after each change the four must agree, and
on the truth.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx
import pytest
import trio

from tests.support.command import Done, run_command
from tests.support.database import fetch
from tests.support.process import PATIENCE_S
from tests.support.receiver import open_receiver
from tests.web.support import watched_service
from trio_bridge.events.rows import (
    RowsComplete,
    RowsMissed,
    RowsPartial,
    RowsResumed,
    RowsStale,
)
from trio_bridge.model import Verdict
from trio_bridge.policy.schedule import INTERVALS_ALLOWED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.support.receiver import Receiver
    from tests.web.support import Watched

INTERVAL_S = 0.3

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
    RowsResumed.kind: Verdict.COMPLETE,
    RowsPartial.kind: Verdict.PARTIAL,
    RowsStale.kind: Verdict.STALE,
    RowsComplete.kind: Verdict.COMPLETE,
}
"""What a person takes an alert to mean."""


@dataclass
class Scene:
    """A service, its gateway, its database and the receiver of its alerts."""

    home: Path
    watched: Watched
    conninfo: str
    receiver: Receiver
    active: list[str] = field(default_factory=list)
    """The faults that are there now, in order of their coming."""

    async def monitor(self) -> bool:
        """Whether all is well, by `/readyz`."""
        async with self.watched.client() as http:
            return (await http.get("/readyz")).status_code == httpx.codes.OK

    async def page(self) -> dict[str, Any]:
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
                "DATABASE_URL": self.conninfo,
                "BRIDGE_STATUS_PORT": self.watched.port,
                "BRIDGE_POLL_INTERVAL": INTERVAL_S,
                **settings,
            },
        )

    def script(self) -> Verdict:
        """By the last row of the table."""
        found = fetch(
            self.conninfo,
            "SELECT verdict, extract(epoch FROM now() - timestamp)::float FROM portfolio_greeks"
            " ORDER BY timestamp DESC LIMIT 1",
        )
        verdict, age_s = found[0]
        return Verdict.BLIND if age_s > INTERVALS_ALLOWED * INTERVAL_S else Verdict(verdict)

    def person(self) -> Verdict:
        """By the last alert about rows, in the order in which they are read."""
        told = [one["kind"] for post in self.receiver.posts for one in post["events"]]
        return next((SAYS[kind] for kind in reversed(told) if kind in SAYS), Verdict.COMPLETE)

    async def conclusions(self) -> dict[str, object]:
        return {
            "monitor": await self.monitor(),
            "script": self.script(),
            "page": Verdict((await self.page())["verdict"]),
            "person": self.person(),
        }

    async def settle(self, truth: Verdict) -> None:
        """Wait until all four say so."""
        wanted = {
            "monitor": truth is Verdict.COMPLETE,
            "script": truth,
            "page": truth,
            "person": truth,
        }
        found: dict[str, object] = {}
        began = trio.current_time()
        with trio.move_on_after(PATIENCE_S):
            while found != wanted:
                with suppress(httpx.TransportError):
                    found = await self.conclusions()
                await trio.sleep(0.05)
        print(f"{trio.current_time() - began:6.1f} s until {truth}, with {self.active}")
        assert found == wanted

    # The faults: each begins, and ends

    @property
    def options(self) -> list[int]:
        return [option.con_id for option in self.watched.gateway.book.market.options()]

    async def impossible_greek(self) -> None:
        self.watched.gateway.book.market.override(self.options[0], delta=40.0)

    async def possible_greek(self) -> None:
        self.watched.gateway.book.market.override(self.options[0])

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


@pytest.fixture
async def scene(tmp_path: Path, fresh_database: str) -> AsyncIterator[Scene]:
    (tmp_path / "sitecustomize.py").write_text(QUICK)
    async with (
        open_receiver() as receiver,
        watched_service(
            tmp_path,
            fresh_database,
            PYTHONPATH=tmp_path,
            BRIDGE_POLL_INTERVAL=INTERVAL_S,
            BRIDGE_ALERT_URL=receiver.url(),
        ) as watched,
    ):
        await watched.wait_ready()
        yield Scene(tmp_path, watched, fresh_database, receiver)


Act: TypeAlias = "Callable[[Scene], Awaitable[None]]"

FAULTS: dict[str, tuple[Act, Act, Verdict]] = {
    "impossible Greek": (Scene.impossible_greek, Scene.possible_greek, Verdict.PARTIAL),
    "silent lines": (Scene.silent_lines, Scene.speaking_lines, Verdict.STALE),
    "upstream lost": (Scene.no_upstream, Scene.upstream, Verdict.BLIND),
    "gateway gone": (Scene.no_gateway, Scene.gateway, Verdict.BLIND),
}
ALONE = {"silent lines", "gateway gone"}
"""Not together: after a reconnect a silent line is one that has never spoken."""


@pytest.mark.parametrize(
    ("seed", "steps"),
    [(1, 6), pytest.param(None, 200, marks=pytest.mark.long)],
    ids=["short", "long"],
)
async def test_four_who_do_not_know_each_other_agree(
    seed: int | None, steps: int, scene: Scene
) -> None:
    seed = random.randrange(10**6) if seed is None else seed
    print(f"seed {seed}")
    rng = random.Random(seed)
    await scene.settle(Verdict.COMPLETE)
    for _ in range(steps):
        await one_step(scene, rng)
    while scene.active:
        await end(scene, scene.active[-1])


async def one_step(scene: Scene, rng: random.Random) -> None:
    possible = [
        name
        for name in FAULTS
        if name not in scene.active and not (name in ALONE and ALONE.intersection(scene.active))
    ]
    if scene.active and (len(scene.active) == 2 or rng.random() < 0.5):
        await end(scene, rng.choice(scene.active))
        return
    name = rng.choice(possible)
    scene.active.append(name)
    begin, _, _ = FAULTS[name]
    await begin(scene)
    await scene.settle(truth(scene))


async def end(scene: Scene, name: str) -> None:
    scene.active.remove(name)
    _, mend, _ = FAULTS[name]
    await mend(scene)
    await scene.settle(truth(scene))


@pytest.mark.parametrize(
    ("fault", "names_contracts"),
    [
        ("impossible Greek", True),
        ("silent lines", True),
        ("upstream lost", False),
        ("gateway gone", False),
    ],
)
async def test_each_fault_is_told_everywhere_in_the_same_word(
    scene: Scene, fault: str, names_contracts: bool
) -> None:
    begin, mend, verdict = FAULTS[fault]
    await begin(scene)
    await scene.settle(verdict)

    async with scene.watched.client() as http:
        answer = await http.get("/readyz")
        gauges = (await http.get("/metrics")).text
    reason = answer.json()["reason"]
    assert reason.startswith("no rows" if verdict is Verdict.BLIND else verdict)
    assert f'trio_bridge_verdict{{state="{verdict}"}} 1.0' in gauges
    # One line after the other grows old: until all are, two answers may name different ones.
    with trio.fail_after(PATIENCE_S):
        while True:
            done = await scene.status()
            contracts = names((await scene.page())["defects"])
            if names(done.json["service"]["defects"]) == contracts:
                break
    assert (done.code, done.json["verdict"], done.json["well"]) == (1, verdict, False)
    assert bool(contracts) is any(one in reason for one in contracts) is names_contracts
    assert (await scene.status(BRIDGE_READY=verdict.replace("blind", "partial"))).code == (
        1 if verdict is Verdict.BLIND else 0
    )
    await mend(scene)
    await scene.settle(Verdict.COMPLETE)

    assert (await scene.status()).code == 0
    told = fetch(
        scene.conninfo,
        "SELECT kind, message FROM api_logs WHERE kind = ANY(%s) ORDER BY id",
        (list(SAYS),),
    )
    first, last = told[0], told[-1]
    assert (SAYS[first[0]], SAYS[last[0]]) == (verdict, Verdict.COMPLETE)
    assert any(one in first[1] for one in contracts) is names_contracts


def names(defects: list[dict[str, str]]) -> list[str]:
    return [one["contract"] for one in defects]


def truth(scene: Scene) -> Verdict:
    """The worst of what is broken."""
    found = [FAULTS[name][2] for name in scene.active]
    return max(found, key=lambda one: one.rank, default=Verdict.COMPLETE)
