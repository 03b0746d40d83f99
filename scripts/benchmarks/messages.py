"""CPU time per gateway message: ib_async on plain asyncio, on uvloop, and in our session."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.children import run_child
from benchmarks.figures import Check, Effort, Section, Spread
from benchmarks.stream import Player, Recording

if TYPE_CHECKING:
    from collections.abc import Sequence


class Listener(NamedTuple):
    name: str
    module: str
    kind: str


PLAIN = Listener("ib_async, plain asyncio", "listen_plainly", "asyncio")
BRIDGE = Listener("**our session**", "listen_within_trio", "bridge")
LISTENERS = (
    PLAIN,
    Listener("ib_async, uvloop", "listen_plainly", "uvloop"),
    Listener("ib_async within trio-asyncio", "listen_within_trio", "plain"),
    Listener("our session, all ticks decoded", "listen_within_trio", "digesting"),
    BRIDGE,
)
STREAMS = {
    "90 options, 5,000 messages/s": Recording(90, rounds=17, rate=5_000),
    "90 options, 450 messages/s": Recording(90, rounds=6, rate=450),
    "90 options, flood": Recording(90, rounds=150, rate=0),
    "1,000 options, 5,000 messages/s": Recording(1_000, rounds=2, rate=5_000),
    "1,000 options, flood": Recording(1_000, rounds=14, rate=0),
}
PROFILED = "90 options, 5,000 messages/s"
SMALLEST_SHARE = 1.0
"""Percent."""

QUICK_STREAM = Recording(90, rounds=11, rate=5_000)
LARGEST_RATIO = 1.3


def measure(effort: Effort) -> Section:
    section = Section(
        "Gateway messages: CPU time",
        "One recorded stream (each update of an option: three prices, three sizes, computations "
        "for bid, ask, last and the model) is played over a socket to each kind of client in turn, "
        "each in its own process. CPU time of the whole process while the stream plays, in "
        "microseconds per message. Each update of ten messages is one packet, except in the flood, "
        "which is sent as fast as it is read. The second table is a cProfile run of the first "
        "stream: the time each part uses itself. A profiler inflates small functions, so the table "
        "shows what dominates, not what it costs.",
    )
    streams = STREAMS if effort else {"90 options, 5,000 messages/s": QUICK_STREAM}
    listeners: tuple[Listener, ...] = LISTENERS if effort else (PLAIN, BRIDGE)
    if find_spec("uvloop") is None:
        listeners = tuple(one for one in listeners if one.kind != "uvloop")
        section.notes.append("uvloop is not installed (`pip install uvloop`): not measured.")
    table = section.table("stream", "client", "CPU, µs per message", "beside plain asyncio")
    for name, recording in streams.items():
        costs: dict[Listener, list[float]] = {listener: [] for listener in listeners}
        for _ in range(3 if effort else 1):
            for listener in listeners:
                costs[listener].append(_cost(listener, recording))
        plain = Spread.of(costs[PLAIN]).median
        for listener in listeners:
            cost = Spread.of(costs[listener])
            table.add(name, listener.name, cost, f"× {cost.median / plain:.2f}")
        ratio = Spread.of(costs[BRIDGE]).median / plain
        section.checks.append(
            Check(f"our session beside plain asyncio, {name}", ratio, at_most=LARGEST_RATIO)
        )
    if effort:
        _add_profiles(section, listeners)
    return section


def _add_profiles(section: Section, listeners: Sequence[Listener]) -> None:
    """Where the time goes, in percent of each client's total."""
    recording = STREAMS[PROFILED]
    profiles = [_play(one, recording, "profile")["parts"] for one in listeners]
    shares = [
        {part: 100 * seconds / sum(profile.values()) for part, seconds in profile.items()}
        for profile in profiles
    ]
    table = section.table(f"CPU by part, %: {PROFILED}", *(one.name for one in listeners))
    parts = {part for profile in shares for part in profile}
    for part in sorted(parts, key=lambda part: -shares[0].get(part, 0.0)):
        if max(profile.get(part, 0.0) for profile in shares) >= SMALLEST_SHARE:
            table.add(part, *(round(profile.get(part, 0.0), 1) for profile in shares))


def _cost(listener: Listener, recording: Recording) -> float:
    """Microseconds of CPU per message."""
    return float(_play(listener, recording)["cpu_s"]) / recording.messages * 1e6


def _play(listener: Listener, recording: Recording, *more: str) -> Any:
    with Player(recording) as player:
        options = [recording.options] if listener.module == "listen_within_trio" else []
        found = run_child(listener.module, listener.kind, player.port, *options, *more)
    if found["priced"] != recording.options:
        raise RuntimeError(f"{listener.name} has seen {found['priced']} of {recording.options}")
    return found
