"""Everyone who asks what the rows are worth comes to the same conclusion, whatever breaks.

Four who do not know each other: a monitor that polls only `/readyz`, a script that reads only the
stored `verdict` and the age of its row, a page that reads only `/api/status`, and a person who gets
only alerts. Faults come and go at random, two at a time; after each change the four must agree, and
on the truth.

The verdict is a row's, wherever the row is. So a fault on somebody's way to the rows does not
change it: who can see goes on saying it, and who cannot is blind, never left with the last word
that came through. With the database down rows are taken and safe in the spool: monitor, page and
person say what they are worth; the script finds no new row in the table, so it is blind by their
age, and an alert says why. When the database is back, the script finds for each instant the very
word that the others said then. With the network cut between the service and its page it is the
other way round.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from tests.faults.scene import FAULTS, SAYS, Scene, open_scene
from tests.support.database import fetch
from tests.support.process import PATIENCE_S
from trio_bridge.events.rows import RowsOverdue
from trio_bridge.model import Verdict
from trio_bridge.policy.reset_window import EASTERN
from trio_bridge.tasks.supervisor import State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.support.postgres import PostgresServer


@pytest.fixture
async def scene(tmp_path: Path, own_postgres: PostgresServer) -> AsyncGenerator[Scene]:
    async with open_scene(tmp_path, own_postgres) as scene:
        yield scene


NAP = "nap"

ENDS_BEFORE = {
    "silent lines": {"gateway gone", "upstream lost"},
    "gateway gone": {"silent lines"},
    NAP: {"silent lines"},
    "database frozen": {"database killed"},
    "database killed": {"database frozen"},
}
"""What must be over when something begins. On a new connection a silent line is one that has never
spoken, and a long nap brings one, too. What is dead does not freeze."""


@pytest.mark.parametrize(
    ("seed", "steps", "naps_s"),
    [
        (1, 12, (1.2,)),
        # Beyond 5 s the gateway is probed again, beyond 10 s the connection is given up.
        pytest.param(None, 200, (1.2, 6.0, 12.0), marks=pytest.mark.long),
    ],
    ids=["short", "long"],
)
async def test_four_who_do_not_know_each_other_agree(
    seed: int | None, steps: int, naps_s: tuple[float, ...], scene: Scene
) -> None:
    """Each fault at least once."""
    seed = random.randrange(10**6) if seed is None else seed
    print(f"seed {seed}")
    rng = random.Random(seed)
    names = [*FAULTS, NAP]
    for name in (*rng.sample(names, len(names)), *rng.choices(names, k=steps)):
        if name == NAP:
            await make_room(scene, name, rng)
            await scene.nap(rng.choice(naps_s))
        elif name in scene.active:
            await scene.end(name)
        else:
            await make_room(scene, name, rng)
            await scene.begin(name)
    while scene.active:
        await scene.end(scene.active[-1])
    await scene.check_what_is_stored()


async def make_room(scene: Scene, name: str, rng: random.Random) -> None:
    """For a fault beside one other at most."""
    for other in [one for one in scene.active if one in ENDS_BEFORE.get(name, ())]:
        await scene.end(other)
    if len(scene.active) == 2:
        await scene.end(rng.choice(scene.active))


@pytest.mark.parametrize(
    ("fault", "names_contracts"),
    [
        ("impossible Greek", True),
        ("refused", True),
        ("silent lines", True),
        ("upstream lost", False),
        ("gateway gone", False),
    ],
)
async def test_each_fault_is_told_everywhere_in_the_same_word(
    scene: Scene, fault: str, names_contracts: bool
) -> None:
    verdict = FAULTS[fault].verdict
    await scene.begin(fault)

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
            contracts = names((await scene.look())["defects"])
            if names(done.json["service"]["defects"]) == contracts:
                break
    assert (done.code, done.json["verdict"], done.json["well"]) == (1, verdict, False)
    assert bool(contracts) is any(one in reason for one in contracts) is names_contracts
    assert (await scene.status(BRIDGE_READY=verdict.replace("blind", "partial"))).code == (
        1 if verdict is Verdict.BLIND else 0
    )
    await scene.end(fault)

    assert (await scene.status()).code == 0
    told = fetch(
        scene.database.conninfo,
        "SELECT kind, message FROM api_logs WHERE kind = ANY(%s) ORDER BY id",
        (list(SAYS),),
    )
    first, last = told[0], told[-1]
    assert (SAYS[first[0]], SAYS[last[0]]) == (verdict, Verdict.COMPLETE)
    assert any(one in first[1] for one in contracts) is names_contracts


def names(defects: list[dict[str, str]]) -> list[str]:
    return [one["contract"] for one in defects]


async def test_a_nightly_reset_is_blind_to_all_four_and_raises_no_alarm(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    """It is expected, but there are no rows: who looks is told so, and why. A person hears of the
    first missing row, not that rows are overdue."""
    now = datetime.now(EASTERN)
    begin, end = now - timedelta(minutes=2), now + timedelta(hours=2)
    async with open_scene(
        tmp_path,
        own_postgres,
        BRIDGE_RESET_WINDOWS=f"{begin:%H:%M}-{end:%H:%M}",
        BRIDGE_ALERT_AFTER=1,
    ) as scene:
        before = len(scene.told())
        await scene.begin("gateway gone")
        await scene.gateway()  # too early: the window is not over
        await trio.sleep(2)
        await scene.settle()
        assert (await scene.look())["gateway"]["state"] == State.HOLDING
        answer = await scene.ask("/readyz")
        assert answer is not None
        assert answer.json()["reason"].startswith(f"no rows: {State.HOLDING}")
        done = await scene.status()
        assert (done.code, done.json["verdict"]) == (1, Verdict.BLIND)
        assert RowsOverdue.kind not in scene.told()[before:]
